"""A delta log to test, and what is done with it again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.images import image_values
from sync.operations import Kind, Operation, Shape
from sync.schema import declare
from sync.stamps import replica_id
from tests.edge.stores import DEVICE, SeededRandom, TickingClock

FAR = replica_id(b"another-one!", 1)
NOTES = declare("notes", fields={"n": "counter", "tags": "set"})
PLAIN = declare("plain")


def reopen(folder: Path, *, clock: TickingClock | None = None, durability: str = "relaxed") -> DeltaLog:
    return DeltaLog.open(
        str(folder / "log.db"),
        clock=clock or TickingClock(),
        random=SeededRandom(),
        device=DEVICE,
        durability=durability,
    )


def put(log: DeltaLog, key: str, collection: str = "plain", **fields: Any) -> int:
    return log.submit([Write(Kind.PUT, collection, key, fields)])


def values(log: DeltaLog, key: str, collection: str = "plain") -> dict[str, Any] | None:
    image = log.image(collection, key)
    return None if image is None else image_values(image)


def remote(seq: int, key: str, ts: int, collection: str = "plain", **fields: Any) -> Operation:
    names = tuple(sorted(fields))
    shape = Shape(Kind.PUT, collection, names, "l" * len(names))
    return Operation(FAR, seq, ts, 0, shape, key, tuple(fields[name] for name in names))


def state(log: DeltaLog) -> tuple[Any, ...]:
    return log.head_seq, log.position, log.digest(), log.changes(0, 1000), log.pending(0, 1000, 1 << 20)
