"""Rollouts: something new goes to a group of devices in stages, and no further than its gates let it (ADR 25).

``step`` is pure: what is to be done, by how the rollout stands and what devices have said. ``draws`` says who is in a
stage: devices of its ring, and those whose hash with the rollout's id is small enough, so stages only grow and each
rollout draws anew. With ``spread`` the first two devices of each class that ask are in, too: 1% of a fleet may hold
none of a class that is a tenth of it, and the second stage would find out.

*Exposed* is who was given it. *Reporting* is who said how it went: committed, or failed (returned, refused, failed); a
device that is offline, or still fetching, is neither. What always holds: nothing but ``step`` and an operator moves a
rollout, and a rollout that is not running exposes nobody (but one that is done its group's new devices).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from cloud.twin_rows import ExposureCount, RolloutRow
from sync import twins
from sync.errors import InvalidValue, TooLarge
from sync.groups import Documents, Group, look_up, parse, parse_path
from sync.messages import UNDECODABLE

RUNNING, PAUSED, DONE, KEPT, REVERTED, PAST = "running", "paused", "done", "kept", "reverted", "past"
SETTLED: Final = "settled"
"""As done, for the whole fleet, with what others said before it: it is not taken back any more."""
OPEN: Final = (RUNNING, PAUSED, DONE, KEPT, SETTLED)
"""In these states it says what exposed devices run. A reverted one never does again; a past one was followed."""
ACTIVE: Final = (RUNNING, PAUSED)
STAGES_MAX: Final = 20
CLASS_MIN: Final = 2
COMMITTED: Final = "committed"
FAILED: Final = ("returned", "refused", "failed")
DESIRED: Final = "desired"
REVERTABLE: Final = 20
_PARTS: Final = 10_000
_WITH_OLDER = "with what finished settings of the whole fleet before it said"

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=366 * 86_400)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``percent`` of the group, and all devices with the label ``ring``."""

    percent: Annotated[float, msgspec.Meta(ge=0, le=100)]
    ring: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What has to be reported before the next stage: by ``reporting_min`` devices and ``reporting_share`` of those
    that are exposed; then ``soak_s`` more have to pass. Halted if more than ``failed_share_max`` of those that report
    failed: then, or as soon as ``failed_max`` did. Paused if the minimum is not met ``stalled_after_s`` after the stage
    began (0: it waits).
    """

    reporting_min: Annotated[int, msgspec.Meta(ge=1)] = 1
    reporting_share: _Share = 0.0
    failed_share_max: _Share = 0.1
    failed_max: Annotated[int, msgspec.Meta(ge=1)] = 3
    soak_s: _Seconds = 0
    stalled_after_s: _Seconds = 0


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rollout as an operator writes it. ``what``: a target's path, or ``{"desired": patch}``. ``group``: a query, ""
    for the fleet; ``spread``: what makes a class, such as ``reported.hardware``.
    """

    what: str | dict[str, Any]
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1, max_length=STAGES_MAX)]
    group: str = ""
    spread: str = ""
    gate: Gate = Gate()
    on_halt: Literal["revert", "keep"] = "revert"

    @property
    def path(self) -> str:
        """The target's, "" for configuration."""
        return self.what if isinstance(self.what, str) else ""

    @property
    def patch(self) -> dict[str, Any]:
        """What it adds to *desired*; {} for a target."""
        return {} if isinstance(self.what, str) else self.what[DESIRED]

    @property
    def is_for_all(self) -> bool:
        """Whether it ends with every device of the fleet."""
        return not self.group and self.stages[-1].percent == 100


# Made here: two threads that decode a type for the first time at once can crash msgspec.
_decoder = msgspec.json.Decoder(Spec)


class ClassTally(NamedTuple):
    exposed: int = 0
    committed: int = 0
    failed: int = 0

    @property
    def reporting(self) -> int:
        return self.committed + self.failed


class Tally(NamedTuple):
    """How many of the exposed have said what; ``classes`` by ``spread``, empty without."""

    total: ClassTally
    classes: dict[str, ClassTally]


class Met(NamedTuple):
    """The gate's minimum is met since then (0: it is not any more)."""

    at_ms: int


class Advance(NamedTuple):
    stage: int


class Finish(NamedTuple):
    """The last stage was passed."""


class Halt(NamedTuple):
    """For good: kept or reverted, as the rollout says."""

    why: str


class Pause(NamedTuple):
    why: str


Action = Met | Advance | Finish | Halt | Pause


