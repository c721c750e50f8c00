"""ActivePolicy: the policy that holds on this device, compiled: what rule a place has, what an agent may do. Policies:
how one comes to hold (``edge.control.trust`` brings it), and that it holds again after a restart.

Without one everything syncs both ways and every agent may do everything. Everything is decided here, offline. Imported
late: neither opening a store nor writing to it without a policy loads this.

What always holds: what was activated was read whole, its Cedar text included; what does not parse here, or asks for
what this build does not do, raises, and the policy before it stays; if that cannot be read, what is written stays on
the device until it can, or another one holds. What is written is asked at the call: a policy that changes in between
does not undo it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any

from edge.control import log_level
from edge.control.keeping import NOT_WRITTEN, STALE_NOTE, UnreadKeeper, keeper_of
from edge.storage import kept_back, policy_row
from edge.storage.control_tables import ControlTables, Document
from edge.storage.policy_row import PolicyRow
from edge.storage.scoping import rescope
from sync.errors import AgentDBError, CorruptStore, InvalidPolicy, NotAllowed, StorageError
from sync.operations import Kind
from sync.permissions import Further, Permissions
from sync.policy import Policy
from sync.scope import Rule, ScopeTable
from sync.stamps import wall_ms_of

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.transaction import Write
    from sync.assignments import Agreed
    from sync.schema import CollectionSchema

POLICY = "policy"  # the place
_WITH_FIELDS = (Kind.PUT, Kind.PATCH)
_NOTES = ("_recalls",)  # of our own, which a search makes
_log = logging.getLogger("agentdb.edge")
_DAMAGED = "it is fetched again with the next assignment"


class ActivePolicy:
    """``row`` None: none was activated."""

    def __init__(self, policy: Policy | None, row: PolicyRow | None = None) -> None:
        self.document = policy
        self.row = row
        told = policy or Policy("")
        self.scope = ScopeTable(told.sync)
        self._cedar: Further | None = None
        self._permissions = Permissions(told.agents, self._further if told.cedar is not None else None)

    @staticmethod
    def of(log: DeltaLog) -> ActivePolicy:
        """What was activated on this store. Raises CorruptStore (the row is not what was stored, or not for this
        version), StorageError.
        """
        row = policy_row.load(log)
        if row is None:
            return ActivePolicy(None)
        if sha256(row.data).digest() != row.sha256:
            raise CorruptStore("the policy in the store is not the one that was activated", hint=_DAMAGED)
        try:
            return ActivePolicy(Policy.again(row.data), row)
        except InvalidPolicy as error:  # it did when it was activated: this software is older
            raise CorruptStore(
                f"the policy in the store is not understood here: {error.message}", hint="update this device's software"
            ) from error

    def rule(self, collection: str, key: str) -> Rule:
        """How a place syncs. ``Rule.number`` 0: no rule names it."""
        return self.scope.rule(collection, key)

    def may(self, agent: str, action: str, collection: str) -> bool:
        """``action`` is "read" or "write"; what an agent has of its own are ``agent.memories``, ``agent.documents``,
        ``agent.attachments``, ``agent.vectors``, ``agent.state``.
        """
        return self._permissions.may(agent, action, collection)

    def admit(
        self,
        schemas: Mapping[str, CollectionSchema],
        writes: Sequence[Write],
        is_shut: Callable[[str, str], bool] = lambda _collection, _key: False,
    ) -> Sequence[Write]:
        """What is committed for them: vectors in the form that their rule has. Nothing is written where others' writes
        are only received, or nothing is kept, but the deletes of what was erased (``is_shut``). Raises NotAllowed.
        """
        changed: dict[int, Write] = {}
        for at, write in enumerate(writes):
            _, collection, key, *_ = write
            rule = self.scope.rule(collection, key)
            if (
                rule.direction in NOT_WRITTEN
                and collection not in _NOTES
                and not (write.kind == Kind.DELETE and is_shut(collection, key))
            ):
                raise NotAllowed(
                    f"{key!r:.100} of {collection!r} is {rule.direction} on this device: nothing is written there",
                    hint=f"[[sync]] {rule.number} of policy {self.name!r} says so; its operator can change it",
                )
            if rule.vectors:
                coarse = _coarser(write, schemas, rule.vectors)
                if coarse is not write:
                    changed[at] = coarse
        return [changed.get(at, write) for at, write in enumerate(writes)] if changed else writes

    @property
    def concerns_writes(self) -> bool:
        """Whether there is anything that ``admit`` would not let through as it is."""
        rules = self.document.sync if self.document is not None else ()
        return any(rule.direction in NOT_WRITTEN or rule.vectors for rule in rules)

    def is_blind(self, collection: str, key: str) -> bool:
        """Whether nothing that others write at a place is received."""
        return not self.scope.has(collection, key)

    def prepare(self) -> None:
        """What is made late otherwise. Raises InvalidPolicy for a text that Cedar does not take, or without cedarpy."""
        if self.document is not None and self.document.cedar is not None and self._cedar is None:
            from sync.cedar import Cedar

            self._cedar = Cedar(self.document.cedar.text).decide

    def _further(self, agent: str, action: str, collection: str) -> bool:
        self.prepare()
        return self._cedar is not None and self._cedar(agent, action, collection)

    def check(self, agent: str, action: str, collection: str) -> None:
        """Raises NotAllowed."""
        if not self.may(agent, action, collection):
            raise NotAllowed(
                f"agent {agent!r:.80} may not {action} {collection!r}",
                hint=f"policy {self.name!r} says so: its operator",
            )

    @property
    def named(self) -> tuple[bytes, ScopeTable]:
        """The digest of what was published, b"" without a policy, and its scope."""
        return self.row.sha256 if self.row is not None else b"", self.scope

    @property
    def name(self) -> str:
        """Empty without a policy."""
        return self.document.name if self.document is not None else ""

    def describe(self) -> dict[str, Any]:
        """What holds, of which number, since when, from which assignment, as plain values; empty without a policy."""
        if self.document is None:
            return {}
        said: dict[str, Any] = {"name": self.name}
        if self.row is not None:
            row = self.row
            said |= {"path": row.path, "number": row.number, "sha256": row.sha256.hex()}
            said |= {"since_ms": row.since_ms, "assignment": row.assignment}
        return {**said, "document": self.document.to_document()}


def activate(log: DeltaLog, row: PolicyRow, before: ActivePolicy | None = None) -> ActivePolicy:
    """Let the policy of a target hold from now on. ``before``: what holds until now, if that can be read. Raises
    InvalidPolicy (nothing changed), StorageError.
    """
    if sha256(row.data).digest() != row.sha256:
        raise InvalidPolicy(f"{row.path} is not of the digest that was agreed on", hint="it is fetched again")
    active = ActivePolicy(Policy.parse(row.data), row)
    active.prepare()
    policy_row.store(log, row, lambda: rescope(log, _named(before), active.named))
    return active


class Policies:
    """Of one store: a part of ``TrustStore`` for the place "policy". Safe to use from several threads."""

    def __init__(self, log: DeltaLog, obeyed: Callable[[Policy | None], None] = lambda _: None) -> None:
        self._log = log
        self._obeyed = obeyed
        self._active: ActivePolicy | None = None
        self._obeys: PolicyRow | None = None  # what is carried out, whole: a disk may fail on the way there
        self._lock, self._setting = Lock(), Lock()
        self._keeps = False  # what is kept is what policy and notes say: nothing failed between the one and the other
        self.behind = False  # what was agreed could not be activated at the start

    def active(self) -> ActivePolicy:
        """What holds now. Raises CorruptStore, StorageError."""
        found = self._active
        if found is None or self._log.read_only:  # another process may have activated one
            row = policy_row.load(self._log)
            if found is None or row != found.row:
                read = ActivePolicy.of(self._log)
                with self._setting:
                    if self._active is found:  # else one came to hold while this was read
                        self._active = read
                    found = self._active
        assert found is not None
        return found

    def begin(self) -> None:
        """With the store: what holds is obeyed; what was agreed on in the moment before a crash is activated. While
        nobody here knows what holds, what is written stays here.
        """
        keeps = False
        try:
            active = self.active()
            with self._log.writer.lock:
                self._keep(active)
            keeps = True
            self._obey(active)
            policy_row.note(self._log, lambda: rescope(self._log, None, active.named))
        except StorageError as error:
            _log.error("policy: %s (%s)", error.message, error.hint)
            if not keeps:
                self._keep_all()
        tables = ControlTables(self._log)
        if tables.note() is None:
            return
        document = tables.document(POLICY)
        if document is None and POLICY in tables.named():
            return  # the disk has lost it: it is fetched again, and what holds stays
        try:
            self.activated([document] if document is not None else [])
        except StorageError as error:
            self.behind = True
            _log.error("policy: %s (%s)", error.message, error.hint)

    # -- of ``TrustStore`` ----------------------------------------------------------------------------------------

    def check(self, target: Agreed, data: bytes) -> None:
        """Raises InvalidPolicy."""
        active = ActivePolicy(Policy.parse(data))
        active.prepare()
        if active.name != target.name:
            raise InvalidPolicy(f"{target.path} has the policy {active.name!r}", hint="a target is named as its policy")

    def activated(self, documents: list[Document]) -> None:
        """What cannot hold leaves what does, and is logged. Raises StorageError: tell it again."""
        with self._lock:
            try:
                self._activate(documents[0] if documents else None)
            except StorageError:
                raise
            except AgentDBError as error:
                _log.error("policy: %s (%s)", error.message, error.hint)

    def wanted(self) -> set[bytes]:
        """Raises StorageError."""
        row = policy_row.load(self._log)
        return set() if row is None else {row.sha256}

    def end(self) -> None:
        """With the store."""
        log_level.want(self._log.path, "")

    # -- inside ---------------------------------------------------------------------------------------------------

    def _activate(self, document: Document | None) -> None:
        row = policy_row.load(self._log)
        if document is None:
            if row is not None:
                before, none = self._active, ActivePolicy(None)
                with self._log.writer.lock:
                    kept_back.close_off(self._log)
                    policy_row.drop(self._log, lambda: rescope(self._log, _named(before), none.named))
                    self._keep(none)
                self._obey(none)
                self._tell()
            return
        if row is not None and row == self._obeys and row.sha256 == document.sha256 == sha256(row.data).digest():
            return
        note = ControlTables(self._log).note()
        since_ms = wall_ms_of(self._log.clock.reading())
        number = note.number if note is not None else 0
        row = PolicyRow(document.path, document.number, document.sha256, since_ms, number, document.data)
        with self._log.writer.lock:  # what is written is kept, or not, by the one or by the other
            kept_back.close_off(self._log)
            active = activate(self._log, row, self._active)
            self._keep(active)
        self._obey(active)
        self._tell()

    def _keep_all(self) -> None:
        log = self._log
        with log.writer.lock:
            try:
                kept_back.close_off(log)  # what was sent besides nobody knows: all may have been
            except StorageError as error:
                _log.error("policy: %s (%s)", error.message, error.hint)
            log.kept.obey(UnreadKeeper())

    def _keep(self, active: ActivePolicy) -> None:
        self._keeps = False
        self._log.kept.obey(keeper_of(self._log, active) if active.document is not None else None)
        self._keeps = True

    def writes_local(self, *, stale: bool) -> None:
        """Whether nothing fresh was heard for so long that what is written stays here. Raises StorageError."""
        log = self._log
        with self._lock, log.writer.lock:
            if self._keeps and stale == bool(log.meta_get(STALE_NOTE)):
                return
            kept_back.close_off(log)
            log.meta_set(STALE_NOTE, stale)
            self._keep(self.active())
        self._tell()

    def _tell(self) -> None:
        """What was kept back may go by now."""
        for listener in self._log.listeners:
            listener()

    def _obey(self, active: ActivePolicy) -> None:
        """In all but what stays here (``_keep``)."""
        with self._setting:
            self._active = active
        log, shut = self._log, self._log.erasures.is_shut
        log.admits = partial(active.admit, log.schemas, is_shut=shut) if active.concerns_writes else None
        log.writer.evicted.blind = active.is_blind
        log_level.want(self._log.path, active.document.log.level if active.document is not None else "")
        self._obeyed(active.document)
        self._obeys = active.row


def _named(active: ActivePolicy | None) -> tuple[bytes, ScopeTable] | None:
    return active.named if active is not None else None


def _coarser(write: Write, schemas: Mapping[str, CollectionSchema], form: str) -> Write:
    """With its vector in this form, if that is coarser than the declared one. "none": a put without it, and a patch
    takes away the one that there was: what it was made of has changed.
    """
    schema = write.schema or schemas.get(write.collection)
    spec, payload = schema.vector if schema is not None else None, write.payload
    if spec is None or payload is None or write.kind not in _WITH_FIELDS:
        return write
    stored = payload.get(spec.field)
    if type(stored) is not bytes:
        return write
    if form != "none":
        coarse = spec.coarser(stored, form)
        return write if coarse is stored else write._replace(payload={**payload, spec.field: coarse}, put=None)
    if write.kind == Kind.PATCH:
        return write._replace(payload={**payload, spec.field: None})
    return write._replace(payload={name: value for name, value in payload.items() if name != spec.field}, put=None)
