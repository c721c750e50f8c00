"""A person decides an open conflict. One transaction: the record is written by the cloud's replica if that
is needed, and the conflict's record says who won and where the answer is in the feed.

The record may have moved on since the conflict was found; the decision is about the record as it is now.
"""

from __future__ import annotations

from typing import Any

from cloud.ports import Transaction
from cloud.rows import Conflict, FeedRow, Head
from cloud.storage.fold import Held
from cloud.stream.cloud_writer import CloudWriter
from cloud.stream.conflicts import Fleet
from cloud.stream.ingest import Context
from cloud.stream.rules import Judge
from cloud.stream.schemas import SchemaBook
from sync.errors import NotFound, Refused
from sync.stamps import HybridClock


def resolve(
    tx: Transaction, head: Head, book: SchemaBook, context: Context, number: int, take: str, value: Any
) -> tuple[Conflict, list[FeedRow], Head]:
    """The conflict as it is now, what was appended to the feed, and the head after it.

    Raises NotFound, Refused, InvalidValue, TooLarge or SchemaMismatch.
    """
    fleet = context.fleet
    conflict = tx.conflict(fleet, number)
    if conflict is None:
        raise NotFound(f"no conflict {number}")
    if conflict.state != "open":
        raise Refused(f"conflict {number} is resolved already", hint="write the record on a device")
    row = tx.lookup(fleet, conflict.collection, [conflict.key]).get(conflict.key)
    held = Held(row)
    roster = Fleet(
        context.cloud,
        {device.device: device for device in tx.devices(fleet)},
        lambda position: tx.resolved_at(fleet, position),
    )
    judge = Judge(book.get(conflict.collection), conflict.key, held, roster, context.resolvers)
    judged = judge.settle(conflict, take, value)
    clock = HybridClock(context.clock, head.clock)
    writer = CloudWriter(tx, fleet, context.cloud, clock, head.position)
    at = writer.write(judged.answer, conflict.key, held) if judged.answer else 0
    if held.changed:
        tx.put_records(fleet, [held.row(conflict.collection, conflict.key)])
    rows = writer.finish(context.clock.wall_ms())
    tx.append_feed(fleet, rows)
    living = head.living + held.record.alive - held.was_alive
    head = head._replace(position=writer.position, clock=clock.last, living=living)
    tx.set_head(fleet, head)
    settled = judged.conflict._replace(resolution=at or conflict.resolution)
    tx.put_conflicts(fleet, [settled])
    return settled, rows, head
