"""Scenarios: how bad a run may get. Each seed draws its own run from one (swarm testing: Groce et al., 2012).

A scenario is a TOML file in ``simulations/scenarios``: ranges for the size of the fleet, the worst weather, and for
each kind of fault how often it may happen. A seed switches every kind on or off with a coin, then draws how much of it
there is: runs in which everything fails at once find fewer bugs than runs in which a few things fail often.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from simulations.fleet.network import Weather
from sync.errors import NotFound

_BATCHES = [1, 3, 7, 50]  # operations in a segment or a page: few, so that much happens between them
#: Faults of plans that are steered, and of no other.
OF_OPERATORS = frozenset(
    {
        "policy_signed",
        "policy_assigned",
        "policy_rolled_out",
        "model_published",
        "model_assigned",
        "model_rolled_out",
        "rollout_moved",
        "server_hostile",
        "online_key_changed",
        "guide_remembers",
    }
)
SCENARIOS = Path(__file__).parent.parent / "scenarios"


@dataclass
class Plan:
    """One run: what its seed drew. ``faults``: kind -> how many times."""

    scenario: str
    devices: int
    hours: float
    keys: int
    writes: int  # of each device
    links: int  # times that each device connects
    signed: bool
    push_operations: int
    pull_operations: int
    fleets: int
    small: bool
    large: bool
    lease_ms: int
    skew_ms: int  # how far a clock may be off that nobody would call wrong
    together: float  # share of the bursts of work that come at the same moments on all devices
    old_share: float  # of the devices that speak version 1 of the protocol
    weather: Weather
    metered: bool  # every link has limits, until all is mended
    steered: bool  # by operators, with policies
    models: bool  # and with models
    faults: dict[str, int] = field(default_factory=dict)


def names(*, hidden: bool = False) -> list[str]:
    """Those that seeds draw from; with ``hidden``, those that are only run by name as well."""
    found = sorted(path.stem for path in SCENARIOS.glob("*.toml"))
    return [name for name in found if hidden or not load(name).get("by_name_only", False)]


def load(name: str) -> dict[str, Any]:
    """Raises NotFound."""
    path = SCENARIOS / f"{name}.toml"
    if not path.exists():
        raise NotFound(f"there is no scenario {name!r}", hint=", ".join(names(hidden=True)))
    return tomllib.loads(path.read_text())


def of_seed(seed: int) -> str:
    """Seeds take the scenarios in turn."""
    known = names()
    return known[seed % len(known)]


def draw(name: str, dice: Random, *, devices: int | None = None, hours: float | None = None) -> Plan:
    """The plan of a seed; what is given is not drawn."""
    spec = load(name)
    size = spec["size"]

    def between(key: str) -> int:
        low, high = size[key]
        return dice.randint(low, high)

    weather = Weather()
    for kind, worst in spec.get("weather", {}).items():
        amount = dice.random() * worst if dice.random() < 0.6 else 0
        setattr(weather, kind, int(amount) + 1 if kind.endswith("_ms") else amount)
    must = set(spec.get("always", []))
    faults = {}
    for kind, most in spec.get("faults", {}).items():
        if kind in must or dice.random() < 0.5:
            faults[kind] = dice.randint(1, most)
    steered = dice.random() < spec["steered"] if "steered" in spec else False
    if not steered:
        faults = {kind: times for kind, times in faults.items() if kind not in OF_OPERATORS}
    return Plan(
        scenario=name,
        devices=between("devices") if devices is None else devices,
        hours=between("hours") if hours is None else hours,
        keys=between("keys"),
        writes=between("writes"),
        links=between("links"),
        signed=dice.random() < 0.2,
        push_operations=dice.choice(spec.get("batches", _BATCHES)),
        pull_operations=dice.choice(spec.get("batches", _BATCHES)),
        fleets=between("fleets") if "fleets" in size else 1,
        small=(spec.get("small", False) or not spec.get("by_name_only", False)) and dice.random() < 0.7,
        large=dice.random() < spec.get("large", 0.0),
        lease_ms=int(60_000 * 10 ** (dice.random() * 4)),
        skew_ms=dice.choice([0, 0, 1_000, 30_000]),
        together=dice.choice([0.0, 0.0, 0.5]),
        old_share=dice.choice([0.0, 0.0, 0.5]),
        weather=weather,
        metered=bool(spec.get("metered", False)),
        steered=steered,
        models=bool(spec.get("models", False)),
        faults=faults,
    )
