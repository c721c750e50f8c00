"""A run: a fleet that has a model gets the next one in stages; what it took, and whether everything held.

What is checked, with every answer and every switch: a device takes nothing that the control plane did not issue to it,
and no older one after a newer; what is active was listed and assigned; one good model always is there; once the rollout
was halted nobody else is exposed, and no assignment names it any more. At the end a bad model is nowhere, and every
device that can be reached runs the one before; a good one runs on all of them.
"""

from __future__ import annotations

from hashlib import sha256
from itertools import count
from typing import Any

import msgspec

from cloud.control_plane import ControlPlane
from cloud.fleet import rollouts
from cloud.identity.key_service import MemoryKeyService
from cloud.ports import Caller
from cloud.rows import DeviceRow
from cloud.storage.sqlite_store import SqliteStore
from simulations.fleet.violation import Violation
from simulations.fleet.world import START_MS, MachineClock, SeededRandom, World
from simulations.rolling.device import Device, digest_of
from simulations.rolling.operators import Operators
from sync.activation import COMMITTED
from sync.chunks import ChunkList, file_digest
from sync.keys import PublicIdentity
from sync.messages import Answer, Control, Report, Request, decode, encode
from sync.models import FileRef, ListRef, Manifest

SCENARIO = "rollout"
DEVICES, HOURS = 2_000, 5.0
DEVICES_MIN, HOURS_MIN = 100, 5.0  # with fewer nobody may have the bad hardware; earlier not all are back and done
OFFLINE_SHARE, BAD_SHARE = 0.15, 0.1
GOOD, NEW = "models/embed/12.json", "models/embed/13.json"
_EMPTY = file_digest([]).hex()
_NO_CHUNKS = ListRef(sha256(ChunkList(()).encode()).hexdigest(), 0)
DOCUMENTS = {  # without a byte in them: what a device makes of one is played
    path: Manifest(
        1, "embed", number, str(number), 0, _NO_CHUNKS, [], [FileRef("weights.bin", 0, (0, 0), _EMPTY)]
    ).encode()
    for path, number in ((GOOD, 12), (NEW, 13))
}
BEGIN_MS = 2_400_000  # by then all have the first one
JOB_MS = 5_000
WRONG_ANSWERS = 0.1
POWER_CUTS = 0.02
SPEC = {
    "what": NEW,
    "spread": "reported.hardware",
    "stages": [{"percent": 1}, {"percent": 10}, {"percent": 100}],
}
GATE = {"reporting_share": 0.5, "failed_share_max": 0.1, "failed_max": 3, "soak_s": 900}
_numbers = count()


class _Switch:
    """The network of a device goes, or comes back."""

    def __init__(self, device: Device, *, online: bool) -> None:
        self._device, self._online = device, online

    def __call__(self) -> None:
        self._device.online = self._online


