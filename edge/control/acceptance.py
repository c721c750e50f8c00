"""The order of acceptance (ADR 23): what ``FetchControl`` was answered, step by step, into one transaction.

1. sizes; 2. roots, one by one; 3. what is held is verified under the newest: what no longer verifies is no floor;
4. timestamp, snapshot, roles; 5. the assignment; 6. each target listed by both sides, not below its floor; 7. the
targets' bytes, and whoever runs their kind checks them; 8. one transaction.

Nothing is changed before the last step. If 5 to 7 fail, what 2 to 4 verified is kept all the same, and so are roots if
4 fails: versions only rise. What one part cannot run keeps no other from what it was given: its place stays as it was,
and the same assignment, but none before it, may come again. What runs goes on in every case. *now* is the larger of the
corrected clock and the greatest time of an accepted assignment. Whoever calls holds the lock, and notes what was
refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edge.storage.control_tables import ASSIGNMENT, PIN, SIGNATURE, ControlNote, ControlTables, Document
from sync.errors import (
    AgentDBError,
    CorruptStore,
    DataError,
    InputError,
    InvalidConfig,
    Refused,
    StorageError,
    Untrusted,
)
from sync.messages import Control

if TYPE_CHECKING:
    from sync.assignments import Agreed, Assignment, Signed
    from sync.manifests import Offer, TrustedSet

POLICY, MODELS = "policy", "models/"
_log = logging.getLogger("agentdb.edge")


class Part(Protocol):
    """Who runs the documents of some places on this device, and hears of new ones (``TrustStore.on_activated``)."""

    def check(self, target: Agreed, data: bytes) -> None:
        """Whether this device could run it. Raises DataError, InputError or Refused: then its place stays as it is."""
        ...

    def activated(self, documents: list[Document]) -> None:
        """These are what is to run from now on, all of the part's places. They are durable already; it is called on the
        thread that accepted them, after the transaction, and what it raises is logged.
        """
        ...

    def wanted(self) -> Collection[bytes]:
        """Digests of what runs here or may be returned to: kept, and no floor is asked of them."""
        ...


class Accepted(NamedTuple):
    """``number``: of the assignment that is held now. ``places``: where something else is to run than before. ``more``:
    there are further roots; ask again. ``refused``: by a part, which goes on with what it had.
    """

    number: int
    places: tuple[str, ...] = ()
    more: bool = False
    refused: AgentDBError | None = None


class Acceptance:
    """Of one device. ``parts`` by the places that they run; ``now_ms`` gives the time, and never an earlier one."""

    def __init__(
        self,
        tables: ControlTables,
        fleet: bytes,
        device: bytes,
        parts: Mapping[str, Part],
        now_ms: Callable[[int], int],
    ) -> None:
        self._tables = tables
        self._fleet = fleet
        self._device = device
        self._parts = parts
        self._now_ms = now_ms

    def put_back(self, fetch: Callable[[Agreed], bytes]) -> Iterator[str]:
        """Fetch documents that are agreed and that the disk has changed or lost. Yields the places that can be read
        again. One that nobody has any more stays as it is. Raises StorageError, and what ``fetch`` does of the network.
        """
        from hashlib import sha256

        from sync.assignments import Agreed
        from sync.targets import parse_path

        for place, named in self._tables.named().items():
            data = self._tables.target(named.sha256)
            if data is not None and sha256(data).digest() == named.sha256:
                continue
            try:
                kind, name, number = parse_path(named.path)
                data = fetch(Agreed(kind, name, number, 0, named.sha256, named.rollout, named.stage))
            except (DataError, InputError, Refused) as error:
                _log.warning("trust: %s is damaged, and cannot be had again: %s", named.path, error)
                continue
            if sha256(data).digest() == named.sha256:
                self._tables.put_back(named.path, named.sha256, data)
                yield place

    def accept(self, control: Control, fetch: Callable[[Agreed], bytes]) -> Accepted:
        """Raises as ``TrustStore.accept``."""
        kept = self._tables.kept()
        note = self._tables.note() or ControlNote()
        trusted, roots = self._begin(kept, control)
        trusted = trusted.update(_offer(control, roots=roots), 0) if roots else trusted
        # What the newest root does not vouch for is no floor: neither the number nor the time that a thief has set.
        held = note if holds(kept, trusted) else note._replace(number=0, seen_ms=0)
        now_ms = self._now_ms(held.seen_ms)
        metadata = control.timestamp or control.snapshot or control.roles
        if roots and not metadata and not control.assignment:
            self._keep(kept, trusted, held, fresh_ms=note.fresh_ms)
            return Accepted(held.number, more=True)
        try:
            trusted = trusted.update(_offer(control), now_ms)
        except DataError:
            if roots:
                self._keep(kept, trusted, held, fresh_ms=note.fresh_ms)
            raise
        if not control.assignment:
            self._keep(kept, trusted, held, fresh_ms=now_ms)
            return Accepted(held.number)
        try:
            assignment, signed = self._open(control, trusted, held, now_ms)
            documents, refused = self._documents(assignment, trusted, fetch)
        except AgentDBError:
            self._keep(kept, trusted, held, fresh_ms=now_ms)
            raise
        was = self._tables.named()
        seen_ms = max(held.seen_ms, assignment.time_ms)
        number = assignment.number if refused is None else assignment.number - 1
        held = held._replace(number=number, seen_ms=seen_ms, accepted_ms=now_ms)
        kept = {**kept, ASSIGNMENT: signed.data, SIGNATURE: signed.signature}
        self._keep(kept, trusted, held, fresh_ms=now_ms, documents=documents)
        changed = {place for place, _ in self._tables.named().items() ^ was.items()}
        return Accepted(number, tuple(sorted(changed)), refused=refused)

    def _begin(self, kept: Mapping[str, bytes], control: Control) -> tuple[TrustedSet, list[bytes]]:
        """What is trusted so far, and the roots that follow."""
        if "root" in kept:
            try:
                return self.load(kept), control.roots
            except Untrusted as error:
                raise self.mend(kept, error) from error
        if (self._tables.note() or ControlNote()).versions:
            raise self.mend(kept, Untrusted("root: it was kept, and is not there any more"))
        if not control.roots:
            raise Untrusted("root: not sent, and none is held", hint="sync again")
        pinned, _ = _manifests()
        return pinned(control.roots[0], kept[PIN], self._fleet), control.roots[1:]

    def mend(self, kept: Mapping[str, bytes], error: Untrusted) -> CorruptStore:
        """What is kept does not verify: the disk, or somebody at it. The rest is asked for again, from the root on if
        that is sound; what runs goes on.
        """
        damaged = CorruptStore(f"the trust that is kept is damaged: {error.message}", hint="it is fetched again")
        ours = {name: data for name, data in kept.items() if name in (PIN, ASSIGNMENT, SIGNATURE)}
        note = self._tables.note() or ControlNote()
        refused = (damaged.code, damaged.message, damaged.hint, self._now_ms(note.seen_ms))
        try:
            root = self._load({"root": kept.get("root", b"")})
        except Untrusted:
            versions: dict[str, int] = {}
        else:
            versions, ours = root.versions(), {**ours, "root": kept["root"]}
        self._tables.keep(note._replace(refused=refused, versions=versions, expires_ms={}), ours)
        _log.error("trust: %s", damaged.message)
        return damaged

    def _open(self, control: Control, trusted: TrustedSet, held: ControlNote, now_ms: int) -> tuple[Assignment, Signed]:
        from sync.assignments import Signed, open_assignment

        signed = Signed(control.assignment, control.signature)
        return open_assignment(signed, trusted, self._fleet, self._device, held.number, now_ms), signed

    def _documents(
        self, assignment: Assignment, trusted: TrustedSet, fetch: Callable[[Agreed], bytes]
    ) -> tuple[list[Document], AgentDBError | None]:
        """And why one of them is not what was assigned."""
        from sync.assignments import agreed, check_target
        from sync.targets import Kind

        documents: list[Document] = []
        problem: AgentDBError | None = None
        for target in agreed(assignment, trusted, self._wanted()):
            refused: AgentDBError | None = None
            place = POLICY if target.kind is Kind.POLICY else f"{MODELS}{target.name}"
            data = self._tables.target(target.sha256)
            try:
                check_target(target, data or b"")
            except Untrusted:  # not here, or the disk has changed it
                data = fetch(target)
                check_target(target, data)
            assert data is not None
            part = self._part(place)
            document: Document | None = Document(
                place, target.path, target.number, target.sha256, target.rollout, target.stage, data
            )
            if part is not None:
                try:
                    part.check(target, data)
                except (DataError, InputError, Refused) as error:
                    refused = error
                except StorageError:
                    raise
                except Exception as error:  # noqa: BLE001 - a fault of ours must not keep all the rest back
                    _log.exception("trust: %s could not be checked", target.path)
                    why = f"{target.path} cannot be checked here: {type(error).__name__}: {error!s:.100}"
                    refused = Refused(why, hint="update this device's software, or assign another")
                if refused is not None:
                    problem, document = refused, self._tables.document(place)
            if document is not None:
                documents.append(document)
        return documents, problem

    def _keep(
        self,
        kept: Mapping[str, bytes],
        trusted: TrustedSet,
        note: ControlNote,
        *,
        fresh_ms: int,
        documents: list[Document] | None = None,
    ) -> None:
        """The last step."""
        stored, versions = trusted.stored(), trusted.versions()
        ours = {name: data for name, data in kept.items() if name in (PIN, ASSIGNMENT, SIGNATURE)}
        expires = {name: trusted.expires_ms(name) for name in versions}
        note = note._replace(fresh_ms=fresh_ms, refused=(), versions=versions, expires_ms=expires)
        self._tables.keep(note, {**stored, **ours}, documents, self._wanted())

    def _part(self, place: str) -> Part | None:
        return next((part for prefix, part in self._parts.items() if place.startswith(prefix)), None)

    def _wanted(self) -> set[bytes]:
        """Digests of what runs, as far as it is known."""
        agreed = {named.sha256 for named in self._tables.named().values()}
        return agreed.union(*(part.wanted() for part in self._parts.values()))

    def load(self, kept: Mapping[str, bytes]) -> TrustedSet:
        """What is kept, all of it, verified. Raises Untrusted, InvalidConfig."""
        note = self._tables.note() or ControlNote()
        if lost := sorted(note.versions.keys() - kept.keys()):
            raise Untrusted(f"{lost[0]}: it was kept, and is not there any more", hint="sync again")
        return self._load(kept)

    def _load(self, kept: Mapping[str, bytes]) -> TrustedSet:
        _, trusted_set = _manifests()
        metadata = {name: data for name, data in kept.items() if not name.startswith("=")}
        return trusted_set.load(metadata, self._fleet)


def _manifests() -> tuple[Callable[[bytes, bytes, bytes], TrustedSet], type[TrustedSet]]:
    """Raises InvalidConfig on a device that was installed without python-tuf."""
    try:
        from sync.manifests import TrustedSet, pinned
    except ImportError as error:
        raise InvalidConfig(
            f"what is signed cannot be verified here: {error}", hint="pip install tuf; what runs goes on"
        ) from error
    return pinned, TrustedSet


def _offer(control: Control, *, roots: Sequence[bytes] = ()) -> Offer:
    """Its roots, or the rest of it."""
    from sync.manifests import Offer

    if roots:
        return Offer(roots)
    return Offer((), control.timestamp, control.snapshot, {role.name: role.data for role in control.roles})


def holds(kept: Mapping[str, bytes], trusted: TrustedSet) -> bool:
    """Whether the assignment that is kept is signed by the online keys that are trusted now."""
    from sync.assignments import Signed, is_signed

    return ASSIGNMENT in kept and is_signed(Signed(kept[ASSIGNMENT], kept.get(SIGNATURE, b"")), trusted)
