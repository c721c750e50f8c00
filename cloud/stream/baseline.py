"""Baseline pages: all records of a fleet as state, in key order, for a device that is new or was away for
too long.

What always holds: the cursor that a baseline ends with is the head at its first page, so whatever changed
while the pages were read comes once more by the feed, and merging it again changes nothing. A page is
answered from its token alone: which records come next, and that cursor. Nothing is kept between pages.

Tombstones are only sent to a device that has something to delete (``everything``). A device that begins to
write while its baseline is under way gets it from the beginning, with them: a delete that it missed would
lose to its write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgpack

from cloud.ports import Reading
from cloud.rows import Head
from cloud.stream.feed import Sealer
from cloud.stream.scopes import Filter
from sync.errors import Malformed
from sync.images import is_alive
from sync.limits import KEY_BYTES_MAX
from sync.operations import Kind, Operation, Shape
from sync.records import state_operation
from sync.schema import check_key
from sync.scope import Coverage
from sync.segment import FLAG_STATE, pack_split

RECORDS_PER_PAGE = 2_500
IMAGE_BYTES_PER_PAGE = 700 << 10
_RECORDS_PER_READ = 500
_RECORDS_SCANNED_MAX = 20_000
_LAST_KEY = "\U0010ffff" * (KEY_BYTES_MAX // 4)  # no key is greater


class BaselineResult(NamedTuple):
    """``token`` is empty with the last page."""

    segments: list[bytes]
    token: bytes
    cursor: int


def baseline_page(
    view: Reading,
    head: Head,
    sealer: Sealer,
    token: bytes,
    *,
    everything: bool,
    scope: Filter | None = None,
) -> BaselineResult:
    """The page after ``token`` (b"" for the first). Raises Malformed for a token that is not one of ours."""
    cursor, after = _parse(token, head, everything)
    shape_of = shapes()
    operations: list[Operation] = []
    size = scanned = 0
    done = False
    while not done and scanned < _RECORDS_SCANNED_MAX and len(operations) < RECORDS_PER_PAGE:
        rows = view.records(sealer.fleet, after, _RECORDS_PER_READ)
        done = not rows
        for row in rows:
            if scope is not None and scope.covers(row.collection) is Coverage.NONE:
                after, done = (row.collection, _LAST_KEY), False
                break
            if (everything or is_alive(row.image)) and (scope is None or scope.has(row.collection, row.key)):
                if operations and size + len(row.image) > IMAGE_BYTES_PER_PAGE:
                    return _page(sealer, operations, _token(cursor, everything, after), cursor)
                size += len(row.image)
                operations.append(state_operation(row.collection, row.key, row.image, shape_of))
            after = (row.collection, row.key)
        scanned += len(rows)
    return _page(sealer, operations, b"" if done else _token(cursor, everything, after), cursor)


def shapes() -> Callable[[str, tuple[str, ...]], Shape]:
    """For ``state_operation``: each shape once."""
    known: dict[tuple[str, tuple[str, ...]], Shape] = {}

    def shape_of(collection: str, names: tuple[str, ...]) -> Shape:
        found = known.get((collection, names))
        if found is None:
            found = known[collection, names] = Shape(Kind.PUT, collection, names, "l" * len(names))
        return found

    return shape_of


def _page(sealer: Sealer, operations: list[Operation], token: bytes, cursor: int) -> BaselineResult:
    pieces = pack_split(operations) if operations else ()
    return BaselineResult([sealer.seal(packed, FLAG_STATE, 0) for packed in pieces], token, cursor)


def _token(cursor: int, everything: bool, after: tuple[str, str] | None) -> bytes:
    packed: bytes = msgpack.packb([cursor, everything, *(after or ("", ""))])
    return packed


def _parse(token: bytes, head: Head, everything: bool) -> tuple[int, tuple[str, str] | None]:
    if not token:
        return head.position, None
    try:
        cursor, had_everything, collection, key = msgpack.unpackb(token)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise Malformed("not a baseline token") from error
    if type(cursor) is not int or not 0 <= cursor <= head.position or type(collection) is not str:
        raise Malformed("not a baseline token of this feed")
    if everything and not had_everything:
        return head.position, None
    return cursor, (collection, check_key(key))
