"""Twin: what this device should be, and what it says that it is (``edge.twin``).

    edge.twin.desired()                       {"log_level": "debug"}, from the last assignment; also without a network
    edge.twin.report({"hardware": "rev2"})    merged into what was reported; sent with the next sync
    for desired in edge.twin.watch(): …       now, and whenever it changes

Merging is as ``sync.twins`` says: objects merge, None deletes, lists and scalars replace. An agent's own part is its
``agent=``. What is under ``agentdb`` is the system's: outcomes of what the device was given, the state of its trust.

The link asks ``due`` for what to send and gives the answer to ``answered``. What always holds: nothing that was
reported is lost, and it may be sent twice (a patch twice is the patch once); where the cloud has another version than
it should, after a restore or from a copy of this device, it is sent all.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage import twin_rows
from edge.storage.control_tables import ASSIGNMENT, ControlTables
from edge.storage.twin_rows import Row
from sync import twins
from sync.errors import CorruptStore, InvalidValue, TooLarge
from sync.twins import AGENTS, SYSTEM, Document

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

_OURS = frozenset({AGENTS, SYSTEM})
OUTCOMES = frozenset({"committed", "returned", "refused", "failed"})
_REASON_MAX = 200
LOOK_S = 0.5


class Due(NamedTuple):
    """What the cloud has not: a patch that makes its version of reported ``version``, and the desired version here."""

    version: int
    patch: bytes
    acks: int


class _Told(NamedTuple):
    """What is desired, as of one assignment."""

    of: tuple[int, int]
    version: int
    state: Document


_NOTHING = _Told((0, 0), 0, {})


class Twin:
    """Of one store. Safe to use from several threads."""

    def __init__(self, log: DeltaLog) -> None:
        self.wake: Callable[[], None] = lambda: None
        """What ``report`` calls: a link that is up sends it then."""
        self.listeners: list[Callable[[], None]] = []
        """Called after each ``report``; not after what the system itself notes."""
        self._log = log
        self._tables = ControlTables(log)
        self._held = _NOTHING
        self._closed = allocate_lock()
        self._ended = False
        self._closed.acquire()  # released by ``end``: what watchers wait for

    def desired(self, agent: str | None = None) -> Document:
        """What the fleet's operators want this device to be, or one agent of it; {} if nothing. Raises StorageError."""
        return deepcopy(_part(self._told().state, agent))  # whoever asks may change it

    def reported(self, agent: str | None = None) -> Document:
        """What was reported up to now, sent or not. Raises StorageError."""
        return _part(twins.read_document(twin_rows.load(self._log).state), agent)

    def delta(self, agent: str | None = None) -> Document:
        """What is desired and not reported. Raises StorageError."""
        return twins.delta(self.desired(agent), self.reported(agent))

    def report(self, patch: Mapping[str, Any], agent: str | None = None) -> None:
        """Say what has changed: durable when it returns, sent with the next sync. In all it may be 63 KiB.

        Raises InvalidValue, TooLarge, ReadOnly, StorageError.
        """
        given = dict(patch)
        if agent is None and (taken := sorted(_OURS & given.keys())):
            raise InvalidValue(f"{taken[0]!r} is not the device's own", hint="report(…, agent=NAME) is an agent's")
        if agent is None and "" in given:
            raise InvalidValue("all that is reported cannot be replaced at once", hint="it has the agents' parts")
        self._report(given if agent is None else {AGENTS: {_name(agent): given}})
        for listener in self.listeners:
            listener()

    def note(self, patch: Mapping[str, Any]) -> None:
        """What the system itself reports. Raises as ``report``."""
        self._report({SYSTEM: dict(patch)})

    def note_outcome(self, place: str, path: str, sha256: str, outcome: str, reason: str = "") -> None:
        """How it went with a target that was assigned: at ``place`` ("policy", "models/NAME") the last one counts.
        ``sha256`` in hex. Raises as ``report``.
        """
        if outcome not in OUTCOMES:
            raise InvalidValue(f"{outcome!r} is no outcome", hint=", ".join(sorted(OUTCOMES)))
        said = {"path": path, "sha256": sha256, "outcome": outcome, "reason": reason[:_REASON_MAX]}
        self.note({"outcomes": {place: twins.whole(said)}})

    def system(self) -> Document:
        """What ``note`` noted up to now. Raises StorageError."""
        found = twins.read_document(twin_rows.load(self._log).state).get(SYSTEM, {})
        return found if isinstance(found, dict) else {}

    def watch(self, agent: str | None = None) -> Iterator[Document]:
        """What is desired now, and again whenever it changes, until the store is closed. Raises StorageError."""
        changes = Changes(self, agent)
        while True:
            if (now := changes.next()) is not None:
                yield now
            if self._closed.acquire(timeout=LOOK_S):
                self._closed.release()
                return

    def end(self) -> None:
        """End what watches. Idempotent."""
        if not self._ended:  # those that watch take it, one after the other, and give it back
            self._ended = True
            self._closed.release()

    def status(self) -> dict[str, Any]:
        """Versions, and whether something waits to be sent, as plain values. Raises StorageError."""
        reported = twin_rows.load(self._log)
        return {
            "desired_version": self._told().version,
            "reported_version": reported.version,
            "unsent": reported.unsent is not None,
            "delta": self.delta(),
        }

    # -- the link -----------------------------------------------------------------------------------------------------

    def due(self) -> Due | None:
        """What there is to tell the cloud, if anything. Raises StorageError."""
        acks = self._told().version
        row = twin_rows.load(self._log)
        if row.unsent is None and row.told == acks:
            return None
        return Due(row.version + 1, row.unsent or b"{}", acks)

    def answered(self, due: Due, version: int) -> bool:
        """The cloud has ``version`` of what is reported. False if it did not take it: ask ``due`` again.

        Raises StorageError.
        """
        taken = version == due.version

        def step(row: Row) -> Row:
            if not taken:
                return Row(version, row.state, _whole(row.state), row.told)
            # What was reported meanwhile is in one patch with what was sent, which does no harm when it comes again.
            unsent = None if (row.unsent or b"{}") == due.patch else row.unsent
            return Row(version, row.state, unsent, due.acks)

        twin_rows.change(self._log, step)
        return taken

    # -- inside -------------------------------------------------------------------------------------------------------

    def _told(self) -> _Told:
        """What the assignment says that was accepted last: its bytes were verified then."""
        note = self._tables.note()
        if note is None:
            return _NOTHING
        if self._held.of != (held := (note.number, note.accepted_ms)):
            from sync import canonical  # with json and rfc8785: only where something was assigned

            try:
                assigned = canonical.read(self._tables.kept().get(ASSIGNMENT, b"{}"))
            except ValueError as error:
                raise CorruptStore("the assignment that is kept is damaged", hint="it is fetched again") from error
            desired = assigned.get("desired") or {"version": 0, "state": {}}
            self._held = _Told(held, desired["version"], desired["state"])
        return self._held

    def _report(self, patch: Document) -> None:
        self._log.check_writable()
        twins.check_patch(patch)
        is_news = False

        def step(row: Row) -> Row:
            nonlocal is_news
            before = twins.read_document(row.state)
            after = twins.merge(before, patch)
            if twins.same(before, after):
                return row
            is_news = True
            state = twins.check_document(after)
            unsent = twins.compact([twins.read_patch(row.unsent or b"{}"), patch])
            if "" in unsent:
                return row._replace(state=state, unsent=_whole(state))
            try:
                return row._replace(state=state, unsent=twins.check_patch(unsent))
            except TooLarge:  # by what it deletes
                return row._replace(state=state, unsent=_whole(state))

        twin_rows.change(self._log, step)
        if is_news:
            self.wake()


class Changes:
    """What is desired, as far as it is not what ``next`` said before."""

    def __init__(self, twin: Twin, agent: str | None) -> None:
        self._twin = twin
        self._agent = agent
        self._said: Document | None = None

    def next(self) -> Document | None:
        """None if nothing changed. Raises StorageError."""
        now = self._twin.desired(self._agent)
        if self._said is not None and twins.same(now, self._said):
            return None
        self._said = deepcopy(now)  # whoever gets it may change it
        return now


def _whole(state: bytes) -> bytes:
    return twins.check_patch(twins.whole(twins.read_document(state)))


def _part(state: Document, agent: str | None) -> Document:
    if agent is None:
        return {name: value for name, value in state.items() if name not in _OURS}
    agents = state.get(AGENTS, {})
    found = agents.get(_name(agent), {}) if isinstance(agents, dict) else {}
    return found if isinstance(found, dict) else {}


def _name(agent: str) -> str:
    if not agent:
        raise InvalidValue("an agent has a name", hint="edge.agents() lists them")
    return agent
