"""What is noted of models in the log's database: a note for each name (``sync.activation``), and what was refused.

The tables are made with the first note: a store without models has none. What always holds: a note, and what is refused
with it, are in one transaction, which is durable when the method returns. Which chunks lie in which slot is not noted:
the chunk lists beside the slots say so (``edge.control.model_slots``), and the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from sync.activation import Note, Refuse, from_document, to_document
from sync.errors import Malformed
from sync.strict_msgpack import unpack

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_TABLES = (
    "CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, note BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS model_refused (name TEXT NOT NULL, digest BLOB NOT NULL, number INTEGER NOT NULL,
    reason TEXT NOT NULL, at_ms INTEGER NOT NULL, PRIMARY KEY (name, digest)) WITHOUT ROWID""",
)
_PROBLEMS = "model_problems"  # a note of the log
_REFUSED_MAX = 1_000  # of a name; the oldest go


class Refused(NamedTuple):
    """A version that is not tried here again. ``digest`` is its manifest's SHA-256; ``at_ms``: since 1970."""

    number: int
    digest: bytes
    reason: str
    at_ms: int


class Notes(NamedTuple):
    """By name: what could be read, and what is wrong with what could not."""

    read: dict[str, Note]
    unread: dict[str, Malformed]


class ModelTables:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log
        self._made = False

    def notes(self) -> Notes:
        """By name, sorted. Raises StorageError."""
        read = Notes({}, {})
        rows = self._log.reader.all("SELECT name, note FROM models ORDER BY name") if self._is_made() else []
        for name, note in rows:
            try:
                read.read[name] = from_document(unpack(note))
            except Malformed as error:
                read.unread[name] = error
        return read

    def note(self, name: str) -> Note:
        """Of a name that is not known, an empty one. Raises Malformed, StorageError."""
        found = self._log.reader.one("SELECT note FROM models WHERE name = ?", name) if self._is_made() else None
        return Note() if found is None else from_document(unpack(found))

    def commit(self, name: str, note: Note, refused: Sequence[Refuse] = (), at_ms: int = 0) -> None:
        """An empty note is none. Raises ReadOnly, StorageError."""
        self._log.check_writable()
        with self._log.writer.lock, self._log.transact() as db:
            if not self._made:
                for table in _TABLES:
                    db.execute(table)
            for version, why in refused:
                db.execute(
                    "INSERT OR REPLACE INTO model_refused VALUES (?, ?, ?, ?, ?)",
                    (name, version.digest, version.number, why, at_ms),
                )
            if refused:
                db.execute(
                    "DELETE FROM model_refused WHERE name = ?1 AND digest NOT IN (SELECT digest FROM model_refused "
                    "WHERE name = ?1 ORDER BY at_ms DESC, number DESC LIMIT ?2)",
                    (name, _REFUSED_MAX),
                )
            if note == Note():
                db.execute("DELETE FROM models WHERE name = ?", (name,))
            else:
                packed = msgpack.packb(to_document(note))
                db.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (name, packed))
        self._made = True

    def problem(self, name: str, candidate: int) -> str:
        """What was last in the way of this number; "" if nothing was. Raises StorageError."""
        number, problem = (self._log.meta_get(_PROBLEMS) or {}).get(name, (0, ""))
        return str(problem) if number == candidate else ""

    def note_problem(self, name: str, candidate: int, problem: str) -> None:
        """For processes that only read: what is in the way of this number now, "" for nothing. Raises StorageError."""
        noted = self._log.meta_get(_PROBLEMS) or {}
        others = {other: said for other, said in noted.items() if other != name}
        now = {**others, name: (candidate, problem)} if problem else others
        if now != {other: tuple(said) for other, said in noted.items()}:
            self._log.meta_set(_PROBLEMS, now)

    def refused(self, name: str) -> list[Refused]:
        """The newest first. Raises StorageError."""
        if not self._is_made():
            return []
        rows = self._log.reader.all(
            "SELECT number, digest, reason, at_ms FROM model_refused WHERE name = ? ORDER BY at_ms DESC, number DESC",
            name,
        )
        return [Refused(*row) for row in rows]

    def forgive(self, name: str, digest: bytes) -> None:
        """It may be tried again. Raises ReadOnly, StorageError."""
        self._log.check_writable()
        if self._is_made():
            with self._log.writer.lock, self._log.transact() as db:
                db.execute("DELETE FROM model_refused WHERE name = ? AND digest = ?", (name, digest))

    def _is_made(self) -> bool:
        if not self._made:
            self._made = self._log.reader.has_table("models")
        return self._made
