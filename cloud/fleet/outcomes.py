"""What devices say became of what they were given: who runs which policy and which model (``agentdb-cloud outcomes``).

What always holds: a report is the device's own word. What is not of the form that PROTOCOL gives it counts as nothing
said, whatever it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cloud.fleet.rollouts import COMMITTED, FAILED
from cloud.fleet.twins import Member
from sync.twins import SYSTEM

_KNOWN = (COMMITTED, *FAILED)
_REASON_MAX = 200  # characters


class Outcome(NamedTuple):
    """Of what was last given to a device at a place ("policy", "models/NAME"). ``path`` is the target's, ``outcome``
    committed, returned, refused or failed, ``at_ms`` when the device last reported anything; with an empty ``outcome``
    it has said nothing of the place.
    """

    place: str
    path: str
    outcome: str
    reason: str
    device: bytes
    name: str
    at_ms: int


class Tally(NamedTuple):
    """How many devices say the same; ``reasons`` maps theirs, if there are any, to how many gave each."""

    place: str
    path: str
    outcome: str
    devices: int
    reasons: dict[str, int]


def outcomes(members: Iterable[Member], place: str = "") -> list[Outcome]:
    """In order of place, path and outcome: what each device says of each place that any of them names; of ``place``
    alone if it is given.
    """
    found: list[Outcome] = []
    told: list[tuple[Member, set[str]]] = []
    for member in members:
        said = [one for one in _said(member) if place in ("", one.place)]
        told.append((member, {one.place for one in said}))
        found += said
    places = {one.place for one in found} | ({place} if place else set())
    for member, named in told:
        found += [_outcome(member, silent, {}) for silent in sorted(places - named)]
    return sorted(found)


def tally(every: Iterable[Outcome]) -> list[Tally]:
    """In the order in which they first come."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in every:
        groups.setdefault((one.place, one.path, one.outcome), []).append(one.reason)
    return [
        Tally(*key, len(reasons), dict(Counter(reason for reason in reasons if reason).most_common()))
        for key, reasons in groups.items()
    ]


def _said(member: Member) -> Iterator[Outcome]:
    system = member.documents["reported"].get(SYSTEM)
    said = system.get("outcomes") if isinstance(system, dict) else None
    for place, one in (said if isinstance(said, dict) else {}).items():
        if isinstance(one, dict) and one.get("outcome") in _KNOWN and isinstance(one.get("path"), str):
            yield _outcome(member, place, one)


def _outcome(member: Member, place: str, said: Mapping[str, Any]) -> Outcome:
    return Outcome(
        place,
        said.get("path", ""),
        said.get("outcome", ""),
        str(said.get("reason") or "")[:_REASON_MAX],
        member.device.device,
        member.device.name,
        member.twin.at_ms,
    )
