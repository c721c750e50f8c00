"""A device that is steered: it asks what it is to run, takes it or refuses it, and dies while it does.

``look`` is what must hold of it at every moment: what is agreed and what is active was signed offline and given out to
this very device, nothing has gone back, and the policy that holds is the one that its writes obey.
"""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from edge.link.control import ControlLink
from edge.storage import policy_row
from edge.storage.control_tables import ControlNote, ControlTables
from simulations.fleet.agent import CANARY
from simulations.fleet.disasters import all_images
from simulations.fleet.violation import Violation
from simulations.steered.client import Client
from simulations.steered.modelled import Modelled
from simulations.steered.policies import Book
from simulations.steered.steering import MINUTE_MS, POLICY, Steering
from sync.errors import AgentDBError, CorruptStore, NotAllowed, NotHere, StorageError, SyncError
from sync.images import is_alive
from sync.operations import Operation

if TYPE_CHECKING:
    from edge.node import Edge
    from simulations.fleet.agent import Change
    from simulations.fleet.device_node import DeviceNode

WRITES_OF_AN_ACTIVATION = 24  # and syncs, about
_DIES = 0.05
_INTERLUDE = 0.05
_SPARED = 0.7  # of the questions that would bring nothing new: each costs as much as ten messages
_PAUSE_MS_MAX = 20 * MINUTE_MS


