"""What this device trusts, and what both sides named for it to run: kept in its store, good without a network.

``accept`` takes what ``FetchControl`` was answered, by the order of ``edge.control.acceptance``; whoever runs such
documents hears of it by ``on_activated``. python-tuf takes 80 ms to import: only what verifies does it, never what
reads what was agreed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.control.acceptance import MODELS, POLICY, Acceptance, Accepted, Part, holds
from edge.storage.control_tables import ASSIGNMENT, PIN, ControlNote, ControlTables, Document
from sync.errors import (
    AgentDBError,
    CorruptStore,
    DataError,
    InputError,
    InvalidConfig,
    InvalidValue,
    NotFound,
    Refused,
    Untrusted,
)
from sync.messages import Control, FetchControl, HeldRole
from sync.stamps import device_of, wall_ms_of

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from sync.assignments import Agreed

__all__ = ["MODELS", "POLICY", "Accepted", "Part", "TrustStatus", "TrustStore"]
_log = logging.getLogger("agentdb.edge")
_PIN_HINT = "agentdb-edge trust pin STORE DIGEST; agentdb-cloud assignments DIR shows it"


class TrustStatus(NamedTuple):
    """``pin``: SHA-256 of the fleet's first root, in hex, "" if it is not known here. ``staleness_ms``: since when no
    fresh timestamp was seen; None if none ever was. ``refused``: code, reason, hint, at_ms, or None. ``expired``: the
    roles whose time is over. ``places``: place → path of what both sides named last.
    """

    pin: str
    assignment: int
    versions: dict[str, int]
    expired: list[str]
    staleness_ms: int | None
    accepted_ms: int
    refused: dict[str, Any] | None
    places: dict[str, str]


class TrustStore:
    """Get it from ``edge.trust``. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self.tables = ControlTables(log)
        self.pinned: Callable[[], None] = lambda: None  # a link that is up asks then
        self._log = log
        self._parts: dict[str, Part] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._untold: set[str] = set()
        self._differs = False  # whether what is held may not be what the fleet has under the same versions

    # -- what others run by -------------------------------------------------------------------------------------------

    def on_activated(self, places: str, part: Part) -> None:
        """``part`` runs what is in these places: ``POLICY``, or all that begin with ``MODELS``. What is agreed already
        it reads by ``documents``.
        """
        self._parts[places] = part

    def documents(self, places: str) -> list[Document]:
        """What both sides named last for these places: what is to run, whether or not it does. Raises StorageError,
        DataError if a document is not what was agreed.
        """
        return [_checked(one) for one in self.tables.documents(places)]

    def sound(self, places: str) -> list[Document]:
        """Those of ``documents`` that are what was agreed: a damaged one is fetched again, and keeps no other back.
        Raises StorageError.
        """
        return [one for one in self.tables.documents(places) if _is_sound(one)]

    def tell_again(self, places: str) -> None:
        """A part that could not begin what is to run in them is told once more at the next handshake."""
        self._untold.add(places)

    # -- what users ask -----------------------------------------------------------------------------------------------

    def status(self) -> TrustStatus | None:
        """None in a fleet without trust. Raises StorageError."""
        note = self.tables.note()
        if note is None:
            return None
        now_ms = self._now_ms(note.seen_ms)
        names = ("code", "reason", "hint", "at_ms")
        return TrustStatus(
            self.tables.pin().hex(),
            note.number,
            dict(note.versions),
            sorted(role for role, ends_ms in note.expires_ms.items() if ends_ms <= now_ms),
            self.staleness_ms(),
            note.accepted_ms,
            dict(zip(names, note.refused, strict=True)) if note.refused else None,
            {place: named.path for place, named in self.tables.named().items()},
        )

    def summary(self) -> dict[str, Any]:
        """What the control plane is told of it: the ``assignment`` that is held, what was ``refused`` (code, reason) or
        None, and for how many ``stale_hours`` nothing fresh was heard.
        """
        note = self.tables.note() or ControlNote()
        refused = {"code": note.refused[0], "reason": note.refused[1][:200]} if note.refused else None
        return {"assignment": note.number, "refused": refused, "stale_hours": (self.staleness_ms() or 0) // 3_600_000}

    def staleness_ms(self) -> int | None:
        """For how long no timestamp was seen that was within its time; None if none ever was."""
        note = self.tables.note()
        return max(0, self._now_ms(note.seen_ms) - note.fresh_ms) if note is not None and note.fresh_ms else None

    def pin(self, digest: str) -> None:
        """Trust the fleet's first root by its SHA-256 (64 hex digits), as the operators told it. If another was pinned,
        what was trusted by that one is forgotten; what runs goes on. Raises InvalidValue, StorageError.
        """
        try:
            pin = bytes.fromhex(digest) if isinstance(digest, str) else b""
        except ValueError:
            pin = b""
        if len(pin) != 32:
            raise InvalidValue("a root's digest is 64 hex digits", hint=_PIN_HINT)
        with self._lock:
            if self.tables.pin() == pin:
                return
            note = self.tables.note() or ControlNote()
            self.tables.keep(ControlNote(accepted_ms=note.accepted_ms), {PIN: pin})
        self.pinned()

    def verify(self) -> list[str]:
        """Check all that is kept: signatures, digests. Returns what was found, in sentences. Raises StorageError."""
        if self.tables.note() is None:
            return []
        found = [f"{path}: agreed, and not here any more" for path in self.tables.missing()]
        for one in self.tables.documents():
            try:
                _checked(one)
            except DataError as error:
                found.append(error.message)
        kept, note = self.tables.kept(), self.tables.note() or ControlNote()
        if "root" in kept or note.versions:
            try:
                trusted = self._acceptance.load(kept)
                if ASSIGNMENT in kept and not holds(kept, trusted):
                    found.append("the assignment that is kept is not signed by this fleet's online key")
            except (DataError, InvalidConfig) as error:
                found.append(f"the trust that is kept: {error.message}")
        return found

    # -- for the link -------------------------------------------------------------------------------------------------

    def asking(self) -> FetchControl:
        """What to ask the control plane. Raises NotFound if the fleet's first root is not known here: that is noted."""
        note = self.tables.note() or ControlNote()
        if not self.tables.pin():
            error = NotFound("this device does not know the root of what its fleet signs", hint=_PIN_HINT)
            self.note_refused(error)
            raise error
        have = [HeldRole(name, version) for name, version in note.versions.items() if name != "root"]
        if self._differs:
            have = [role for role in have if role.name == "timestamp"]
        return FetchControl(note.number, note.versions.get("root", 0), have)

    def check(self) -> None:
        """Verify again what is kept, in the background of a link that begins: the disk may have changed it. Raises
        CorruptStore if it did, which ``status`` then says, too: ask for it again. StorageError.
        """
        with self._lock:
            kept, note = self.tables.kept(), self.tables.note() or ControlNote()
            if "root" in kept or note.versions:
                try:
                    self._acceptance.load(kept)
                except Untrusted as error:
                    raise self._acceptance.mend(kept, error) from error

    def accept(self, control: Control, fetch: Callable[[Agreed], bytes]) -> Accepted:
        """Take it, or raise and go on with what there is. ``fetch`` brings the bytes of a target that is not here.

        Raises Untrusted, Expired, Malformed, TooLarge, Refused: noted, for ``status``; and what a part's ``check``
        does, once the rest is taken. What ``fetch`` raises of the network, and StorageError, is not noted: try again.
        CorruptStore: what is kept was damaged; ask again.
        """
        changed: list[str] = []
        taken = False
        try:
            with self._lock:
                changed.extend(self._acceptance.put_back(fetch))
                try:
                    accepted = self._acceptance.accept(control, fetch)
                    if accepted.refused is not None:
                        self._refuse(accepted.refused)
                    self._differs = False
                except (DataError, InputError, Refused) as error:
                    # A restored control plane may sign a version again that this device has with other bytes.
                    self._differs = isinstance(error, Untrusted) and not self._differs
                    self._refuse(error)
                    raise
            changed.extend(accepted.places)
            taken = True
        finally:
            if taken or changed:  # what was put back can be run, whatever came of the rest
                self._tell(changed)
        if accepted.refused is not None:
            raise accepted.refused
        return accepted

    def note_refused(self, error: AgentDBError) -> None:
        """It could not be asked, or did not say, what is to run: for ``status``, and operators. Raises StorageError."""
        with self._lock:
            self._refuse(error)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _refuse(self, error: AgentDBError) -> None:
        note = self.tables.note() or ControlNote()
        at_ms = self._now_ms(note.seen_ms)
        if note.refused[:2] != (error.code, error.message):
            _log.warning("trust: %s (%s)", error.message, error.hint)
        self.tables.keep(note._replace(refused=(error.code, error.message, error.hint, at_ms)))

    def _tell(self, places: Sequence[str]) -> None:
        for prefix, part in self._parts.items():
            if prefix in self._untold or any(place.startswith(prefix) for place in places):
                self._untold.discard(prefix)
                try:
                    with self._telling:  # nobody is told of what was agreed before, after what is agreed now
                        part.activated(self._to_run(prefix))
                except Exception as error:  # noqa: BLE001 - logged: it is durable, and told again at the next handshake
                    self._untold.add(prefix)
                    unknown = None if isinstance(error, AgentDBError) else error
                    _log.error("trust: what is to run in %s could not be begun: %s", prefix, error, exc_info=unknown)

    def _to_run(self, places: str) -> list[Document]:
        """Raises CorruptStore if something is agreed, and nothing of it can be read: that is not to run nothing."""
        documents = self.sound(places)
        if not documents and any(place.startswith(places) for place in self.tables.named()):
            raise CorruptStore("its documents are damaged, or lost", hint="they are fetched again")
        return documents

    @property
    def _acceptance(self) -> Acceptance:
        """Raises NotFound."""
        return Acceptance(self.tables, self._fleet(), device_of(self._log.replica), self._parts, self._now_ms)

    def _fleet(self) -> bytes:
        """Raises NotFound."""
        kept = self._log.meta_get("fleet")
        if kept is None:
            raise NotFound("this device has not joined a fleet", hint="agentdb-edge init STORE --join TOKEN")
        fleet: bytes = kept[0]
        return fleet

    def _now_ms(self, seen_ms: int) -> int:
        return max(wall_ms_of(self._log.clock.reading()), seen_ms)


def _is_sound(document: Document) -> bool:
    try:
        _checked(document)
    except Untrusted as error:
        _log.error("trust: %s", error.message)
        return False
    return True


def _checked(document: Document) -> Document:
    from hashlib import sha256

    if sha256(document.data).digest() != document.sha256:
        raise Untrusted(f"{document.path}: not what was agreed: the disk, or something else, changed it", hint="sync")
    return document