class Rolling:
    """``bad``: the new model fails on one class of hardware."""

    def __init__(self, seed: int, devices: int, *, bad: bool) -> None:
        self.world = World(seed)
        self.bad = bad
        clock, random = MachineClock(self.world), SeededRandom(self.world.dice("cloud"))
        self.store = SqliteStore.open(f"/rolling-{next(_numbers)}", vfs="memdb")
        self.online_key: Any = None
        self.plane = ControlPlane(
            self.store, MemoryKeyService(random), clock, random, online_key=lambda: self.online_key
        )
        self.fleet = self.plane.create_fleet("rolling").fleet
        operators = Operators(self.fleet, START_MS)
        self.online_key = operators.online
        self.plane.publish(self.fleet, operators.repository(DOCUMENTS))
        self.plane.assign(self.fleet, "models/embed", GOOD)
        self._foreign = Operators(self.fleet, START_MS, first=50)
        self._dice = self.world.dice("server")
        self._issued: dict[bytes, dict[int, bytes]] = {}
        self._answers: list[Control] = []
        self._seen: dict[Any, Any] = {}
        self._held: dict[bytes, int] = {}
        self.bytes = 0
        self.begun_ms = self.halted_ms = self.done_ms = self.exposed_at_halt = 0
        self.stage_at_halt = -1
        self.good, self.new = (digest_of(DOCUMENTS[path]) for path in (GOOD, NEW))
        self.devices = [self._device(number, digest_of(operators.root)) for number in range(devices)]
        dice = self.world.dice("offline")
        self.away = dice.sample(self.devices, int(devices * OFFLINE_SHARE))
        for device in self.away:
            self.world.at(BEGIN_MS - 600_000, _Switch(device, online=False))
            if dice.random() < 0.5:  # the others do not come back
                self.world.at(BEGIN_MS + dice.randrange(3_600_000, 10_800_000), _Switch(device, online=True))
        self.world.at(BEGIN_MS, self._begin)

    def _device(self, number: int, pin: bytes) -> Device:
        name = number.to_bytes(12)
        row = DeviceRow(self.fleet, name, name * 2 + bytes(8), bytes(32), f"d{number}", 0, START_MS, b"t" * 16, 0)
        with self.store.writing(durable=False) as tx:
            tx.put_devices([row])
        hardware = "rev2" if self.world.dice(f"hardware/{number}").random() < BAD_SHARE else "rev1"
        return Device(
            self.world, self, (self.fleet, name, pin), hardware, self._fails, self._told, POWER_CUTS, self._seen
        )

    def _fails(self, hardware: str, digest: bytes) -> bool:
        return self.bad and hardware == "rev2" and digest == self.new

    # -- the network --------------------------------------------------------------------------------------------------

    def newest(self, device: bytes, held: int) -> int:
        with self.store.reading() as view:
            return self.plane.control.newest(view, self._caller(device), held)

    def ask(self, device: bytes, message: Request) -> Answer:
        asked = encode(message)
        answer = self.plane.handle(decode(asked), self._caller(device))
        self.bytes += len(asked) + len(encode(answer))
        if isinstance(answer, Control):
            self._note(device, answer)
            answer = self._wrong(answer) if self._dice.random() < WRONG_ANSWERS else answer
        elif isinstance(message, Report):
            self._look()
        return answer

    def target(self, digest: bytes) -> bytes:
        with self.store.reading() as view:
            row = view.target(self.fleet, digest)
        assert row is not None
        self.bytes += len(row.data)
        return row.data

    def _caller(self, device: bytes) -> Caller:
        return Caller(self.fleet, device, PublicIdentity(device * 2 + bytes(8), bytes(32)))

    def _wrong(self, answer: Control) -> Control:
        """What a server would send that was taken over, or mixes things up: old, of another, foreign, swapped."""
        self.world.counts["wrong answers"] += 1
        kind = self._dice.randrange(4)
        other = self._dice.choice(self._answers)
        if kind == 0:  # an old answer, or one for another device
            return other
        if kind == 1:  # this one's metadata with another's assignment
            return msgspec.structs.replace(answer, assignment=other.assignment, signature=other.signature)
        if kind == 2:  # signed by others
            return msgspec.structs.replace(answer, signature=self._foreign.online.sign(answer.assignment))
        return msgspec.structs.replace(answer, assignment=answer.assignment.replace(b'/12.json"', b'/13.json"'))

    # -- the rollout --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.begun_ms = self.world.now_ms
        self.bytes_before = self.bytes
        gate = {**GATE, "reporting_min": max(2, len(self.devices) // 200)}
        self.plane.rollouts.create(self.fleet, rollouts.parse_spec(msgspec.json.encode({**SPEC, "gate": gate})))
        self._job()

    def _job(self) -> None:
        if not (self.halted_ms or self.done_ms):
            self.world.at(JOB_MS, self._job)
        for _, action in self.plane.rollouts.run(self.fleet):
            self.world.counts[f"rollout: {type(action).__name__.lower()}"] += 1
        self._look()

    def _look(self) -> None:
        if not self.begun_ms:
            return
        with self.store.reading() as view:
            row = view.rollout(self.fleet, "r1")
            assert row is not None
            if row.state == "running":
                return
            exposed = sum(one.devices for one in view.count_exposures(self.fleet, "r1"))
        if row.state == "done":
            self.done_ms = self.done_ms or self.world.now_ms
        elif not self.halted_ms:
            self.halted_ms, self.exposed_at_halt, self.stage_at_halt = self.world.now_ms, exposed, row.stage
        elif exposed != self.exposed_at_halt:
            raise Violation("halted", f"{exposed} devices are exposed, {self.exposed_at_halt} were at the halt")

    # -- what holds ---------------------------------------------------------------------------------------------------

    def _note(self, device: bytes, answer: Control) -> None:
        if not answer.assignment:
            return
        self._answers.append(answer)
        number = msgspec.json.decode(answer.assignment)["number"]
        self._issued.setdefault(device, {})[number] = answer.assignment
        if self.halted_ms and NEW.encode() in answer.assignment:
            raise Violation("halted", f"{device.hex()} was assigned {NEW} after the halt")

    def _told(self, device: Device) -> None:
        """Something else is active on the device."""
        active = device.note.active
        if active is None:
            return
        path = GOOD if active.digest == self.good else NEW if active.digest == self.new else ""
        issued = self._issued.get(device.id, {})
        if not any(path.encode() in data for data in issued.values()) or not path:
            raise Violation("signed", f"{device.id.hex()} runs {active.digest.hex()}, which it was never assigned")

    def _check_numbers(self) -> None:
        for device in self.devices:
            issued = self._issued.get(device.id, {})
            if device.number and issued.get(device.number) != device.assignment:
                raise Violation("signed", f"{device.id.hex()} holds assignment {device.number}, which is not its own")
            if device.number < self._held.get(device.id, 0):
                raise Violation(
                    "rolled-back", f"{device.id.hex()} went from {self._held[device.id]} to {device.number}"
                )
            self._held[device.id] = device.number

    def run(self, hours: float) -> dict[str, Any]:
        """Raises Violation."""
        end_ms = int(hours * 3_600_000)
        for until_ms in range(600_000, end_ms + 1, 600_000):
            self.world.run_until(until_ms)
            self._check_numbers()
        self._look()
        self._check_end()
        reached = [device for device in self.devices if device.online]
        with self.store.reading() as view:
            counts = view.count_exposures(self.fleet, "r1")
            row = view.rollout(self.fleet, "r1")
        assert row is not None
        return {
            "model": "bad on rev2" if self.bad else "good",
            "devices": len(self.devices),
            "rev2": sum(device.hardware == "rev2" for device in self.devices),
            "offline": len(self.away),
            "state": row.state,
            "why": row.why,
            "time_to_halt_s": (self.halted_ms - self.begun_ms) // 1000 if self.halted_ms else None,
            "stage_at_halt": self.stage_at_halt + 1 if self.halted_ms else None,
            "time_to_done_s": (self.done_ms - self.begun_ms) // 1000 if self.done_ms else None,
            "exposed": sum(one.devices for one in counts),
            "reached": len(reached),
            "run_new": sum(self._runs(device, self.new) for device in self.devices),
            "bytes_sent": self.bytes - self.bytes_before,
            "counts": dict(sorted(self.world.counts.items())),
        }

    def _runs(self, device: Device, digest: bytes) -> bool:
        return device.note.active is not None and device.note.active.digest == digest

    def _check_end(self) -> None:
        wanted = self.good if self.bad else self.new
        for device in self.devices:
            if device.note.active is None:
                raise Violation("one-good-model", f"{device.id.hex()} has none at the end")
            if self.bad and self._runs(device, self.new):
                raise Violation("reverted", f"{device.id.hex()} still runs the bad one")
            if device.online and (not self._runs(device, wanted) or device.note.state != COMMITTED):
                if self.bad and self._runs(device, wanted):
                    continue  # returned from by itself
                raise Violation("reached", f"{device.id.hex()} does not run what it should: {device.note.state}")
        if self.bad and (not self.halted_ms or self.stage_at_halt != 0):
            raise Violation("halted", f"not before the second stage: {self.stage_at_halt + 1}")
        if not self.bad and not self.done_ms:
            raise Violation("reached", "the rollout of a good model was not done")

    def close(self) -> None:
        self.store.close()


def report(seed: int, devices: int = DEVICES, hours: float = HOURS) -> dict[str, Any]:
    """Both models, one after the other; ``violation`` is "" if everything held."""
    runs, violation = [], ""
    for bad in (True, False):
        rolling = Rolling(seed, devices, bad=bad)
        try:
            runs.append(rolling.run(hours))
        except Violation as error:
            violation = violation or f"{'bad' if bad else 'good'} model: {error}"
        finally:
            rolling.close()
    return {"seed": seed, "scenario": SCENARIO, "runs": runs, "violation": violation}


def lines(told: dict[str, Any]) -> list[str]:
    """For people."""
    out = []
    for run in told["runs"]:
        out.append(f"a model that is {run['model']}: {run['devices']} devices, {run['offline']} of them offline")
        if run["time_to_halt_s"] is not None:
            out.append(f"  halted after       {run['time_to_halt_s']} s, in stage {run['stage_at_halt']}: {run['why']}")
        else:
            out.append(f"  done after         {run['time_to_done_s']} s")
        out.append(f"  devices exposed    {run['exposed']:,}")
        out.append(f"  run it at the end  {run['run_new']:,}; {run['reached']:,} can be reached")
        out.append(f"  bytes sent         {run['bytes_sent']:,} (control, manifests, reports; no model data)")
        out += [f"    {name:<28} {number:>9,}" for name, number in run["counts"].items()]
    out.append(f"VIOLATION  {told['violation']}" if told["violation"] else "everything held")
    return out
