"""From a folder of files to a device's disk: published, signed, assigned, fetched by real commands, a real server and a
real store. What was not assigned is not given out.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from cloud.cli import main as cloud
from edge.control.model_fetch import ModelFetch
from edge.control.model_filling import Filling, Installed
from edge.control.model_slots import Documents
from edge.control.trust import MODELS
from edge.node import Edge
from simulations.processes import Children
from sync.errors import NotFound
from sync.models import Manifest
from tests.cloud.fleet.model_world import some_bytes
from tests.contracts.operated_fleet import PATIENCE_S, Fleet, fleet, run
from tests.edge.control.fetch_world import contents, digests

__all__ = ["fleet"]

FILES = {"model.safetensors": some_bytes(3_000_000), "tokenizer/words.txt": b"a b c"}


def agreed(edge: Edge) -> Documents:
    """What both sides have signed, and the list that it names."""
    edge.sync(timeout_s=PATIENCE_S)
    (document,) = edge.trust.documents(MODELS)
    manifest = Manifest.parse(document.data)
    client = edge._link.packs()
    data = client.target(manifest.chunks.sha256)
    client.close()
    assert sha256(data).hexdigest() == manifest.chunks.sha256
    return Documents(manifest, manifest.chunk_list(data))


def slot(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.slow
def test_a_model_reaches_the_device_that_it_is_assigned_to(fleet: Fleet, tmp_path: Path) -> None:
    first = fleet.model("1.0", FILES)
    with fleet.device("a") as edge:
        fleet.assign("models/embed", first)
        fetch = ModelFetch(edge._link.packs, edge._link.ring)
        old = agreed(edge)
        installed = Installed(slot(tmp_path, "slot-a"), old)
        fetch(Filling(installed.folder, old))
        assert contents(installed.folder) == digests(FILES)

        changed = {**FILES, "model.safetensors": b"before" + FILES["model.safetensors"]}
        second = fleet.model("1.1", changed)
        manifest = Manifest.parse((fleet.directory / "to-sign" / second).read_bytes())
        client = edge._link.packs()
        for pack in manifest.packs:
            if pack not in old.manifest.packs:
                with pytest.raises(NotFound), client.read(pack.id, 0, 10):
                    pass
        client.close()
        fleet.assign("models/embed", second)
        new = agreed(edge)
        assert (new.manifest, new.manifest.number) == (manifest, 2)
        told: list[tuple[int, int]] = []
        target = slot(tmp_path, "slot-b")
        fetch(Filling(target, new, [installed], progress=lambda *done: told.append(done)))
        assert contents(target) == digests(changed)
        assert 0 < told[-1][0] == told[-1][1] < 400_000


@pytest.mark.slow
def test_a_restored_control_plane_still_gives_out_its_models(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        fleet = Fleet(tmp_path, children)
        path = fleet.model("1.0", FILES)
        fleet.assign("models/embed", path)
        with fleet.device("a") as edge:
            agreed(edge)
        fleet.plane.stop()
        back = tmp_path / "back"
        archive, keys = fleet.directory / "archive", fleet.directory / "keys"
        run(cloud, "restore", back, "--archive", archive, "--keys", keys)
        fleet.plane.directory = fleet.directory = back
        port = fleet.plane.serve()
        with Edge.open(tmp_path / "a") as edge:
            edge.sync(timeout_s=PATIENCE_S, url=f"http://127.0.0.1:{port}")
            (document,) = edge.trust.documents(MODELS)
            manifest = Manifest.parse(document.data)
            client = edge._link.packs(f"http://127.0.0.1:{port}")
            chunks = manifest.chunk_list(client.target(manifest.chunks.sha256))
            client.close()
            target = slot(tmp_path, "slot")
            url = f"http://127.0.0.1:{port}"
            ModelFetch(lambda: edge._link.packs(url), edge._link.ring)(Filling(target, Documents(manifest, chunks)))
            assert contents(target) == digests(FILES)
