"""What a wrong clock has stamped of what is kept back: it moves with the log's tail when the clock is mended (ADR 10).

Nobody else knows these stamps, but for what was ever loaded to be sent (``told``): the cloud may have taken that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edge.storage.log_schema import has_table
from sync.images import is_alive
from sync.records import Record
from sync.restamp import restamp_image
from sync.stamps import device_of

if TYPE_CHECKING:
    import apsw

    from edge.storage.delta_log import DeltaLog

_ROWS = (
    "SELECT r.id, r.collection, r.key, k.base, k.told, r.image FROM kept_back k JOIN records r "
    "ON r.collection = k.collection AND r.key = k.key"
)


def stamps(log: DeltaLog) -> set[int]:
    """The device's own timestamps in what is kept back that nobody was told of. The caller holds the lock."""
    db, own = log.writer.db, device_of(log.replica)
    if not has_table(db, "kept_back"):
        return set()
    log.fold()
    rows: Iterator[Any] = db.execute(_ROWS)
    return {ts for *_, told, image in rows for by, ts in _stamps(image) if ts > told and device_of(by) == own}


def move(
    db: apsw.Connection, own: bytes, moved: Mapping[int, int], done: Collection[tuple[int, str, bytes]], position: int
) -> tuple[int, bool]:
    """Restamp the images; ``own``: the device; ``done``: places in whose image one writer's stamps have moved already.
    Returns the log's position afterwards, and whether any stamp came down: values of others may have been displaced.
    """
    if not has_table(db, "kept_back"):
        return position, False
    came_down = False
    rows: list[Any] = db.execute(_ROWS).fetchall()
    for record, collection, key, base, _, image in rows:
        after = image
        for writer in _moved_writers(image, own, moved):
            if (collection, key, writer) not in done:
                after = restamp_image(after, writer, moved)
        if base and (restamped := _all_moved(base, own, moved)) != base:
            db.execute("UPDATE kept_back SET base = ? WHERE collection = ? AND key = ?", (restamped, collection, key))
        if after != image:
            position += 1
            came_down |= any(moved.get(ts, ts) < ts for _, ts in _stamps(image))
            db.execute("UPDATE records SET image = ?, living = ? WHERE id = ?", (after, int(is_alive(after)), record))
            db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, collection, key))
    return position, came_down


def _all_moved(image: bytes, own: bytes, moved: Mapping[int, int]) -> bytes:
    for writer in _moved_writers(image, own, moved):
        image = restamp_image(image, writer, moved)
    return image


def _moved_writers(image: bytes, own: bytes, moved: Mapping[int, int]) -> list[bytes]:
    """The device's names under which it has stamps that move."""
    return sorted({by for by, ts in _stamps(image) if ts in moved and device_of(by) == own})


def _stamps(image: bytes) -> Iterator[tuple[bytes, int]]:
    record = Record.decode(image)
    yield record.replica, record.ts
    yield record.floor.replica, record.floor.ts
    for ts, writer, _ in record.lww.values():
        yield writer, ts
    for (_, rule), slots in record.slots.items():
        for slot, entry in slots.items():
            yield (slot[1] if rule == "s" else slot), entry[0]
