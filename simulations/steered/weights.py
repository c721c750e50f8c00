"""Models to publish: small, of a few chunks, each good, or bad in one of the ways in which models are."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from cloud.fleet.model_registry import Details, ModelRegistry
from cloud.identity import audit
from simulations.steered.signers import Signers
from sync.errors import Refused
from sync.models import Errors, Soak, target_path

if TYPE_CHECKING:
    from simulations.fleet.cloud_node import CloudNode

NAMES = ("embed", "rank")
HARDWARE = ("rev1", "rev1", "rev2")
GOOD, WRONG, FAULTY, DEADLY = "good", "wrong", "faulty", "deadly"  # probes fail, uses fail, the process ends
_KINDS = (GOOD, GOOD, GOOD, WRONG, FAULTY, DEADLY)
_TRIES_MAX = 5


class Weights(NamedTuple):
    """One version. ``on``: the hardware on which it is ``kind``; elsewhere it is good; "" for all."""

    path: str
    files: dict[str, bytes]
    kind: str
    on: str

    def is_good(self, hardware: str) -> bool:
        return self.kind == GOOD or self.on not in ("", hardware)


class Shelf:
    """What was ever published, by the SHA-256 of its manifest."""

    def __init__(self, root: Path, dice: Random) -> None:
        self.known: dict[bytes, Weights] = {}
        self._root = root / "weights"
        self._dice = dice
        self._last: dict[str, dict[str, bytes]] = {}
        self._count = 0

    def publish(self, cloud: CloudNode, signers: Signers) -> tuple[str, bytes]:
        """Cut and stored in the cloud, not signed yet. Returns path and manifest. Raises as ``ModelRegistry``."""
        dice, name = self._dice, self._dice.choice(NAMES)
        files = self._drawn(name)
        kind, on = dice.choice(_KINDS), dice.choice(("", "rev2"))
        probes = [Errors(share_max=0.2, of_at_least=3)] if kind == FAULTY or dice.random() < 0.5 else []
        uses = 4 if kind == FAULTY else dice.choice([0, 2])
        details = Details(probes=list(probes), soak=Soak(uptime_s=dice.choice([0, 60, 600]), uses=uses))
        folder = self._root / "next"
        shutil.rmtree(folder, ignore_errors=True)
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        fleet = signers.fleet
        ring = partial(cloud.keys.ring, fleet)
        registry = ModelRegistry(cloud.store, lambda: cloud.objects, ring, fleet, cloud.clock, audit.record)
        for _ in range(_TRIES_MAX):
            self._count += 1
            done = registry.publish(folder, name, f"1.{self._count}", details)
            path = target_path(name, done.number)
            if path not in signers.documents:
                self.known[Signers.digest_of(done.manifest)] = Weights(path, files, kind, on)
                self._last[name] = files
                return path, done.manifest
        raise Refused("all of these numbers were given out before")

    def _drawn(self, name: str) -> dict[str, bytes]:
        """As the last one of its name but for a part, or new."""
        dice, last = self._dice, self._last.get(name)
        if last is None or dice.random() < 0.2:
            return {
                "weights.bin": dice.randbytes(dice.randrange(60_000, 160_000)),
                "more/config.json": dice.randbytes(300),
            }
        weights = bytearray(last["weights.bin"])
        at = dice.randrange(len(weights) - 2_000)
        weights[at : at + 1_000] = dice.randbytes(dice.randrange(2_000))
        return {"weights.bin": bytes(weights), "more/config.json": dice.randbytes(300)}
