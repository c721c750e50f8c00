"""A model's trial: which of two slots is in use, which is on trial, and when a model is kept or returned (ADR 25).

A state machine without I/O. ``step`` is given a note and an event and hands back the next note and what is to be done.
The one duty of the caller: **the note is committed before any of its actions is begun**, with the ``Refuse`` among them
in the same transaction. So a crash leaves a note that says what was about to be done, and ``Started``, the first event
of a process, does it again.

What always holds, of every note that ``step`` returns (``check`` says it in code): the slot of ``active`` is that of
nothing else; while a model soaks, ``previous`` is whole and nothing is to be written to its slot; a digest that was
refused becomes nobody's candidate. It leaves to others: what is in the slots, and what probes measure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sync.errors import Malformed

SLOTS = ("a", "b")
TRIES_MAX = 3
STEADY_MS = 60_000  # a process that has lived so long was not brought down by the model
WHY_CHARACTERS_MAX = 500
_VERSION = 1

ABSENT, FETCHING, STAGED, TRYING = "absent", "fetching", "staged", "trying"
SOAKING, COMMITTED, RETURNED = "soaking", "committed", "returned"
STATES = (ABSENT, FETCHING, STAGED, TRYING, SOAKING, COMMITTED, RETURNED)
DAMAGED = "its files were damaged, and are filled again"
UNWANTED = "another version is assigned, which was refused here"
CRASHES = f"the device's process ended {TRIES_MAX} times while it was tried"


class Rules(NamedTuple):
    """When a soak is over, and when it has failed: more than ``errors_share_max`` of at least ``errors_of_at_least``
    uses failed (0: errors are not counted).
    """

    uptime_ms: int = 0
    uses: int = 0
    errors_share_max: float = 1.0
    errors_of_at_least: int = 0


class Version(NamedTuple):
    """A version of a model: ``digest`` is the SHA-256 of its manifest, ``slot`` where its files are or go."""

    slot: str
    number: int
    digest: bytes
    rules: Rules = Rules()


class Note(NamedTuple):
    """What is known of a name. ``active`` is what ``path`` gives. ``previous`` is whole, and what a soak returns to;
    after it, spare; beside a candidate, what was in use until it was damaged. ``wanted`` was assigned while a trial was
    under way. ``returned`` is the last one that was, and ``why``; its files stay until the slot is needed.
    """

    state: str = ABSENT
    active: Version | None = None
    candidate: Version | None = None
    previous: Version | None = None
    wanted: Version | None = None
    returned: Version | None = None
    tries: int = 0
    uptime_ms: int = 0
    uses: int = 0
    errors: int = 0
    why: str = ""


# -- events -----------------------------------------------------------------------------------------------------------


class Assigned(NamedTuple):
    """This version is the one to run, as signed by both sides. ``refused``: its digest was, here."""

    version: Version
    refused: bool = False


class Started(NamedTuple):
    """A process has begun that carries out what is due. The one before it may have ended anywhere."""


class Stopped(NamedTuple):
    """The process ends in order."""


class Filled(NamedTuple):
    """All files of that digest are in the candidate's slot, hashed and synced."""

    digest: bytes


class Begun(NamedTuple):
    """The probes are about to run."""


class Probed(NamedTuple):
    """The probes have run; ``why`` is what was wrong, empty if nothing was."""

    digest: bytes
    why: str = ""


class Ran(NamedTuple):
    """So much more of the active model: time this process was up, uses, failed ones. ``steady``: for ``STEADY_MS``."""

    uptime_ms: int = 0
    uses: int = 0
    errors: int = 0
    steady: bool = False


class Damaged(NamedTuple):
    """The active files are not what was written. ``spare``: those of ``previous`` were looked at, and are."""

    spare: bool = False


class Spared(NamedTuple):
    """The spare slot is needed for something else."""


class Removed(NamedTuple):
    """The name is to be given up."""


Event = Assigned | Started | Stopped | Filled | Begun | Probed | Ran | Damaged | Spared | Removed


# -- actions ----------------------------------------------------------------------------------------------------------


class Refuse(NamedTuple):
    """With the note, in one transaction: this digest is never to be tried again."""

    version: Version
    why: str


class Empty(NamedTuple):
    """Remove what is in a slot."""

    slot: str


class Fill(NamedTuple):
    """Make the version's files in its slot; ``Filled`` is what follows."""

    version: Version


class Try(NamedTuple):
    """Go on with ``Begun``."""


class Probe(NamedTuple):
    """Run the version's probes; ``Probed`` is what follows."""

    version: Version


class Tell(NamedTuple):
    """``active`` is another one now."""


Action = Refuse | Empty | Fill | Try | Probe | Tell
Step = tuple[Note, list[Action]]