def step(rollout: RolloutRow, tally: Tally, now_ms: int) -> list[Action]:
    """What is due. At most one action moves the rollout; call it again after that."""
    if rollout.state != RUNNING:
        return []
    spec = spec_of(rollout.spec)
    gate, total = spec.gate, tally.total
    if why := _too_many_failed(gate, tally):
        return [Halt(why)]
    if lacking := _lacking(gate, tally):
        stalled = gate.stalled_after_s and now_ms - rollout.stage_ms >= gate.stalled_after_s * 1000
        if stalled:
            return [Pause(f"stalled: {lacking}")]
        return [Met(0)] if rollout.met_ms else []
    if not rollout.met_ms and gate.soak_s:
        return [Met(now_ms)]
    if now_ms - rollout.met_ms < gate.soak_s * 1000:
        return []
    if _share(total) > gate.failed_share_max:
        return [Halt(f"{total.failed} of {total.reporting} that report failed")]
    return [Advance(rollout.stage + 1)] if rollout.stage + 1 < len(spec.stages) else [Finish()]


def waits_for(rollout: RolloutRow, tally: Tally, now_ms: int) -> str:
    """For people: what a running rollout waits for."""
    gate = spec_of(rollout.spec).gate
    if lacking := _lacking(gate, tally):
        return lacking
    left_ms = rollout.met_ms + gate.soak_s * 1000 - now_ms
    return f"soaks for {max(left_ms, 0) // 1000} s more" if rollout.met_ms else ""


def _too_many_failed(gate: Gate, tally: Tally) -> str:
    total = tally.total
    if total.failed >= gate.failed_max and _share(total) > gate.failed_share_max:
        return f"{total.failed} of {total.reporting} that report failed"
    for name, part in sorted(tally.classes.items()):
        if part.failed >= CLASS_MIN and _share(part) > gate.failed_share_max:
            return f"{part.failed} of {part.reporting} that report failed of {name or 'those that name no class'}"
    return ""


def _lacking(gate: Gate, tally: Tally) -> str:
    total = tally.total
    if total.reporting < gate.reporting_min:
        return f"{total.reporting} of {gate.reporting_min} devices report"
    if total.reporting < gate.reporting_share * total.exposed:
        return f"{total.reporting} of {total.exposed} exposed devices report, not {gate.reporting_share:.0%}"
    for name, part in sorted(tally.classes.items()):
        if part.reporting < min(CLASS_MIN, part.exposed):
            return f"{part.reporting} of {part.exposed} exposed devices report of {name or 'those that name no class'}"
    return ""


def _share(part: ClassTally) -> float:
    return part.failed / part.reporting if part.reporting else 0.0


def tally_of(counts: Iterable[ExposureCount], spread: str) -> Tally:
    """What ``count_exposures`` says, added up."""
    classes: dict[str, ClassTally] = {}
    for kind, outcome, devices in counts:
        part = classes.get(kind, ClassTally())
        classes[kind] = ClassTally(
            part.exposed + devices,
            part.committed + (devices if outcome == COMMITTED else 0),
            part.failed + (devices if outcome in FAILED else 0),
        )
    total = ClassTally(*(sum(column) for column in zip(*classes.values(), strict=True))) if classes else ClassTally()
    return Tally(total, classes if spread else {})


def blame(failures: Iterable[tuple[str, int]]) -> str:
    """Which classes failed: ``all 4 failures: rev2``, ``3 of 4 failures: rev2``. By (class, how many)."""
    counted = sorted(((count, kind) for kind, count in failures if count), key=lambda pair: (-pair[0], pair[1]))
    if not counted:
        return ""
    count, kind = counted[0]
    total = sum(number for number, _ in counted)
    whole = "the only failure" if total == 1 else f"all {total} failures" if count == total else ""
    return f"{whole or f'{count} of {total} failures'}: {kind or 'no class reported'}"


# -- who is in a stage ------------------------------------------------------------------------------------------------


