"""Packing what is written, and what a write is refused for once the record that it changes is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from sync.errors import FutureStamp, InvalidValue, SchemaMismatch, TooLarge
from sync.images import plain_image
from sync.limits import OPERATION_BYTES_MAX
from sync.records import Record
from sync.stamps import wall_ms_of

if TYPE_CHECKING:
    from edge.storage.shapes import ShapeCache
    from edge.storage.transaction import OperationRow, Ref

_PUT = 1  # an IntEnum costs 4 times as much
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_OVERHEAD_BYTES = 128  # stamps, ids, kind and rules of an operation


def check_not_beyond(collection: str, key: str, image: bytes, ts: int) -> None:
    """A write that is stamped before what it should replace would be acknowledged and without effect."""
    newest = Record.decode(image).newest_ts
    if newest >= ts:
        raise FutureStamp(
            f"record {key!r} of {collection!r} was written by a clock {wall_ms_of(newest - ts) / 1000:.0f} s ahead",
            hint="it can be written again when that time has come; other records are not concerned",
        )


def too_large(key: str, size: int) -> TooLarge:
    return TooLarge(
        f"record {key!r} would be {size} bytes; a record and an operation have at most {OPERATION_BYTES_MAX}",
        hint="keep large content in a file or object store, and its digest in the record",
    )


def wrong_rule(collection: str, name: str, letter: str) -> SchemaMismatch:
    rule = "counter" if letter == "c" else "set"
    return SchemaMismatch(
        f"field {name!r} of {collection!r} is not a {rule}", hint=f"declare it: fields={{{name!r}: {rule!r}}}"
    )


def packed_fields(key: str, fields: Mapping[str, Any]) -> bytes:
    try:
        packed: bytes = _pack(fields)
    except UnicodeEncodeError as error:
        raise InvalidValue(f"record {key!r} holds text that is not valid Unicode: {error.reason}") from error
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidValue(f"record {key!r} cannot be stored: {error}") from error
    if len(packed) + len(key) + _OVERHEAD_BYTES > OPERATION_BYTES_MAX:
        raise too_large(key, len(packed))
    return packed


class PackedPut(NamedTuple):
    """What of a PUT of last-writer fields does not depend on when it is committed: made in the caller's thread."""

    ref: Ref
    rules: str
    packed: bytes


def pack_put(ref: Ref, fields: Mapping[str, Any], shapes: ShapeCache) -> PackedPut:
    """Raises InvalidValue or TooLarge."""
    names = tuple(fields)
    ordered, rules, in_order = shapes.orders.get(names) or shapes.order(names)
    return PackedPut(
        ref, rules, packed_fields(ref[1], fields if in_order else {name: fields[name] for name in ordered})
    )


def plain_put(
    seq: int, position: int, ts: int, seen: int, put: PackedPut, replica: bytes
) -> tuple[OperationRow, bytes]:
    """A PUT whose outcome is a plain image: its row in the log and that image, with the same packed fields in both."""
    (collection_id, key), rules, packed = put
    row = (seq, position, ts, seen, collection_id, key, _PUT, rules, packed)
    return row, plain_image(ts, replica, packed)
