"""What is noted of bodies in the log's database: which the cloud has, which must stay here, how far an upload is.

The table is made with the first note. What always holds: a note is durable when its method returns; ``confirmed`` is
the id of the place, of those where the cloud keeps or kept bodies, that had all parts of the body when this device last
looked: in another place it has to be looked for again before this device may give up its copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_TABLE = (
    "CREATE TABLE IF NOT EXISTS bodies (digest BLOB PRIMARY KEY, confirmed BLOB NOT NULL DEFAULT X'', "
    "pinned INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0) "
    "WITHOUT ROWID"
)
_PLACE = "bodies.place"


class Note(NamedTuple):
    """Of a body. ``sent`` parts were taken by the cloud under the name that it has in ``epoch``."""

    confirmed: bytes = b""
    pinned: bool = False
    epoch: int = 0
    sent: int = 0


class BodyNotes:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self._log = log
        self._made = False

    def place(self) -> bytes:
        """Where the cloud keeps bodies, as this device last knew it; empty if it never did."""
        return self._log.meta_get(_PLACE) or b""

    def note_place(self, place: bytes) -> None:
        if place != self.place():
            self._log.meta_set(_PLACE, place)

    def all(self) -> dict[bytes, Note]:
        if not self._is_made():
            return {}
        rows = self._log.reader.all("SELECT digest, confirmed, pinned, epoch, sent FROM bodies")
        return {digest: Note(confirmed, bool(pinned), epoch, sent) for digest, confirmed, pinned, epoch, sent in rows}

    def of(self, digest: bytes) -> Note:
        if not self._is_made():
            return Note()
        row = self._log.reader.one("SELECT confirmed, pinned, epoch, sent FROM bodies WHERE digest = ?", digest)
        return Note() if row is None else Note(row[0], bool(row[1]), row[2], row[3])

    def confirm(self, digest: bytes, place: bytes) -> None:
        """The cloud has all parts in that place, and their content is known to be right."""
        self._set(digest, "confirmed", place)

    def pin(self, digest: bytes, pinned: bool) -> None:
        self._set(digest, "pinned", int(pinned))

    def sent(self, digest: bytes, epoch: int, parts: int) -> None:
        self._set(digest, "epoch", epoch, "sent", parts)

    def forget(self, digest: bytes) -> None:
        """The body is of no record any more."""
        if self._is_made():
            with self._log.writer.lock, self._log.transact() as db:
                db.execute("DELETE FROM bodies WHERE digest = ?", (digest,))

    def _set(self, digest: bytes, *pairs: Any) -> None:
        self._log.check_writable()
        names, values = pairs[::2], pairs[1::2]
        columns, marks = ", ".join(names), ", ".join("?" for _ in names)
        changes = ", ".join(f"{name} = excluded.{name}" for name in names)
        with self._log.writer.lock, self._log.transact() as db:
            if not self._made:
                db.execute(_TABLE)
            db.execute(
                f"INSERT INTO bodies (digest, {columns}) VALUES (?, {marks}) "  # noqa: S608 - names of ours
                f"ON CONFLICT (digest) DO UPDATE SET {changes}",
                (digest, *values),
            )
        self._made = True

    def _is_made(self) -> bool:
        if not self._made:
            self._made = self._log.reader.has_table("bodies")
        return self._made