def draws(rollout: RolloutRow, device: bytes, documents: Documents) -> bool:
    """Whether the device is in the present stage, by ring or by hash; of its group it is."""
    stages = spec_of(rollout.spec).stages[: rollout.stage + 1]
    ring = look_up(documents, ("labels", "ring"))
    if any(stage.ring and stage.ring == ring for stage in stages):
        return True
    draw = int.from_bytes(sha256(rollout.id.encode() + device).digest()[:4]) % _PARTS
    return any(draw < stage.percent * (_PARTS // 100) for stage in stages)


def kind_of(spec: Spec, documents: Documents) -> str:
    """The device's class, as ``spread`` says, or else its hardware: for who reads of failures, on a terminal too."""
    found = look_up(documents, path_of(spec.spread or "reported.hardware"))
    text = "" if found is None or isinstance(found, dict | list) else str(found)[:64]
    return "".join(character for character in text if character.isprintable())


# -- what an operator writes ------------------------------------------------------------------------------------------


def parse_spec(data: bytes) -> Spec:
    """JSON. Raises InvalidValue, InvalidFilter, TooLarge."""
    try:
        spec = _decoder.decode(data)
    except UNDECODABLE as error:
        raise InvalidValue(f"not a rollout: {error}", hint="docs/FLEET.md has its keys") from error
    check(spec)
    return spec


def check(spec: Spec) -> None:
    """What types do not say. Raises InvalidValue, InvalidFilter, TooLarge."""
    if isinstance(spec.what, dict):
        if spec.what.keys() != {DESIRED} or not isinstance(spec.what[DESIRED], dict):
            raise InvalidValue("what is a target's path, or a patch of desired", hint='{"desired": {"level": "debug"}}')
        twins.check_patch(spec.what[DESIRED])
        if twins.SYSTEM in spec.what[DESIRED]:
            raise InvalidValue(f"{twins.SYSTEM!r} is what devices say of themselves", hint="name it otherwise")
    elif not spec.what:
        raise InvalidValue("what does it roll out?", hint='a path as models/embed/13.json, or {"desired": {…}}')
    group_of(spec.group)
    if spec.spread:
        path_of(spec.spread)
    percents = [stage.percent for stage in spec.stages]
    if percents != sorted(percents):
        raise InvalidValue("a stage has fewer percent than the one before", hint="stages only grow")


def pack_spec(spec: Spec) -> bytes:
    return msgspec.json.encode(spec, order="deterministic")


@lru_cache(maxsize=512)
def spec_of(data: bytes) -> Spec:
    """Of a row."""
    return _decoder.decode(data)


@lru_cache(maxsize=512)
def group_of(query: str) -> Group:
    return parse(query)


@lru_cache(maxsize=512)
def path_of(text: str) -> tuple[str, ...]:
    return parse_path(text)


def followers(rows: Sequence[RolloutRow], done: RolloutRow) -> list[RolloutRow]:
    """Those before it in its place that say nothing any more once it is done."""
    spec = spec_of(done.spec)
    return [
        row
        for row in rows
        if row.place == done.place != DESIRED  # of patches each says something
        and row.number < done.number
        and row.state in (DONE, KEPT)
        and spec.stages[-1].percent == 100  # else there are others who go on with what was before
        and spec.group in ("", spec_of(row.spec).group)
    ]


def settled(rows: Sequence[RolloutRow]) -> list[RolloutRow]:
    """Of finished settings for the whole fleet all but the newest ``REVERTABLE`` are made one: each is put into the
    next, where that tells every device the same, and is past. Those that change, as they are then.
    """
    here = [row for row in rows if row.place == DESIRED and row.state in OPEN]
    finished = [row for row in here if row.state in (DONE, SETTLED) and spec_of(row.spec).is_for_all]
    changed: dict[str, RolloutRow] = {}
    for held, after in pairwise(finished[: max(len(finished) - REVERTABLE, 0)]):
        row = changed.get(held.id, held)
        between = [other for other in here if row.number < other.number < after.number]
        if all(_in_any_order(row, other) for other in between) and (spec := _with(row, after)):
            changed[row.id] = row._replace(state=PAST)
            changed[after.id] = after._replace(state=SETTLED, spec=spec, why=_WITH_OLDER)
    return list(changed.values())


def _in_any_order(one: RolloutRow, other: RolloutRow) -> bool:
    first, second = spec_of(one.spec).patch, spec_of(other.spec).patch
    return twins.same(twins.compact([first, second]), twins.compact([second, first]))


def _with(row: RolloutRow, after: RolloutRow) -> bytes:
    """The spec of ``after`` that says what both say; b"" if that is more than a patch may be."""
    spec = spec_of(after.spec)
    patch = twins.compact([spec_of(row.spec).patch, spec.patch])
    try:
        twins.check_patch(patch)
    except TooLarge:
        return b""
    return pack_spec(msgspec.structs.replace(spec, what={DESIRED: patch}))
