"""The cloud writes too: operations of its own replica, for resolved conflicts. They go where everybody's
go.

What always holds: an operation passes the checks that a device's does before anything changes, for one that
no reader accepts would stop everybody, and so would a record that has outgrown what travels as one operation;
its seqs are dense and persisted (as the last seq of an ordinary replica), its stamps come from a hybrid clock
that has observed everything in the feed, its ``seen`` is the position just before the operation.
"""

from __future__ import annotations

from collections.abc import Iterator

from cloud.ports import Transaction
from cloud.rows import FeedRow, ReplicaRow, collections_of
from cloud.storage.fold import Held, Room
from cloud.stream.conflicts import Answer
from sync import columns
from sync.errors import InvalidValue, Malformed
from sync.operations import Kind, Operation, Shape
from sync.segment import GENESIS, pack_split
from sync.stamps import HybridClock


class CloudWriter:
    """Within one transaction: any number of ``write``, then ``finish``. ``position`` is the feed's last so
    far.
    """

    def __init__(self, tx: Transaction, fleet: bytes, replica: bytes, clock: HybridClock, position: int) -> None:
        self.position = position
        self._tx = tx
        self._fleet = fleet
        self._replica = replica
        self._clock = clock
        self._room = Room()
        self._seq: int | None = None
        self._operations: list[Operation] = []
        self._told: list[Operation] = []

    def write(self, answer: Answer, key: str, held: Held) -> int:
        """Make the operation and merge it into the record; its feed position. Raises InvalidValue or TooLarge if no
        valid operation says this or the record would outgrow one, and has then changed nothing.
        """
        if self._seq is None:
            row = self._tx.replica(self._fleet, self._replica)
            self._seq = row.last_seq if row else 0
        operation = Operation(
            replica=self._replica,
            seq=self._seq + 1,
            ts=answer.ts or self._clock.now(),
            seen=self.position,
            shape=answer.shape,
            key=key,
            values=answer.values,
        )
        _check(operation)
        self._room.check(held, operation)
        self._seq += 1
        self.position += 1
        held.apply(operation, self.position)
        self._operations.append(operation)
        return self.position

    def tell(self, collection: str, key: str, held: Held) -> None:
        """Say the record as it is, as state, behind everything that is written."""
        stamp = held.record.stamp
        shape = Shape(Kind.IMAGE, collection)
        self._told.append(Operation(stamp.replica, 0, stamp.ts, 0, shape, key, (held.record.encode(),)))

    def finish(self, at_ms: int) -> list[FeedRow]:
        """The feed rows of what was written and told, if anything was: several if it is more than a segment holds."""
        if self._operations and self._seq is not None:
            row = ReplicaRow(self._replica, self._seq, GENESIS, self.position, at_ms)
            self._tx.put_replicas(self._fleet, [row])
        self.position -= len(self._operations)
        return [*self._rows(self._operations, at_ms, state=False), *self._rows(self._told, at_ms, state=True)]

    def _rows(self, operations: list[Operation], at_ms: int, *, state: bool) -> Iterator[FeedRow]:
        done = 0
        for packed in pack_split(operations) if operations else ():
            first = self.position + 1
            self.position += packed.count
            names = {operation.shape.collection for operation in operations[done : done + packed.count]}
            done += packed.count
            yield FeedRow(
                first, self.position, self._replica, state, packed.data, packed.plain_length,
                packed.min_ts, packed.max_ts, at_ms, b"", collections_of(names),
            )  # fmt: skip


def _check(operation: Operation) -> None:
    try:
        columns.decode(columns.encode([operation]))
    except Malformed as error:
        raise InvalidValue(f"no operation can write this: {error.message}") from error
