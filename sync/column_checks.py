"""What decoded operations must satisfy before anything is done with them, whoever wrote them (docs/FORMAT.md §3.3).

These are the protocol's rules, the same for every collection: names, keys, types by merge rule, sizes, and that nobody
replaces what he cannot have seen. Whether an operation fits the fleet's schemas is the cloud's question. Everything
here raises Malformed or TooLarge, or an InputError that ``sync.columns`` turns into Malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack

from sync.errors import Malformed, TooLarge
from sync.limits import KEY_BYTES_MAX, OPERATION_BYTES_MAX, OPERATION_FIELDS_MAX, STAMP_MAX
from sync.operations import Kind, Shape
from sync.records import Record
from sync.slots import LIVE, REMOVED
from sync.stamps import NEVER, REPLICA_BYTES
from sync.strict_msgpack import unpack
from sync.values import check_collection_name, check_elements, check_field_name, check_key, check_value

_pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_NUMBERS = {int, float}
_SCALARS = {int, float, bool, type(None)}
_RULES_OF_KIND = {Kind.INCREMENT: "c", Kind.ADD: "s", Kind.REMOVE: "s", Kind.DELETE: "", Kind.IMAGE: ""}


def check_shape(kind: Any, collection: Any, names: Any, rules: Any) -> Shape:
    if type(kind) is not int or not Kind.PUT <= kind <= Kind.IMAGE:
        raise Malformed("unknown kind of operation")
    check_collection_name(collection)
    if type(names) is not list or len(names) > OPERATION_FIELDS_MAX:
        raise Malformed("field names are a list")
    for name in names:
        check_field_name(name)
    if names != sorted(set(names)):
        raise Malformed("field names are sorted and distinct")
    if type(rules) is not str or len(rules) != len(names) or rules.strip(_RULES_OF_KIND.get(Kind(kind), "lcxnsk")):
        raise Malformed("one rule letter for each field, of those that the kind of operation has")
    return Shape(Kind(kind), collection, tuple(names), rules)


def check_keys(keys: list[Any]) -> None:
    if set(map(type, keys)) != {str} or not all(keys):
        raise Malformed("keys are non-empty strings")
    joined = "".join(keys)
    if not joined.isascii() or "\0" in joined or max(map(len, keys)) > KEY_BYTES_MAX:
        for key in keys:
            check_key(key)


def check_column(rule: str, name: str, column: list[Any], *, nested: bool) -> int:
    """That all values are of a type the rule allows ("i": an image); returns a bound of the largest one's packed size.

    Each value here was decoded, so it is one that msgpack can carry; what a column codec cannot know is how deep a
    value of this field may be. ``nested`` says that some may be more than lists of strings.
    """
    if rule == "l":
        return _check_last_writer(name, column, nested=nested)
    if rule == "i":
        if set(map(type, column)) != {bytes}:
            raise Malformed("an image is bytes")
        return max(map(len, column))
    if rule in "cxn":
        if not set(map(type, column)) <= _NUMBERS:
            raise Malformed(f"field {name!r} takes numbers")
        return 9
    for value in column:
        if type(value) is not list or len(value) != 2 or type(value[1]) is not list:
            raise Malformed(f"field {name!r}: not a contribution to a set or keep-all field")
        if rule == "k":
            if value[0] is None:
                raise Malformed(f"field {name!r} merges by keep-all and cannot be None")
            check_value(name, value[0])
        else:
            _check_set(name, value)
    return max(map(len, map(_pack, column)))


def _check_last_writer(name: str, column: list[Any], *, nested: bool) -> int:
    types = set(map(type, column))
    if types == {str}:
        return 5 + 4 * max(map(len, column))
    if types == {bytes}:
        return 5 + max(map(len, column))
    if types <= _SCALARS:
        return 9
    if nested:
        for value in column:
            check_value(name, value)
    return max(map(len, map(_pack, column)))


def _check_set(name: str, value: list[Any]) -> None:
    if type(value[0]) is not list or check_elements(name, value[0]) != value[0]:
        raise Malformed(f"field {name!r}: the elements of a set are sorted and distinct")
    for removed in value[1]:
        if type(removed) is not list or len(removed) != 2 or type(removed[1]) is not list:
            raise Malformed(f"field {name!r}: not a removal")
        check_elements(name, [removed[0]])


def check_sizes(shape: Shape, keys: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    for key, row in zip(keys, rows, strict=True):
        size = len(row[0]) if shape.kind == Kind.IMAGE else len(_pack(row))
        if size > OPERATION_BYTES_MAX:
            raise TooLarge(f"the operation on {key[:40]!r} is over {OPERATION_BYTES_MAX} bytes")


# -- causality --------------------------------------------------------------------------------------------------------


def needs_history_check(shape: Shape) -> bool:
    """Whether the operations of a shape speak of other operations, so that ``check_history`` has a say."""
    return shape.kind == Kind.IMAGE or "s" in shape.rules or "k" in shape.rules


def check_history(
    shape: Shape, rows: Sequence[tuple[Any, ...]], timestamps: Sequence[int], replicas: Sequence[bytes]
) -> None:
    """What an operation says it has seen is older than itself: merging relies on it, and so does the bound on stamps
    from the future, which looks at an operation's own stamp only.
    """
    for row, ts, replica in zip(rows, timestamps, replicas, strict=True):
        if shape.kind == Kind.IMAGE:
            _check_image(row[0], (ts, replica))
            continue
        for rule, value in zip(shape.rules, row, strict=True):
            if rule not in "sk":
                continue
            for tag in _tags(rule, value):
                if type(tag) is not list or len(tag) != 2 or not _is_stamp(tag[1], tag[0]) or tag[1] >= ts:
                    raise Malformed("an operation replaces something that it cannot have seen")


def _tags(rule: str, value: Any) -> Iterator[Any]:
    if rule == "k":
        yield from value[1]
    else:
        for removed in value[1]:
            yield from removed[1]


def _is_stamp(ts: Any, replica: Any) -> bool:
    return type(ts) is int and 0 < ts <= STAMP_MAX and type(replica) is bytes and len(replica) == REPLICA_BYTES


# -- images -----------------------------------------------------------------------------------------------------------


def _check_image(image: bytes, stamp: tuple[int, bytes]) -> None:
    """An image is what ``Record.encode`` makes of a state that merging can reach, and its newest stamp is the
    operation's.
    """
    unpack(image)
    record = Record.decode(image)
    if (record.ts, record.replica) != NEVER and not _is_stamp(record.ts, record.replica):
        raise Malformed("an image has a wrong stamp")
    if record.floor != NEVER and not _is_stamp(*record.floor):
        raise Malformed("an image has a wrong floor")
    for name, field in record.lww.items():
        check_field_name(name)
        _check_entry(record, field[0], field[1])
        check_value(name, field[2])
    for (name, rule), slots in record.slots.items():
        check_field_name(name)
        for slot, entry in slots.items():
            _check_slot(record, name, rule, slot, entry)
    if record.stamp != stamp:
        raise Malformed("the newest stamp of an image is not its operation's")
    reached = Record()
    reached.join(record)
    if record.encode() != image or reached.encode() != image:
        raise Malformed("an image is not in canonical form")


def _check_entry(record: Record, ts: Any, replica: Any) -> None:
    """A field or slot was written after the last delete and not after the newest write."""
    if not _is_stamp(ts, replica) or not record.floor < (ts, replica) <= (record.ts, record.replica):
        raise Malformed("a field of an image has a wrong stamp")


def _check_slot(record: Record, name: str, rule: Any, slot: Any, entry: tuple[Any, ...]) -> None:
    _check_entry(record, entry[0], slot[1] if rule == "s" else slot)
    if type(entry[1]) is not int or entry[1] not in (REMOVED, LIVE):
        raise Malformed("a slot of an image is neither live nor removed")
    if rule == "s":
        check_elements(name, [slot[0]])
    elif rule == "k":
        check_value(name, entry[2])
        if (entry[2] is None) != (entry[1] == REMOVED):
            raise Malformed(f"field {name!r}: a removed sibling has no value, and only it has none")
    elif rule not in ("c", "x", "n") or type(entry[2]) not in _NUMBERS or entry[1] != LIVE:
        raise Malformed(f"field {name!r} of an image has an unknown rule, or is not a number")
    else:
        check_value(name, entry[2])