def step(note: Note, event: Event) -> Step:
    """The next note, and what to do once it is committed. An event that does not concern the state changes nothing."""
    after, actions = _stepped(note, event)
    if after.active is after.candidate is None and after.previous is not None:  # damaged, and nothing took its place
        damaged = after.previous
        return after._replace(state=FETCHING, candidate=damaged, previous=None, why=DAMAGED), [*actions, Fill(damaged)]
    return after, actions


def _stepped(note: Note, event: Event) -> Step:
    if isinstance(event, Assigned):
        return _assigned(note, event.version, refused=event.refused)
    if isinstance(event, Filled):
        return _filled(note, event.digest)
    if isinstance(event, Started):
        return _started(note)
    if isinstance(event, Stopped):
        return (note._replace(tries=max(0, note.tries - 1)) if note.state in (TRYING, SOAKING) else note), []
    if isinstance(event, Begun):
        return _begun(note)
    if isinstance(event, Probed):
        return _probed(note, event)
    if isinstance(event, Ran):
        return _ran(note, event)
    if isinstance(event, Damaged):
        return _damaged(note, spare=event.spare)
    if isinstance(event, Spared):
        return _spared(note)
    return Note(), [*(Empty(slot) for slot in SLOTS), Tell()]


def _assigned(note: Note, version: Version, *, refused: bool) -> Step:
    if note.state == TRYING:  # ends first
        candidate = note.candidate
        same = candidate is not None and candidate.digest == version.digest
        if note.why != DAMAGED:
            note = note._replace(why=UNWANTED if refused and not same else "")
        return note._replace(wanted=None if same or refused else version), []
    if refused:
        return _unwanted(note, version)
    if _is(note.active, version):
        return _kept(note)
    if note.state == SOAKING:
        return _superseded(note, version)
    return (note, []) if _is(note.candidate, version) else _fetching(note, version)


def _unwanted(note: Note, version: Version) -> Step:
    """What is in use stays; what was on its way goes, unless it was in use itself until it was damaged."""
    candidate = note.candidate
    if candidate is None or _is(candidate, version) or note.why == DAMAGED:
        return note, []
    return _at_rest(note), [Empty(candidate.slot)]


def _kept(note: Note) -> Step:
    """What is active is what is wanted; what was on its way is not any more."""
    if note.state == SOAKING:
        return note, []
    left: list[Action] = [Empty(note.candidate.slot)] if note.candidate is not None else []
    return note._replace(state=COMMITTED, candidate=None, wanted=None, tries=0, why=""), left


def _superseded(note: Note, version: Version) -> Step:
    """A soak ends because another version is wanted: back to the one that is known to be good, if there is one."""
    if note.previous is None:
        return _fetching(_at_rest(note), version)
    back = _at_rest(note)._replace(active=note.previous, previous=None)
    if _is(note.previous, version):
        return back._replace(state=COMMITTED), [Tell()]
    fetching, actions = _fetching(back, version)
    return fetching, [Tell(), *actions]


def _fetching(note: Note, version: Version) -> Step:
    """The slot that is not in use gets it. What a candidate has left in it, or the same version, may be of use."""
    damaged = note.previous if note.active is None and not _is(note.previous, version) else None
    slot = _other(note.active or damaged)
    version = version._replace(slot=slot)
    kept = note.candidate is not None or _is(note.previous, version) or _is(note.returned, version)
    actions: list[Action] = [] if kept else [Empty(slot)]
    return _at_rest(note)._replace(state=FETCHING, candidate=version, previous=damaged), [*actions, Fill(version)]


def _filled(note: Note, digest: bytes) -> Step:
    if note.state != FETCHING or note.candidate is None or note.candidate.digest != digest:
        return note, []  # of one that is not wanted any more
    return note._replace(state=STAGED, tries=0), [Try()]


def _started(note: Note) -> Step:
    if note.state == FETCHING and note.candidate is not None:
        return note, [Fill(note.candidate)]
    if note.state == STAGED:
        return note, [Try()]
    if note.state == TRYING:
        return (note, [Try()]) if note.tries < TRIES_MAX else _rejected(note, CRASHES)
    if note.state == SOAKING:
        return (note._replace(tries=note.tries + 1), []) if note.tries < TRIES_MAX else _returned(note, CRASHES)
    return note, []


def _begun(note: Note) -> Step:
    if note.state not in (STAGED, TRYING) or note.candidate is None:
        return note, []
    return note._replace(state=TRYING, tries=min(note.tries + 1, TRIES_MAX)), [Probe(note.candidate)]


