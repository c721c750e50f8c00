"""Operations come back from their columns as they were; what is not valid by the protocol's rules does not."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings

from sync import columns
from sync.errors import Malformed, TooLarge
from sync.limits import KEY_BYTES_MAX, OPERATION_BYTES_MAX, SEGMENT_OPERATIONS_MAX, STAMP_MAX, VALUE_DEPTH_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from tests.sync.histories import BASE_TS
from tests.sync.operations import A, B, batches, of_every_kind, put
from tests.sync.values import same


@settings(max_examples=300)
@given(batches)
def test_operations_come_back(operations: list[Operation]) -> None:
    decoded = columns.decode(columns.encode(operations))
    assert decoded == operations
    assert same([operation.values for operation in decoded], [operation.values for operation in operations])
    assert columns.encode(decoded) == columns.encode(operations)


def test_a_batch_of_everything_comes_back() -> None:
    operations = of_every_kind()
    assert {operation.shape.kind for operation in operations} == set(Kind)
    assert set("".join(operation.shape.rules for operation in operations)) == set("lcxnsk")
    assert columns.decode(columns.encode(operations)) == operations


def test_one_operation_at_the_bounds_passes() -> None:
    """What is cut into batches of one can always be sent."""
    big = "x" * (OPERATION_BYTES_MAX - 10)
    for operation in (
        put(1, "k" * KEY_BYTES_MAX, text=big),
        put(1, "k", bytes=big.encode(), words=None),
        put(1, "k", lists=[[] for _ in range(60_000)], maps=[{} for _ in range(60_000)]),
        put(1, "k", A, **dict.fromkeys(map("f{}".format, range(4096)), 1)),
        Operation(A, STAMP_MAX, STAMP_MAX, STAMP_MAX, Shape(Kind.DELETE, "things"), "\u00e9" * 256, ()),
    ):
        assert columns.decode(columns.encode([operation])) == [operation]


@pytest.mark.parametrize("count", [0, SEGMENT_OPERATIONS_MAX + 1])
def test_too_many_operations_or_none(count: int) -> None:
    with pytest.raises(TooLarge):
        columns.encode([put(1, "k")] * count)


def test_what_would_open_to_too_many_lists_is_not_written() -> None:
    """A segment of 5 MiB could announce five million empty lists; a reader takes one million."""
    operations = [put(i, "k", points=[[] for _ in range(60_000)]) for i in range(1, 19)]
    with pytest.raises(TooLarge):
        columns.encode(operations)
    assert columns.encode(operations[:17])


# -- what is refused --------------------------------------------------------------------------------------------------


def encoded(operation: Operation) -> bytes:
    """As a writer without any checks would."""
    return columns.encode([operation])


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def operation_of(kind: int, rules: str, *values: Any, ts: int = BASE_TS, key: str = "k", **changes: Any) -> Operation:
    names = changes.get("names", tuple("fghij"[: len(rules)]))
    return Operation(A, 1, ts, 0, Shape(kind, changes.get("collection", "things"), names, rules), key, values)


SEEN = [B, BASE_TS - 1]
WRONG: dict[str, Operation] = {
    "no such kind": operation_of(8, "l", 1),
    "a delete with fields": operation_of(Kind.DELETE, "l", 1),
    "an image with fields": operation_of(Kind.IMAGE, "l", b""),
    "an increment of a last-writer field": operation_of(Kind.INCREMENT, "l", 1),
    "an addition to a counter": operation_of(Kind.ADD, "c", 1),
    "a removal from a keep-all field": operation_of(Kind.REMOVE, "k", [1, []]),
    "an unknown rule": operation_of(Kind.PATCH, "q", 1),
    "a collection name": operation_of(Kind.PUT, "l", 1, collection="no spaces"),
    "a system collection": operation_of(Kind.PUT, "l", 1, collection="_secret"),
    "field names out of order": operation_of(Kind.PUT, "ll", 1, 2, names=("g", "f")),
    "a field name twice": operation_of(Kind.PUT, "ll", 1, 2, names=("f", "f")),
    "a reserved field name": operation_of(Kind.PUT, "l", 1, names=("_f",)),
    "a long field name": operation_of(Kind.PUT, "l", 1, names=("f" * 65,)),
    "an empty key": operation_of(Kind.PUT, "l", 1, key=""),
    "a key with NUL": operation_of(Kind.PUT, "l", 1, key="a\0b"),
    "a long key": operation_of(Kind.PUT, "l", 1, key="k" * 513),
    "a key that is long in UTF-8": operation_of(Kind.PUT, "l", 1, key="\u00e9" * 257),
    "timestamp 0": operation_of(Kind.PUT, "l", 1, ts=0),
    "a negative timestamp": operation_of(Kind.PUT, "l", 1, ts=-1),
    "a value nested too deep": operation_of(Kind.PUT, "l", deep(VALUE_DEPTH_MAX + 1)),
    "NaN within a value": operation_of(Kind.PUT, "l", [float("nan")]),
    "an infinite float": operation_of(Kind.PUT, "l", float("inf")),
    "a map with keys of bytes": operation_of(Kind.PUT, "l", {b"a": 1}),
    "an integer of 64 bits without sign": operation_of(Kind.PUT, "l", [2**63]),
    "a counter of text": operation_of(Kind.PATCH, "c", "1"),
    "a counter of truth": operation_of(Kind.PATCH, "c", True),
    "a maximum of nothing": operation_of(Kind.PATCH, "x", None),
    "a set that is a list": operation_of(Kind.PATCH, "s", ["a"]),
    "a set of floats": operation_of(Kind.PATCH, "s", [[1.5], []]),
    "a set out of order": operation_of(Kind.PATCH, "s", [["b", "a"], []]),
    "a set with an element twice": operation_of(Kind.PATCH, "s", [["a", "a"], []]),
    "a removal without tags": operation_of(Kind.PATCH, "s", [[], [["a"]]]),
    "a removal of a list": operation_of(Kind.PATCH, "s", [[], [[[], [SEEN]]]]),
    "a removal of what is yet to come": operation_of(Kind.PATCH, "s", [[], [["a", [[B, BASE_TS]]]]]),
    "a removal by a tag without time": operation_of(Kind.PATCH, "s", [[], [["a", [[B, 0]]]]]),
    "a removal by a tag of a short replica": operation_of(Kind.PATCH, "s", [[], [["a", [[b"B", 5]]]]]),
    "a sibling without tags": operation_of(Kind.PATCH, "k", ["v"]),
    "a sibling that is None": operation_of(Kind.PATCH, "k", [None, [SEEN]]),
    "a sibling that replaces the future": operation_of(Kind.PATCH, "k", ["v", [[B, BASE_TS + 5]]]),
    "a sibling that replaces itself": operation_of(Kind.PATCH, "k", ["v", [[A, BASE_TS]]]),
    "a sibling nested too deep": operation_of(Kind.PATCH, "k", [deep(VALUE_DEPTH_MAX + 1), []]),
    "an image that is text": operation_of(Kind.IMAGE, "", "image", names=()),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_breaks_the_rules_is_refused(what: str) -> None:
    operation = WRONG[what]
    error = TooLarge if " long" in what else Malformed
    with pytest.raises(error):
        columns.decode(encoded(operation))
    with pytest.raises(error):  # and in company, where the operation is one of several groups
        columns.decode(columns.encode([put(1, "k", other=1), operation]))


@pytest.mark.parametrize(
    "value", ["x" * OPERATION_BYTES_MAX, b"x" * OPERATION_BYTES_MAX, ["x" * 1000] * 300, "\u4e2d" * 90_000]
)
def test_an_operation_over_its_bound(value: Any) -> None:
    with pytest.raises(TooLarge):
        columns.decode(encoded(put(1, "k", v=value)))
    with pytest.raises(TooLarge):
        columns.decode(columns.encode([put(1, "a", v=value), put(2, "b", v="small")]))


def test_the_largest_image_that_a_store_keeps_can_be_sent() -> None:
    record = Record()
    record.apply(put(1, "k", text=""))
    record.apply(operation_of(Kind.PATCH, "c", 1, ts=BASE_TS + 2))
    record.lww["text"] = (*record.lww["text"][:2], "x" * (OPERATION_BYTES_MAX - len(record.encode()) - 4))
    image = record.encode()
    assert len(image) == OPERATION_BYTES_MAX
    operation = operation_of(Kind.IMAGE, "", image, ts=BASE_TS + 2, names=())
    assert columns.decode(encoded(operation)) == [operation]


def parts() -> list[Any]:
    body: list[Any] = msgpack.unpackb(columns.encode([put(1, "k", v=1), put(2, "k", w=2)]))
    return body


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (0, 2),
        (0, True),
        (1, 0),
        (1, 3),
        (1, "2"),
        (2, []),
        (2, [A, A]),
        (2, [b"short"]),
        (2, {}),
        (3, [1, 1]),
        (4, [1, -1]),
        (7, None),
        (7, [1, 0]),
        (7, [1, 2]),
        (8, []),
        (8, [[1, "things", [], "", [1, "k"], []]] * 2),
        (8, [[1, "things", [], "", [1, "k"]], 5]),
    ],
)
def test_the_frame_of_the_columns(part: int, value: Any) -> None:
    body = parts()
    assert columns.decode(msgpack.packb(body))
    body[part] = value
    with pytest.raises(Malformed):
        columns.decode(msgpack.packb(body))


@pytest.mark.parametrize("body", [[], {}, None, 5, "text", parts()[:8], [*parts(), 1]])
def test_not_columns_at_all(body: Any) -> None:
    with pytest.raises(Malformed):
        columns.decode(msgpack.packb(body))
