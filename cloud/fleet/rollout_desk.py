"""Rollouts over a store: what operators do with them, and what is due between (``cloud.fleet.rollouts`` decides).

What always holds: a rollout moves in a transaction that holds the lock of its row, after it was read under it; two
active rollouts of one place share no device when the later is created; everything that moved is in the audit trail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, Protocol

from cloud.fleet import rollouts
from cloud.fleet.rollouts import (
    ACTIVE,
    DESIRED,
    DONE,
    FAILED,
    KEPT,
    OPEN,
    PAST,
    PAUSED,
    REVERTED,
    RUNNING,
    Action,
    Advance,
    Finish,
    Halt,
    Met,
    Pause,
    Spec,
    Tally,
    spec_of,
)
from cloud.fleet.twins import members
from cloud.ports import Reading, Store, Transaction
from cloud.twin_rows import ExposureRow, ReadingTwins, RolloutRow
from sync.errors import InvalidValue, Malformed, NotFound, Refused
from sync.ports import Clock
from sync.targets import parse_path

OPEN_MAX: Final = 200
EXPOSURES_KEPT_MS: Final = 30 * 86_400_000
FAILURES_SHOWN: Final = 20
BY_HAND: Final = "by an operator"
_PAGE: Final = 1000
_BY_ITSELF: Final = ("rollout.advanced", "rollout.done", "rollout.halted", "rollout.settled", "rollout.stalled")

Goal = Callable[[Transaction, bytes, str], str]
"""The SHA-256 of a listed target, in hex, by its path. Raises NotFound for what is not listed."""


class Record(Protocol):
    """Into the audit trail, as ``cloud.identity.audit.record`` does."""

    def __call__(
        self, tx: Transaction, fleet: bytes, at_ms: int, actor: str, action: str, subject: str, **details: Any
    ) -> object: ...


class Listed(NamedTuple):
    """A rollout for people, in short. ``blame``: which classes failed."""

    row: RolloutRow
    spec: Spec
    tally: Tally
    waits_for: str
    blame: str


class Shown(NamedTuple):
    """The same, and what takes longer to look up. ``members``: of its group now; ``drawn``: of these, those that the
    present stage holds without having a class too few of.
    """

    row: RolloutRow
    spec: Spec
    tally: Tally
    waits_for: str
    blame: str
    members: int
    drawn: int
    failures: list[ExposureRow]


class RolloutDesk:
    """``moved`` is called after a commit that changes what some device is given."""

    def __init__(self, store: Store, clock: Clock, record: Record, moved: Callable[[bytes], None], goal: Goal) -> None:
        self._store = store
        self._clock = clock
        self._record = record
        self._moved = moved
        self._goal = goal

    # -- for operators ------------------------------------------------------------------------------------------------

    def create(self, fleet: bytes, spec: Spec) -> RolloutRow:
        """Begin it: its first stage is open when this returns. Raises InvalidValue, InvalidFilter, TooLarge, NotFound
        (the target is not listed), Refused (another one is under way for some of its devices).
        """
        rollouts.check(spec)
        place = place_of(spec)
        with self._store.writing() as tx:
            tx.lock_head(fleet)
            rows = self._settle(tx, fleet)
            if sum(row.state in OPEN for row in rows) >= OPEN_MAX:
                raise Refused(
                    f"{OPEN_MAX} rollouts say what devices run",
                    hint="take some back: rollouts abort --revert",
                )
            _check_alone(tx, fleet, place, spec, rows)
            _forget_exposures(tx, fleet, rows, self._clock.wall_ms())
            number = max((row.number for row in rows), default=0) + 1
            goal = self._goal(tx, fleet, spec.path) if spec.path else ""
            now_ms = self._clock.wall_ms()
            packed = rollouts.pack_spec(spec)
            row = RolloutRow(f"r{number}", number, place, packed, goal, RUNNING, 0, now_ms, 0, "", now_ms)
            self._put(tx, fleet, row, "rollout.created", place=place, what=str(spec.path or DESIRED), group=spec.group)
        self._moved(fleet)
        return row

    def pause(self, fleet: bytes, rollout: str, why: str = BY_HAND) -> RolloutRow:
        """Expose nobody more; who has it keeps it. Raises NotFound, Refused."""
        return self._change(fleet, rollout, (RUNNING,), "rollout.paused", state=PAUSED, why=why)

    def resume(self, fleet: bytes, rollout: str) -> RolloutRow:
        """Raises NotFound, Refused."""
        now_ms = self._clock.wall_ms()
        changes: dict[str, Any] = {"state": RUNNING, "why": "", "stage_ms": now_ms, "met_ms": 0}
        return self._change(fleet, rollout, (PAUSED,), "rollout.resumed", **changes)

    def abort(self, fleet: bytes, rollout: str, how: Literal["keep", "revert"], why: str = BY_HAND) -> RolloutRow:
        """End it: ``keep`` what was given to whom, or ``revert`` them to what they would have without it. Raises
        NotFound, Refused.
        """
        state = REVERTED if how == "revert" else KEPT
        before = (RUNNING, PAUSED, KEPT, DONE) if state == REVERTED else ACTIVE
        return self._change(fleet, rollout, before, "rollout.aborted", state=state, why=why)

    def all(self, fleet: bytes) -> list[Listed]:
        """All of them, the oldest first."""
        with self._store.reading() as view:
            return [self._listed(view, fleet, row) for row in view.rollouts(fleet)]

    def show(self, fleet: bytes, rollout: str) -> Shown:
        """Raises NotFound."""
        with self._store.reading() as view:
            row = view.rollout(fleet, rollout)
            if row is None:
                raise NotFound(f"no rollout {rollout!r:.80}", hint="agentdb-cloud rollouts list DIR shows them")
            found = (one for one in _exposures(view, fleet, row.id) if one.outcome in FAILED)
            group = members(view, fleet, rollouts.group_of(spec_of(row.spec).group))
            drawn = [rollouts.draws(row, one.device.device, one.documents) for one in group]
            return Shown(*self._listed(view, fleet, row), len(drawn), sum(drawn), list(islice(found, FAILURES_SHOWN)))

    # -- the job ------------------------------------------------------------------------------------------------------

    def run(self, fleet: bytes, only: str = "") -> list[tuple[str, Action]]:
        """Do what is due in all running rollouts, or in one. Nothing is written where nothing is."""
        done: list[tuple[str, Action]] = []
        now_ms = self._clock.wall_ms()
        with self._store.reading() as view:
            rows = [row for row in view.rollouts(fleet, (RUNNING,)) if only in ("", row.id)]
            due = [row.id for row in rows if rollouts.step(row, _tally(view, fleet, row), now_ms)]
        for rollout in due:
            with self._store.writing() as tx:
                row = tx.lock_rollout(fleet, rollout)
                for action in rollouts.step(row, _tally(tx, fleet, row), now_ms):
                    row = self._act(tx, fleet, row, action, now_ms)
                    done.append((rollout, action))
        if any(not isinstance(action, Met) for _, action in done):
            self._moved(fleet)
        return done

    def _act(self, tx: Transaction, fleet: bytes, row: RolloutRow, action: Action, now_ms: int) -> RolloutRow:
        if isinstance(action, Met):
            row = row._replace(met_ms=action.at_ms)
            tx.put_rollouts(fleet, [row])
            return row
        if isinstance(action, Advance):
            row = row._replace(stage=action.stage, stage_ms=now_ms, met_ms=0)
            self._put(tx, fleet, row, "rollout.advanced", stage=action.stage + 1)
        elif isinstance(action, Finish):
            row = row._replace(state=DONE, why="")
            old = rollouts.followers(tx.rollouts(fleet), row)
            tx.put_rollouts(fleet, [one._replace(state=PAST, stage_ms=now_ms) for one in old])
            self._put(tx, fleet, row, "rollout.done")
        elif isinstance(action, Pause):
            row = row._replace(state=PAUSED, why=action.why)
            self._put(tx, fleet, row, "rollout.stalled", why=action.why)
        else:
            assert isinstance(action, Halt)
            state = REVERTED if spec_of(row.spec).on_halt == "revert" else KEPT
            blame = _blame(tx, fleet, row)
            row = row._replace(state=state, why=f"halted: {action.why}; {blame}")
            row = _ended(row, now_ms)
            self._put(tx, fleet, row, "rollout.halted", why=row.why, devices=state)
        return row

    # -- inside -------------------------------------------------------------------------------------------------------

    def _change(self, fleet: bytes, rollout: str, before: tuple[str, ...], action: str, **changes: Any) -> RolloutRow:
        with self._store.writing() as tx:
            row = tx.lock_rollout(fleet, rollout)
            if row.state not in before:
                raise Refused(f"{rollout} is {row.state}", hint=f"that is for one that is {' or '.join(before)}")
            row = _ended(row._replace(**changes), self._clock.wall_ms())
            self._put(tx, fleet, row, action, state=row.state, why=row.why)
        self._moved(fleet)
        return row

    def _settle(self, tx: Transaction, fleet: bytes) -> list[RolloutRow]:
        """All rollouts, with what ``rollouts.settled`` makes of them: no device is told anything else by it."""
        changed, now_ms = rollouts.settled(tx.rollouts(fleet)), self._clock.wall_ms()
        for row in changed:
            if row.state == PAST:
                tx.put_rollouts(fleet, [row._replace(stage_ms=now_ms)])
            else:
                self._put(tx, fleet, row, "rollout.settled")
        return tx.rollouts(fleet)

    def _put(self, tx: Transaction, fleet: bytes, row: RolloutRow, action: str, **details: Any) -> None:
        tx.put_rollouts(fleet, [row])
        tx.touch_control(fleet)
        actor = "cloud" if action in _BY_ITSELF else "operator"
        self._record(tx, fleet, self._clock.wall_ms(), actor, action, row.id, **details)

    def _listed(self, view: Reading, fleet: bytes, row: RolloutRow) -> Listed:
        tally = _tally(view, fleet, row)
        waits = rollouts.waits_for(row, tally, self._clock.wall_ms()) if row.state == RUNNING else ""
        return Listed(row, spec_of(row.spec), tally, waits, _blame(view, fleet, row))


def place_of(spec: Spec) -> str:
    """Raises InvalidValue."""
    if not spec.path:
        return DESIRED
    try:
        return parse_path(spec.path).place
    except Malformed as error:
        raise InvalidValue(error.message, hint=error.hint) from error


def _ended(row: RolloutRow, now_ms: int) -> RolloutRow:
    return row._replace(stage_ms=now_ms) if row.state == REVERTED else row


def _forget_exposures(tx: Transaction, fleet: bytes, rows: list[RolloutRow], now_ms: int) -> None:
    """Of those that have said nothing to anybody for a month; what became of them is kept in words."""
    for row in rows:
        if row.state not in (REVERTED, PAST) or now_ms - row.stage_ms < EXPOSURES_KEPT_MS:
            continue
        total = _tally(tx, fleet, row).total
        if total.exposed:
            said = f"it had been given to {total.exposed}: {total.committed} good, {total.failed} failed"
            tx.put_rollouts(fleet, [row._replace(why=f"{row.why}; {said}" if row.why else said)])
            tx.drop_exposures(fleet, row.id)


def followed(tx: Transaction, fleet: bytes, place: str, now_ms: int) -> None:
    """Something was decided for the whole fleet in this place: what rollouts for the whole fleet ended with is past."""
    rows = [row for row in tx.rollouts(fleet, (DONE, KEPT)) if row.place == place and spec_of(row.spec).is_for_all]
    tx.put_rollouts(fleet, [row._replace(state=PAST, stage_ms=now_ms) for row in rows])


def _check_alone(tx: Transaction, fleet: bytes, place: str, spec: Spec, rows: list[RolloutRow]) -> None:
    others = [row for row in rows if row.state in ACTIVE and row.place == place]
    if not others:
        return
    for member in members(tx, fleet, rollouts.group_of(spec.group)):
        for row in others:
            if rollouts.group_of(spec_of(row.spec).group).matches(member.documents):
                raise Refused(
                    f"{row.id} is {row.state} for {place} and {member.device.name!r}, which is in this group, too",
                    hint=f"let {row.id} end, or abort it; or name a group that shares no device with it",
                )


def _tally(view: ReadingTwins, fleet: bytes, row: RolloutRow) -> Tally:
    return rollouts.tally_of(view.count_exposures(fleet, row.id), spec_of(row.spec).spread)


def _blame(view: ReadingTwins, fleet: bytes, row: RolloutRow) -> str:
    counts = view.count_exposures(fleet, row.id)
    kinds: dict[str, int] = {}
    for kind, outcome, devices in counts:
        if outcome in FAILED:
            kinds[kind] = kinds.get(kind, 0) + devices
    return rollouts.blame(kinds.items())


def _exposures(view: ReadingTwins, fleet: bytes, rollout: str) -> Iterator[ExposureRow]:
    after = b""
    while rows := view.exposures(fleet, rollout, after, _PAGE):
        yield from rows
        after = rows[-1].device
