"""A server that hands out what it should not: old metadata, mixed, another's, cut; or a thief has its online key.

What it makes is never what a device may run, but for one thing that its online key can do: name any target that is
listed, and not below its floor (ADR 23 says so). That one is noted as given out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cloud.fleet.signing import make_snapshot, make_timestamp
from simulations.fleet.world import START_MS, World
from simulations.steered.signers import Signers
from sync.assignments import Assigned, Assignment, seal
from sync.messages import Control, RoleBytes
from sync.targets import parse_path

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey

_STRANGERS_FIRST = 1_000  # the number of their first key
_DAY_MS = 86_400_000
_FIELDS = ("timestamp", "snapshot", "roles", "assignment")
_BYTES = ("timestamp", "snapshot", "assignment", "signature")
STRANGE = b'{"name":"north","schema":1,"sync":[{"collections":["*"],"direction":"absent"}]}'


class Hostile:
    """Of one fleet. It is ``on`` for a while now and then; ``issued`` is told of assignments that the stolen key may
    give out.
    """

    def __init__(self, world: World, signers: Signers, issued: Callable[[bytes, bytes], None]) -> None:
        self.until_ms = -1
        self._world = world
        self._signers = signers
        self._issued = issued
        self._dice = world.dice(f"hostile {signers.fleet.hex()}")
        self._seen: list[tuple[bytes, Control]] = []
        self._strangers: dict[bytes, Signers] = {}

    @property
    def on(self) -> bool:
        return self._world.now_ms < self.until_ms and self._dice.random() < 0.7

    def control(self, device: bytes, held: int, true: Control, key: SigningKey, snapshot: int) -> Control:
        """What a device gets instead of a true answer. ``held``: the number of its assignment."""
        how = self._dice.choice(["old", "swapped", "mixed", "foreign", "cut", "altered", "thief", "thief"])
        ways: dict[str, Callable[[], Control | None]] = {
            "old": lambda: self._earlier(lambda other: other == device),
            "swapped": lambda: self._earlier(lambda other: other != device),
            "mixed": lambda: self._mixed(true),
            "foreign": lambda: self._foreign(device, held),
            "cut": lambda: _cut(true, self._dice),
            "altered": lambda: _altered(true, self._dice),
            "thief": lambda: self._stolen(device, held, true, key, snapshot),
        }
        made = ways[how]()
        self.honest(device, true)
        if made is None:
            return true
        self._world.note("server", f"hands out what is {how}", count=f"control answers that are {how}")
        return made

    def honest(self, device: bytes, true: Control) -> None:
        """It remembers what it gave to whom."""
        self._seen = [*self._seen[-30:], (device, true)]

    def target(self, true: bytes) -> bytes:
        """Bytes that are no target."""
        how = self._dice.choice(["cut", "altered", "another"])
        self._world.note("server", f"hands out a target that is {how}", count="targets that are none")
        if how == "cut":
            return true[: self._dice.randrange(len(true))]
        if how == "altered":
            return _flipped(true, self._dice)
        return self._dice.choice([*self._signers.documents.values(), STRANGE])

    # -- inside -------------------------------------------------------------------------------------------------------

    def _earlier(self, of: Callable[[bytes], bool]) -> Control | None:
        found = [control for device, control in self._seen if of(device)]
        return self._dice.choice(found) if found else None

    def _mixed(self, true: Control) -> Control | None:
        other = self._earlier(lambda _: True)
        if other is None:
            return None
        taken = self._dice.choice(_FIELDS)
        parts = (taken, "signature") if taken == "assignment" else (taken,)
        return replace(true, **{name: getattr(other, name) for name in parts})

    def _foreign(self, device: bytes, held: int) -> Control:
        """All valid: of another fleet, or of strangers who call theirs by this fleet's id."""
        own = self._dice.random() < 0.5
        fleet = self._signers.fleet if own else bytes(16)
        strangers = self._strangers.get(fleet)
        if strangers is None:
            first = _STRANGERS_FIRST * (2 + own)
            strangers = self._strangers[fleet] = Signers(fleet, START_MS, first)
            strangers.add("policies/north/99.json", STRANGE)
        roles = dict(strangers.repository().roles)
        now_ms = START_MS + self._world.now_ms
        snapshot = make_snapshot(roles, 1_000, now_ms + _DAY_MS, strangers.online, b"")
        timestamp = make_timestamp(snapshot, 1_000, now_ms + _DAY_MS, strangers.online)
        digest = strangers.signed["policies/north/99.json"].hex()
        assigned = Assigned("policies/north/99.json", len(STRANGE), digest)
        found = Assignment(fleet.hex(), device.hex(), held + 1, now_ms, now_ms + _DAY_MS, 1_000, assigned)
        signed = seal(found, strangers.online)
        roots = strangers.roots if self._dice.random() < 0.5 else []
        parts = [RoleBytes(name, data) for name, data in roles.items()]
        return Control(list(roots), timestamp, snapshot, parts, signed.data, signed.signature)

    def _stolen(self, device: bytes, held: int, true: Control, key: SigningKey, snapshot: int) -> Control | None:
        """An assignment by the online key: what is not listed, is below its floor, is under another's name; or anything
        that is listed.
        """
        dice, signers = self._dice, self._signers
        paths = sorted(signers.documents)
        if not paths:
            return None
        path = dice.choice(paths)
        data, digest = signers.documents[path], signers.signed[path].hex()
        fair = parse_path(path).number >= signers.floors.get(path.rpartition("/")[0], 0)
        how = dice.choice(["unlisted", "swapped", "any", "older number" if held else "any"])
        number = held + 1
        if how == "unlisted":
            path, data = "policies/north/77.json", STRANGE
            digest, fair = Signers.digest_of(STRANGE).hex(), False
        elif how == "swapped":
            other = dice.choice(paths)
            fair = fair and other == path
            data, digest = signers.documents[other], signers.signed[other].hex()
        elif how == "older number":  # with another root, the numbers under the one before are no floor any more
            number, fair = max(1, held - dice.randrange(3)), fair and bool(true.roots)
        assigned = Assigned(path, len(data), digest)
        is_policy = path.startswith("policies/")
        models = {} if is_policy else {parse_path(path).name: assigned}
        now_ms = START_MS + self._world.now_ms
        found = Assignment(
            signers.fleet.hex(), device.hex(), number, now_ms, now_ms + _DAY_MS, snapshot,
            assigned if is_policy else None, models,
        )  # fmt: skip
        signed = seal(found, key)
        if fair:
            self._issued(device, signed.data)
        return Control(true.roots, true.timestamp, true.snapshot, true.roles, signed.data, signed.signature)


def _cut(true: Control, dice: Random) -> Control:
    name = _part(true, dice)
    if not name:
        return replace(true, roles=true.roles[:-1])
    data = getattr(true, name)
    return replace(true, **{name: data[: dice.randrange(len(data))]})


def _altered(true: Control, dice: Random) -> Control:
    name = _part(true, dice)
    return replace(true, **{name: _flipped(getattr(true, name), dice)}) if name else true


def _part(true: Control, dice: Random) -> str:
    """One that is there, of those that are bytes; "" if none is."""
    return dice.choice([name for name in _BYTES if getattr(true, name)] or [""])


def _flipped(data: bytes, dice: Random) -> bytes:
    altered = bytearray(data)
    altered[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(altered)
