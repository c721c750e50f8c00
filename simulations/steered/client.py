"""A device's connection beside its session, on the simulated network: what ``SignedClient`` is in life.

An exchange happens at one moment of virtual time; what others do in between (operators, a power cut) is put in between
by dice.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from edge.link.transport import SYNC_PATH
from simulations.fleet.envelope import unpack_answer, wrap
from simulations.fleet.violation import Violation
from sync.errors import AgentDBError, NotFound, ProtocolError, StaleNonce, StorageError, Unreachable
from sync.messages import Answer, Control, Failure, FetchControl, decode

if TYPE_CHECKING:
    from simulations.fleet.device_node import DeviceNode
    from simulations.steered.steering import Steering

_NONCE_TRIES_MAX = 3
_LATE_MS = 60_000


class Client:
    """Of one exchange. ``between`` is called between a request and what follows it."""

    def __init__(self, node: DeviceNode, steering: Steering, dice: Random, between: Callable[[], None]) -> None:
        self._node = node
        self._steering = steering
        self._dice = dice
        self._between = between

    def close(self) -> None:
        """Nothing is kept open."""

    def abort(self) -> None:
        """Nobody waits."""

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer | bytes:
        """As ``SignedClient.ask``."""
        self._between()
        if (method, path) != ("POST", SYNC_PATH):
            raise ProtocolError(f"nobody serves {method} {path}")
        message = decode(body)
        for tries in range(_NONCE_TRIES_MAX, 0, -1):
            answer, used = self._post(message)
            nonces = self._node.link.nonces
            if isinstance(answer, Failure):
                if answer.code == StaleNonce.code and tries > 1 and nonces is not None and nonces.skip(used):
                    continue
                raise answer.error()
            if self._node.revoked:
                raise Violation("revoked", f"{self._node.name} was revoked, and is answered {type(answer).__name__}")
            touched: Answer = self._touched(message, answer)
            return touched
        raise Unreachable("its nonces were all used")

    def target(self, sha256: str) -> bytes:
        """As ``SignedClient.target``."""
        self._between()
        self.reach("a target")
        cloud, node = self._node.cloud, self._node
        try:
            with cloud.store.reading() as view:
                device = view.device(node.id)
                row = view.target(node.fleet, bytes.fromhex(sha256)) if device and not device.revoked_ms else None
        except StorageError as error:
            raise Unreachable("the control plane's storage is not available") from error
        if row is None:
            raise NotFound("this fleet has no target of that digest")
        hostile = self._steering.hostile[node.fleet]
        return hostile.target(row.data) if hostile.on else row.data

    def reach(self, what: str) -> None:
        """Raises Unreachable: the request, or its answer, is lost."""
        node, weather = self._node, self._node.link.wire.weather
        node.world.counts["messages"] += 1
        down = not node.cloud.up or node.disk.dead
        if down or weather.up_blocked or weather.down_blocked or self._lost():
            node.world.note(node.name, f"{what}: no answer", count="exchanges cut off")
            raise Unreachable("no answer")

    def _lost(self) -> bool:
        weather = self._node.link.wire.weather
        return self._dice.random() < (weather.lost_request + weather.lost_answer + weather.cut) / 2

    def _post(self, message: Any) -> tuple[Any, int]:
        node, weather = self._node, self._node.link.wire.weather
        label = type(message).__name__
        node.world.counts["messages"] += 1
        node.world.note(node.name, f"sends {label}")
        request = wrap(message, node.key, node.link.nonces)
        if self._dice.random() < weather.late:  # given up, and delivered long after
            node.world.at(self._dice.randrange(_LATE_MS), lambda: node.cloud.serve(request, _nobody))
            raise Unreachable("no answer")
        if weather.up_blocked or self._dice.random() < weather.lost_request:
            raise Unreachable("no answer")
        answers: list[bytes] = []
        node.cloud.serve(request, answers.append)
        if self._dice.random() < weather.repeated:
            node.cloud.serve(request, _nobody)
        if not answers or weather.down_blocked or self._dice.random() < weather.lost_answer:
            raise Unreachable("no answer")
        data = answers[0]
        if self._dice.random() < weather.cut:
            data = data[: self._dice.randrange(len(data))]
        try:
            return unpack_answer(data)
        except (AgentDBError, ValueError) as error:
            raise ProtocolError("the answer was cut") from error

    def _touched(self, message: Any, answer: Any) -> Any:
        """By a server that is not to be trusted, perhaps."""
        if not isinstance(answer, Control) or not isinstance(message, FetchControl):
            return answer
        node, steering = self._node, self._steering
        hostile = steering.hostile[node.fleet]
        key = node.cloud.online_key
        if not hostile.on or key is None:
            hostile.honest(node.id, answer)
            return answer
        with node.cloud.store.reading() as view:
            snapshot = node.cloud.plane.control.trusting.load(view, node.fleet).snapshot_version
        return hostile.control(node.id, message.assignment, answer, key, snapshot)


def _nobody(_: bytes) -> None:
    """Whoever asked has given up."""
