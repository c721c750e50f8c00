"""What the operators of a steered fleet do, and what is known of it from outside: who signed what, who was given what.

What always holds of what is given out (checked at each answer): a rollout that does not run exposes nobody more, and
one that was reverted is in no assignment any more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from cloud.fleet import choices
from cloud.fleet.rollouts import ACTIVE, DONE, KEPT, OPEN, REVERTED, RUNNING, SETTLED, Gate, Spec, Stage
from cloud.ports import Caller
from simulations.fleet.violation import Violation
from simulations.fleet.world import START_MS
from simulations.steered import policies
from simulations.steered.hostile import Hostile
from simulations.steered.policies import EVERYTHING, Book
from simulations.steered.signers import Signers
from simulations.steered.weights import NAMES, Shelf
from sync.errors import AgentDBError, Refused, StorageError
from sync.messages import Control, Pull, PullBaseline

if TYPE_CHECKING:
    from simulations.fleet.fleet import Fleet
    from sync.messages import AnyMessage

MINUTE_MS = 60_000
JOBS_MS = 20 * MINUTE_MS
POLICY = choices.POLICY
_ON_HALT: list[Literal["revert", "keep"]] = ["revert", "keep"]
_AGAIN_MS = 5 * MINUTE_MS
_UNDER_WAY_MS = 15_000  # an answer that takes longer is not waited for


class _Standing(NamedTuple):
    """Of a rollout, when it was last looked at."""

    state: str
    exposed: frozenset[bytes]


class Steering:
    """Of all fleets of a run; each has operators of its own, and the control plane one online key."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.world = fleet.world
        self.cloud = fleet.cloud
        self.dice = fleet.world.dice("operators")
        self.signers: dict[bytes, Signers] = {}
        self.hostile: dict[bytes, Hostile] = {}
        self.issued: dict[tuple[bytes, int], list[bytes]] = {}  # device, number -> assignments
        self.models = fleet.plan.models
        self.shelf = Shelf(fleet.root, fleet.world.dice("weights"))
        self.dangerous = True  # until all is mended
        self.served: dict[bytes, dict[bytes, int]] = {}  # device -> policy that its pages were filtered by -> when last
        self.evicted: dict[bytes, list[tuple[str, tuple[str, str], bytes]]] = {}
        self._standing: dict[tuple[bytes, str], _Standing] = {}
        self._books: dict[bytes, Book] = {b"": EVERYTHING}
        self._numbers: dict[str, int] = {}
        for name in ("agentdb", "cloud"):  # each forgery is a warning
            logging.getLogger(name).addHandler(logging.NullHandler())
        for owner in self.cloud.fleets:
            signers = self.signers[owner] = Signers(owner, START_MS)
            self.hostile[owner] = Hostile(self.world, signers, self._give_out)
            self.evicted[owner] = []
            self.cloud.online_key = signers.online
            self.cloud.plane.publish(owner, signers.repository())
        self.cloud.on_answer = self.answered

    # -- what is known ------------------------------------------------------------------------------------------------

    def book(self, digest: bytes) -> Book:
        """What a policy says, by its SHA-256; b"": no policy. Raises Violation for one that nobody signed."""
        found = self._books.get(digest)
        if found is None:
            data = next(
                (
                    data
                    for signers in self.signers.values()
                    for path, data in signers.documents.items()
                    if signers.signed[path] == digest
                ),
                None,
            )
            if data is None:
                raise Violation("signed", f"a policy {digest.hex()[:12]} that nobody has signed")
            found = self._books[digest] = Book(data)
        return found

    def wanted(self, owner: bytes, device: bytes) -> dict[str, bytes]:
        """Place → digest of what the control plane would have the device run now."""
        with self.cloud.store.reading() as view:
            row = view.device(device)
            places = choices.desired_places(view, row) if row is not None else {}
        signed = self.signers[owner].signed
        return {place: signed[choice.path] for place, choice in places.items()}

    def _give_out(self, device: bytes, data: bytes) -> None:
        self.issued.setdefault((device, json.loads(data)["number"]), []).append(data)

    def served_of_late(self, device: bytes) -> list[Book]:
        """By which its pages that may arrive now were filtered."""
        since_ms = self.world.now_ms - _UNDER_WAY_MS
        return [self.book(digest) for digest, at_ms in self.served.get(device, {}).items() if at_ms >= since_ms]

    def answered(self, message: AnyMessage, caller: Caller, answer: object) -> None:
        """The control plane's own answer, before anybody has touched it."""
        if isinstance(answer, Control) and answer.assignment:
            self._give_out(caller.device, answer.assignment)
            self._check_exposure(caller, answer.assignment)
        if isinstance(message, (Pull, PullBaseline)):
            digest = self.wanted(caller.fleet, caller.device).get(POLICY, b"")
            self.served.setdefault(caller.device, {})[digest] = self.world.now_ms

    def _check_exposure(self, caller: Caller, assignment: bytes) -> None:
        document = json.loads(assignment)
        parts = [document.get("policy") or {}, *document.get("models", {}).values()]
        for rollout in [part["rollout"] for part in parts if part.get("rollout")]:
            standing = self._standing.get((caller.fleet, rollout))
            if standing is None or standing.state in (RUNNING, DONE, SETTLED):
                continue
            if standing.state == REVERTED or caller.device not in standing.exposed:
                who = f"{caller.device.hex()[:6]} was given {rollout}, which is {standing.state}"
                raise Violation("halted", who)
        self.look(caller.fleet)

    def look(self, owner: bytes) -> None:
        """How the rollouts stand now."""
        with self.cloud.store.reading() as view:
            for row in view.rollouts(owner):
                exposed = frozenset(one.device for one in view.exposures(owner, row.id, b"", 10_000))
                before = self._standing.get((owner, row.id))
                if before is not None and before.state == RUNNING and row.state in (KEPT, REVERTED):
                    self.world.note("cloud", f"{row.id} is halted: {row.why}", count="rollouts halted")
                self._standing[owner, row.id] = _Standing(row.state, exposed)

    # -- what operators do --------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        self.world.at(self.dice.randrange(JOBS_MS), self._jobs)

    def _jobs(self) -> None:
        self.world.at(JOBS_MS, self._jobs)
        self.run_jobs()

    def run_jobs(self) -> None:
        """What the server does every so often."""
        for owner in self.cloud.fleets:
            self._do("jobs", partial(self._run, owner), again=False)

    def _run(self, owner: bytes) -> None:
        plane = self.cloud.plane
        for rollout, action in plane.rollouts.run(owner):
            self.world.note("cloud", f"{rollout}: {type(action).__name__}", count=f"rollouts: {type(action).__name__}")
        self.look(owner)
        plane.control.timestamp_again(owner)
        deleted = plane.retention.run(owner)
        if deleted:
            self.world.note("cloud", f"{deleted} records are past their time")
            self.world.counts["records deleted by retention"] += deleted
        self.cloud.follow()

    def publish_policy(self) -> None:
        """A new number of one of the names; now and then older ones may not be assigned any more."""
        owner = self.dice.choice(self.cloud.fleets)
        name = self.dice.choice(policies.NAMES)
        data = policies.draw(name, self.dice, self.fleet.prefix(owner))
        self.publish(owner, f"policies/{name}", data)

    def publish(self, owner: bytes, name: str, data: bytes) -> str:
        """Sign it as the next number. Returns its path; the control plane may hear of it later."""
        signers = self.signers[owner]
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        path = f"{name}/{number}.json"
        signers.add(path, data)
        if self.dice.random() < 0.25:
            signers.set_floor(name, max(1, number - self.dice.randrange(3)))
        self.world.note("operators", f"sign {path}, of floor {signers.floors.get(name, 0)}", count="targets signed")
        self._do(f"publish {path}", lambda: self._publish(owner))
        return path

    def _publish(self, owner: bytes) -> None:
        signers, plane = self.signers[owner], self.cloud.plane
        try:
            plane.publish(owner, signers.repository())
        except Refused:  # something that is assigned is below its floor: the floors wait
            for name in sorted(signers.floors):
                signers.set_floor(name, 0)
            plane.publish(owner, signers.repository())

    def assign_policy(self) -> None:
        """For the whole fleet; now and then none."""
        owner = self.dice.choice(self.cloud.fleets)
        path = "" if self.dice.random() < 0.15 else self._some(owner, [f"policies/{name}" for name in policies.NAMES])
        if path is not None:
            self.assign(owner, POLICY, path)

    def assign(self, owner: bytes, place: str, path: str) -> None:
        self._do(f"assign {path or 'nothing'} to {place}", lambda: self.cloud.plane.assign(owner, place, path))

    def _some(self, owner: bytes, names: list[str]) -> str | None:
        listed = [path for name in names for path in self.signers[owner].listed(name)]
        return self.dice.choice(listed) if listed else None

    def roll_out_policy(self) -> None:
        owner = self.dice.choice(self.cloud.fleets)
        path = self._some(owner, [f"policies/{name}" for name in policies.NAMES])
        if path is not None:
            self.roll_out(owner, path)

    def roll_out(self, owner: bytes, path: str, spread: str = "") -> None:
        """In one to three stages."""
        percents = sorted(self.dice.sample([10, 40, 60, 100], self.dice.randrange(1, 4)))
        gate = Gate(soak_s=self.dice.choice([0, 1_800]), failed_max=1, failed_share_max=0.3)
        on_halt = self.dice.choice(_ON_HALT)
        stages = [Stage(percent) for percent in percents]
        spec = Spec(what=path, stages=stages, spread=spread, gate=gate, on_halt=on_halt)
        self._do(f"roll out {path} to {percents}", lambda: self._begin(owner, spec))

    def _begin(self, owner: bytes, spec: Spec) -> None:
        row = self.cloud.plane.rollouts.create(owner, spec)
        self._standing[owner, row.id] = _Standing(row.state, frozenset())
        self.look(owner)

    def publish_model(self) -> None:
        owner = self.dice.choice(self.cloud.fleets)
        self._do("publish a model", partial(self._publish_model, owner))

    def _publish_model(self, owner: bytes) -> None:
        signers = self.signers[owner]
        path, manifest = self.shelf.publish(self.cloud, signers)
        signers.add(path, manifest)
        self.world.note("operators", f"sign {path}, {self.shelf.known[signers.signed[path]].kind}", count="models")
        self._publish(owner)

    def assign_model(self) -> None:
        """For the whole fleet, at once."""
        owner, name = self.dice.choice(self.cloud.fleets), self.dice.choice(NAMES)
        path = self._some(owner, [f"models/{name}"])
        if path is not None:
            self.assign(owner, f"models/{name}", path)

    def roll_out_model(self) -> None:
        owner = self.dice.choice(self.cloud.fleets)
        path = self._some(owner, [f"models/{name}" for name in NAMES])
        if path is not None:
            self.roll_out(owner, path, "reported.hardware")

    def move_rollout(self) -> None:
        """An operator pauses, resumes or ends one."""
        owner = self.dice.choice(self.cloud.fleets)
        how = self.dice.choice(["pause", "resume", "keep", "revert"])
        self._do(f"{how} a rollout", lambda: self._move(owner, how), again=False)

    def _move(self, owner: bytes, how: str) -> None:
        self.look(owner)
        desk = self.cloud.plane.rollouts
        before = {"pause": (RUNNING,), "resume": ("paused",), "keep": ACTIVE, "revert": (*ACTIVE, KEPT, DONE)}[how]
        rows = [shown.row for shown in desk.all(owner) if shown.row.state in before and shown.row.state in OPEN]
        if not rows:
            return
        rollout = self.dice.choice(rows).id
        if how == "pause":
            row = desk.pause(owner, rollout)
        elif how == "resume":
            row = desk.resume(owner, rollout)
        else:
            row = desk.abort(owner, rollout, "keep" if how == "keep" else "revert")
        exposed = self._standing[owner, rollout].exposed
        self._standing[owner, rollout] = _Standing(row.state, exposed)
        self.world.note("operators", f"{rollout} is {row.state}", count=f"rollouts {row.state} by hand")

    def change_online_key(self) -> None:
        """It was stolen, perhaps: a new root names another."""
        owner = self.dice.choice(self.cloud.fleets)
        self._do("change the online key", partial(self._change_online_key, owner))

    def _change_online_key(self, owner: bytes) -> None:
        signers = self.signers[owner]
        self.cloud.online_key = signers.rotate_online()
        self._publish(owner)

    def serve_badly(self, lasting_ms: int) -> None:
        for owner in self.cloud.fleets:
            self.hostile[owner].until_ms = self.world.now_ms + lasting_ms
        self.world.note("server", "is not to be trusted for a while", count="times of a hostile server")

    def heal(self) -> None:
        """The server is the operators' again, and has all that they signed. A key that was stolen is exchanged: what
        it gave out may have the very numbers of what the control plane did.
        """
        self.dangerous = False
        stolen = self.world.counts["control answers that are thief"] > 0
        for owner in self.cloud.fleets:
            self.hostile[owner].until_ms = -1
            self._do("publish", partial(self._change_online_key if stolen else self._publish, owner))

    def restored(self, *, earlier: bool) -> None:
        """The database was made anew from the archive: what operators do then (docs/FLEET.md). Raises Violation if
        something that has left a device is not in it.
        """
        plane = self.cloud.plane
        for owner in self.cloud.fleets:
            try:
                plane.control.was_restored(owner)
            except Refused:  # its root is from before another online key: publish, and once more (``recovery``)
                self._publish(owner)
            self._publish(owner)
            self._standing = {key: held for key, held in self._standing.items() if key[0] != owner}
            self.look(owner)
            running = [key for key, held in self._standing.items() if key[0] == owner and held.state == RUNNING]
            if running:
                raise Violation("halted", f"{running[0][1]} runs on by itself after a restore")
            if earlier:
                self.evicted[owner].clear()
            else:
                self.check_evicted(owner)

    def check_evicted(self, owner: bytes) -> None:
        """What has left a device is in the cloud, all of it."""
        images = self.cloud.images(owner)
        oracle = self.fleet.oracles[owner]
        for name, place, image in self.evicted[owner]:
            if place not in images or not oracle.covers(images[place], image):
                raise Violation("nothing lost", f"{place} has left {name}, and the cloud has not all of it")

    def _do(self, what: str, act: Callable[[], None], *, again: bool = True) -> None:
        """What fails because the control plane is down is done later; what is refused is not done."""
        if not self.cloud.up:
            if again:
                self.world.at(_AGAIN_MS, lambda: self._do(what, act))
            return
        try:
            act()
            if what != "jobs":
                self.world.note("operators", what, count="done by operators")
        except StorageError as error:
            self.world.note("operators", f"{what} fails: {error.code}")
            if again:
                self.world.at(_AGAIN_MS, lambda: self._do(what, act))
        except AgentDBError as error:
            self.world.note("operators", f"{what}: {error.code}", count="operators refused")
        self.cloud.check_death()
