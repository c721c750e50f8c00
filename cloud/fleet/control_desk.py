"""The control plane's desk for what devices are to run: what ``FetchControl`` is answered, what a handshake and a page
say of it, and what an operator publishes and assigns.

What always holds: a device is given what it has not got, and nothing of another fleet; nothing is signed for a device
that is revoked, for its requests do not get here. What a device says that it has seen makes this control plane sign a
snapshot no more than once a day: every device's assignment has to be signed anew beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cloud.control_rows import AssignmentRow, ControlReading, TrustRow
from cloud.fleet import assignments, choices
from cloud.fleet.choosing import Choosing
from cloud.fleet.policies import FleetPolicies
from cloud.fleet.publishing import Published, Repository, is_ahead, publish, sign_again, sign_past_what_was_lost
from cloud.fleet.trusting import ROOT, SNAPSHOT, TIMESTAMP, newest
from cloud.ports import Caller, Reading, Store, Transaction
from cloud.rows import Ruled
from sync.errors import AgentDBError, DataError, InputError, NotFound, Refused
from sync.limits import ROLES_BYTES_MAX, ROOTS_MAX
from sync.messages import Control, FetchControl, RoleBytes
from sync.ports import Clock

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey

_log = logging.getLogger(__name__)
_BELIEVED_EVERY_MS = 86_400_000
_KEY_HINT = "put keys/control.key back; or rotate online, and publish with the new one"


class ControlDesk:
    """``key`` gives the online key. While there is none, nothing is signed: what was is handed out."""

    def __init__(self, store: Store, clock: Clock, key: Callable[[], SigningKey | None], choosing: Choosing) -> None:
        self._store = store
        self._clock = clock
        self._key = key
        self.choosing = choosing
        self.trusting = choosing.trusting
        self.policies = FleetPolicies(self.trusting)
        self._said = ""
        self._believed_ms: dict[bytes, int] = {}

    # -- for devices ------------------------------------------------------------------------------------------------

    def newest(self, view: Reading, caller: Caller, held: int = 0) -> int:
        """``cloud.fleet.assignments.newest`` for who asks; 0 in a fleet without trust. As ``Choosing.decided``.

        Without the online key, what was signed: a device asks for a number once, and shall when there is one.
        """
        decided = self.choosing.decided(view, caller)
        if decided is None:
            return 0
        if self._is_missing_key():
            row = view.assignment(caller.fleet, caller.device)
            return row.number if row is not None and row.data else 0
        return assignments.newest(view, decided, held)

    def fetch(self, message: FetchControl, caller: Caller) -> Control:
        """Raises Refused, NotFound (a fleet without trust), DataError; logged, for it is the operators' to mend."""
        try:
            with self._store.writing() as tx:
                believed = self._believe(tx, message, caller.fleet)
                answer = self._fetch(tx, message, caller)
        except (DataError, InputError, Refused) as error:
            if str(error) != self._said:  # once, not for each device
                self._said = str(error)
                _log.warning("devices cannot be told what to run: %s (%s)", error.message, error.hint)
            raise
        if believed:  # that it was signed is committed
            self._believed_ms[caller.fleet] = self._clock.wall_ms()
            _log.warning("a device has seen signed metadata that was not here: was the store put back to before?")
        return answer

    def _fetch(self, tx: Transaction, message: FetchControl, caller: Caller) -> Control:
        fleet, now_ms, key = caller.fleet, self._clock.wall_ms(), self._key()
        roots, more = _roots(tx, fleet, message.root_version)
        if more:
            return Control(roots, b"", b"", [], b"", b"")
        have = {role.name: role.version for role in message.have}
        row = self._assign(tx, caller, key, message.assignment, now_ms)
        # Under a new root the device may have to begin anew with what it has.
        rest = {name: _unless_held(held, {} if roots else have) for name, held in newest(tx, fleet).items()}
        roles = [
            RoleBytes(name, data) for name, data in rest.items() if data and name not in (ROOT, TIMESTAMP, SNAPSHOT)
        ]
        if roots and sum(map(len, roots)) + sum(len(role.data) for role in roles) > ROLES_BYTES_MAX:
            return Control(roots, b"", b"", [], b"", b"")
        fresh = row is not None and row.number != message.assignment
        if row is not None and fresh:
            tx.put_assignment(fleet, row._replace(served_ms=now_ms))
        return Control(
            roots,
            rest.get(TIMESTAMP, b""),
            rest.get(SNAPSHOT, b""),
            roles,
            row.data if row is not None and fresh else b"",
            row.signature if row is not None and fresh else b"",
        )

    def _believe(self, tx: Transaction, message: FetchControl, fleet: bytes) -> bool:
        """Sign past what the device has seen and is not here, once a day, and once in the life of a process: a store
        that is put back to before is opened anew. One device that tells the truth is enough, for it is signed past
        what any other may have seen; those that lie cost no more. Raises as ``sign_again``.
        """
        seen, key, now_ms = {role.name: role.version for role in message.have}, self._key(), self._clock.wall_ms()
        before = self._believed_ms.get(fleet)
        if key is None or (before is not None and 0 <= now_ms - before < _BELIEVED_EVERY_MS):
            return False
        return is_ahead(tx, fleet, seen) and sign_past_what_was_lost(tx, fleet, key, now_ms, seen)

    def _assign(
        self, tx: Transaction, caller: Caller, key: SigningKey | None, held: int, now_ms: int
    ) -> AssignmentRow | None:
        device = tx.device(caller.device)
        if device is None or key is None:
            row = tx.assignment(caller.fleet, caller.device)
            return row if row is not None and row.data else None
        trusted = self.trusting.load(tx, caller.fleet)
        return assignments.assign(tx, device, trusted, key, now_ms, held)

    # -- for operators ------------------------------------------------------------------------------------------------

    def publish(self, tx: Transaction, fleet: bytes, repository: Repository) -> Published:
        """Raises as ``cloud.fleet.publishing.publish``, NotFound without a key."""
        if self._key() is None and not tx.control(fleet):
            raise NotFound(
                "this control plane has no online key yet",
                hint="the first publish brings it: agentdb-cloud publish DIR TRUST --online-key TRUST/keys/online.pem",
            )
        return publish(tx, fleet, repository, self._signing(), self._clock.wall_ms())

    def timestamp_again(self, fleet: bytes) -> bool:
        """The job: whether there was something to sign. Raises as ``sign_again``."""
        key = self._key()
        with self._store.reading() as view:
            if not view.control(fleet):
                return False
        if key is None:
            raise NotFound("the control plane's online key is missing", hint=_KEY_HINT)
        with self._store.writing() as tx:
            return sign_again(tx, fleet, key, self._clock.wall_ms())

    def was_restored(self, fleet: bytes) -> None:
        """Once, before anybody asks. Raises NotFound, and as ``sign_again``."""
        with self._store.writing() as tx:
            if tx.control(fleet):
                sign_past_what_was_lost(tx, fleet, self._signing(), self._clock.wall_ms())

    def set_channel(self, tx: Transaction, fleet: bytes, place: str, path: str) -> None:
        """Raises InvalidValue, NotFound for what is not listed, Refused for what is below its floor."""
        choices.check_place(place, path)
        if path:
            self.goal(tx, fleet, path)
        choices.set_channel(tx, fleet, place, path, self._clock.wall_ms())

    def goal(self, tx: Transaction, fleet: bytes, path: str) -> str:
        """The SHA-256, in hex, of a target that may be assigned. Raises NotFound for what is not listed, Refused for
        what is below its floor, InvalidValue for one model too many.
        """
        choices.check_room(tx, fleet, path)
        info = self.trusting.load(tx, fleet).target(path)
        if info.number < info.floor:
            raise Refused(f"{path} is below its floor, {info.floor}", hint="assign a newer number")
        return info.sha256.hex()

    # -- for what the cloud itself does by a policy -----------------------------------------------------------------

    def ruling(self, fleet: bytes) -> Callable[[Reading, str], Ruled | None]:
        """For one transaction: what the fleet's policy says of a collection's conflicts. One that cannot be read, which
        is logged, says nothing: no push fails for it.
        """
        found: dict[str, Ruled] | None = None

        def ruled(view: Reading, collection: str) -> Ruled | None:
            nonlocal found
            if found is None:
                try:
                    held = self.policies.of(view, fleet)
                except AgentDBError as error:
                    _log.error("conflicts are decided as declared: %s (%s)", error, error.hint)
                    held = None
                merges = held.document.merge if held is not None else ()
                found = {one.collection: Ruled(one.conflict, held.path) for one in merges if held is not None}
            return found.get(collection)

        return ruled

    def delete_days(self, view: Reading, fleet: bytes) -> dict[str, int]:
        """After how many days without a write the fleet's policy has records deleted, by collection. Raises as
        ``FleetPolicies.of``.
        """
        held = self.policies.of(view, fleet)
        return {one.collection: one.delete_days for one in held.document.retention} if held is not None else {}

    def _is_missing_key(self) -> bool:
        try:
            return self._key() is None
        except AgentDBError:  # one that cannot be read: who asks is told so
            return False

    def _signing(self) -> SigningKey:
        key = self._key()
        if key is None:
            raise NotFound("this control plane has no online key", hint=_KEY_HINT)
        return key


def _roots(view: ControlReading, fleet: bytes, after: int) -> tuple[list[bytes], bool]:
    """Those that follow, and whether there are more."""
    versions = [version for name, version in view.trust_versions(fleet) if name == ROOT and version > after]
    if not versions and not after:
        raise NotFound("this fleet has no root", hint="its devices run what they are configured to")
    rows = [view.trust(fleet, ROOT, version) for version in versions[:ROOTS_MAX]]
    return [row.data for row in rows if row is not None], len(versions) > ROOTS_MAX


def _unless_held(row: TrustRow, have: Mapping[str, int]) -> bytes:
    return b"" if have.get(row.name) == row.version else row.data
