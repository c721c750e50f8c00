"""A device of the scenario ``rollout``: what it trusts, what it runs, what it says of that; power cuts among it.

What it keeps is what a device's store keeps in one transaction each: what is trusted with the number held, the note of
the trial with its refusals, what it reports. All else is lost with its power.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Protocol

from simulations.fleet.violation import Violation
from simulations.fleet.world import START_MS, World
from sync import activation, twins
from sync.activation import COMMITTED, RETURNED, SOAKING, Note, Rules, Version
from sync.assignments import Agreed, Signed, agreed, check_target, open_assignment
from sync.errors import AgentDBError
from sync.manifests import Offer, TrustedSet, pinned
from sync.messages import Answer, Control, FetchControl, HeldRole, Report, Reported, Request

POLL_MS = 600_000
FILL_MS, PROBE_MS, RAN_MS, DOWN_MS = 120_000, 30_000, 300_000, 60_000
SOAK_MS = 600_000


class Cloud(Protocol):
    """What a device reaches by the network."""

    def newest(self, device: bytes, held: int) -> int: ...
    def ask(self, device: bytes, message: Request) -> Answer: ...
    def target(self, digest: bytes) -> bytes: ...


class Device:
    """``bad``: the digests of models that give wrong answers on this hardware. ``told`` hears of what is active now."""

    def __init__(
        self,
        world: World,
        cloud: Cloud,
        place: tuple[bytes, bytes, bytes],
        hardware: str,
        bad: Callable[[str, bytes], bool],
        told: Callable[[Device], None],
        power_cuts: float,
        seen: dict[Any, TrustedSet],
    ) -> None:
        self._world, self._cloud = world, cloud
        self.fleet, self.id, self._pin = place
        self.hardware = hardware
        self.online = True
        self.number, self.assignment = 0, b""
        self.note = Note()
        self.slots: dict[str, bytes] = {}
        self._bad, self._told = bad, told
        self._dice = world.dice(f"device/{self.id.hex()}")
        self._power_cuts = power_cuts
        self._seen = seen
        self._trusted: TrustedSet | None = None
        self._paths: dict[bytes, str] = {}
        self._refused: set[bytes] = set()
        self._reported: dict[str, Any] = {}
        self._unsent: dict[str, Any] = {"hardware": hardware}
        self._version = 0
        self._life = 0
        self._up = True
        world.at(self._dice.randrange(POLL_MS), self._poll)

    # -- the network --------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._world.at(POLL_MS - self._dice.randrange(POLL_MS // 10), self._poll)
        if not (self.online and self._up):
            return
        try:
            if self._cloud.newest(self.id, self.number) > self.number:
                self._fetch()
            self._report()
        except AgentDBError as error:
            self._world.counts[f"refused: {error.code}"] += 1

    def _fetch(self) -> None:
        versions = self._trusted.versions() if self._trusted is not None else {}
        have = [HeldRole(name, version) for name, version in versions.items() if name != "root"]
        answer = self._cloud.ask(self.id, FetchControl(self.number, versions.get("root", 0), have))
        assert isinstance(answer, Control)
        now_ms = START_MS + self._world.now_ms
        trusted, roots = self._trusted, list(answer.roots)
        offer = Offer(roots, answer.timestamp, answer.snapshot, {role.name: role.data for role in answer.roles})
        self._trusted = trusted = self._verified(trusted, offer, now_ms)
        if not answer.assignment:
            return
        signed = Signed(answer.assignment, answer.signature)
        assignment = open_assignment(signed, trusted, self.fleet, self.id, self.number, now_ms)
        wanted = agreed(assignment, trusted, {version.digest for version in self._versions()})
        for target in wanted:
            check_target(target, self._cloud.target(target.sha256))
        self.number, self.assignment = assignment.number, signed.data
        for target in wanted:
            self._assigned(target)

    def _verified(self, trusted: TrustedSet | None, offer: Offer, now_ms: int) -> TrustedSet:
        """Once for the same bytes on the same trust: no run is long enough for anything to expire."""
        parts = (*offer.roots, offer.timestamp, offer.snapshot, *(data for _, data in sorted(offer.roles.items())))
        key = (self.fleet, trusted, parts)
        if key not in self._seen:
            if trusted is None:
                trusted, offer = pinned(offer.roots[0], self._pin, self.fleet), offer._replace(roots=offer.roots[1:])
            self._seen[key] = trusted.update(offer, now_ms)
        return self._seen[key]

    def _report(self) -> None:
        if not self._unsent:
            return
        sent = self._unsent
        answer = self._cloud.ask(self.id, Report(self._version + 1, twins.check_patch(sent), 0))
        assert isinstance(answer, Reported)
        taken = answer.version == self._version + 1
        self._version = answer.version
        self._unsent = {} if taken else twins.whole(self._reported)

    # -- the trial ----------------------------------------------------------------------------------------------------

    def _versions(self) -> list[Version]:
        note = self.note
        return [one for one in (note.active, note.candidate, note.previous, note.wanted) if one is not None]

    def _assigned(self, target: Agreed) -> None:
        self._paths[target.sha256] = target.path
        version = Version("", target.number, target.sha256, Rules(uptime_ms=SOAK_MS))
        self._step(activation.Assigned(version, refused=target.sha256 in self._refused))

    def _step(self, event: activation.Event) -> None:
        """The note is committed before its actions are begun; between them the power may go."""
        before = self.note
        note, actions = activation.step(before, event)
        self._refused |= {action.version.digest for action in actions if isinstance(action, activation.Refuse)}
        self.note = note
        self._check()
        if note != before:
            self._say()
        for action in actions:
            if self._dice.random() < self._power_cuts:
                self._cut()
                return
            self._carry_out(action)
        if note.state == SOAKING and before.state != SOAKING:
            self._later(RAN_MS, self._ran)

    def _carry_out(self, action: activation.Action) -> None:
        if isinstance(action, activation.Empty):
            self.slots.pop(action.slot, None)
        elif isinstance(action, activation.Fill):
            version = action.version
            self._later(self._dice.randrange(FILL_MS), lambda: self._filled(version))
        elif isinstance(action, activation.Try):
            self._later(0, lambda: self._step(activation.Begun()))
        elif isinstance(action, activation.Probe):
            digest = action.version.digest
            why = "golden: the output is off by 0.4" if self._bad(self.hardware, digest) else ""
            self._later(PROBE_MS, lambda: self._step(activation.Probed(digest, why)))
        elif isinstance(action, activation.Tell):
            self._told(self)
        self._check()

    def _filled(self, version: Version) -> None:
        self.slots[version.slot] = version.digest
        self._world.counts["models filled"] += 1
        self._step(activation.Filled(version.digest))

    def _ran(self) -> None:
        if self.note.state == SOAKING:
            self._step(activation.Ran(uptime_ms=RAN_MS, steady=True))
            if self.note.state == SOAKING:
                self._later(RAN_MS, self._ran)

    def _say(self) -> None:
        note = self.note
        if note.state == COMMITTED and note.active is not None:
            self._outcome(note.active.digest, "committed", "")
        elif note.state == RETURNED and note.returned is not None:
            self._outcome(note.returned.digest, "returned", note.why)

    def _outcome(self, digest: bytes, outcome: str, why: str) -> None:
        said = {"path": self._paths[digest], "sha256": digest.hex(), "outcome": outcome, "reason": why}
        patch = {"agentdb": {"outcomes": {"models/embed": twins.whole(said)}}}
        self._reported = twins.merge(self._reported, patch)
        self._unsent = twins.compact([self._unsent, patch])

    # -- power --------------------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        self._world.counts["power cuts"] += 1
        self._life += 1
        self._up = False
        self._later(DOWN_MS, self._start)

    def _start(self) -> None:
        self._up = True
        self._told(self)  # what a process finds when it begins
        self._step(activation.Started())
        if self.note.state == SOAKING:
            self._later(RAN_MS, self._ran)

    def _later(self, delay_ms: int, run: Callable[[], None]) -> None:
        life = self._life
        self._world.at(delay_ms, lambda: run() if life == self._life else None)

    def _check(self) -> None:
        """One good model, always: what is given out is whole, and so is what a soak would return to."""
        activation.check(self.note)
        for version in (self.note.active, self.note.previous if self.note.state == SOAKING else None):
            if version is not None and self.slots.get(version.slot) != version.digest:
                raise Violation("one-good-model", f"{self.id.hex()}: slot {version.slot} is not {version.number}")


def digest_of(data: bytes) -> bytes:
    return sha256(data).digest()