class Steered:
    """Of one ``DeviceNode``."""

    def __init__(self, node: DeviceNode, steering: Steering) -> None:
        self.node = node
        self.steering = steering
        self.dice = node.world.dice(f"steering {node.name}")
        self._heard = (0, 0)
        self._asks = False
        self._tries = 0
        self._seen = ControlNote()
        self._ran: set[bytes] = set()  # for membership only
        self._leaving: dict[tuple[str, str], bytes] | None = None
        self.models = Modelled(node, steering, self.client) if steering.models else None

    def forget(self) -> None:
        """The store was replaced by an older one, or a copy."""
        self._seen, self._ran, self._leaving = ControlNote(), set(), None
        if self.models is not None:
            self.models.forget()

    def copied_from(self, other: Steered) -> None:
        """The same files on the same kind of machine."""
        if self.models is not None and other.models is not None:
            self.models.hardware = other.models.hardware

    def opened(self, edge: Edge) -> None:
        """The process has begun; called before it does anything. Raises StorageError."""
        self._heard = (0, 0)
        self._leaving = None
        if self.models is not None:
            self.models.opened(edge)

    def died(self) -> None:
        """The process has ended, and not in order."""
        if self.models is not None:
            self.models.died()

    def connected(self) -> None:
        """There is a network."""
        if self.models is not None:
            self.models.tend_later(1_000)

    # -- asking what to run -------------------------------------------------------------------------------------------

    def hear(self, handshakes: int, assignment: int, version: int) -> None:
        """As the replicator tells it, after each step of the session."""
        heard = (handshakes, assignment)
        known = assignment == self._seen.number and self.dice.random() < _SPARED
        if heard != self._heard and version > 2 and not known:
            self._asks = self._asks or assignment > 0
            self.later(self.dice.choice([0, 0, 500, 20_000]))
        self._heard = heard

    def later(self, delay_ms: int) -> None:
        node, life, session = self.node, self.node.lives, self.node.link.session

        def run() -> None:
            if node.lives == life and session is not None and node.link.session is session:
                self._exchange()

        node.world.at(delay_ms, run)

    def report_soon(self) -> None:
        """As the twin's ``wake`` has it done, while there is a link."""
        node = self.node
        if node.link.session is not None and node.link.session.version > 2 and node.opened.twin.due() is not None:
            self.later(500)

    def _exchange(self) -> None:
        node = self.node
        if node.edge is None:
            return
        link = ControlLink(node.edge.trust, node.edge.twin, self.client)  # type: ignore[arg-type]
        armed = node.disk.crash_in is None and self.dice.random() < _DIES and self.steering.dangerous
        if armed:
            node.disk.crash_in = self.dice.randrange(WRITES_OF_AN_ACTIVATION)
        asks, self._asks = self._asks, False
        again = False
        try:
            if node.revoked:
                self._tries = 8  # it knocks now and then
            link.exchange(ask=asks)
        except (SyncError, StorageError) as error:
            again = True
            node.world.note(node.name, f"control: {error.code}", count=f"control: {error.code}")
            if isinstance(error, CorruptStore) and not node.rotten:
                raise Violation("opens", f"{node.name}: what it trusts is damaged: {error}") from error
        except AgentDBError as error:  # noted, and what runs goes on
            node.world.note(node.name, f"control refused: {error.code} {error.message}", count="control refused")
        if node.disk.dead:
            node.world.counts["deaths while activating"] += 1
        elif armed:
            node.disk.crash_in = None
        if node.check_death():
            return
        self.look()
        if not again:
            self._tries = 0
        else:
            self._asks = self._asks or asks
            self._tries += 1
            self.later(self.dice.randrange(2_000, min(_PAUSE_MS_MAX, 10_000 << self._tries)))
        node.link.pump()
        if self.models is not None:
            self.models.tend_later(100)

    def client(self) -> Client:
        return Client(self.node, self.steering, self.dice, self._between)

    def _between(self) -> None:
        """What others do meanwhile."""
        if self.steering.dangerous and self.dice.random() < _INTERLUDE:
            self.dice.choice([self.steering.assign_policy, self.steering.publish_policy, self.steering.move_rollout])()

    def began(self) -> None:
        """A process has begun: what was agreed holds, however the one before has ended. Raises Violation."""
        self.look()
        edge = self.node.opened
        named = edge.trust.tables.named().get(POLICY)
        behind = self.node.rotten or self.node.disk.dead or edge._policies.behind  # noqa: SLF001 - its disk fails
        if not behind and self.active != (named.sha256 if named is not None else b""):
            raise Violation("activated", f"{self.node.name} has begun with another policy than was agreed")

    # -- what must hold -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Raises Violation."""
        node = self.node
        if node.edge is None or node.rotten:
            return
        try:
            tables = ControlTables(node.edge.log)
            note, named = tables.note() or ControlNote(), tables.named()
            row = policy_row.load(node.edge.log)
            documents = tables.documents()
        except StorageError:
            return  # its disk fails; it is looked at again
        signers = self.steering.signers[node.fleet]
        for place, held in named.items():
            if signers.signed.get(held.path) != held.sha256:
                raise Violation("signed", f"{node.name}: {held.path} is to run in {place}, and was never signed")
        for one in documents:
            if sha256(one.data).digest() != one.sha256:
                raise Violation("signed", f"{node.name}: {one.path} is not what was agreed")
        if row is not None and (sha256(row.data).digest(), signers.signed.get(row.path)) != (row.sha256, row.sha256):
            raise Violation("signed", f"{node.name}: the policy {row.path} holds, and was never signed")
        self._check_rise(note)
        now = {place: held.sha256 for place, held in named.items()}
        for held in named.values():
            version = note.versions.get(held.path.partition("/")[0], 0)
            number = int(held.path.rpartition("/")[2].removesuffix(".json"))
            if held.sha256 not in self._ran and number < signers.floor(held.path, version):
                raise Violation("rolled back", f"{node.name}: {held.path} is below its floor")
        self._check_given(note, now)
        self._seen, self._ran = note, {*now.values(), *([row.sha256] if row is not None else [])}
        if self.models is not None:
            self._ran |= self.models.digests()
            self.models.look()

    def _check_rise(self, note: ControlNote) -> None:
        """Neither numbers nor versions go back, over any restart."""
        if note.versions.get("root") != self._seen.versions.get("root"):
            return  # what another online key has signed is no floor any more
        if note.number < self._seen.number - 1:  # one less where a part refused: it may come again
            raise Violation("rolled back", f"{self.node.name}: assignment {note.number} after {self._seen.number}")
        for role, version in self._seen.versions.items():
            if note.versions.get(role, 0) < version:
                raise Violation("rolled back", f"{self.node.name}: {role} {note.versions.get(role)} after {version}")

    def _check_given(self, note: ControlNote, named: dict[str, bytes]) -> None:
        """What is agreed is what one assignment said that was given out to this device."""
        if not note.number:
            return
        for number in (note.number, note.number + 1):
            for data in self.steering.issued.get((self.node.id, number), []):
                if _places(data) == named:
                    return
        raise Violation("assigned", f"{self.node.name}: what it is to run by {note.number} was not given out to it")

    @property
    def active(self) -> bytes:
        """SHA-256 of the policy that holds, b"" for none."""
        row = policy_row.load(self.node.opened.log)
        return row.sha256 if row is not None else b""

    @property
    def book(self) -> Book:
        return self.steering.book(self.active)

    # -- what a policy does -------------------------------------------------------------------------------------------

    def lets_through(self, changes: list[Change]) -> bool:
        """Whether the policy that holds lets all of these be written."""
        book = self.book
        return all(book.takes_writes(*change.place) for change in changes)

    def arrived(self, operations: list[Operation]) -> None:
        """A page came. Raises Violation for what is in no scope that this device had of late."""
        served = self.steering.served_of_late(self.node.id)
        for operation in operations:
            place = (operation.shape.collection, operation.key)
            if not any(book.has(*place) for book in served):
                raise Violation("scope", f"{self.node.name} is sent {place}, which is out of its scope")

    def leaving(self) -> None:
        """Before what is to leave is marked, or goes."""
        self._leaving = {place: image for place, image in all_images(self.node).items() if is_alive(image)}

    def left(self) -> None:
        """After it: what went had to go, and it is noted, for the cloud has to have it."""
        before, self._leaving = self._leaving, None
        if before is None or self.node.disk.dead:
            return
        with suppress(StorageError):
            now = all_images(self.node)
            book = self.book
            for place, image in before.items():
                if place not in now:
                    if book.direction(*place) != "absent":
                        raise Violation("scope", f"{place} has left {self.node.name}, where it belongs")
                    self.steering.evicted[self.node.fleet].append((self.node.name, place, image))
                    self.node.world.counts["records that left"] += 1

    def remember(self) -> None:
        """The agent whose permissions change writes a memory."""
        node = self.node
        if node.edge is None:
            return
        try:
            agent = node.name[0]
            may = self.book.may_remember(agent)
            memory = node.edge.agent(agent).memory("notes")
            try:
                memory.add(f"{CANARY} of {node.name}", key=self.dice.choice([None, "fact"]))
            except NotAllowed:
                if may:
                    raise Violation("policy", f"{node.name}: {agent} may remember, and is not let") from None
                node.world.counts["memories not allowed"] += 1
            except NotHere:
                node.world.counts["memories that wait for what has left"] += 1
            else:
                if not may:
                    raise Violation("policy", f"{node.name}: {agent} may not remember, and does")
                node.world.counts["memories"] += 1
        except AgentDBError as error:
            node.trouble(error, "remembering")
            return
        if not node.check_death():
            node.link.pump()


def _places(assignment: bytes) -> dict[str, bytes]:
    document = json.loads(assignment)
    parts = {f"models/{name}": part for name, part in document.get("models", {}).items()}
    if document.get("policy"):
        parts[POLICY] = document["policy"]
    return {place: bytes.fromhex(part["sha256"]) for place, part in parts.items()}
