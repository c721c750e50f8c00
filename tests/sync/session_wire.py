"""A session and a cloud that a test plays by hand: answers, segments, and effects in short words."""

from __future__ import annotations

import msgpack

from sync.effects import (
    FLEETING,
    Apply,
    Effect,
    Learn,
    Leave,
    Load,
    LoadKept,
    LoadPlaces,
    LoadState,
    Mend,
    NewIncarnation,
    Persist,
    Position,
    Release,
    Send,
    SessionKeys,
    Sweep,
)
from sync.keys import DeviceKey, KeyRing
from sync.messages import (
    Push,
    PushAck,
    Welcome,
)
from sync.operations import Kind, Operation, Shape
from sync.segment import FLAG_FEED, FLAG_STATE, GENESIS, parse_header, seal, segment_id
from sync.session import SyncSession

FLEET = b"F" * 16
LIFE1, LIFE2 = b"1" * 16, b"2" * 16
REPLICA, OTHER, RENEWED = (bytes([c]) * 12 + (1).to_bytes(4, "big") for c in b"ABC")
SHAPE = Shape(Kind.PUT, "notes", ("text",), "l")


class FixedRandom:
    """Keys from a counter, jitter always in the middle."""

    def __init__(self) -> None:
        self.count = 0

    def token(self, size: int) -> bytes:
        self.count += 1
        return bytes([self.count]) * size

    def uniform(self) -> float:
        return 0.5


class Wire:
    """A session and what is needed to play its cloud."""

    def __init__(
        self,
        *,
        live: bool = False,
        ring: KeyRing | None = None,
        kind: type[SyncSession] = SyncSession,
        **position: object,
    ) -> None:
        random = FixedRandom()
        self.device, self.cloud = DeviceKey.generate(random), DeviceKey.generate(random)
        self.ring = ring if ring is not None else KeyRing({1: b"k" * 32})
        start = Position(REPLICA, 0, (0, b""), (), 0, b"", None)._replace(**position)  # type: ignore[arg-type]
        keys = SessionKeys(FLEET, self.device, self.cloud.public, self.ring)
        self.session = kind(start, keys, random, live=live)
        self.sends: dict[str, Send] = {}

    def step(self, *, durable: bool = True) -> list[str]:
        """One round of ``ready``: effects in words; durable ones are advanced at once unless told otherwise."""
        said = []
        for effect in self.session.ready():
            said.append(words(effect))
            if isinstance(effect, Send):
                self.sends[effect.lane] = effect
            elif durable and not isinstance(effect, FLEETING):
                if isinstance(effect, NewIncarnation):
                    self.session.reincarnated(RENEWED)
                self.session.advance(effect)
        return said

    def answer(self, lane: str, answer: object) -> None:
        self.session.receive(self.sends[lane].number, answer)  # type: ignore[arg-type]

    def welcome(self, **fields: object) -> Welcome:
        values = {
            "version": 1, "time_ms": 5, "incarnation": LIFE1, "restored_head": 0, "last_seq": 0, "last_segment": b"",
            "head": 0, "baseline": False, "keys": [], "refusals": [],
        }  # fmt: skip
        return Welcome(**{**values, **fields})  # type: ignore[arg-type]

    def connect(self, **fields: object) -> list[str]:
        assert self.step() == ["send push Hello"]
        self.answer("push", self.welcome(**fields))
        return self.step()

    def feed(self, first: int, count: int = 1, *, signer: DeviceKey | None = None, stream: bytes = LIFE1) -> bytes:
        operations = [operation(OTHER, first + i, f"k{first + i}") for i in range(count)]
        return self._sealed(operations, first, FLAG_FEED, msgpack.packb([first + count - 1]), signer, stream)

    def state(self, head: int, *keys: str) -> bytes:
        """Records as the cloud has them, of a baseline or by name."""
        return self._sealed([operation(OTHER, 0, key) for key in keys], head, FLAG_STATE)

    def _sealed(
        self,
        operations: list[Operation],
        first: int,
        flags: int,
        clear: bytes = b"",
        signer: DeviceKey | None = None,
        stream: bytes = LIFE1,
    ) -> bytes:
        return seal(
            operations,
            fleet=FLEET,
            stream=stream,
            replica=b"cloudcloudcloud!",
            first_seq=first,
            previous=GENESIS,
            ring=self.ring,
            signer=signer or self.cloud,
            flags=flags,
            clear=clear,
        ).data

    def pushed(self) -> Push:
        message = self.sends["push"].message
        assert isinstance(message, Push)
        return message

    def ack(self, **fields: object) -> PushAck:
        data = self.pushed().segment
        values = {"last_seq": parse_header(data).last_seq, "last_segment": segment_id(data), "refusals": [], "head": 0}
        return PushAck(**{**values, "time_ms": 5, **fields})  # type: ignore[arg-type]


def operation(replica: bytes, seq: int, key: str) -> Operation:
    return Operation(replica, seq, (1_000 + seq) << 16, 0, SHAPE, key, ("hello",))


def words(effect: Effect) -> str:
    if isinstance(effect, Send):
        return f"send {effect.lane} {type(effect.message).__name__}"
    if isinstance(effect, (Load, LoadKept, LoadPlaces, LoadState)):
        return load_words(effect)
    if isinstance(effect, Release):
        return f"release {[key for _, key, _ in effect.ticket]}{f', {effect.refused[0]}' if effect.refused else ''}"
    if isinstance(effect, Learn):
        return f"learn time {effect.time_ms} epochs {sorted(effect.keys)}"
    if isinstance(effect, Apply):
        return f"apply {len(effect.operations)} cursor {effect.cursor} baseline {effect.baseline!r}"
    if isinstance(effect, Mend):
        return "mend as state" if effect.as_state else "mend"
    if isinstance(effect, Sweep):
        return f"sweep up to {effect.stable}, marked to {effect.until}"
    if isinstance(effect, Persist):
        parts = [
            f"acked {effect.acked[0]}" if effect.acked else "",
            f"sent {effect.sent[-1][0]}" if effect.sent else "",
            f"refused {[refusal.seq for refusal in effect.refusals]}" if effect.refusals else "",
            f"life {effect.incarnation.decode()[0]}" if effect.incarnation else "",
            f"cursor {effect.cursor}" if effect.cursor is not None else "",
            f"repair {effect.repair}" if effect.repair is not None else "",
        ]
        return " ".join(["persist", *filter(None, parts)])
    if isinstance(effect, Leave):
        return f"leave at {effect.head}, archived to {effect.archived}"
    assert isinstance(effect, NewIncarnation)
    return "new incarnation"


def load_words(effect: Load | LoadKept | LoadPlaces | LoadState) -> str:
    if isinstance(effect, Load):
        return f"load after {effect.after_seq}"
    if isinstance(effect, LoadKept):
        return f"load kept after {effect.after}, {effect.max_operations}"
    return "load places" if isinstance(effect, LoadPlaces) else f"load state after {effect.after}"
