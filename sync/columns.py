"""Operations ↔ bytes, column by column, grouped by shape (docs/FORMAT.md §4 is the specification).

``[version, count, replicas, replica column, seq column, ts column, seen column, order column or None, groups]``, and each
group ``[kind, collection, [names], rules, key column, [value columns]]``. ``order`` says of each operation which group it
is in, so the order of operations survives.

What always holds: ``decode(encode(operations)) == operations``; what decodes is valid by the protocol's rules (names, keys,
types by rule, sizes, image structure) whoever wrote it. Whether it fits the fleet's schemas is the cloud's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from sync.column_codecs import Budget, decode_column, decode_ints, encode_column, encode_ints
from sync.errors import InputError, Malformed, TooLarge
from sync.limits import (
    FIELDS_MAX,
    KEY_BYTES_MAX,
    OPERATION_BYTES_MAX,
    SEGMENT_OPERATIONS_MAX,
    STAMP_MAX,
)
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.schema import check_collection_name, check_elements, check_field_name, check_key, check_value
from sync.stamps import REPLICA_BYTES

VERSION = 1
_NUMBERS = {int, float}


def encode(operations: Sequence[Operation]) -> bytes:
    """Raises TooLarge for more than 65,536 operations; the values must have passed the schema's checks."""
    if not 0 < len(operations) <= SEGMENT_OPERATIONS_MAX:
        raise TooLarge(f"{len(operations)} operations; a segment holds 1 to {SEGMENT_OPERATIONS_MAX}")
    replicas, seqs, timestamps, seen, shapes, keys, values = zip(*operations, strict=True)
    distinct = list(dict.fromkeys(replicas))
    number = {replica: index for index, replica in enumerate(distinct)}
    order = None
    if shapes.count(shapes[0]) == len(shapes):
        groups = [_encode_group(shapes[0], keys, values)]
    else:
        members: dict[Shape, list[int]] = {}
        for index, shape in enumerate(shapes):
            members.setdefault(shape, []).append(index)
        group_of = {shape: index for index, shape in enumerate(members)}
        order = encode_ints([group_of[shape] for shape in shapes])
        groups = [
            _encode_group(shape, [keys[i] for i in indices], [values[i] for i in indices])
            for shape, indices in members.items()
        ]
    body: bytes = msgpack.packb(
        [
            VERSION,
            len(operations),
            distinct,
            encode_ints([number[replica] for replica in replicas]) if len(distinct) > 1 else encode_ints([0]),
            encode_ints(seqs),
            encode_ints(timestamps),
            encode_ints(seen),
            order,
            groups,
        ]
    )
    return body


def decode(body: bytes) -> list[Operation]:
    """Raises Malformed or TooLarge; what it returns has passed every check that needs no schema."""
    top = _unpack(body)
    try:
        version, count, distinct, replica_column, seq_column, ts_column, seen_column, order_column, groups = (
            top
        )
    except (TypeError, ValueError) as error:
        raise Malformed("the columns are not the nine parts that they should be") from error
    if version != VERSION or type(count) is not int or not 0 < count <= SEGMENT_OPERATIONS_MAX:
        raise Malformed("unknown version of columns, or an impossible number of operations")
    if type(distinct) is not list or not all(type(r) is bytes and len(r) == REPLICA_BYTES for r in distinct):
        raise Malformed("replica ids are 16 bytes")
    budget = Budget()
    numbers = decode_ints(replica_column, count, budget, 0, len(distinct) - 1)
    replicas = list(map(distinct.__getitem__, numbers))
    seqs = decode_ints(seq_column, count, budget, 0, STAMP_MAX)
    timestamps = decode_ints(ts_column, count, budget, 1, STAMP_MAX)
    seen = decode_ints(seen_column, count, budget, 0, STAMP_MAX)
    if type(groups) is not list or not 0 < len(groups) <= count:
        raise Malformed("an impossible number of groups")
    if order_column is None:
        if len(groups) != 1:
            raise Malformed("several groups need an order")
        shape, keys, values = _decode_group(groups[0], count, budget)
        _check_tags(shape, values, timestamps)
        return list(map(Operation, replicas, seqs, timestamps, seen, [shape] * count, keys, values))
    order = decode_ints(order_column, count, budget, 0, len(groups) - 1)
    sizes = [0] * len(groups)
    for index in order:
        sizes[index] += 1
    if 0 in sizes:
        raise Malformed("an empty group")
    decoded = [_decode_group(group, size, budget) for group, size in zip(groups, sizes, strict=True)]
    if len({shape for shape, _, _ in decoded}) != len(decoded):
        raise Malformed("two groups of one shape")
    rows = [zip(keys, values, strict=True) for _, keys, values in decoded]
    out = []
    for index, replica, seq, ts, was_seen in zip(order, replicas, seqs, timestamps, seen, strict=True):
        key, value = next(rows[index])
        out.append(Operation(replica, seq, ts, was_seen, decoded[index][0], key, value))
    for shape, _, _ in decoded:
        if "s" in shape.rules or "k" in shape.rules:
            ours = [operation for operation in out if operation.shape is shape]
            _check_tags(shape, [o.values for o in ours], [o.ts for o in ours])
    return out


