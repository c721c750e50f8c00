"""The state digest: equal where readers see the same, different where they do not."""

from __future__ import annotations

from hashlib import sha256

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from sync.digest import StateDigest
from sync.operations import Kind, Operation, Shape
from sync.records import Record, fresh_image
from tests.sync.histories import BASE_TS, RULES, fold, play
from tests.sync.operations import B, put


def digest(*images: tuple[str, str, bytes]) -> str:
    out = StateDigest()
    for image in images:
        out.add(*image)
    return out.hexdigest()


def test_it_is_what_the_specification_says() -> None:
    one, two = fresh_image(put(1, "a", v=1)), fresh_image(put(2, "b", v=None))
    parts = [sha256(msgpack.packb(["things", key, image])).digest() for key, image in (("a", one), ("b", two))]
    assert digest(("things", "a", one), ("things", "b", two)) == sha256(b"".join(parts)).hexdigest()
    assert digest() == sha256().hexdigest()


@given(st.binary(min_size=8, max_size=60), st.sampled_from(RULES))
def test_tombstones_floors_and_marks_do_not_count(program: bytes, rule: str) -> None:
    record = fold([event.operation for event in play(program, rule)] or [put(1, "key")])
    counted = StateDigest()
    counted.add("things", "key", record.encode())
    assert counted.records == record.alive
    without = Record.decode(record.encode())
    without.floor = Record().floor
    for field, slots in list(without.slots.items()):
        without.slots[field] = {slot: entry for slot, entry in slots.items() if entry[1]}
        if not without.slots[field]:
            del without.slots[field]
    expected = digest(("things", "key", without.encode())) if record.alive else digest()
    assert counted.hexdigest() == expected


def test_a_record_made_anew_after_a_delete_is_as_one_that_never_died() -> None:
    born = put(5, "k", v=1)
    reborn = Record()
    for operation in (
        put(1, "k", v=0),
        Operation(B, 1, BASE_TS + 2, 0, Shape(Kind.DELETE, "things"), "k", ()),
        born,
    ):
        reborn.apply(operation)
    assert reborn.encode() != fresh_image(born)
    assert digest(("things", "k", reborn.encode())) == digest(("things", "k", fresh_image(born)))


@given(st.sampled_from(["collection", "key", "value", "stamp", "writer", "order"]))
def test_everything_that_a_reader_may_see_counts(what: str) -> None:
    image = ("things", "k", fresh_image(put(1, "k", v=1)))
    second = ("things", "l", fresh_image(put(2, "l", v=1)))
    changed = {
        "collection": [("thing", *image[1:]), second],
        "key": [(image[0], "j", image[2]), second],
        "value": [(*image[:2], fresh_image(put(1, "k", v=1.0))), second],
        "stamp": [(*image[:2], fresh_image(put(3, "k", v=1))), second],
        "writer": [(*image[:2], fresh_image(put(1, "k", B, v=1))), second],
        "order": [second, image],
    }[what]
    assert digest(image, second) != digest(*changed)


def test_a_mark_from_before_a_delete_that_was_forgotten_does_not_count() -> None:
    """Found by the simulator (seed 31 of "everything"): a PUT says which additions it removes; who still knows the
    delete drops those from before it, who has forgotten it keeps them.
    """
    delete = Operation(B, 1, BASE_TS + 5, 0, Shape(Kind.DELETE, "things"), "k", ())
    removal = [["b", [[B, BASE_TS + 2]]]]
    renewed = Operation(B, 2, BASE_TS + 9, 0, Shape(Kind.PUT, "things", ("tags",), "s"), "k", ([["a"], removal],))
    knows, forgot = Record(), Record()
    knows.apply(delete)
    knows.apply(renewed)
    forgot.apply(renewed)
    assert knows.values() == forgot.values() == {"tags": ["a"]}
    assert digest(("things", "k", knows.encode())) == digest(("things", "k", forgot.encode()))
