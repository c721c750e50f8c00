"""A device's segment becomes part of the feed, in one transaction, or not at all.

The steps: admit (fleet, stream, revocation, chain) → judge each operation (clock, schema, size) → merge
into the records → answer the conflicts that came up → append to the feed → move the replica's and the
fleet's head.

What always holds:

* a segment has its effect once. One whose whole range is held is acknowledged again and does nothing; one
  that leaves a gap, overlaps, or names another predecessor raises BrokenChain, and the device says hello
  again;
* a refused operation goes to the dead letters and holds up nothing; ``last_seq`` passes over it;
* positions are dense and in the order of the commits, because the fleet's head is locked first and moved
  last;
* the feed row of a push with nothing refused is the device's own compressed columns, byte for byte.

**State segments** (``FLAG_STATE``: repair by images, after the cloud or the device lost history) carry
state of any replica, seq 0. They are merged; what changed nothing costs nothing; there are no conflicts
(their sides were in operations once) and no schema checks (a repair may bring a record before its
declaration, and what was once accepted stays so). They have no chain: their order does not matter. The one
with ``FLAG_LAST`` says by its first seq, S, up to where the device's log is contained in the state:
``last_seq`` becomes at least S, ``last_segment`` this segment's id, and the log goes on from there. A
second one with the same id does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import repeat
from typing import NamedTuple

import msgpack

from cloud.ports import Transaction
from cloud.rows import DeadLetter, FeedRow, Head, RecordRow, ReplicaRow, Ruled, collections_of
from cloud.storage.fold import Held, Room, is_plain_write
from cloud.stream.admission import acknowledge, admit, refusals, shown_segment
from cloud.stream.cloud_writer import CloudWriter
from cloud.stream.conflicts import Contest, Fleet, set_field
from cloud.stream.rules import Judge, Resolver
from cloud.stream.schemas import SchemaBook
from sync.errors import AgentDBError, InvalidValue
from sync.limits import FUTURE_MS_MAX, OPERATION_BYTES_MAX
from sync.messages import PushAck
from sync.operations import Kind, Operation, Shape
from sync.ports import Clock
from sync.records import Record, fresh_image
from sync.schema import COLLECTIONS
from sync.segment import FLAG_LAST, FLAG_STATE, GENESIS, Opened, Packed, pack
from sync.stamps import HybridClock, check_not_future, timestamp_of


class Context(NamedTuple):
    """What ingest needs beside the transaction. ``cloud`` is the cloud's replica id; ``ruled``: what a policy says."""

    fleet: bytes
    cloud: bytes
    clock: Clock
    resolvers: Mapping[str, Resolver]
    ruled: Callable[[Transaction, str], Ruled | None] = lambda *_: None


class Ingested(NamedTuple):
    """``head`` after it, ``book`` to use from now on, ``rows`` new in the feed; valid once the transaction
    commits.
    """

    ack: PushAck
    head: Head
    book: SchemaBook
    rows: list[FeedRow]


def ingest(tx: Transaction, opened: Opened, book: SchemaBook, context: Context) -> Ingested:
    """Raises BrokenChain or Refused, and has then changed nothing."""
    head = tx.lock_head(context.fleet)
    now_ms = context.clock.wall_ms()
    header = opened.header
    if not admit(tx, header, context.fleet, opened.id):
        return Ingested(acknowledge(tx, context.fleet, header, now_ms), head, book, [])
    if book.position != head.position:  # another process wrote to this fleet
        book = SchemaBook.load(tx, context.fleet, head.position)
    return _Push(tx, opened, book, context, head, now_ms).run()


