"""What a device keeps of what it was given to run (ADR 23), in the log's database: sole place of its SQL.

    trust    name → data    metadata as it was signed, by role; the assignment, its signature, and the pin ("=…")
    targets  sha256 → path, data    documents that run, ran before, or come next
    agreed   place → sha256, path, number, rollout, stage    what both sides named last: "policy", "models/<name>"
    meta     ``control``    what the rest is summed up in, so that most questions read one row

The tables are made with the first thing that is kept: a device of a fleet without trust has none of them. What always
holds: one ``keep`` is one transaction; every row of ``agreed`` has its document.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.log_schema import damaged_note

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_TABLES = """
CREATE TABLE IF NOT EXISTS trust (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS targets (sha256 BLOB PRIMARY KEY, path TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS agreed (
    place TEXT PRIMARY KEY, sha256 BLOB NOT NULL, path TEXT NOT NULL, number INTEGER NOT NULL, rollout TEXT NOT NULL,
    stage INTEGER NOT NULL);
"""
_DOCUMENT = (
    "SELECT a.place, a.path, a.number, a.sha256, a.rollout, a.stage, t.data "
    "FROM agreed a JOIN targets t ON t.sha256 = a.sha256 "
)
_MISSING = "SELECT path FROM agreed WHERE sha256 NOT IN (SELECT sha256 FROM targets) ORDER BY place"
_NOTE = "control"
ASSIGNMENT, SIGNATURE, PIN = "=assignment", "=signature", "=pin"  # no role is called so


class Document(NamedTuple):
    """What is to run in a place, as both sides named it: ``path``, ``number``, ``sha256`` (32 bytes), ``data``; the
    ``rollout`` that wants it and its ``stage``, or "" and 0.
    """

    place: str
    path: str
    number: int
    sha256: bytes
    rollout: str
    stage: int
    data: bytes


class Named(NamedTuple):
    """Of a ``Document``."""

    path: str
    sha256: bytes
    rollout: str
    stage: int


class ControlNote(NamedTuple):
    """``number``: of the assignment that is held. Times in ms since 1970: ``seen_ms``, the greatest that an accepted
    assignment had; ``fresh_ms``, when a timestamp was last seen that was within its time; ``accepted_ms``, when what is
    held was accepted. ``refused``: code, reason, hint and when, of the last that was offered, () if it was taken.
    ``versions`` and ``expires_ms`` of the metadata, by role.
    """

    number: int = 0
    seen_ms: int = 0
    fresh_ms: int = 0
    accepted_ms: int = 0
    refused: tuple[str, str, str, int] | tuple[()] = ()
    versions: Mapping[str, int] = {}
    expires_ms: Mapping[str, int] = {}


class ControlTables:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log

    def note(self) -> ControlNote | None:
        """None if nothing was ever kept: in a fleet without trust. Raises CorruptStore, StorageError."""
        kept = self._log.meta_get(_NOTE)
        if kept is None:
            return None
        if (note := _note_of(kept)) is None:
            raise damaged_note(self._log.path, _NOTE)
        return note

    def kept(self) -> dict[str, bytes]:
        """Everything of ``trust``, by name; b"" for what a disk has made something else than bytes."""
        if self.note() is None:
            return {}
        rows = self._log.reader.all("SELECT name, data FROM trust")
        return {name: data if isinstance(data, bytes) else b"" for name, data in rows}

    def pin(self) -> bytes:
        """SHA-256 of the fleet's first root, b"" if it is not known here."""
        if self.note() is None:
            return b""
        return self._log.reader.one("SELECT data FROM trust WHERE name = ?", PIN) or b""

    def document(self, place: str) -> Document | None:
        """What is to run in a place."""
        found = self._documents("WHERE a.place = ?", place)
        return found[0] if found else None

    def documents(self, prefix: str = "") -> list[Document]:
        """Of the places that begin so: "policy", "models/", or all; in their order."""
        return self._documents("WHERE substr(a.place, 1, length(?1)) = ?1 ORDER BY a.place", prefix)

    def named(self) -> dict[str, Named]:
        """By place, without the documents."""
        if self.note() is None:
            return {}
        rows = self._log.reader.all("SELECT place, path, sha256, rollout, stage FROM agreed ORDER BY place")
        return {place: Named(*rest) for place, *rest in rows}

    def missing(self) -> list[str]:
        """Paths of what is agreed and has no document: the disk has lost it."""
        if self.note() is None:
            return []
        return [path for (path,) in self._log.reader.all(_MISSING)]

    def target(self, sha256: bytes) -> bytes | None:
        """The bytes of a document, of the present or the past."""
        if self.note() is None:
            return None
        data: bytes | None = self._log.reader.one("SELECT data FROM targets WHERE sha256 = ?", sha256)
        return data

    def keep(
        self,
        note: ControlNote,
        trust: Mapping[str, bytes] | None = None,
        documents: Iterable[Document] | None = None,
        wanted: Collection[bytes] = (),
    ) -> None:
        """In one transaction. ``trust``: all of it, in the place of what was. ``documents``: what is agreed from now
        on; of the others those stay that were agreed until now, and those of the digests ``wanted``. Raises
        StorageError, ReadOnly; nothing is changed then.
        """
        self._log.check_writable()
        writer = self._log.writer
        with writer.lock, self._log.transact() as db:
            db.execute(_TABLES)
            if trust is not None:
                db.execute("DELETE FROM trust")
                db.executemany("INSERT INTO trust VALUES (?, ?)", sorted(trust.items()))
            if documents is not None:
                held = {bytes(digest) for (digest,) in db.execute("SELECT sha256 FROM agreed")}
                db.execute("DELETE FROM agreed")
                for one in documents:
                    held.add(one.sha256)
                    db.execute("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", (one.sha256, one.path, one.data))
                    row = (one.place, one.sha256, one.path, one.number, one.rollout, one.stage)
                    db.execute("INSERT INTO agreed VALUES (?, ?, ?, ?, ?, ?)", row)
                for (digest,) in db.execute("SELECT sha256 FROM targets").fetchall():
                    if digest not in held and digest not in wanted:
                        db.execute("DELETE FROM targets WHERE sha256 = ?", (digest,))
            writer.put_meta(_NOTE, [*note[:4], list(note.refused), dict(note.versions), dict(note.expires_ms)])

    def put_back(self, path: str, sha256: bytes, data: bytes) -> None:
        """A document that was damaged or lost. Raises StorageError, ReadOnly."""
        self._log.check_writable()
        with self._log.writer.lock, self._log.transact() as db:
            db.execute("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", (sha256, path, data))

    def _documents(self, where: str, binding: str) -> list[Document]:
        if self.note() is None:
            return []
        return [Document(*row) for row in self._log.reader.all(_DOCUMENT + where, binding)]


def _note_of(kept: Any) -> ControlNote | None:
    """None for what ``keep`` has not written."""
    if not isinstance(kept, list) or [type(part) for part in kept] != [int, int, int, int, list, dict, dict]:
        return None
    number, seen_ms, fresh_ms, accepted_ms, refused, versions, expires_ms = kept
    if len(refused) not in (0, 4) or not all(type(one) is int for one in (*versions.values(), *expires_ms.values())):
        return None
    return ControlNote(number, seen_ms, fresh_ms, accepted_ms, tuple(refused), versions, expires_ms)


def keep_pin(log: DeltaLog, digest: bytes) -> None:
    """Know the fleet's first root by its digest, if none is known yet. Raises StorageError."""
    tables = ControlTables(log)
    if not tables.pin():
        tables.keep(tables.note() or ControlNote(), {**tables.kept(), PIN: digest})
