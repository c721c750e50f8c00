"""The scenario ``metered``: a week of a small fleet over metered links, with kills and power cuts; and an hour in which
the link is never idle. Both with lanes and without.

Each device writes records all day, an urgent one now and then, and has more attachments than its link will ever carry.
What is asked of it: on no day of UTC does a link carry more than its budget, whatever dies; and an urgent record is in
the control plane within a second, whatever else waits.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edge.link.gate import LinkRules
from simulations.fleet.cloud_node import CloudNode
from simulations.fleet.disk import mounted
from simulations.fleet.world import World
from simulations.metered.device import MeteredDevice
from simulations.metered.pipe import Pipe
from sync.budgets import DAY_MS, LinkLimits
from sync.lanes import BULK, NORMAL, URGENT
from sync.operations import Operation

SCENARIO = "metered"
ALARMS, READINGS = "alarms", "readings"
LIMITS = LinkLimits("metered", 4_000_000, 50_000, 262_144, 0.2, (URGENT, NORMAL, BULK))
BYTES_PER_S, TRIP_MS = 60_000, 120
URGENT_MS_MAX = 1_000  # of 99 in a hundred
HOURS_MIN = 24.0  # in less there may be no urgent record at all
_LAST_MS = 60_000  # for what was written at the very end


class Plan(NamedTuple):
    """``reading_s`` and ``alarm_s``: between two, on average. ``kills`` of each device."""

    days: float
    limits: LinkLimits
    reading_s: float
    alarm_s: float
    bulk_per_day: int
    kills: int


WEEK = Plan(7.0, LIMITS, 300, 1_800, 20 << 20, 21)
HOUR = Plan(1 / 24, LIMITS._replace(bytes_per_day=0), 60, 20, 1 << 30, 0)


class Outcome(NamedTuple):
    """What came of it. ``waits``: collection -> ms from write to commit in the control plane, sorted; what did not
    arrive counts with the time until the end. ``days``: bytes that a device's link carried on a day of UTC.
    """

    waits: dict[str, list[int]]
    missing: dict[str, int]
    days: list[int]
    kills: int
    bulk_bytes: int

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, waits in self.waits.items():
            shown[name] = {
                "records": len(waits),
                "missing": self.missing[name],
                **{f"p{share}_ms": waits[len(waits) * share // 100] for share in (50, 99)},
                "most_ms": waits[-1],
            }
        return shown | {
            "bytes_of_the_fullest_day": max(self.days),
            "kills": self.kills,
            "bulk_bytes": self.bulk_bytes,
        }


class Fleet:
    """Its life is in the world's events from the beginning; ``written`` has what is not committed yet."""

    def __init__(self, world: World, root: Path, devices: int, plan: Plan, *, lanes: bool) -> None:
        self.world = world
        self.plan = plan
        self.end_ms = int(plan.days * DAY_MS)
        self.written: dict[tuple[str, str], int] = {}
        self.waits: dict[str, list[int]] = {ALARMS: [], READINGS: []}
        self.cloud = CloudNode(
            world,
            root,
            lease_ms=30 * DAY_MS,
            on_commit=self._committed,
            on_stable=lambda _fleet, _position: None,
            wire_check=lambda _what, _data: None,
        )
        fleet = self.cloud.create_fleet("metered")
        limits = plan.limits if lanes else plan.limits._replace(urgent_share=0.0)
        rules = LinkRules((limits,), limits.link_class, _priority if lanes else None)
        self.devices = []
        for number in range(devices):
            pipe = Pipe(world, BYTES_PER_S, TRIP_MS)
            device = MeteredDevice(world, root, f"m{number}", fleet, self.cloud, rules, pipe, lanes=lanes)
            self.devices.append(device)
            device.boot()
            self._live(device)

    def _live(self, device: MeteredDevice) -> None:
        dice, plan = self.world.dice(f"life of {device.name}"), self.plan
        for collection, every_s, size in ((READINGS, plan.reading_s, 400), (ALARMS, plan.alarm_s, 100)):
            at = 0.0
            while (at := at + dice.expovariate(1 / every_s) * 1000) < self.end_ms:
                key, body = f"{device.name}/{int(at)}", dice.randbytes(size // 2).hex()
                self.world.at(int(at), partial(self._write, device, collection, key, body))
        for day in range(int(plan.days) + 1):
            self.world.at(day * DAY_MS, partial(device.bulk.add, plan.bulk_per_day))
        for _ in range(plan.kills):
            at_ms, cut, down_ms = dice.randrange(self.end_ms), dice.random() < 0.5, dice.randrange(500, 60_000)
            self.world.at(at_ms, partial(device.kill, power_cut=cut, down_ms=down_ms))

    def drop(self) -> None:
        for device in self.devices:
            device.stop()
        self.cloud.drop()
        self.cloud.disk.forget()

    def _write(self, device: MeteredDevice, collection: str, key: str, body: str) -> None:
        if device.edge is not None:
            device.edge.collection(collection).put(key, {"body": body})
            self.written[collection, key] = self.world.now_ms
            device.pump()

    def _committed(self, _fleet: bytes, operations: list[Operation]) -> None:
        for operation in operations:
            since_ms = self.written.pop((operation.shape.collection, operation.key), None)
            if since_ms is not None:
                self.waits[operation.shape.collection].append(self.world.now_ms - since_ms)


def _priority(collection: str, _key: str, _fields: object) -> str:
    return URGENT if collection == ALARMS else NORMAL


def run(seed: int, plan: Plan = WEEK, *, devices: int = 3, lanes: bool = True) -> Outcome:
    """One run; the same seed is the same run."""
    world = World(seed)
    root = Path(tempfile.mkdtemp(prefix="metered-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    fleet: Fleet | None = None
    try:
        with mounted():
            fleet = Fleet(world, root, devices, plan, lanes=lanes)
            world.run_until(fleet.end_ms + _LAST_MS)
            missing = dict.fromkeys(fleet.waits, 0)
            for (collection, _), since_ms in fleet.written.items():
                fleet.waits[collection].append(world.now_ms - since_ms)
                missing[collection] += 1
            return Outcome(
                {name: sorted(waits) for name, waits in fleet.waits.items()},
                missing,
                [size for device in fleet.devices for size in device.pipe.by_day.values()],
                world.counts["kills"],
                sum(device.bulk.sent for device in fleet.devices),
            )
    finally:
        if fleet is not None:
            fleet.drop()
        shutil.rmtree(root, ignore_errors=True)


def problems(plan: Plan, outcome: Outcome) -> list[str]:
    """What does not hold of a run with lanes, in sentences."""
    found = []
    if plan.limits.bytes_per_day and max(outcome.days) > plan.limits.bytes_per_day:
        found.append(f"a link carried {max(outcome.days):,} bytes on a day that has {plan.limits.bytes_per_day:,}")
    alarms = outcome.waits[ALARMS]
    slow = alarms[len(alarms) * 99 // 100]
    if slow > URGENT_MS_MAX:
        found.append(f"one urgent record in a hundred takes {slow:,} ms or more")
    return found


def report(seed: int, devices: int, days: float) -> dict[str, Any]:
    """The week and the hour, each with lanes and without; ``problems`` is empty if everything held."""
    plans = {"week": WEEK._replace(days=days, kills=int(3 * days)), "hour": HOUR}
    shown: dict[str, Any] = {"seed": seed, "devices": devices, "days": days, "problems": []}
    for name, plan in plans.items():
        outcome = run(seed, plan, devices=devices)
        shown["problems"] += problems(plan, outcome)
        one = run(seed, plan, devices=devices, lanes=False)
        shown[name] = {"bytes_per_day": plan.limits.bytes_per_day, "lanes": outcome.shown(), "one_lane": one.shown()}
    return shown


def table(shown: dict[str, Any]) -> list[str]:
    """For people."""
    lines = [f"{shown['devices']} devices, {shown['days']:g} virtual days and one busy hour, seed {shown['seed']}"]
    lines.append(f"{'':<20}{'urgent p50':>12}{'p99':>14}{'most':>14}{'readings p50':>14}{'p99':>14}{'bulk MiB':>10}")
    for name in ("week", "hour"):
        for way in ("lanes", "one_lane"):
            told = shown[name][way]
            cells = [told[ALARMS][word] for word in ("p50_ms", "p99_ms", "most_ms")]
            cells += [told[READINGS][word] for word in ("p50_ms", "p99_ms")]
            widths = (12, 14, 14, 14, 14)
            row = "".join(f"{f'{cell:,} ms':>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{name + ', ' + way.replace('_', ' '):<20}{row}{told['bulk_bytes'] >> 20:>10,}")
    week = shown["week"]
    fullest, budget = week["lanes"]["bytes_of_the_fullest_day"], week["bytes_per_day"]
    lines.append(f"the fullest day of a link had {fullest:,} of {budget:,} bytes, with {week['lanes']['kills']} kills")
    return lines
