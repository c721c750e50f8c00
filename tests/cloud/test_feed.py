"""Pages of the feed: everything after the cursor but one's own, within limits, always further."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from cloud.stream.feed import JOIN_BELOW, RowCache
from sync.errors import BrokenChain, Refused
from sync.limits import SEGMENT_SEALED_BYTES_MAX
from sync.messages import Failure, Pull
from sync.segment import SegmentHeader, parse_header
from tests.cloud.stream_world import Device, Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def writer(fleet: Fleet, pushes: int, size: int, name: str = "van") -> Device:
    """A device that pushed ``pushes`` segments of ``size`` operations; the first operation of all declares
    the collection.
    """
    device = fleet.device(name)
    if not fleet.head():
        device.declare("notes")
    for n in range(len(device.log), pushes * size):
        device.put("notes", f"{name}{n}", text="some text " * 3)
    device.push(most=size)
    return device


def headers(device: Device, **limits: int) -> list[SegmentHeader]:
    page, _ = device.page(**limits)
    return [parse_header(segment) for segment in page.segments]


def failure(fleet: Fleet, device: Device, pull: Pull) -> str:
    answer = fleet.plane.answer(pull, device.caller)
    assert isinstance(answer, Failure)
    return answer.code


def test_many_small_pushes_travel_as_one_segment(fleet: Fleet) -> None:
    van = writer(fleet, pushes=60, size=1)
    kiosk = fleet.device("kiosk")
    page, operations = kiosk.page()
    assert operations == van.log
    assert len(page.segments) == 1
    assert len(page.segments[0]) < 2_000


def test_a_large_push_passes_through_between_small_ones(fleet: Fleet) -> None:
    van = fleet.device("van")
    van.declare("notes")
    van.push()
    for size in (1, 1, JOIN_BELOW, 1, JOIN_BELOW + 5, JOIN_BELOW):
        for _ in range(size):
            van.put("notes", f"n{len(van.log)}", text="x")
        van.push()
    kiosk = fleet.device("kiosk")
    first = [(header.first_seq, header.count) for header in headers(kiosk)]
    many = JOIN_BELOW
    assert first == [(1, 3), (4, many), (4 + many, 1), (5 + many, many + 5), (10 + 2 * many, many)]
    assert kiosk.pull() == van.log


@pytest.mark.parametrize("max_operations", [1, 7, 200, 1000])
@pytest.mark.parametrize("max_bytes", [1, 3_000, 1 << 20])
@pytest.mark.parametrize("size", [1, 5, 300])
def test_pages_of_any_size_add_up(fleet: Fleet, max_operations: int, max_bytes: int, size: int) -> None:
    van = writer(fleet, pushes=max(2, 60 // size), size=size)
    kiosk = fleet.device("kiosk")
    if max_operations == 1 or max_bytes == 1:
        kiosk.cursor = fleet.head() - 20
        assert kiosk.pull(max_operations, max_bytes) == van.log[-20:]
    else:
        assert kiosk.pull(max_operations, max_bytes) == van.log
        assert kiosk.digest() == fleet.digest()


def test_a_page_stays_within_its_bytes(fleet: Fleet) -> None:
    writer(fleet, pushes=8, size=200)
    kiosk = fleet.device("kiosk")
    while kiosk.cursor < fleet.head():
        page, _ = kiosk.page(max_bytes=3_000)
        assert sum(len(segment) for segment in page.segments) < 3_000 + 400 * len(page.segments)
        kiosk.cursor = page.cursor


@pytest.mark.parametrize("count", [5, JOIN_BELOW + 2])
def test_a_push_that_just_fitted_its_segment(fleet: Fleet, count: int) -> None:
    """With the clear meta of a feed page it does not fit any more: it comes in two."""
    van = fleet.device("van")
    van.declare("notes")
    van.push()
    for _ in range(count):
        van.put("notes", f"n{len(van.log)}", blob=b"")
    size = (SEGMENT_SEALED_BYTES_MAX - 8_000) // count
    blobs = [fleet.random.token(size) for _ in range(count)]
    sealed, gap = van.seal(van.log[1:]), 0
    while gap != 1:
        van.log[1:] = [o._replace(values=(blob,)) for o, blob in zip(van.log[1:], blobs, strict=True)]
        sealed = van.seal(van.log[1:])
        gap = SEGMENT_SEALED_BYTES_MAX - len(sealed.data)
        blobs[0] += fleet.random.token(gap // 2 if gap > 50 else 1)
    van.send(sealed.data)
    kiosk = fleet.device("kiosk")
    assert kiosk.pull() == van.log


def test_ones_own_are_passed_over_and_still_move_the_cursor(fleet: Fleet) -> None:
    van = writer(fleet, pushes=30, size=2)
    kiosk = writer(fleet, pushes=1, size=3, name="kiosk")
    van.put("notes", "last", text="x")
    van.push()
    page, operations = van.page(max_operations=1)
    assert operations == kiosk.log[:1]
    assert van.pull() == kiosk.log
    page, operations = van.page()
    assert (page.segments, operations, page.cursor) == ([], [], fleet.head())
    kiosk.cursor = 60
    page, operations = kiosk.page()
    assert operations == van.log[-1:]


def test_a_cursor_inside_a_push(fleet: Fleet) -> None:
    van = writer(fleet, pushes=1, size=300)
    kiosk = fleet.device("kiosk")
    kiosk.cursor = 123
    assert kiosk.pull() == van.log[123:]


def test_what_cannot_be_asked(fleet: Fleet) -> None:
    van = writer(fleet, pushes=2, size=3)
    kiosk = fleet.device("kiosk")
    ask = Pull(kiosk.replica, 0, 10, 1000, 0, kiosk.incarnation)

    assert failure(fleet, kiosk, replace(ask, replica=van.replica)) == Refused.code
    assert failure(fleet, kiosk, replace(ask, incarnation=b"?" * 16)) == BrokenChain.code
    assert failure(fleet, kiosk, replace(ask, cursor=7)) == BrokenChain.code
    with fleet.store.writing() as tx:
        assert tx.trim_feed(fleet.id, 3) == 1
    assert failure(fleet, kiosk, replace(ask, cursor=2)) == BrokenChain.code
    assert kiosk.hello().baseline
    kiosk.cursor = 3
    assert kiosk.pull() == van.log[3:]


def test_the_cache_of_rows_is_bounded(fleet: Fleet) -> None:
    writer(fleet, pushes=10, size=20)
    cache = RowCache(plain_bytes_max=3_000)
    with fleet.store.reading() as view:
        rows = view.feed(fleet.id, 0)
    for row in [*rows, *rows]:
        assert len(cache.operations(b"i", row)) == row.last - row.first + 1
        assert cache._size <= 3_000
        assert cache._size == sum(size for size, _ in cache._rows.values())
    tiny = RowCache(plain_bytes_max=1)
    assert len(tiny.operations(b"i", rows[0])) == 20
    assert not tiny._rows
