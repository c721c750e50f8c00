"""The updater that is attacked: a device's own and the pure one, each as its last round left it and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.attacks.trust_updater import WORLD, SetUpdater, StoreUpdater, Updater, start


@pytest.fixture(params=["device", "device, restarted", "set", "set, restarted"])
def updater(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Updater]:
    kind = StoreUpdater if request.param.startswith("device") else SetUpdater
    root = WORLD.root()
    made: Updater = kind(tmp_path / "trust", root, sha256(root).digest())
    start(made)
    if request.param.endswith("restarted"):
        made.restart()
    yield made
    made.close()