def _encode_group(shape: Shape, keys: Sequence[str], values: Sequence[tuple[Any, ...]]) -> list[Any]:
    columns = [encode_column(column) for column in zip(*values, strict=True)]
    return [int(shape.kind), shape.collection, list(shape.names), shape.rules, encode_column(keys), columns]


def _decode_group(group: Any, count: int, budget: Budget) -> tuple[Shape, list[str], list[tuple[Any, ...]]]:
    try:
        kind, collection, names, rules, key_column, columns = group
        shape = _check_shape(kind, collection, names, rules)
        width = 1 if shape.kind == Kind.IMAGE else len(shape.names)
        if type(columns) is not list or len(columns) != width:
            raise Malformed("a group has as many value columns as fields")
        keys = decode_column(key_column, count, budget)
        _check_keys(keys)
        decoded = [decode_column(column, count, budget) for column in columns]
        letters = shape.rules or "i"
        largest = sum(
            _check_values(letter, name, column)
            for letter, name, column in zip(letters, shape.names or ("",), decoded, strict=False)
        )
    except InputError as error:
        if isinstance(error, TooLarge):
            raise
        raise Malformed(f"a group of operations is not valid: {error.message}") from error
    except (TypeError, ValueError) as error:
        raise Malformed(f"a group of operations has the wrong structure: {error}") from error
    values = list(zip(*decoded, strict=True)) if decoded else [()] * count
    if largest > OPERATION_BYTES_MAX:
        for key, row in zip(keys, values, strict=True):
            if len(msgpack.packb(row)) > OPERATION_BYTES_MAX:
                raise TooLarge(f"the operation on {key[:40]!r} is over {OPERATION_BYTES_MAX} bytes")
    return shape, keys, values


def _check_shape(kind: Any, collection: Any, names: Any, rules: Any) -> Shape:
    if type(kind) is not int or not Kind.PUT <= kind <= Kind.IMAGE:
        raise Malformed("unknown kind of operation")
    check_collection_name(collection)
    if type(names) is not list or len(names) > FIELDS_MAX or names != sorted(set(names)):
        raise Malformed("field names are a sorted list without duplicates")
    for name in names:
        check_field_name(name)
    if type(rules) is not str or len(rules) != len(names) or rules.strip("lcxnsk"):
        raise Malformed("one rule letter for each field")
    if names and kind in (Kind.DELETE, Kind.IMAGE):
        raise Malformed("deletes and images name no fields")
    return Shape(Kind(kind), collection, tuple(names), rules)


def _check_keys(keys: list[Any]) -> None:
    if set(map(type, keys)) != {str} or not all(keys):
        raise Malformed("keys are non-empty strings")
    joined = "".join(keys)
    if not joined.isascii() or "\0" in joined or max(map(len, keys)) > KEY_BYTES_MAX:
        for key in keys:
            check_key(key)