class _Push:
    """One segment on its way in. It owns the mutable state that the steps share."""

    def __init__(
        self, tx: Transaction, opened: Opened, book: SchemaBook, context: Context, head: Head, now_ms: int
    ) -> None:
        self._tx = tx
        self._opened = opened
        self._book = self._shared = book
        self._context = context
        self._head = head
        self._now_ms = now_ms
        self._state = bool(opened.header.flags & FLAG_STATE)
        self._latest_ts = timestamp_of(now_ms + FUTURE_MS_MAX + 1) - 1
        self._position = head.position
        self._room = Room()
        self._living = head.living
        self._accepted: list[Operation] = []
        self._letters: list[DeadLetter] = []
        self._rows: dict[str, dict[str, RecordRow]] = {}
        self._known: dict[str, set[str]] = {}
        self._fresh: dict[tuple[str, str], RecordRow] = {}
        self._contests: dict[tuple[str, str], Contest] = {}
        self._fleet: Fleet | None = None
        self._misdeclared: set[str] = set()
        self._late: set[tuple[str, str]] = set()

    def run(self) -> Ingested:
        self._look_up()
        if not self._take_all_fresh():
            take = self._take_state if self._state else self._take
            for operation in self._opened.operations:
                try:
                    take(operation)
                except AgentDBError as error:
                    self._refuse(operation, error)
                    if operation.shape.collection == COLLECTIONS:
                        self._misdeclared.add(operation.key)
        changed = not self._state or any(c.held.changed for c in self._contests.values()) or bool(self._fresh)
        feed = self._feed_row() if changed and self._accepted else []
        heard = self._accepted if not self._misdeclared else self._opened.operations
        max_ts = max((operation.ts for operation in heard if operation.ts <= self._latest_ts), default=0)
        clock = HybridClock(self._context.clock, max(self._head.clock, max_ts))
        position = feed[-1].last if feed else self._head.position
        writer = CloudWriter(self._tx, self._context.fleet, self._context.cloud, clock, position)
        self._answer_conflicts(writer)
        self._declare_again(writer)
        if feed:
            self._tell_late(writer)
        self._write_records()
        feed += writer.finish(self._now_ms)
        self._tx.append_feed(self._context.fleet, feed)
        self._tx.add_dead_letters(self._context.fleet, self._letters)
        head = self._head._replace(position=writer.position, clock=clock.last, living=self._living)
        self._tx.set_head(self._context.fleet, head)
        row = self._move_replica()
        refused = refusals(self._letters)
        ack = PushAck(row.last_seq, shown_segment(row), refused, head.position, self._now_ms)
        return Ingested(ack, head, self._book, feed)

    # -- taking -----------------------------------------------------------------------------------------------------

    def _look_up(self) -> None:
        """All records that the segment is about, in one query per collection."""
        keys: dict[str, list[str]] = {}
        last: Shape | None = None
        wanted: list[str] = []
        for _, _, _, _, shape, key, _ in self._opened.operations:
            if shape is not last:
                last = shape
                wanted = keys.setdefault(shape.collection, [])
            wanted.append(key)
        for collection, names in keys.items():
            rows = self._tx.lookup(self._context.fleet, collection, names)
            self._rows[collection], self._known[collection] = rows, set(rows)

    def _take_all_fresh(self) -> bool:
        """The commonest segment by far: first writes of plain records, all of one shape, nothing to
        refuse. Taken column by column, it costs half of what the general way does. False, and nothing
        done, if the segment is another.
        """
        operations = self._opened.operations
        shape = operations[0].shape
        collection = shape.collection
        if self._state or self._known[collection] or collection == COLLECTIONS:
            return False
        _, _, timestamps, _, shapes, keys, values = zip(*operations, strict=True)
        verdict = self._book.verdict(shape)
        if shapes.count(shape) != len(shapes) or verdict.error is not None or not verdict.plain:
            return False
        if max(timestamps) > self._latest_ts or len(set(keys)) != len(keys):
            return False
        if verdict.checks and not self._book.all_fit(shape, verdict, values):
            return False
        positions = range(self._position + 1, self._position + len(keys) + 1)
        images = map(fresh_image, operations)
        rows = map(RecordRow, repeat(collection), keys, images, positions)
        self._fresh = {(collection, row.key): row for row in rows}
        self._position += len(keys)
        self._living += len(keys)
        self._accepted = operations
        return True

    def _take(self, operation: Operation) -> None:
        """Raises the error by which the operation is refused."""
        if operation.ts > self._latest_ts:
            check_not_future(operation.ts, self._now_ms)
        shape = operation.shape
        verdict = self._book.verdict(shape)
        if verdict.error is not None:
            raise verdict.error.with_traceback(None)  # it is kept: a trace would grow with every operation
        if verdict.checks:
            self._book.check_values(operation, verdict)
        collection, key = shape.collection, operation.key
        if collection == COLLECTIONS:
            self._book.check_declaration(operation)
        position = self._position + 1
        if verdict.plain and key not in self._known[collection]:
            self._add_fresh(operation, position)
        else:
            contest = self._contest(collection, key)
            self._room.check(contest.held, operation)
            seen = operation.seen
            if seen > self._head.position:  # of an incarnation whose feed went further; both know what came before
                seen = self._head.restored_head
            contest.write(operation, seen, position)
            if contest.held.record.stands_above(operation):
                self._late.add((collection, key))
        if collection == COLLECTIONS:
            self._declare(key)
        self._position = position
        self._accepted.append(operation)

    def _add_fresh(self, operation: Operation, position: int) -> None:
        """The commonest case: the first write of a plain record."""
        collection, key = operation.shape.collection, operation.key
        row = RecordRow(collection, key, fresh_image(operation), position)
        self._rows[collection][key] = self._fresh[collection, key] = row
        self._known[collection].add(key)
        self._living += 1

    def _take_state(self, operation: Operation) -> None:
        if operation.seq:
            raise InvalidValue("an operation of a log cannot be sent as state")
        collection, key = operation.shape.collection, operation.key
        newest = _newest_ts(operation)
        if newest > self._latest_ts:
            check_not_future(newest, self._now_ms)
        if collection == COLLECTIONS:
            self._check_state_of_collection(operation)
        position = self._position + 1
        if key not in self._known[collection] and is_plain_write(operation):
            self._add_fresh(operation, position)
        else:
            contest = self._contest(collection, key)
            self._room.check(contest.held, operation)
            contest.held.apply(operation, position)
            if contest.held.record.stands_above(operation):
                self._late.add((collection, key))
        if collection == COLLECTIONS:
            self._declare(key)
        self._position = position
        self._accepted.append(operation)

    def _check_state_of_collection(self, operation: Operation) -> None:
        """A declaration within a repair is checked as a declaration, whatever form it comes in."""
        record = Record()
        record.apply(operation)
        if record.slots or not record.lww.keys() <= {"spec"}:  # what else it held could leave no room for its spec
            raise InvalidValue("a collection's record has a spec and nothing else")
        shape = Shape(Kind.PUT, COLLECTIONS, ("spec",), "l")
        self._book.check_declaration(operation._replace(shape=shape, values=(record.values().get("spec"),)))

    def _contest(self, collection: str, key: str) -> Contest:
        place = (collection, key)
        contest = self._contests.get(place)
        if contest is None:
            self._known[collection].add(key)
            held = Held(self._rows[collection].get(key))
            contest = self._contests[place] = Contest(held, self._know_fleet, self._context.cloud)
            held.changed = place in self._fresh
        return contest

    def _declare(self, name: str) -> None:
        contest = self._contests.get((COLLECTIONS, name))
        image = contest.held.record.encode() if contest else self._fresh[COLLECTIONS, name].image
        if self._book is self._shared:  # once: a push may declare thousands
            self._book = self._book.copy()
        self._book.declare(name, image)

    def _refuse(self, operation: Operation, error: AgentDBError) -> None:
        packed = msgpack.packb(
            [*operation[:4], list(operation.shape), operation.key, list(operation.values)], default=list
        )
        letter = DeadLetter(
            number=0,
            replica=self._opened.header.replica,
            seq=0 if self._state else operation.seq,
            at_ms=self._now_ms,
            collection=operation.shape.collection,
            key=operation.key,
            code=error.code,
            reason=error.message[:1000],
            operation=packed if len(packed) <= OPERATION_BYTES_MAX else b"",
        )
        self._letters.append(letter)

    # -- the other steps --------------------------------------------------------------------------------------------

    def _know_fleet(self) -> Fleet:
        """The roster, once somebody needs it."""
        if self._fleet is None:
            devices = {row.device: row for row in self._tx.devices(self._context.fleet)}
            self._fleet = Fleet(self._context.cloud, devices, lambda at: self._tx.resolved_at(self._context.fleet, at))
        return self._fleet

    def _answer_conflicts(self, writer: CloudWriter) -> None:
        for (collection, key), contest in self._contests.items():
            if contest.found:
                schema, ruled = self._book.get(collection), self._context.ruled(self._tx, collection)
                judge = Judge(schema, key, contest.held, self._know_fleet(), self._context.resolvers, ruled)
                for found in contest.found:
                    try:
                        judged = judge.judge(found)
                        at = writer.write(judged.answer, key, contest.held) if judged.answer else 0
                    except AgentDBError as error:  # the push has done nothing wrong
                        judged, at = judge.leave_open(found, error), 0
                    conflict = judged.conflict._replace(at_ms=self._now_ms, resolution=at)
                    self._tx.add_conflict(self._context.fleet, conflict)

    def _declare_again(self, writer: CloudWriter) -> None:
        """A device whose declaration was refused has it still, and later than the fleet's: it would go on by it, and
        have all its writes refused. So the fleet's is said once more, later than the device's.
        """
        for name in sorted(self._misdeclared):
            if name not in self._known[COLLECTIONS]:
                continue
            held = self._contest(COLLECTIONS, name).held
            spec = held.record.values().get("spec")
            if spec is not None:
                writer.write(set_field(COLLECTIONS, "spec", spec), name, held)

    def _tell_late(self, writer: CloudWriter) -> None:
        """What a delete that came before it undoes, a device that has forgotten the delete, or never heard of it, would
        take for a new record. So the record goes out as it is, behind it.
        """
        for collection, key in sorted(self._late):
            writer.tell(collection, key, self._contests[collection, key].held)

    def _write_records(self) -> None:
        rows = self._fresh
        for (collection, key), contest in self._contests.items():
            held = contest.held
            if not held.changed:
                continue
            self._living += held.record.alive - held.was_alive
            rows[collection, key] = held.row(collection, key)
        self._tx.put_records(self._context.fleet, rows.values())

    def _feed_row(self) -> list[FeedRow]:
        opened = self._opened
        packed: Packed = pack(self._accepted) if self._letters else opened.packed
        return [
            FeedRow(
                first=self._head.position + 1,
                last=self._position,
                replica=opened.header.replica,
                state=self._state,
                packed=packed.data,
                plain_length=packed.plain_length,
                min_ts=packed.min_ts,
                max_ts=packed.max_ts,
                at_ms=self._now_ms,
                segment=opened.id,
                collections=collections_of(self._accepted_collections()),
            )
        ]

    def _accepted_collections(self) -> Collection[str]:
        if not self._letters:
            return self._rows.keys()
        return {operation.shape.collection for operation in self._accepted}

    def _move_replica(self) -> ReplicaRow:
        header = self._opened.header
        fleet = self._context.fleet
        row = self._tx.replica(fleet, header.replica) or ReplicaRow(header.replica, 0, GENESIS, 0, 0)
        if self._state and not header.flags & FLAG_LAST:
            return row
        seq = max(row.last_seq, header.first_seq) if self._state else header.last_seq
        cursor = max(row.cursor, min(self._opened.operations[-1].seen, self._head.position))
        row = row._replace(
            last_seq=seq, last_segment=self._opened.id, cursor=cursor, at_ms=self._now_ms, head=self._head.position
        )
        self._tx.put_replicas(fleet, [row])
        return row


def _newest_ts(operation: Operation) -> int:
    """The largest timestamp in a state operation."""
    if operation.shape.kind != Kind.IMAGE:
        return operation.ts
    return max(operation.ts, Record.decode(operation.values[0]).newest_ts)
