"""The short cuts over encoded records say exactly, byte for byte, what ``sync.records`` says."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import Malformed
from sync.images import fold, image_values, is_alive, newest_of, plain_image, replaced_fields, split_image
from sync.operations import Kind, Operation, Shape
from sync.records import Record, compose
from sync.records import fold as full_fold
from sync.stamps import replica_id

REPLICAS = [replica_id(bytes([number]) * 12, 1) for number in (1, 2)]
NAMES = st.sampled_from("abcd")
VALUES = st.none() | st.integers(-5, 5) | st.sampled_from(["", "x", "é"]) | st.binary(max_size=3)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=4)
STAMPS = st.integers(1, 6) | st.integers(1 << 32, (1 << 32) + 2) | st.integers(1 << 40, (1 << 40) + 3)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from([Kind.PUT, Kind.PATCH, Kind.DELETE]))
    fields = draw(FIELDS) if kind != Kind.DELETE else {}
    names = tuple(sorted(fields))
    rules = "".join(draw(st.sampled_from("lllx")) for _ in names)
    values = tuple(fields[name] if rule == "l" else 1 for name, rule in zip(names, rules, strict=True))
    shape = Shape(int(kind), "c", names, rules)
    return Operation(draw(st.sampled_from(REPLICAS)), 1, draw(STAMPS), 0, shape, "k", values)


@given(st.lists(operations(), max_size=6))
def test_fold_is_the_fold_of_records(history: list[Operation]) -> None:
    short: bytes | None = None
    full: bytes | None = None
    for operation in history:
        short, full = fold(short, operation), full_fold(full, operation)
        assert short == full


@given(st.lists(operations(), min_size=1, max_size=6))
def test_readers_see_what_the_record_shows(history: list[Operation]) -> None:
    image: bytes | None = None
    for operation in history:
        image = fold(image, operation)
    assert image is not None
    record = Record.decode(image)
    assert is_alive(image) == record.alive
    assert newest_of(image) == record.newest_ts
    shown = image_values(image)
    assert shown == (record.values() if record.alive else None)
    assert shown is None or list(shown) == sorted(shown)


@given(st.lists(operations(), max_size=4), FIELDS, STAMPS)
def test_a_put_that_is_said_to_be_plain_is(history: list[Operation], fields: dict[str, Any], ts: int) -> None:
    image: bytes | None = None
    for operation in history:
        image = fold(image, operation)
    if image is None:
        return
    short = replaced_fields(image, fields, ts)
    if short is None:
        return
    names, rules, values = compose(Record.decode(image), fields, lambda _: "l", REPLICAS[0], replace=True)
    put = Operation(REPLICAS[0], 1, ts, 0, Shape(int(Kind.PUT), "c", names, rules), "k", values)
    packed = msgpack.packb(dict(sorted(short.items())))
    assert tuple(sorted(short)) == names
    assert plain_image(ts, REPLICAS[0], packed) == full_fold(image, put)


@given(STAMPS, FIELDS)
def test_a_plain_image_is_canonical(ts: int, fields: dict[str, Any]) -> None:
    image = plain_image(ts, REPLICAS[0], msgpack.packb(dict(sorted(fields.items()))))
    assert Record.decode(image).encode() == image


@pytest.mark.parametrize("damaged", [b"\x93", b"\x93\x01\x02", b"\x93\x01\xc4\x00\xc1", b"\x97\x01"])
def test_damage_is_malformed(damaged: bytes) -> None:
    with pytest.raises(Malformed):
        image_values(damaged)


def test_a_large_image_comes_in_parts_that_join_to_it() -> None:
    record = Record()
    for n in range(40):
        replica = bytes([n % 3]) * 16
        shape = Shape(Kind.PATCH, "c", (f"f{n:02}", "set"), "ls")
        record.apply(
            Operation(replica, n + 1, 1000 + n, 0, shape, "k", ("x" * 500, [[f"{n}-{m}" for m in range(9)], []]))
        )
    record.apply(Operation(b"d" * 16, 1, 1003, 0, Shape(Kind.DELETE, "c"), "k", ()))
    image = record.encode()
    parts = split_image(image, 2_000)
    assert len(parts) > 10
    assert max(map(len, parts)) <= 2_000
    joined = Record()
    for part in reversed(parts):
        joined.join(Record.decode(part))
    assert joined.encode() == image
    assert split_image(image, len(image)) == [image]