def _probed(note: Note, event: Probed) -> Step:
    if note.state != TRYING or note.candidate is None or note.candidate.digest != event.digest:
        return note, []
    if event.why:
        return _rejected(note, event.why)
    if note.why == UNWANTED:
        return _at_rest(note), [Empty(note.candidate.slot)]
    if note.wanted is not None:  # it was not found bad: it is only not wanted any more
        rest = _at_rest(note)._replace(candidate=note.candidate)
        return _assigned(rest, note.wanted, refused=False)
    switched = _at_rest(note)._replace(state=SOAKING, active=note.candidate, previous=note.active, tries=1)
    soaked, actions = _ran(switched, Ran())  # it may not have to soak
    return soaked, [Tell(), *actions]


def _rejected(note: Note, why: str) -> Step:
    """By its probes: the active one was in use all the time."""
    assert note.candidate is not None
    why = why[:WHY_CHARACTERS_MAX]
    refuse = Refuse(note.candidate, why)
    rest = _at_rest(note)._replace(state=RETURNED, returned=note.candidate, why=why)
    if note.wanted is None:
        return rest, [refuse]
    after, actions = _assigned(rest, note.wanted, refused=False)
    return after, [refuse, *actions]


def _ran(note: Note, event: Ran) -> Step:
    if note.state != SOAKING or note.active is None:
        return note, []
    rules = note.active.rules
    note = note._replace(
        uptime_ms=note.uptime_ms + event.uptime_ms,
        uses=note.uses + event.uses,
        errors=note.errors + event.errors,
        tries=0 if event.steady else note.tries,
    )
    counted = rules.errors_of_at_least and note.uses >= rules.errors_of_at_least
    if counted and note.errors > rules.errors_share_max * note.uses:
        return _returned(note, f"{note.errors} of {note.uses} uses failed, {rules.errors_share_max:.1%} may")
    if note.uptime_ms >= rules.uptime_ms and note.uses >= rules.uses:
        return note._replace(state=COMMITTED, tries=0, why=""), []
    return note, []


def _returned(note: Note, why: str) -> Step:
    """From the soak: back to what was in use before."""
    assert note.active is not None
    why = why[:WHY_CHARACTERS_MAX]
    back = _at_rest(note)._replace(state=RETURNED, active=note.previous, previous=None, returned=note.active, why=why)
    return back, [Refuse(note.active, why), Tell()]


def _damaged(note: Note, *, spare: bool) -> Step:
    """It is not given out any more. Its slot is filled again, once nothing else is on its way: what is right stays."""
    if note.active is None:
        return note, []
    back = note.previous if spare else None
    if note.candidate is not None:
        return note._replace(active=None, previous=note.active), [Tell()]
    damaged = note.active
    after = _at_rest(note)._replace(state=FETCHING, active=back, previous=None, candidate=damaged, why=DAMAGED)
    return after, [Tell(), Fill(damaged)]


def _spared(note: Note) -> Step:
    if note.candidate is not None or (note.state == SOAKING and note.previous is not None):
        return note, []
    in_use = None if note.active is None else note.active.slot
    return note._replace(previous=None), [Empty(slot) for slot in SLOTS if slot != in_use]


def _at_rest(note: Note) -> Note:
    """Nothing is under way."""
    state = ABSENT if note.active is None else COMMITTED
    return note._replace(state=state, candidate=None, wanted=None, tries=0, uptime_ms=0, uses=0, errors=0, why="")


def _is(held: Version | None, version: Version) -> bool:
    return held is not None and held.digest == version.digest


def _other(active: Version | None) -> str:
    return SLOTS[active is not None and active.slot == SLOTS[0]]


def check(note: Note) -> None:
    """Raises AssertionError if a note is none that ``step`` returns."""
    assert note.state in STATES, note
    slots = [version.slot for version in (note.active, note.candidate, note.previous) if version is not None]
    assert len(slots) == len(set(slots)), "two versions in a slot"
    assert set(slots) <= set(SLOTS), "there are two slots"
    assert (note.candidate is not None) == (note.state in (FETCHING, STAGED, TRYING)), note
    assert note.active is not None or note.state not in (SOAKING, COMMITTED), note
    assert note.wanted is None or note.state == TRYING, note
    assert 0 <= note.tries <= TRIES_MAX, note


def to_document(note: Note) -> list[Any]:
    """Plain values, for ``from_document``."""
    return [_VERSION, *([*part[:3], list(part.rules)] if isinstance(part, Version) else part for part in note)]


def from_document(document: Any) -> Note:
    """Raises Malformed."""
    try:
        version, *parts = document
        if version != _VERSION:
            raise Malformed(f"a model's note of version {version!r:.20}", hint="install a newer agentdb-edge")
        note = Note(*map(_part, parts))
        check(note)
    except (TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
        raise Malformed(f"a model's note that is none: {error}") from error
    return note


def _part(part: Any) -> Any:
    return Version(part[0], part[1], part[2], Rules(*part[3])) if isinstance(part, (list, tuple)) else part
