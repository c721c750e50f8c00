"""Retention: what nobody has written to for as many days as the fleet's policy says is deleted in the whole fleet, by
the cloud's own replica.

What always holds: a record is looked up again in the transaction that deletes it, which has ``BATCH`` of them at most;
what a crash kept from being deleted is deleted by the next run. A delete is stamped right after the last write that it
deletes, not now: who wrote meanwhile, on a device that was offline, wrote later, and his write wins by its stamp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloud.ports import Reading, Store
from cloud.rows import Head
from cloud.storage.fold import Held
from cloud.stream.cloud_writer import CloudWriter
from cloud.stream.conflicts import Answer, delete
from sync.ports import Clock
from sync.records import Record
from sync.stamps import HybridClock, wall_ms_of

BATCH = 500
LOOKED_AT_MAX = 100_000  # of a run: others wait for it
_DAY_MS = 86_400_000


class Retention:
    """``replica`` is the cloud's at a head; ``delete_days`` says the days, by collection; ``moved`` is called for a
    fleet whose feed has grown. ``run`` is for one thread at a time.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        replica: Callable[[Head], bytes],
        delete_days: Callable[[Reading, bytes], dict[str, int]],
        moved: Callable[[bytes], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._replica = replica
        self._delete_days = delete_days
        self._moved = moved
        self._after: dict[bytes, tuple[str, str]] = {}

    def run(self, fleet: bytes) -> int:
        """Delete what is due; returns how many records. It looks at ``LOOKED_AT_MAX`` at most, and goes on there with
        the next run. Raises as ``delete_days`` does.
        """
        with self._store.reading() as view:
            days = self._delete_days(view, fleet)
        begun = self._after.pop(fleet, ("", ""))
        left, deleted = LOOKED_AT_MAX, 0
        for collection in sorted(days):
            if collection < begun[0]:
                continue
            after = (collection, begun[1] if collection == begun[0] else "")
            before_ms = self._clock.wall_ms() - days[collection] * _DAY_MS
            while True:
                if left <= 0:
                    self._after[fleet] = after
                    return deleted
                with self._store.reading() as view:
                    read = view.records(fleet, after, BATCH)
                rows = [row for row in read if row.collection == collection]
                old = [row.key for row in rows if _is_due(Record.decode(row.image), before_ms)]
                deleted += self._delete(fleet, collection, old, before_ms) if old else 0
                left -= len(rows) or 1
                if not rows or len(rows) < len(read):
                    break
                after = (collection, rows[-1].key)
        return deleted

    def _delete(self, fleet: bytes, collection: str, keys: Sequence[str], before_ms: int) -> int:
        with self._store.writing() as tx:
            head = tx.lock_head(fleet)
            clock = HybridClock(self._clock, head.clock)
            writer = CloudWriter(tx, fleet, self._replica(head), clock, head.position)
            changed = []
            newest = 0
            for key, row in sorted(tx.lookup(fleet, collection, keys).items()):
                held = Held(row)
                if _is_due(held.record, before_ms):
                    at = held.record.newest_ts + 1
                    newest = max(newest, at)
                    writer.write(Answer(delete(collection).shape, (), at), key, held)
                    changed.append(held.row(collection, key))
            tx.put_records(fleet, changed)
            tx.append_feed(fleet, writer.finish(self._clock.wall_ms()))
            clock.observe(newest)
            tx.set_head(
                fleet,
                head._replace(position=writer.position, clock=clock.last, living=head.living - len(changed)),
            )
        if changed:
            self._moved(fleet)
        return len(changed)


def _is_due(record: Record, before_ms: int) -> bool:
    return record.alive and wall_ms_of(record.newest_ts) <= before_ms
