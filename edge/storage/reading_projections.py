"""What a reading process searches: the writer's projections, borrowed, and what is newer beside them (ADR 18).

What always holds: nothing is written to the store, no thread runs between calls, and the log is not trimmed from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.storage.once import once
from edge.storage.projections import Projections

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.exact import ExactIndex
    from edge.storage.log_follower import Follower
    from edge.storage.private_folder import PrivateFolder
    from edge.storage.tables import LanceTables
    from sync.schema import CollectionSchema


def reading(log: DeltaLog, directory: str, *, exact_bytes_max: int, flush_interval_ms: int) -> Projections:
    """Those of a store that was opened for reading."""
    from edge.storage.log_follower import Follower

    assert isinstance(log, Follower)
    return ReadingProjections(log, directory, exact_bytes_max=exact_bytes_max, flush_interval_ms=flush_interval_ms)


class ReadingProjections(Projections):
    """``directory`` is the store's."""

    def __init__(self, log: Follower, directory: str, *, exact_bytes_max: int, flush_interval_ms: int) -> None:
        super().__init__(log, directory, exact_bytes_max=exact_bytes_max, flush_interval_ms=flush_interval_ms)
        self._follower = log

    @property
    def _directory(self) -> str:
        """Where files may be written: never in the store."""
        return str(self._store if self._closed else self._own.path)

    @_directory.setter
    def _directory(self, store: str) -> None:
        self._store = Path(store)

    @once
    def _own(self) -> PrivateFolder:
        from edge.storage.private_folder import PrivateFolder

        return PrivateFolder()

    def _new_index(self, schema: CollectionSchema) -> ExactIndex:
        from edge.storage.exact_borrowed import BorrowedIndex

        return BorrowedIndex(self._own.path, self._follower, schema, self._store)

    def _new_tables(self) -> LanceTables:
        from edge.storage.tables_borrowed import BorrowedTables

        return BorrowedTables(self._own.path, self._follower, self._store)

    def start(self, *, with_tables: bool = False) -> None:
        """Nothing: a search brings up to date what it needs."""

    def _noted(self, name: str) -> Mapping[str, Any] | None:
        return self._follower.noted(name).get(name)

    def trim(self, least: int = 1) -> int:  # noqa: ARG002 - as in Projections
        """Nothing: what the log needs no more, its writer knows."""
        return 0

    def verify(self) -> list[str]:
        return [problem.replace("; rebuilt", "; opened for writing, they are rebuilt") for problem in super().verify()]

    def close(self) -> None:
        super().close()
        if "_own" in vars(self):
            self._own.close()
