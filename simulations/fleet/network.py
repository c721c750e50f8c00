"""The network between one device and the cloud: requests and answers as bytes, lost, repeated, delayed, cut.

What always holds: nothing is invented. A request that arrives was sent, and one whose answer is lost may have been
carried out all the same: that is the fault that finds most bugs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from simulations.fleet.world import World

Answered = Callable[[bytes | None], None]
"""Called with the answer's bytes, or None when the sender gives up."""


@dataclass
class Weather:
    """Shares of messages that suffer each fault, and delays in milliseconds."""

    lost_request: float = 0.0
    lost_answer: float = 0.0
    repeated: float = 0.0
    late: float = 0.0  # given up by the sender, and delivered long after
    cut: float = 0.0  # in the middle of the answer's body
    delay_ms: int = 20
    late_ms: int = 120_000
    up_blocked: bool = False  # one-way partitions
    down_blocked: bool = False


class Wire:
    """One device's link. ``serve(request, reply)`` is the cloud's end; it calls ``reply`` once, now or later."""

    def __init__(
        self,
        world: World,
        name: str,
        dice: Random,
        serve: Callable[[bytes, Callable[[bytes], None]], None],
        timeout_ms: int,
    ) -> None:
        self.weather = Weather()
        self._world = world
        self._name = name
        self._dice = dice
        self._serve = serve
        self._timeout_ms = timeout_ms

    def send(self, label: str, request: bytes, wait_ms: int, answered: Answered) -> None:
        """Deliver a request; ``answered`` is called exactly once. ``wait_ms`` is how long the cloud may take."""
        world, weather, dice = self._world, self.weather, self._dice
        world.counts["messages"] += 1
        call = _Call(answered)
        world.at(self._timeout_ms + wait_ms, call.give_up)
        if weather.up_blocked or dice.random() < weather.lost_request:
            world.note(self._name, f"{label} lost on the way", count="requests lost")
            return
        if dice.random() < weather.late:
            world.note(self._name, f"{label} delayed for long", count="requests delayed for long")
            world.at(dice.randrange(weather.late_ms), lambda: self._serve(request, lambda _answer: None))
            return
        times = 1
        if dice.random() < weather.repeated:
            times = 2
            world.note(self._name, f"{label} delivered twice", count="requests repeated")
        for _ in range(times):
            world.at(self._delay(), lambda: self._serve(request, lambda answer: self._reply(label, answer, call)))

    def _reply(self, label: str, answer: bytes, call: _Call) -> None:
        world, weather, dice = self._world, self.weather, self._dice
        if weather.down_blocked or dice.random() < weather.lost_answer:
            world.note(self._name, f"answer to {label} lost", count="answers lost")
            return
        if dice.random() < weather.cut:
            world.note(self._name, f"answer to {label} cut", count="answers cut")
            answer = answer[: dice.randrange(len(answer))]
        world.at(self._delay(), lambda: call.land(answer))

    def _delay(self) -> int:
        return 1 + int(self._dice.expovariate(1 / max(1, self.weather.delay_ms)))


class _Call:
    """One request under way: the first of answer and timeout counts."""

    def __init__(self, answered: Answered) -> None:
        self._answered: Answered | None = answered

    def land(self, answer: bytes) -> None:
        self._finish(answer)

    def give_up(self) -> None:
        self._finish(None)

    def _finish(self, answer: bytes | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)
