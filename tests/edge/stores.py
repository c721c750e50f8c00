"""A delta log for tests of what lies behind it: a real one, under a clock that ticks and random bytes from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from edge.storage.delta_log import DeltaLog
from edge.storage.transaction import Write
from sync.operations import Kind
from sync.schema import CollectionSchema

DEVICE = b"test-device!"


class TickingClock:
    """Each reading is a millisecond later than the one before."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms

    def wall_ms(self) -> int:
        self._now_ms += 1
        return self._now_ms

    def monotonic_ms(self) -> int:
        return self.wall_ms()


class SeededRandom:
    def __init__(self, seed: int = 1) -> None:
        self._random = Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self) -> float:
        return self._random.random()


def open_log(folder: Path, *schemas: CollectionSchema) -> DeltaLog:
    """The log at ``folder/log.db``, relaxed (no test here pulls the plug under SQLite), with these collections."""
    log = DeltaLog.open(
        str(folder / "log.db"), clock=TickingClock(), random=SeededRandom(), device=DEVICE, durability="relaxed"
    )
    for schema in schemas:
        log.declare(schema)
    return log


def put(log: DeltaLog, collection: str, records: Mapping[str, Mapping[str, Any]]) -> None:
    schema = log.schemas[collection]
    log.submit([Write(Kind.PUT, collection, key, schema.normalise(fields)) for key, fields in records.items()])


def delete(log: DeltaLog, collection: str, *keys: str) -> None:
    log.submit([Write(Kind.DELETE, collection, key) for key in keys])
