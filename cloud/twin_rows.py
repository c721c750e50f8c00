"""The rows of twins and rollouts, and what a store does with them: a part of ``cloud.ports.Store``'s contract
(``tests/contracts/test_store_contract_twins.py``, ``tests/contracts/test_store_contract_rollouts.py``).

As all rows they carry no behaviour. JSON documents are bytes as ``sync.twins.check_document`` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class TwinRow(NamedTuple):
    """A device as it should be and as it says that it is. A device without a row has empty documents.

    ``own`` is what was desired of this device alone; ``desired`` what it is told, with what rollouts add, and
    ``desired_version`` the number of that. ``acked`` is the version of it that the device has said that it has.
    ``at_ms``: when it last reported, 0 for never.
    """

    device: bytes
    labels: bytes = b"{}"
    own: bytes = b"{}"
    desired: bytes = b"{}"
    desired_version: int = 0
    reported: bytes = b"{}"
    reported_version: int = 0
    acked: int = 0
    at_ms: int = 0


class RolloutRow(NamedTuple):
    """``number`` is dense from 1 in a fleet, and the later one wins for a device that both cover. ``place`` is what it
    is about: "policy", "models/NAME" or "desired"; ``spec`` is ``cloud.fleet.rollouts.Spec`` as JSON; ``goal`` is what
    a device has when it has it: the SHA-256 of the target, in hex.

    ``state``: running, paused, done, kept, settled, reverted, past. ``stage`` counts from 0, it began at ``stage_ms``
    (of one that is reverted or past: when that was); its gate's minimum is met since ``met_ms`` (0: not yet). ``why``
    it is in its state, for people.
    """

    id: str
    number: int
    place: str
    spec: bytes
    goal: str
    state: str
    stage: int
    stage_ms: int
    met_ms: int
    why: str
    created_ms: int


class ExposureRow(NamedTuple):
    """A device was given what the rollout is about. ``kind`` is its class (``Spec.spread``), ``goal`` as of the
    rollout, or for configuration the version of desired. ``outcome``: "" until it reports committed, returned,
    refused or failed.
    """

    rollout: str
    device: bytes
    stage: int
    kind: str
    goal: str
    at_ms: int
    outcome: str = ""
    reason: str = ""
    outcome_ms: int = 0


class ExposureCount(NamedTuple):
    """How many exposures of a rollout are alike in kind and outcome."""

    kind: str
    outcome: str
    devices: int


class ReadingTwins(Protocol):
    def twin(self, fleet: bytes, device: bytes) -> TwinRow | None: ...
    def twins(self, fleet: bytes, after: bytes = b"", limit: int = 1000) -> list[TwinRow]:
        """In order of device, after that one."""
        ...

    def rollout(self, fleet: bytes, rollout: str) -> RolloutRow | None: ...
    def rollouts(self, fleet: bytes, states: Sequence[str] = ()) -> list[RolloutRow]:
        """In order of number; only those in these states, if any are named."""
        ...

    def exposure(self, fleet: bytes, rollout: str, device: bytes) -> ExposureRow | None: ...
    def exposures(self, fleet: bytes, rollout: str, after: bytes = b"", limit: int = 1000) -> list[ExposureRow]:
        """In order of device, after that one."""
        ...

    def exposed_to(self, fleet: bytes, device: bytes, states: Sequence[str] = ()) -> list[ExposureRow]:
        """Those of one device, in order of rollout id; only of rollouts in these states, if any are named."""
        ...

    def exposed_of_kind(self, fleet: bytes, rollout: str, kind: str, most: int) -> int:
        """How many exposures of this class there are; ``most`` if there are more."""
        ...

    def count_exposures(self, fleet: bytes, rollout: str) -> list[ExposureCount]:
        """In order of (kind, outcome)."""
        ...


class WritingTwins(ReadingTwins, Protocol):
    def put_twins(self, fleet: bytes, rows: Iterable[TwinRow]) -> None: ...

    def lock_rollout(self, fleet: bytes, rollout: str) -> RolloutRow:
        """The row, held against every other writer of it until the transaction ends. Raises NotFound."""
        ...

    def put_rollouts(self, fleet: bytes, rows: Iterable[RolloutRow]) -> None: ...
    def put_exposures(self, fleet: bytes, rows: Iterable[ExposureRow]) -> None: ...
    def drop_exposures(self, fleet: bytes, rollout: str) -> None:
        """All of one rollout."""
        ...
