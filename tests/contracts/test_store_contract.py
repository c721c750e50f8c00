"""The contract of ``cloud.ports.Store``: every implementation passes all of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloud.ports import Store
from cloud.rows import (
    AuditRow,
    Claim,
    Conflict,
    DeadLetter,
    DeviceRow,
    EpochRow,
    FeedRow,
    FleetRow,
    Head,
    RecordRow,
    ReplicaRow,
    TokenRow,
)
from cloud.storage.sqlite_store import SqliteStore
from sync.errors import CorruptStore, InvalidValue, NotFound, StorageError
from sync.operations import Kind, Operation, Shape
from sync.records import Record, fresh_image
from sync.stamps import replica_id

FLEET, OTHER = b"F" * 16, b"G" * 16
DEVICE = b"d" * 12
REPLICA = replica_id(DEVICE, 1)
HEAD = Head(0, b"i" * 16, 1, 0, 0, 0, 0)
NOTE = Shape(Kind.PUT, "notes", ("text",), "l")


@pytest.fixture(params=["sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    assert request.param == "sqlite"
    opened: Store = SqliteStore.open(tmp_path / "cloud.db")
    with opened.writing() as tx:
        for fleet in (FLEET, OTHER):
            tx.create_fleet(FleetRow(fleet, fleet[:1].decode(), 5), HEAD)
    yield opened
    opened.close()


def four_at_once(action: Callable[[], None]) -> None:
    """On threads; raises what one of them raised."""
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(action) for _ in range(4)]:
            done.result()


def image(text: str, ts: int = 1 << 20) -> bytes:
    return fresh_image(Operation(REPLICA, 1, ts, 0, NOTE, "k", (text,)))


def dead_image() -> bytes:
    record = Record()
    record.apply(Operation(REPLICA, 1, 9, 0, Shape(Kind.DELETE, "notes"), "k", ()))
    return record.encode()


def feed_row(first: int, last: int, size: int = 10) -> FeedRow:
    return FeedRow(first, last, REPLICA, False, bytes(size), 20, 3, 4, 5, b"s" * 32, ("a.b", "notes"))


def claim(value: object, delete: bool = False) -> Claim:
    return Claim(REPLICA, 7, 8, "van", value, delete)


def conflict(**changes: object) -> Conflict:
    row = Conflict(
        0, 3, 99, "notes", "k", "text", claim("a"), claim({"b": [1, None]}), "held", "latest", "resolved", 0, ""
    )
    return row._replace(**changes)  # type: ignore[arg-type]


def letter(seq: int, key: str = "k") -> DeadLetter:
    return DeadLetter(0, REPLICA, seq, 1, "notes", key, "too-large", "too large", b"op")


def device_row(fleet: bytes = FLEET, device: bytes = DEVICE) -> DeviceRow:
    return DeviceRow(fleet, device, b"s" * 32, b"x" * 32, "van 1", 3, 10, b"t" * 16, 0)


def test_a_new_store_is_empty_and_then_not(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "new.db")
    assert store.is_empty()
    with store.writing() as tx:
        tx.create_fleet(FleetRow(FLEET, "f", 0), HEAD)
    assert not store.is_empty()
    store.close()


def test_fleets_and_heads(store: Store) -> None:
    with store.reading() as view:
        assert [row.fleet for row in view.fleets()] == [FLEET, OTHER]
        assert view.fleet(FLEET) == FleetRow(FLEET, "F", 5)
        assert view.fleet(b"?" * 16) is None
        assert view.head(FLEET) == HEAD
        with pytest.raises(NotFound):
            view.head(b"?" * 16)
    with store.writing() as tx, pytest.raises(InvalidValue):
        tx.create_fleet(FleetRow(FLEET, "again", 0), HEAD)
    moved = Head(4, b"j" * 16, 2, 3, 1, (1 << 63) - 1, 9)
    with store.writing() as tx:
        assert tx.lock_head(FLEET) == HEAD
        tx.set_head(FLEET, moved)
        assert tx.head(FLEET) == moved
    with store.reading() as view:
        assert (view.head(FLEET), view.head(OTHER)) == (moved, HEAD)


def test_a_block_that_raises_has_changed_nothing(store: Store) -> None:
    class Stop(Exception):
        pass

    def write_and_raise(error: type[Exception]) -> None:
        with store.writing() as tx:
            tx.set_head(FLEET, HEAD._replace(position=9))
            tx.put_records(FLEET, [RecordRow("notes", "k", image("x"), 1)])
            raise error("now")

    for error in (Stop, NotFound):
        with pytest.raises(error):
            write_and_raise(error)
    with store.reading() as view:
        assert view.head(FLEET) == HEAD
        assert view.records(FLEET) == []
    with store.writing() as tx:  # and the next writer can begin
        tx.set_head(FLEET, HEAD)


def test_a_reader_sees_one_moment(store: Store) -> None:
    with store.reading() as view:
        assert view.head(FLEET).position == 0
        done = threading.Event()

        def write() -> None:
            with store.writing() as tx:
                tx.set_head(FLEET, HEAD._replace(position=1))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert done.wait(10), "a reader must not block a writer"
        writer.join()
        assert view.head(FLEET).position == 0
    with store.reading() as view:
        assert view.head(FLEET).position == 1


def test_writers_come_one_after_the_other(store: Store) -> None:
    def count() -> None:
        for _ in range(20):
            with store.writing(durable=False) as tx:
                head = tx.lock_head(FLEET)
                tx.set_head(FLEET, head._replace(position=head.position + 1))

    four_at_once(count)
    with store.reading() as view:
        assert view.head(FLEET).position == 80


def test_records_are_ordered_by_bytes_and_kept_apart_by_fleet(store: Store) -> None:
    keys = ["a", "B", "é", "z", "\U0001f600", "a\x01", "\uffff"]
    rows = [RecordRow(name, key, image(key), 2, b"p", b"g") for name in ("_collections", "notes") for key in keys]
    with store.writing() as tx:
        tx.put_records(FLEET, reversed(rows))
        tx.put_records(OTHER, [RecordRow("notes", "a", image("other"), 1)])
        tx.put_records(FLEET, [])
    expected = sorted(rows, key=lambda row: (row.collection.encode(), row.key.encode()))
    with store.reading() as view:
        assert view.records(FLEET) == expected
        paged: list[RecordRow] = []
        while page := view.records(FLEET, (paged[-1].collection, paged[-1].key) if paged else None, 3):
            paged += page
        assert paged == expected
        assert view.records(FLEET, None, 9, 2 * len(expected[0].image + b"g")) == expected[:2]
        assert view.records(FLEET, None, 9, 0) == expected[:1]
        assert view.lookup(FLEET, "notes", ["z", "missing", "é"]) == {
            key: RecordRow("notes", key, image(key), 2, b"p", b"g") for key in ("é", "z")
        }
        assert view.lookup(FLEET, "notes", []) == view.lookup(FLEET, "other", ["a"]) == {}
        assert view.lookup(OTHER, "notes", ["a"])["a"].image == image("other")


def test_putting_a_record_again_replaces_it(store: Store) -> None:
    with store.writing() as tx:
        tx.put_records(FLEET, [RecordRow("notes", "k", image("x"), 1), RecordRow("notes", "l", image("x"), 2)])
        assert tx.count_living(FLEET) == 2
        tx.put_records(FLEET, [RecordRow("notes", "k", dead_image(), 3, b"", image("x"))])
        assert tx.lookup(FLEET, "notes", ["k"])["k"] == RecordRow("notes", "k", dead_image(), 3, b"", image("x"))
        assert tx.count_living(FLEET) == 1


def test_a_lookup_of_many_keys(store: Store) -> None:
    keys = [f"key {index}" for index in range(5000)]
    with store.writing() as tx:
        tx.put_records(FLEET, [RecordRow("notes", key, b"\x93", 1) for key in keys[::2]])
        assert set(tx.lookup(FLEET, "notes", keys)) == set(keys[::2])


def test_the_feed(store: Store) -> None:
    rows = [feed_row(1, 3, 100), feed_row(4, 4, 100), feed_row(5, 9, 100)._replace(state=True)]
    with store.writing() as tx:
        tx.append_feed(FLEET, rows[:2])
        tx.append_feed(FLEET, rows[2:])
        tx.append_feed(OTHER, [feed_row(1, 1)])
        tx.set_head(FLEET, HEAD._replace(position=9))
    with store.reading() as view:
        assert view.feed(FLEET, 0) == rows
        assert view.feed(FLEET, 2) == rows
        assert view.feed(FLEET, 3) == rows[1:]
        assert view.feed(FLEET, 9) == []
        assert view.feed(FLEET, 0, limit=2) == rows[:2]
        assert view.feed(FLEET, 0, max_bytes=200) == rows[:2]
        assert view.feed(FLEET, 0, max_bytes=1) == rows[:1], "always progress"
    for first in (9, 11):
        with pytest.raises(CorruptStore), store.writing() as tx:
            tx.append_feed(FLEET, [feed_row(first, 12)])
    with store.writing() as tx:
        assert tx.trim_feed(FLEET, 3) == 1
        assert tx.trim_feed(FLEET, 3) == 0
        assert tx.head(FLEET).trimmed == 3
        assert tx.trim_feed(FLEET, 8) == 1, "a row goes when all of it may"
        assert tx.head(FLEET).trimmed == 4
        assert tx.feed(FLEET, 0) == rows[2:]
    with store.reading() as view:
        assert view.feed(OTHER, 0) == [feed_row(1, 1)]


def test_replicas(store: Store) -> None:
    row = ReplicaRow(REPLICA, 5, b"s" * 32, 2, 77)
    with store.writing() as tx:
        assert tx.replica(FLEET, REPLICA) is None
        tx.put_replicas(FLEET, [row._replace(last_seq=1)])
        tx.put_replicas(FLEET, [row, row._replace(replica=replica_id(DEVICE, 2))])
    with store.reading() as view:
        assert view.replica(FLEET, REPLICA) == row
        assert [r.replica for r in view.replicas(FLEET)] == [REPLICA, replica_id(DEVICE, 2)]
        assert view.replicas(OTHER) == []


def test_devices_belong_to_one_fleet(store: Store) -> None:
    with store.writing() as tx:
        tx.put_devices([device_row(), device_row(device=b"e" * 12)])
        tx.put_devices([device_row()._replace(priority=9)])
    with pytest.raises(InvalidValue), store.writing() as tx:
        tx.put_devices([device_row(OTHER)])
    with store.reading() as view:
        assert view.device(DEVICE) == device_row()._replace(priority=9)
        assert view.device(b"?" * 12) is None
        assert [row.device for row in view.devices(FLEET)] == [DEVICE, b"e" * 12]
        assert view.devices(OTHER) == []
        assert device_row().identity.signing == b"s" * 32


def test_revocation_is_by_replica_and_seq(store: Store) -> None:
    with store.writing() as tx:
        tx.put_devices([device_row()])
        assert tx.revocation(FLEET, REPLICA) is None
        tx.revoke(FLEET, DEVICE, 50, {REPLICA: 8})
        assert tx.revocation(FLEET, REPLICA) == 8
        assert tx.revocation(FLEET, replica_id(DEVICE, 2)) == 0
        assert tx.revocation(FLEET, replica_id(b"?" * 12, 1)) is None
        assert tx.revocation(OTHER, REPLICA) is None
        revoked = tx.device(DEVICE)
        assert revoked is not None
        assert revoked.revoked_ms == 50


def test_tokens_and_their_uses(store: Store) -> None:
    token = TokenRow(b"t" * 16, FLEET, b"h" * 32, 2, 100, 1)
    with store.writing() as tx:
        tx.put_token(token)
        assert tx.token(b"?" * 16) is None
        assert tx.use_token(token.token_id)
        assert tx.token(token.token_id) == token._replace(uses=1)
        assert tx.use_token(token.token_id)
        assert not tx.use_token(token.token_id)
        assert not tx.use_token(b"?" * 16)
        assert tx.tokens(FLEET) == [token._replace(uses=0)]
        assert tx.tokens(OTHER) == []


def test_nonces_only_grow(store: Store) -> None:
    with store.writing(durable=False) as tx:
        assert tx.nonce(DEVICE) == 0
        assert tx.advance_nonce(DEVICE, 5)
        assert not tx.advance_nonce(DEVICE, 5)
        assert not tx.advance_nonce(DEVICE, 4)
        assert tx.advance_nonce(DEVICE, (1 << 63) - 1)
        assert tx.nonce(DEVICE) == (1 << 63) - 1


def test_epochs_and_audit(store: Store) -> None:
    rows = [AuditRow(n, n * 10, "operator", "token.created", "t", {"uses": n, "x": None}, b"d") for n in (1, 2, 3)]
    with store.writing() as tx:
        assert tx.last_audit(FLEET) is None
        tx.put_epoch(FLEET, EpochRow(2, 20, "rotation"))
        tx.put_epoch(FLEET, EpochRow(1, 10, "created"))
        for row in rows:
            tx.append_audit(FLEET, row)
    with store.reading() as view:
        assert view.epochs(FLEET) == [EpochRow(1, 10, "created"), EpochRow(2, 20, "rotation")]
        assert view.audit(FLEET) == rows
        assert view.audit(FLEET, after=1, limit=1) == rows[1:2]
        assert view.last_audit(FLEET) == rows[2]
        assert view.audit(OTHER) == []
        assert view.epochs(OTHER) == []


def test_conflicts(store: Store) -> None:
    with store.writing() as tx:
        assert tx.add_conflict(FLEET, conflict()) == 1
        assert tx.add_conflict(FLEET, conflict(state="open", field="", came=claim(None, delete=True))) == 2
        assert tx.add_conflict(FLEET, conflict(resolution=12)) == 3
        assert tx.add_conflict(OTHER, conflict(number=77)) == 1
    with store.reading() as view:
        assert view.conflict(FLEET, 1) == conflict(number=1)
        assert view.conflict(FLEET, 9) is None
        assert [row.number for row in view.conflicts(FLEET)] == [1, 2, 3]
        assert [row.number for row in view.conflicts(FLEET, after=1, limit=1)] == [2]
        assert [row.number for row in view.conflicts(FLEET, state="open")] == [2]
        assert view.resolved_at(FLEET, 12) == conflict(number=3, resolution=12)
        assert view.resolved_at(FLEET, 0) is None
        assert view.resolved_at(OTHER, 12) is None
    with store.writing() as tx:
        tx.put_conflicts(FLEET, [conflict(number=2, state="resolved", resolution=20, winner="came")])
        assert tx.conflicts(FLEET, state="open") == []
        assert tx.add_conflict(FLEET, conflict()) == 4


def test_dead_letters_are_kept_once(store: Store) -> None:
    with store.writing() as tx:
        tx.add_dead_letters(FLEET, [letter(3), letter(5), letter(3)])
        tx.add_dead_letters(FLEET, [letter(5), letter(9), letter(0, "a"), letter(0, "b")])
        tx.add_dead_letters(OTHER, [letter(3)])
    with store.reading() as view:
        kept = view.dead_letters(FLEET)
        assert [(row.number, row.seq, row.key) for row in kept] == [
            (1, 3, "k"), (2, 5, "k"), (3, 9, "k"), (4, 0, "a"), (5, 0, "b")
        ]  # fmt: skip
        assert kept[0] == letter(3)._replace(number=1)
        assert view.dead_letters(FLEET, after=2, limit=1) == kept[2:3]
        assert view.refused(FLEET, REPLICA, 4, 9) == [row._replace(operation=b"") for row in kept[1:3]]
        assert [row.seq for row in view.refused(FLEET, REPLICA, 4, 9, 1)] == [5]
        assert view.refused(FLEET, replica_id(DEVICE, 2), 1, 9) == []
        assert view.counts(FLEET)["dead_letters"] == 5
        assert view.counts(OTHER) == {
            "devices": 0, "replicas": 0, "conflicts": 0, "open_conflicts": 0, "dead_letters": 1
        }  # fmt: skip


def test_archive_state(store: Store) -> None:
    with store.writing() as tx:
        assert tx.archive_state(FLEET, "manifest") is None
        tx.set_archive_state(FLEET, "manifest", b"1")
        tx.set_archive_state(FLEET, "manifest", b"\x00\xff")
    with store.reading() as view:
        assert view.archive_state(FLEET, "manifest") == b"\x00\xff"
        assert view.archive_state(OTHER, "manifest") is None


def test_verify_finds_what_does_not_fit(store: Store) -> None:
    with store.writing() as tx:
        tx.put_records(FLEET, [RecordRow("notes", "k", image("x"), 1)])
        tx.append_feed(FLEET, [feed_row(1, 1)])
        tx.set_head(FLEET, HEAD._replace(position=1, living=1))
    assert store.verify() == []
    with store.writing() as tx:
        tx.set_head(FLEET, HEAD._replace(position=2, living=1))
    assert any("feed" in problem for problem in store.verify())
    with store.writing() as tx:
        tx.set_head(FLEET, HEAD._replace(position=1, living=2))
    assert any("living" in problem for problem in store.verify())
    with store.writing() as tx:
        tx.put_records(FLEET, [RecordRow("notes", "bad", b"\x97\x00", 1)])
    assert any("bad" in problem for problem in store.verify())


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "cloud.db")
    with store.writing() as tx:
        tx.create_fleet(FleetRow(FLEET, "f", 0), HEAD)
        tx.put_records(FLEET, [RecordRow("notes", "k", image("x"), 1)])
    store.close()
    store.close()
    with pytest.raises(StorageError), store.reading():
        pass
    again = SqliteStore.open(tmp_path / "cloud.db")
    with again.reading() as view:
        assert view.lookup(FLEET, "notes", ["k"])["k"].image == image("x")
    again.close()
