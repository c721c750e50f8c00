"""Verified feed pages and baseline pages: from an answer's bytes to operations, or an error and nothing.

A page's segments are signed by the fleet's cloud, belong to its present incarnation, and cover feed positions that
follow one another from the cursor on. A page may leave positions out (the device's own operations, what is out of its
scope).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgpack

from sync.effects import SessionKeys
from sync.errors import BadSignature, BrokenChain, Malformed, ProtocolError
from sync.keys import PublicIdentity
from sync.messages import BaselinePage, PullPage, RecordsPage
from sync.operations import Operation
from sync.segment import FLAG_FEED, FLAG_STATE, SegmentHeader, open_segment


def open_page(page: PullPage, cursor: int, keys: SessionKeys, incarnation: bytes) -> list[Operation]:
    """The operations of a page that was asked for from ``cursor`` on. Raises DataError, TooLarge or ProtocolError."""
    if not cursor <= page.cursor <= page.head:
        raise ProtocolError("the cloud moved the cursor backwards, or beyond the feed's head")
    if page.cursor == cursor < page.head:  # asked again at once, it would say so for ever
        raise ProtocolError("the cloud says that there is more, and does not send it")
    covered = cursor
    operations: list[Operation] = []
    for data in page.segments:

        def check(header: SegmentHeader, first: int = covered + 1) -> None:
            _check_origin(header, keys, incarnation, FLAG_FEED)
            if not first <= header.first_seq <= page.cursor:
                raise BrokenChain("a feed segment that does not continue where the last one ended")

        opened = open_segment(data, identity=_only(keys.cloud), ring=keys.ring, check=check)
        covered = _through(opened.clear, opened.header.first_seq, page.cursor)
        operations += opened.operations
    return operations


def open_baseline(page: BaselinePage, token: bytes | None, keys: SessionKeys, incarnation: bytes) -> list[Operation]:
    """The state operations of a baseline page. Raises DataError, TooLarge or ProtocolError."""
    if page.cursor > page.head or (page.next and page.next == token):
        raise ProtocolError("the baseline does not advance, or is ahead of the feed")
    return _open_state(page.segments, keys, incarnation)


def open_records(page: RecordsPage, keys: SessionKeys, incarnation: bytes) -> list[Operation]:
    """The records that were asked for, as state operations. Raises DataError or TooLarge."""
    return _open_state(page.segments, keys, incarnation)


def _open_state(segments: Sequence[bytes], keys: SessionKeys, incarnation: bytes) -> list[Operation]:
    operations: list[Operation] = []
    for data in segments:

        def check(header: SegmentHeader) -> None:
            _check_origin(header, keys, incarnation, FLAG_STATE)

        operations += open_segment(data, identity=_only(keys.cloud), ring=keys.ring, check=check).operations
    return operations


def _only(cloud: PublicIdentity) -> Callable[[bytes], PublicIdentity]:
    """The one signer that feed segments may have."""

    def resolve(key_id: bytes) -> PublicIdentity:
        if key_id != cloud.key_id:
            raise BadSignature("a feed segment is not signed by this fleet's cloud")
        return cloud

    return resolve


def _check_origin(header: SegmentHeader, keys: SessionKeys, incarnation: bytes, flag: int) -> None:
    if header.fleet != keys.fleet or header.stream != incarnation or not header.flags & flag:
        raise BrokenChain("a segment of another fleet, or of another life of its cloud")


def _through(clear: bytes, first: int, last: int) -> int:
    """The last feed position that a feed segment covers, from its clear meta."""
    with contextlib.suppress(ValueError, TypeError, msgpack.exceptions.UnpackException):
        (through,) = msgpack.unpackb(clear)
        if type(through) is int and first <= through <= last:
            return through
    raise Malformed("a feed segment does not say what it covers")
