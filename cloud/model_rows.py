"""What the cloud's store keeps of models (ADR 25): rows, and how they are read and written.

A part of ``cloud.ports.Store``'s contract, apart for its length; what the rows mean is ``cloud.fleet``'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol


class ModelRow(NamedTuple):
    """A version of a model. ``number`` is dense from 1 for each name; ``sha256`` is that of ``manifest``. A version
    that was removed keeps its row, with ``manifest`` empty: its number is not given out again.
    """

    name: str
    number: int
    version: str
    at_ms: int
    sha256: bytes
    manifest: bytes


class AliasRow(NamedTuple):
    """A name that people gave to a version: champion, canary …"""

    name: str
    alias: str
    number: int


class ChunkRow(NamedTuple):
    """Where a chunk lies: ``pack`` is the pack's id, ``epoch`` that of the key it is sealed with, ``offset`` and
    ``length`` in bytes (``length`` is what it has when it is opened).
    """

    digest: bytes
    length: int
    pack: bytes
    epoch: int
    offset: int


class ModelReading(Protocol):
    """Lists come in the order of their key."""

    def models(self, fleet: bytes, name: str = "") -> list[ModelRow]:
        """All versions, or those of one name; removed ones included."""
        ...

    def model_page(self, fleet: bytes, after: int, limit: int) -> list[ModelRow]:
        """All versions in the order in which they were first put, counted from 1."""
        ...

    def model(self, fleet: bytes, name: str, number: int) -> ModelRow | None: ...
    def aliases(self, fleet: bytes, name: str = "") -> list[AliasRow]: ...
    def find_chunks(self, fleet: bytes, digests: Collection[bytes]) -> dict[bytes, ChunkRow]:
        """Those of them that are kept."""
        ...


class ModelWriting(ModelReading, Protocol):
    """``put_`` inserts or replaces by the row's key."""

    def put_models(self, fleet: bytes, rows: Iterable[ModelRow]) -> None: ...
    def put_aliases(self, fleet: bytes, rows: Iterable[AliasRow]) -> None: ...
    def drop_alias(self, fleet: bytes, name: str, alias: str) -> bool:
        """Whether there was one."""
        ...

    def put_chunks(self, fleet: bytes, rows: Iterable[ChunkRow]) -> None: ...
    def drop_pack(self, fleet: bytes, pack: bytes) -> int:
        """Forget that chunks lie in it; how many."""
        ...
