"""Segments on their way into the feed: once, in order, whole or not at all; and what is refused holds up
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sync.errors import BrokenChain, Refused
from sync.keys import DeviceKey
from sync.limits import MESSAGE_BYTES_MAX, SEGMENT_OPERATIONS_MAX
from sync.messages import Push, encode
from sync.operations import Kind, Shape
from sync.segment import FLAG_FEED, FLAG_STATE, GENESIS, unpack
from sync.stamps import replica_id
from tests.cloud.stream_world import Fleet, future


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def test_a_push_reaches_the_other_device_and_not_its_sender(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")
    van.declare("notes")
    for n in range(5):
        van.put("notes", f"n{n}", text=f"text {n}")
    [ack] = van.push()
    assert (ack.last_seq, ack.head, ack.refusals) == (6, 6, [])
    assert van.pull() == []
    assert kiosk.pull() == van.log
    assert van.digest() == kiosk.digest() == fleet.digest()


def test_the_feed_row_is_the_devices_own_bytes(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    van.put("notes", "a", text="x")
    sealed = van.seal(van.log)
    van.send(sealed.data)
    with fleet.store.reading() as view:
        [row] = view.feed(fleet.id, 0)
    assert (row.first, row.last, row.replica, row.segment) == (1, 2, van.replica, sealed.id)
    assert unpack(row.packed, row.plain_length) == van.log


def test_the_same_segment_again_does_nothing(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    van.put("notes", "a", text="x")
    van.put("missing", "b", text="refused")
    first = van.seal(van.log)
    acked = van.send(first.data)
    van.acked = (acked.last_seq, acked.last_segment)
    before = (fleet.head(), fleet.digest())
    assert van.send(first.data) == acked, "the answer was lost: the same one again, refusals included"
    assert [refusal.seq for refusal in acked.refusals] == [3]
    van.put("notes", "c", text="y")
    second = van.send(van.seal(van.log[3:]).data)
    late = van.send(first.data)
    assert (late.last_seq, late.last_segment) == (second.last_seq, second.last_segment)
    assert late.refusals == acked.refusals
    assert fleet.head() == before[0] + 1


def test_gaps_overlaps_and_strangers_are_refused_and_change_nothing(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")
    van.declare("notes")
    for n in range(6):
        van.put("notes", f"n{n}", text="x")
    first = van.seal(van.log[:3])
    van.send(first.data)
    van.acked = (3, first.id)
    before = (fleet.head(), fleet.digest())
    wrong = {
        "gap": van.seal(van.log[4:]),
        "overlap": van.seal(van.log[2:5]),
        "another predecessor": van.seal(van.log[3:], previous=b"x" * 32),
        "from the beginning": van.seal(van.log[3:], previous=GENESIS),
        "another life at the same place": van.seal([*van.log[:2], van.log[2]._replace(ts=van.log[2].ts + 1)]),
        "another fleet": van.seal(van.log[3:], fleet=b"?" * 16),
        "another stream": van.seal(van.log[3:], stream=b"?" * 16),
        "a feed page": van.seal(van.log[3:], flags=FLAG_FEED),
    }
    for what, sealed in wrong.items():
        assert van.refused(sealed.data) == BrokenChain.code, what
    theirs = [operation._replace(replica=kiosk.replica) for operation in van.log[:2]]
    forged = van.seal(theirs, stream=kiosk.replica, replica=kiosk.replica)
    assert van.refused(forged.data) == "refused", "signed by the van, in the kiosk's name"
    stranger = DeviceKey.generate(fleet.random)
    assert van.refused(van.seal(van.log[3:], signer=stranger).data) == "bad-signature"
    assert kiosk.refused(van.seal(van.log[3:]).data) == "bad-signature"
    flipped = bytearray(van.seal(van.log[3:]).data)
    flipped[200] ^= 1
    assert van.refused(bytes(flipped)) == "bad-signature"
    assert van.refused(b"") == van.refused(b"egs1" * 60) == "malformed"
    assert (fleet.head(), fleet.digest()) == before
    van.push()


def test_refused_operations_hold_up_nothing(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")
    van.declare("notes", fields={"n": "int"}, strict=True, vector=("v", 2))
    van.push()
    good = van.put("notes", "a", n=1)
    nowhere = van._append(Shape(Kind.PUT, "nowhere", ("n",), "l"), "k", (1,))
    mismatches = [
        van._append(Shape(Kind.PUT, "notes", ("n",), "l"), "k", ("one",)),
        van._append(Shape(Kind.PUT, "notes", ("n",), "c"), "k", (1,)),
        van._append(Shape(Kind.PUT, "notes", ("m",), "l"), "k", (1,)),
        van._append(Shape(Kind.PUT, "notes", ("v",), "l"), "k", (bytes(12),)),
        van._append(Shape(Kind.PUT, "_collections", ("spec",), "l"), "notes", ({"no": "schema"},)),
        van._append(Shape(Kind.DELETE, "_collections"), "notes", ()),
    ]
    last = van.put("notes", "b", n=2, v=[1, 2])
    early = van.put("notes", "c", n=3)
    van.log[-1] = early._replace(ts=future(fleet, 125_000))
    head = fleet.head()
    [ack] = van.push()
    assert [(refusal.seq, refusal.code) for refusal in ack.refusals] == [
        (nowhere.seq, "unknown-collection"),
        *((operation.seq, "schema-mismatch") for operation in mismatches),
        (early.seq, "future-stamp"),
    ]
    assert ack.last_seq == early.seq
    assert ack.head == head + 3, "two that were taken, and the fleet's declaration of notes once more"
    pulled = kiosk.pull()
    assert [operation.seq for operation in pulled[:3]] == [1, good.seq, last.seq]
    assert (pulled[3].key, pulled[3].values) == ("notes", pulled[0].values)
    assert pulled[3].ts > max(operation.ts for operation in van.log[:-1])
    letters = fleet.plane.dead_letters(fleet.id)
    assert [letter.seq for letter in letters] == [refusal.seq for refusal in ack.refusals]
    assert all(letter.reason and letter.operation for letter in letters)
    assert fleet.plane.status(fleet.id)["dead_letters"] == len(letters)


def test_a_segment_of_refused_operations_only(fleet: Fleet) -> None:
    van = fleet.device("van")
    van._append(Shape(Kind.PUT, "nowhere", ("n",), "l"), "k", (1,))
    [ack] = van.push()
    assert (ack.last_seq, ack.head, len(ack.refusals)) == (1, 0, 1)
    van.declare("notes")
    [ack] = van.push()
    assert (ack.last_seq, ack.head) == (2, 1)


def test_refusals_without_number_still_fit_an_answer(fleet: Fleet) -> None:
    van = fleet.device("van")
    shape = Shape(Kind.PUT, "n" * 60, ("n",), "l")
    start = van._append(shape, "k", (1,))
    count = SEGMENT_OPERATIONS_MAX
    flood = [start._replace(seq=1 + n, ts=start.ts + n, key=f"k{n}") for n in range(count)]
    sealed = van.seal(flood)
    for _ in range(2):
        ack = van.send(sealed.data)
        assert len(ack.refusals) == count
        assert len(encode(ack)) < MESSAGE_BYTES_MAX
        assert ack.refusals[0].reason
        assert {refusal.code for refusal in ack.refusals} == {"unknown-collection"}


def test_an_incompatible_declaration_is_refused_and_an_extension_taken(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")
    van.declare("notes", fields={"n": "int"})
    van.push()
    kiosk.declare("notes", fields={"n": "str"})
    [ack] = kiosk.push()
    assert [refusal.code for refusal in ack.refusals] == ["schema-mismatch"]
    van.declare("notes", fields={"n": "int", "m": "counter"})
    van.increment("notes", "a", "m")
    [ack] = van.push()
    assert ack.refusals == []
    assert fleet.shown("notes", "a") == {"m": 1}


def test_a_record_cannot_outgrow_what_travels_as_one_operation(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    for n in range(4):
        van.patch("notes", "big", **{f"f{n}": "x" * 100_000})
    van.put("notes", "other", text="y")
    [ack] = van.push()
    assert [(refusal.seq, refusal.code) for refusal in ack.refusals] == [(4, "too-large"), (5, "too-large")]
    assert fleet.shown("notes", "other") == {"text": "y"}
    shown = fleet.shown("notes", "big")
    assert shown is not None
    assert sorted(shown) == ["f0", "f1"]


def test_nor_by_writes_whose_size_was_estimated_too_high_before(fleet: Fleet) -> None:
    """What a field held before counts no more; what it holds since does."""
    van = fleet.device("van")
    van.declare("notes")
    for n in range(5):
        van.patch("notes", "big", a=str(n) * 50_000)
    van.patch("notes", "big", b="x" * 190_000)
    van.patch("notes", "big", c="x" * 190_000)
    [ack] = van.push()
    assert [(refusal.seq, refusal.code) for refusal in ack.refusals] == [(8, "too-large")]
    van.patch("notes", "big", b="y")
    van.push()
    shown = fleet.shown("notes", "big")
    assert shown == {"a": "4" * 50_000, "b": "y"}
    joined = fleet.device("joined")
    joined.baseline()
    assert joined.get("notes", "big") == shown


def test_the_feed_has_no_gaps_whoever_pushes_at_once(fleet: Fleet) -> None:
    first = fleet.device("first")
    first.declare("notes")
    first.push()
    devices = [fleet.device(f"d{n}") for n in range(4)]
    for device in devices:
        for n in range(30):
            device.put("notes", f"{device.name}-{n}", text="x")
    with ThreadPoolExecutor(4) as pool:
        for pushed in [pool.submit(device.push, 3) for device in devices]:
            assert len(pushed.result()) == 10
    with fleet.store.reading() as view:
        rows = view.feed(fleet.id, 0)
        head = view.head(fleet.id)
    assert [row.first for row in rows] == [1, *(row.last + 1 for row in rows[:-1])]
    assert rows[-1].last == head.position == 121
    fleet.exchange(rounds=1)
    assert {device.digest() for device in fleet.devices.values()} == {fleet.digest()}


def test_a_revoked_device_adds_nothing_but_what_is_held_stays(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    sealed = van.seal(van.log)
    van.send(sealed.data)
    van.acked = (1, sealed.id)
    fleet.plane.enrollment.revoke(fleet.id, van.key.device_id)
    van.put("notes", "a", text="x")
    assert van.refused(van.seal(van.log[1:]).data) == Refused.code
    state = van.log[1]._replace(seq=0)
    assert van.refused(van.seal([state], flags=FLAG_STATE).data) == Refused.code
    assert van.send(sealed.data).last_seq == 1


def test_head_listeners_hear_of_every_commit(fleet: Fleet) -> None:
    van = fleet.device("van")
    heard: list[int] = []
    forget = fleet.plane.on_head(fleet.id, lambda: heard.append(fleet.head()))
    van.declare("notes")
    sealed = van.seal(van.log)
    van.send(sealed.data)
    van.send(sealed.data)
    van.acked = (1, sealed.id)
    van.put("notes", "a", text="x")
    van.push()
    assert heard == [1, 2], "a repeated segment moves nothing"
    forget()
    van.put("notes", "b", text="x")
    van.push()
    assert heard == [1, 2]


def test_a_callers_replica_is_its_own(fleet: Fleet) -> None:
    van, kiosk = fleet.device("van"), fleet.device("kiosk")
    van.declare("notes")
    sealed = van.seal(van.log)
    with pytest.raises(Refused):
        fleet.plane.handle(Push(sealed.data), kiosk.caller._replace(identity=van.key.public))
    assert replica_id(kiosk.key.device_id, 1) == kiosk.replica


def test_a_refused_declaration_from_the_future_does_not_move_the_fleets_clock(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    van.push()
    van.declare("notes", conflict="manual")
    van.log[-1] = van.log[-1]._replace(ts=future(fleet, 10 * 365 * 86_400_000))
    [ack] = van.push()
    assert [refusal.code for refusal in ack.refusals] == ["future-stamp"]
    with fleet.store.reading() as view:
        assert view.head(fleet.id).clock < future(fleet, 120_000)
