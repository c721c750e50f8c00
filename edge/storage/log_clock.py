"""Repair of the delta log after its device's clock was wrong: what the cloud said of the time, and what follows.

``learn`` keeps by how much the clock turned out to be wrong, ``mend`` restamps what the cloud does not hold, writes
again what it refused because it came from the future, and lets the hybrid clock come down (ADR 10).

Kept in ``meta``: ``offset_ms`` and ``shifted`` (``HybridClock``); ``drifts``, what was learned and not yet mended;
``known``, the timestamp of the last repair; ``rewritten``, up to which seq refused operations were written again;
``acked_ts``, the largest of ours that the cloud took, ``told_ts``, that it was told of in state; ``heard`` and
``beyond``, the largest of others' that the clock follows, and that it does not.

What always holds: a repair is one transaction, and repeating it does nothing. No operation moves that the cloud holds,
was told of in state, or may still be sent, so nobody knows it by its old timestamp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import apsw

from edge.storage import evicted, kept_mending
from edge.storage.log_reader import unpack_hidden, unpack_operation
from edge.storage.log_rows import insert
from edge.storage.log_schema import translate
from edge.storage.own_slots import moved_hidden, with_hidden
from sync.errors import FutureStamp
from sync.images import fold, is_alive
from sync.limits import FUTURE_MS_MAX
from sync.moving import MOVED_RULES
from sync.operations import Operation
from sync.restamp import Bounds, Drift, plan, restamp, restamp_image
from sync.stamps import device_of

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

CLOCK_ERROR_MS = 1_000  # less is the network's
_CHUNK = 2_000
_KNOWN_AGAIN_MS = 60_000


def learn(log: DeltaLog, time_ms: int, wall_ms: int) -> None:
    """The cloud's clock says ``time_ms`` when this device's says ``wall_ms``. Raises StorageError."""
    offset_ms = time_ms - wall_ms
    with log.writer.lock:
        drift_ms = offset_ms - log.clock.offset_ms
        if abs(drift_ms) <= CLOCK_ERROR_MS:
            return
        drifts = [*(log.meta_get("drifts") or ()), Drift(drift_ms, log.clock.shifted, log.clock.last)]
        log.writer.note(offset_ms=offset_ms, shifted=0, drifts=drifts)
        log.clock.correct(offset_ms)


def tell(log: DeltaLog) -> None:
    """State was read that is about to be pushed: the operations that it contains and that were not pushed yet keep
    their timestamps from now on. Raises StorageError.
    """
    with log.writer.lock, _translated(log):
        sql = "SELECT max(ts) FROM operations WHERE seq > ? AND ts <= ?"
        told = log.writer.db.execute(sql, (log.acked_seq, log.clock.reading(FUTURE_MS_MAX))).get or 0
        if told > (log.meta_get("told_ts") or 0):
            log.writer.note(told_ts=told)


def mend(log: DeltaLog, *, as_state: bool) -> None:
    """Correct what was stamped wrongly. ``as_state``: the whole store is about to be pushed, so that what was refused
    need not be written again; else nothing that was sent may be without an answer. Raises StorageError.
    """
    with log.writer.lock, _translated(log):
        log.ensure_settled()
        repair = _Repair(log, as_state=as_state)
        if repair.moved or repair.again:
            log.fold()
            repair.carry_out()
        repair.set_clock()


@contextmanager
def _translated(log: DeltaLog) -> Iterator[None]:
    """What SQLite raises while the log is read becomes a StorageError."""
    try:
        yield
    except apsw.Error as error:
        raise translate(error, log.path) from error


class _Repair:
    """One repair, worked out before anything is written; the caller holds the write lock."""

    def __init__(self, log: DeltaLog, *, as_state: bool) -> None:
        self._log = log
        self._db = log.writer.db
        clock = log.clock
        now, limit = clock.reading(), clock.reading(FUTURE_MS_MAX)
        self._now, self._limit = now, limit
        self._as_state = as_state
        # What was sent and has no answer, the cloud may yet take.
        self._cautious = any(last > log.acked_seq for last, _ in log.meta_get("sent") or ())
        self._drifts = [Drift(*drift) for drift in log.meta_get("drifts") or ()]
        fixed, known = self._fixed(), log.meta_get("known") or 0
        self._known = known if known <= limit else 0
        self._refused = self._letters()
        stamps = [letter.ts for letter in self._refused]
        if stamps or self._drifts or clock.last > limit:
            stamps += [ts for _, ts in self._tail()]
            if kept := kept_mending.stamps(log):
                stamps = sorted({*stamps, *kept})
        bounds = Bounds(now, limit, fixed, min(log.heard, limit), self._known)
        drifts = [] if self._cautious else self._drifts
        self.moved = plan(stamps, drifts, bounds)
        largest = max((self.moved.get(ts, ts) for ts in stamps), default=0)
        largest = max(largest, min(log.heard, limit))
        if stamps or fixed <= limit:
            largest = max(largest, fixed)
        # A cloud whose clock was ahead took stamps that ours cannot get below yet: all waits until the time has come.
        if any(self.moved.get(letter.ts, letter.ts) > limit for letter in self._refused):
            self.moved, self._refused = {}, []
            largest = clock.last
        self._largest: int = largest
        self.again = bool(self._refused)

    def _fixed(self) -> int:
        """The largest timestamp of ours that the cloud holds, or was told of. A store of the first builds has not noted
        it: then what its log says, as far as that goes back.
        """
        noted: int | None = self._log.meta_get("acked_ts")
        told: int = self._log.meta_get("told_ts") or 0
        if noted is not None:
            return max(noted, told if told <= self._limit else 0)
        sql = "SELECT max(ts) FROM operations WHERE seq <= ? AND seq NOT IN (SELECT seq FROM dead_letters)"
        return int(self._db.execute(sql, (self._log.acked_seq,)).get or 0)

    def _tail(self) -> list[tuple[int, int]]:
        """(seq, timestamp) of what is not acknowledged."""
        sql = "SELECT seq, ts FROM operations WHERE seq > ? ORDER BY seq"
        return [(seq, ts) for seq, ts in self._db.execute(sql, (self._log.acked_seq,))]

    def _letters(self) -> list[Operation]:
        """The operations of this replica that were refused for their stamps, and not written again."""
        log = self._log
        rows = self._db.execute(
            "SELECT operation FROM dead_letters WHERE replica = ? AND code = ? AND seq > ? ORDER BY seq",
            (log.replica, FutureStamp.code, log.meta_get("rewritten") or 0),
        )
        return [unpack_operation(packed) for (packed,) in rows]

    def carry_out(self) -> None:
        log = self._log
        with log.transact() as db:
            head_seq, position, baseline = self._rewrite(db)
            if not self._cautious:
                log.writer.put_meta("drifts", [])
            if self._refused and (not self._as_state or log.meta_get("repair")):
                log.writer.put_meta("rewritten", self._refused[-1].seq)
            log.writer.put_meta("folded", head_seq)
            log.writer.put_meta("head", (head_seq, position, self._largest))
            log.writer.put_meta("beyond", max(log.clock.beyond, log.clock.last))
            if baseline:
                log.writer.put_meta("baseline", b"")
        log.settle_again(self._largest)

    def _rewrite(self, db: apsw.Connection) -> tuple[int, int, bool]:
        """The log's tail with what is written again before it, and the images; (head seq, position, whether values of
        others may have been displaced by a stamp that was too high).
        """
        log, moved = self._log, self.moved
        shift = 0 if self._as_state else len(self._refused)
        first = log.acked_seq if shift else self._first_moved()
        seq, position = first, log.position
        remapped: set[tuple[int, str]] = set()
        displaced = False
        for chunk in self._operations(first):
            rows = []
            for operation, in_log in chunk:
                restamped = restamp(operation, moved)
                displaced |= restamped.ts < operation.ts and operation.seen != log.cursor
                position += 1
                number = log.collection_id(operation.shape.collection)
                hidden = self._hidden(operation)
                if in_log or shift:
                    seq += 1
                    rows.append(_row(restamped._replace(seq=-seq), position, number, hidden))
                else:  # what was refused stays where it is: should this store be a copy, it moves with the rest
                    db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, operation.key))
                    packed = _row(restamped, position, number, hidden)[-1]
                    sql = "UPDATE operations SET ts = ?, fields = ? WHERE seq = ?"
                    db.execute(sql, (restamped.ts, packed, operation.seq))
                self._merge(db, restamped, (number, operation.key), remapped)
            insert(db, "INSERT INTO operations VALUES ", rows)
        db.execute("DELETE FROM operations WHERE seq > ?", (first,))
        db.execute("UPDATE operations SET seq = -seq WHERE seq < 0")
        done = {(*ref, log.replica) for ref in remapped}
        position, came_down = kept_mending.move(db, device_of(log.replica), moved, done, position)
        displaced |= came_down
        return seq, position, displaced or (log.baseline is not None and bool(moved))

    def _hidden(self, operation: Operation) -> list[Any] | None:
        """What the log remembers beside an operation that it still has, with the new timestamps."""
        if MOVED_RULES.isdisjoint(operation.shape.rules):
            return None
        packed = self._db.execute("SELECT fields FROM operations WHERE seq = ?", (operation.seq,)).get
        return None if packed is None else moved_hidden(unpack_hidden(packed)[1], self.moved)

    def _first_moved(self) -> int:
        """The last seq of the log before the first operation that moves."""
        return next((seq - 1 for seq, ts in self._tail() if ts in self.moved), self._log.head_seq)

    def _operations(self, after_seq: int) -> Iterator[Sequence[tuple[Operation, bool]]]:
        """What was refused, then the log's tail; and which of them are in the tail."""
        yield [(operation, False) for operation in self._refused]
        while True:
            chunk = self._log.reader.operations_after(self._db, self._log.replica, after_seq, _CHUNK)
            if not chunk:
                return
            yield [(operation, True) for operation in chunk]
            after_seq = chunk[-1].seq

    def _merge(
        self, db: apsw.Connection, operation: Operation, ref: tuple[int, str], remapped: set[tuple[int, str]]
    ) -> None:
        """Restamp the record's image, once, and merge the operation anew: a stamp too low had lost what it now wins."""
        image = db.execute("SELECT image FROM records WHERE collection = ? AND key = ?", ref).get
        stubs = self._log.writer.evicted
        held = image = evicted.image_at(db, stubs, ref) if image is None else image
        if image is not None and ref not in remapped:
            image = restamp_image(image, operation.replica, self.moved)
        remapped.add(ref)
        image = fold(image, operation)
        if image != held and not evicted.set_image(db, stubs, ref, image):
            db.execute(
                "INSERT INTO records (collection, key, living, image) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (collection, key) DO UPDATE SET living = excluded.living, image = excluded.image",
                (*ref, int(is_alive(image)), image),
            )

    def set_clock(self) -> None:
        """Let the hybrid clock come down if it is ahead of all that it has to follow; and note when that was."""
        log, clock = self._log, self._log.clock
        ahead = clock.last > self._limit
        if self._drifts and self._cautious:
            return  # what was stamped before now is still to be looked at
        last: int = max(self._largest if ahead else clock.last, self._now)
        drifts = bool(self._drifts) and not (self.moved or self.again)
        if last >= clock.last and not drifts and self._now - self._known < _KNOWN_AGAIN_MS << 16:
            return
        beyond = clock.beyond if last >= clock.last else max(clock.beyond, clock.last)
        notes: dict[str, list[Drift]] = {"drifts": []} if drifts else {}
        log.writer.note(known=self._now, head=(log.head_seq, log.position, last), beyond=beyond, **notes)
        clock.last, clock.beyond = last, beyond
        clock.ahead = last > self._limit


def _row(operation: Operation, position: int, collection: int, hidden: list[Any] | None) -> tuple[object, ...]:
    _, seq, ts, seen, shape, key, values = operation
    packed = with_hidden(dict(zip(shape.names, values, strict=True)), hidden)
    return (seq, position, ts, seen, collection, key, shape.kind, shape.rules, packed)