def _check_values(letter: str, name: str, column: list[Any]) -> int:
    """The types that a rule allows; returns a bound of the largest value's packed size."""
    types = set(map(type, column))
    if letter == "l":
        if types <= {str}:
            return 5 + 4 * max(map(len, column))
        if types <= {bytes}:
            return 5 + max(map(len, column))
        if types <= {int, float, bool, type(None)}:
            return 9
        return max(len(msgpack.packb(value)) for value in column)
    if letter == "i":
        for image in column:
            _check_image(image)
        return max(map(len, column))
    if letter in "cxn":
        if not types <= _NUMBERS:
            raise Malformed(f"field {name!r} takes numbers")
        return 9
    for value in column:
        if type(value) is not list or len(value) != 2 or type(value[1]) is not list:
            raise Malformed(f"field {name!r}: not a contribution to a set or keep-all field")
        if letter == "k":
            check_value(name, value[0])
            continue
        if type(value[0]) is not list or check_elements(name, value[0]) != value[0]:
            raise Malformed(f"field {name!r}: the elements of a set are sorted and distinct")
        for removed in value[1]:
            if type(removed) is not list or len(removed) != 2 or type(removed[1]) is not list:
                raise Malformed(f"field {name!r}: not a removal")
            check_elements(name, [removed[0]])
    return max(len(msgpack.packb(value)) for value in column)


def _check_tags(shape: Shape, values: list[tuple[Any, ...]], timestamps: list[int]) -> None:
    """What an operation says it has seen is older than itself; merging relies on it."""
    for position, rule in enumerate(shape.rules):
        if rule not in "sk":
            continue
        for row, ts in zip(values, timestamps, strict=True):
            seen = row[position][1]
            for tag in seen if rule == "k" else (tag for removed in seen for tag in removed[1]):
                if type(tag) is not list or len(tag) != 2 or not _is_stamp(tag[1], tag[0]) or tag[1] >= ts:
                    raise Malformed("an operation replaces something that it cannot have seen")


def _is_stamp(ts: Any, replica: Any) -> bool:
    return (
        type(ts) is int and 0 < ts <= STAMP_MAX and type(replica) is bytes and len(replica) == REPLICA_BYTES
    )


def _check_image(image: Any) -> None:
    """An image must be what ``Record.encode`` makes of itself, and every part of the type that merging relies on."""
    if type(image) is not bytes:
        raise Malformed("an image is bytes")
    _unpack(image)
    record = Record.decode(image)
    if record.encode() != image:
        raise Malformed("an image is not in canonical form")
    if not (_is_stamp(record.ts, record.replica) or (record.ts, record.replica) == (0, b"")):
        raise Malformed("an image has a wrong stamp")
    if record.floor != (0, b"") and not _is_stamp(*record.floor):
        raise Malformed("an image has a wrong floor")
    for name, (ts, replica, value) in record.lww.items():
        check_field_name(name)
        check_value(name, value)
        if not _is_stamp(ts, replica):
            raise Malformed("a field of an image has a wrong stamp")
    for (name, rule), slots in record.slots.items():
        check_field_name(name)
        if rule not in ("c", "x", "n", "s", "k"):
            raise Malformed("a field of an image has an unknown rule")
        for slot, entry in slots.items():
            replica = slot[1] if rule == "s" else slot
            if not _is_stamp(entry[0], replica) or entry[1] not in (0, 1):
                raise Malformed("a slot of an image has a wrong stamp")
            if rule == "s":
                check_elements(name, [slot[0]])
            elif rule == "k" or entry[1]:
                check_value(name, entry[2])
            if rule in "cxn" and (type(entry[2]) not in _NUMBERS or not entry[1]):
                raise Malformed(f"field {name!r} takes numbers")


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Malformed("a map with a duplicate key")
    return out


def _no_ext(code: int, data: bytes) -> Any:
    raise Malformed("msgpack extension types are not used")


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_pairs,
            ext_hook=_no_ext,
            max_ext_len=0,
            timestamp=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError) as error:
        raise Malformed(f"not msgpack as we write it: {error}") from error
