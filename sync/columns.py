"""Operations ↔ bytes, column by column, grouped by shape (docs/FORMAT.md §3 is the specification).

``[version, count, replicas, replica column, seq column, ts column, seen column, order column or None, groups]``, and
each group ``[kind, collection, [names], rules, key column, [value columns]]``. ``order`` says of each operation which
group it is in, so the order of operations survives.

What always holds: ``decode(encode(operations)) == operations``; what ``encode`` lets through, ``decode`` accepts; what
decodes is valid by the protocol's rules (``sync.column_checks``) whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import msgpack

from sync.column_checks import check_column, check_history, check_keys, check_shape, check_sizes, needs_history_check
from sync.column_codecs import Budget, encode_column, encode_ints
from sync.column_decoders import decode_column, decode_ints, may_nest
from sync.errors import InputError, Malformed, TooLarge
from sync.limits import (
    OPERATION_BYTES_MAX,
    SEGMENT_CONTAINERS_MAX,
    SEGMENT_OPERATIONS_MAX,
    STAMP_MAX,
)
from sync.operations import Kind, Operation, Shape
from sync.stamps import REPLICA_BYTES
from sync.strict_msgpack import unpack

VERSION = 1
_operation = partial(tuple.__new__, Operation)  # a third of the time that Operation(...) takes


class _Group(NamedTuple):
    shape: Shape
    keys: list[str]
    rows: list[tuple[Any, ...]]


def encode(operations: Sequence[Operation]) -> bytes:
    """The values must have passed the schema's checks.

    Raises TooLarge for more than 65,536 operations and for what would expand to more than a reader accepts: cut the
    batch into smaller ones then. One operation within its own bounds always passes.
    """
    if not 0 < len(operations) <= SEGMENT_OPERATIONS_MAX:
        raise TooLarge(f"{len(operations)} operations; a segment holds 1 to {SEGMENT_OPERATIONS_MAX}")
    replicas, seqs, timestamps, seen, shapes, keys, values = zip(*operations, strict=True)
    distinct = list(dict.fromkeys(replicas))
    number = {replica: index for index, replica in enumerate(distinct)}
    budget = Budget()
    numbers = [number[replica] for replica in replicas] if len(distinct) > 1 else [0] * len(replicas)
    columns = [encode_ints(column, budget) for column in (numbers, seqs, timestamps, seen)]
    order = None
    if shapes.count(shapes[0]) == len(shapes):
        groups = [_encode_group(shapes[0], keys, values, budget)]
    else:
        members: dict[Shape, list[int]] = {}
        for index, shape in enumerate(shapes):
            members.setdefault(shape, []).append(index)
        group_of = {shape: index for index, shape in enumerate(members)}
        order = encode_ints([group_of[shape] for shape in shapes], budget)
        groups = [
            _encode_group(shape, [keys[i] for i in indices], [values[i] for i in indices], budget)
            for shape, indices in members.items()
        ]
    body: bytes = msgpack.packb([VERSION, len(operations), distinct, *columns, order, groups])
    if len(body) > SEGMENT_CONTAINERS_MAX:
        unpack(body)  # only now can there be more lists and maps than a reader accepts
    return body


def decode(body: bytes) -> list[Operation]:
    """Raises Malformed or TooLarge; what it returns has passed every check that needs no schema."""
    count, distinct, columns, order_column, groups = _parts(unpack(body))
    budget = Budget()
    numbers = decode_ints(columns[0], count, budget, 0, len(distinct) - 1)
    replicas = list(map(distinct.__getitem__, numbers))
    seqs = decode_ints(columns[1], count, budget, 0, STAMP_MAX)
    timestamps = decode_ints(columns[2], count, budget, 1, STAMP_MAX)
    seen = decode_ints(columns[3], count, budget, 0, STAMP_MAX)
    if order_column is None:
        if len(groups) != 1:
            raise Malformed("several groups need an order")
        shape, keys, rows = _decode_group(groups[0], count, budget)
        if needs_history_check(shape):
            _check_history(shape, rows, timestamps, replicas)
        return list(map(_operation, zip(replicas, seqs, timestamps, seen, [shape] * count, keys, rows, strict=True)))
    order = decode_ints(order_column, count, budget, 0, len(groups) - 1)
    decoded = _decode_groups(groups, order, budget)
    rest = [zip(group.keys, group.rows, strict=True) for group in decoded]
    out = []
    for index, replica, seq, ts, was_seen in zip(order, replicas, seqs, timestamps, seen, strict=True):
        key, row = next(rest[index])
        out.append(Operation(replica, seq, ts, was_seen, decoded[index].shape, key, row))
    for group in decoded:
        if needs_history_check(group.shape):
            ours = [operation for operation in out if operation.shape is group.shape]
            _check_history(group.shape, group.rows, [o.ts for o in ours], [o.replica for o in ours])
    return out


def _parts(top: Any) -> tuple[int, list[bytes], list[Any], Any, list[Any]]:
    """Number of operations, replicas, their four integer columns, the order or None, groups."""
    if type(top) is not list or len(top) != 9:
        raise Malformed("the columns are not the nine parts that they should be")
    version, count, distinct, *columns, order, groups = top
    if type(version) is not int or version != VERSION:
        raise Malformed("unknown version of columns")
    if type(count) is not int or not 0 < count <= SEGMENT_OPERATIONS_MAX:
        raise Malformed("an impossible number of operations")
    if type(distinct) is not list or not all(type(r) is bytes and len(r) == REPLICA_BYTES for r in distinct):
        raise Malformed("replica ids are 16 bytes")
    if not 0 < len(distinct) <= count or len(set(distinct)) != len(distinct):
        raise Malformed("an impossible number of replicas")
    if type(groups) is not list or not 0 < len(groups) <= count:
        raise Malformed("an impossible number of groups")
    return count, distinct, columns, order, groups


def _encode_group(shape: Shape, keys: Sequence[str], rows: Sequence[tuple[Any, ...]], budget: Budget) -> list[Any]:
    key_column = encode_column(keys, budget)
    columns = [encode_column(column, budget) for column in zip(*rows, strict=True)]
    return [int(shape.kind), shape.collection, list(shape.names), shape.rules, key_column, columns]


def _decode_groups(groups: list[Any], order: list[int], budget: Budget) -> list[_Group]:
    sizes = [0] * len(groups)
    for index in order:
        sizes[index] += 1
    if 0 in sizes:
        raise Malformed("an empty group")
    decoded = [_decode_group(group, size, budget) for group, size in zip(groups, sizes, strict=True)]
    if len({group.shape for group in decoded}) != len(decoded):
        raise Malformed("two groups of one shape")
    return decoded


def _decode_group(group: Any, count: int, budget: Budget) -> _Group:
    if type(group) is not list or len(group) != 6:
        raise Malformed("a group is not the six parts that it should be")
    kind, collection, names, rules, key_column, columns = group
    try:
        shape = check_shape(kind, collection, names, rules)
        fields = [("i", "")] if shape.kind == Kind.IMAGE else list(zip(shape.rules, shape.names, strict=True))
        if type(columns) is not list or len(columns) != len(fields):
            raise Malformed("a group has as many value columns as fields")
        keys = decode_column(key_column, count, budget)
        check_keys(keys)
        decoded = [decode_column(column, count, budget) for column in columns]
        largest = sum(
            check_column(rule, name, values, nested=may_nest(column))
            for (rule, name), values, column in zip(fields, decoded, columns, strict=True)
        )
    except TooLarge:
        raise
    except InputError as error:
        raise Malformed(f"a group of operations is not valid: {error.message}") from error
    rows = list(zip(*decoded, strict=True)) if decoded else [()] * count
    if largest > OPERATION_BYTES_MAX:
        check_sizes(shape, keys, rows)
    return _Group(shape, keys, rows)


def _check_history(
    shape: Shape, rows: Sequence[tuple[Any, ...]], timestamps: Sequence[int], replicas: Sequence[bytes]
) -> None:
    try:
        check_history(shape, rows, timestamps, replicas)
    except TooLarge:
        raise
    except (InputError, TypeError, ValueError) as error:
        raise Malformed(f"an operation speaks of what cannot be: {error}") from error
