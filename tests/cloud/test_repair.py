"""Handshake, baseline, and repair by state: how devices begin, and how the cloud learns again what it
forgot.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cloud.ports import Caller
from sync.errors import Malformed, Refused, Unauthenticated, UnsupportedVersion
from sync.messages import BaselinePage, Failure, Hello, PullBaseline, Push
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.segment import FLAG_LAST, FLAG_STATE
from tests.cloud.stream_world import Device, Fleet, future, replayed


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def filled(fleet: Fleet, records: int = 20) -> Device:
    """A device whose records, some of them deleted or merged, are all in the cloud."""
    van = fleet.device("van")
    van.declare("notes", fields={"n": "counter"})
    for n in range(records):
        van.put("notes", f"n{n:03}", text="x")
    for n in range(0, records, 3):
        van.patch("notes", f"n{n:03}", text="y")
        van.increment("notes", f"n{n:03}", "n")
    for n in range(0, records, 5):
        van.delete("notes", f"n{n:03}")
    van.push(most=10)
    return van


def forget(fleet: Fleet, position: int) -> None:
    """The cloud as of ``position``, in a new incarnation: what a restore from the archive leaves."""
    rows = replayed(fleet, position)
    with fleet.store.writing() as tx:
        head = tx.lock_head(fleet.id)
        tx._db.execute("DELETE FROM feed WHERE last > ?", (position,))  # type: ignore[attr-defined]
        tx._db.execute("DELETE FROM records")  # type: ignore[attr-defined]
        tx._db.execute("DELETE FROM replicas")  # type: ignore[attr-defined]
        tx.put_records(fleet.id, rows.values())
        tx.set_head(
            fleet.id,
            head._replace(
                position=position,
                incarnation=fleet.random.token(16),
                previous=head.incarnation,
                generation=head.generation + 1,
                restored_head=position,
                living=tx.count_living(fleet.id),
            ),
        )


# -- handshake ----------------------------------------------------------------------------------------------------


def test_hello_tells_what_is_held(fleet: Fleet) -> None:
    van = fleet.device("van")
    first = van.hello()
    assert (first.last_seq, first.last_segment, first.head, first.baseline) == (0, b"", 0, False)
    van.declare("notes")
    van.push()
    again = van.hello()
    assert (again.last_seq, again.last_segment, again.head) == (1, van.acked[1], 1)
    assert again.time_ms == fleet.clock.now_ms
    assert [key.epoch for key in again.keys] == [1]


def test_who_says_hello_wrongly(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")

    def code(hello: Hello, caller: Caller | None) -> str:
        answer = fleet.plane.answer(hello, caller)
        assert isinstance(answer, Failure)
        return answer.code

    good = Hello([1], fleet.id, van.replica, 0, 0, b"", 0, b"")
    assert code(replace(good, versions=[8, 9]), van.caller) == UnsupportedVersion.code
    assert code(replace(good, fleet=b"?" * 16), van.caller) == Refused.code
    assert code(good, kiosk.caller) == Refused.code
    assert code(good, None) == Unauthenticated.code


def test_when_a_baseline_is_the_shorter_way(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    van.put("notes", "a", text="x")
    van.push()
    assert not fleet.device("first").hello().baseline, "as many records as operations"
    van.patch("notes", "a", text="y")
    van.push()
    late = fleet.device("late")
    assert late.hello().baseline
    late.cursor = 2
    assert not late.hello().baseline, "it has most of the feed"
    late.cursor = 9
    assert late.hello().baseline, "no such position"


def test_a_cursor_of_a_forgotten_time_needs_a_baseline(fleet: Fleet) -> None:
    van = filled(fleet)
    kiosk = fleet.device("kiosk")
    kiosk.pull()
    forget(fleet, 10)
    van.cursor = 10
    assert not van.hello().baseline
    kiosk.cursor = 10 + 1
    assert kiosk.hello().baseline
    kiosk.cursor = 9
    assert not kiosk.hello().baseline


# -- baseline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("everything", [False, True])
def test_a_baseline_and_the_feed_from_there_make_the_same_state(fleet: Fleet, everything: bool) -> None:
    van = filled(fleet)
    late = fleet.device("late")
    cursor = late.baseline(everything=everything)
    assert cursor == fleet.head()
    assert late.digest() == fleet.digest() == van.digest()
    dead = [image for image in late.images.values() if not Record.decode(image).alive]
    assert bool(dead) == everything
    van.put("notes", "after", text="z")
    van.push()
    assert late.pull() == van.log[-1:]
    assert late.digest() == fleet.digest()


def test_what_changes_between_the_pages_comes_by_the_feed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.stream.baseline.IMAGE_BYTES_PER_PAGE", 200)
    van = filled(fleet)
    late = fleet.device("late")
    head = fleet.head()
    token, pages = b"", 0
    while True:
        page = fleet.plane.handle(PullBaseline(late.replica, token, False, late.incarnation), late.caller)
        assert isinstance(page, BaselinePage)
        late.merge(late.open_baseline(page, token))
        assert page.cursor == head
        van.patch("notes", "n001", text=f"page {pages}")
        if pages == 1:
            van.delete("notes", "n002")
        else:
            van.put("notes", "a first one", text="new")
        van.push()
        pages += 1
        token = page.next
        if not token:
            break
    assert pages > 5
    late.cursor = head
    late.pull()
    assert late.digest() == fleet.digest()


def test_who_begins_to_write_between_two_pages_hears_of_the_deletes_before_them(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.stream.baseline.IMAGE_BYTES_PER_PAGE", 200)
    van = filled(fleet)
    van.put("notes", "a", text="soon gone")
    van.delete("notes", "a")
    van.push()
    late = fleet.device("late")
    token, everything = b"", False
    while True:
        page = fleet.plane.handle(PullBaseline(late.replica, token, everything, late.incarnation), late.caller)
        assert isinstance(page, BaselinePage)
        late.merge(late.open_baseline(page, token))
        token, everything = page.next, True
        if not token:
            break
    dead = {place for place, image in van.images.items() if not Record.decode(image).alive}
    assert ("notes", "a") in dead
    assert dead == {place for place, image in late.images.items() if not Record.decode(image).alive}


@pytest.mark.parametrize("token", [b"x", b"\x94\x01\xc2\xa1a\xa0", b"\x93\x01\x02", b"\x94\xcd\xff\xff\xc2\xa1a\xa1a"])
def test_a_token_that_is_not_ours(fleet: Fleet, token: bytes) -> None:
    van = filled(fleet, 3)
    answer = fleet.plane.answer(PullBaseline(van.replica, token, False, van.incarnation), van.caller)
    assert isinstance(answer, Failure)
    assert answer.code in (Malformed.code, "invalid-value")


# -- repair -------------------------------------------------------------------------------------------------------


def test_state_gives_a_restored_cloud_back_what_it_lost(fleet: Fleet) -> None:
    van = filled(fleet)
    kiosk = fleet.device("kiosk")
    kiosk.pull()
    digest = fleet.digest()
    forget(fleet, 10)
    assert fleet.digest() != digest
    assert van.hello().last_seq == 0
    van.push_state()
    assert fleet.digest() == digest
    assert van.hello().last_seq == len(van.log)
    kiosk.hello()
    kiosk.cursor = 10
    kiosk.pull()
    assert kiosk.digest() == digest
    van.put("notes", "after", text="z")
    van.push()
    kiosk.pull()
    assert kiosk.digest() == van.digest() == fleet.digest()
    assert fleet.conflicts() == []


def test_state_that_is_known_costs_nothing_and_comes_once(fleet: Fleet) -> None:
    van = filled(fleet)
    head = fleet.head()
    van.push_state()
    assert fleet.head() == head
    sealed = van.seal(
        [van.log[1]._replace(seq=0)], first_seq=van.acked[0], previous=bytes(32), flags=FLAG_STATE | FLAG_LAST
    )
    first, second = van.send(sealed.data), van.send(sealed.data)
    assert (first.last_seq, first.last_segment) == (second.last_seq, second.last_segment) == (
        van.acked[0], sealed.id
    )  # fmt: skip


def test_a_new_incarnation_sends_state_and_logs_from_one(fleet: Fleet) -> None:
    van, kiosk = filled(fleet), fleet.device("kiosk")
    van.become(2)
    van.images["notes", "n001"] = van.images["notes", "n002"]
    assert van.hello().last_seq == 0
    van.push_state()
    van.put("notes", "after", text="z")
    assert [ack.last_seq for ack in van.push()] == [1]
    kiosk.pull()
    van.pull()
    assert kiosk.digest() == van.digest() == fleet.digest()


def test_state_is_only_merged(fleet: Fleet) -> None:
    """It may hold anybody's writes, older and newer ones, of collections not yet declared; never
    conflicts.
    """
    van, kiosk = filled(fleet), fleet.device("kiosk")
    old = van.log[1]
    newer = Operation(
        kiosk.replica, 0, future(fleet, 10), 0, Shape(Kind.PUT, "notes", ("text",), "l"), "n002", ("new",)
    )
    undeclared = newer._replace(shape=Shape(Kind.PUT, "Later", ("a",), "l"), key="k")
    sealed = van.seal([undeclared, old._replace(seq=0), newer], flags=FLAG_STATE, first_seq=0)
    ack = van.send(sealed.data)
    assert ack.refusals == []
    assert ack.last_seq == len(van.log), "only the last segment of a repair moves it"
    assert fleet.shown("notes", "n002") == {"text": "new"}
    assert fleet.shown("Later", "k") == {"a": "new"}
    assert fleet.conflicts() == []
    kiosk.pull()
    assert kiosk.digest() == fleet.digest()


def test_state_from_the_future_is_refused_one_by_one(fleet: Fleet) -> None:
    van = filled(fleet, 3)
    good = van.log[1]._replace(seq=0, ts=future(fleet, 1), values=("good",))
    early = good._replace(ts=future(fleet, 130_000), key="early")
    record = Record()
    record.apply(good)
    record.lww["text"] = (early.ts, van.replica, "hidden")
    image = Operation(van.replica, 0, good.ts, 0, Shape(Kind.IMAGE, "notes"), "hidden", (record.encode(),))
    spec = Shape(Kind.PUT, "_collections", ("spec",), "l")
    bad_spec = good._replace(shape=spec, key="notes", values=({"no": "schema"},))
    answer = fleet.plane.answer(
        Push(van.seal([early, image, bad_spec, good], flags=FLAG_STATE, first_seq=0).data), van.caller
    )
    if isinstance(answer, Failure):  # a reader may refuse the forged image before we see it
        assert answer.code == Malformed.code
        ack = van.send(van.seal([early, bad_spec, good], flags=FLAG_STATE, first_seq=0).data)
        assert [refusal.code for refusal in ack.refusals] == ["future-stamp", "schema-mismatch"]
    else:
        letters = fleet.plane.dead_letters(fleet.id)
        assert [(letter.seq, letter.key) for letter in letters] == [(0, "early"), (0, "hidden"), (0, "notes")]
    assert fleet.shown("notes", good.key) == {"text": "good"}


def test_large_records_are_read_a_page_at_a_time(fleet: Fleet) -> None:
    """Hundreds of them for one page would take all the memory there is."""
    van = fleet.device("van")
    van.declare("notes")
    for number in range(120):
        van.put("notes", f"k{number:03}", text="x" * 200_000)
    van.push(20)
    joined = fleet.device("joined")
    tracemalloc.start()
    try:
        fleet.plane.handle(PullBaseline(joined.replica, b"", True, joined.incarnation), joined.caller)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20, "of 24 MB"
    joined.baseline()
    assert joined.digest() == fleet.digest()
