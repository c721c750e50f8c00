"""Models: what a device receives to update one, and how fast they are published, and verified and written.

``model_update_bytes``: a model of 200 MiB of which 2% changed (4 runs of 1 MiB), with 1,000 bytes put before it, from
the version before. ``model_share_bytes``: another model of 200 MiB that shares half with one that is installed. Both
are bytes really received: a control plane process, a proxy process that counts before the device, HTTP heads included;
to them are added the manifest and the chunk list, which come with the assignment. Baseline: all of the model's bytes.

``model_publish_mb_s``: cut, hashed, compared with what is there, sealed and stored (fsynced), 128 MiB.
``model_write_mb_s``: packs opened, verified and written to a slot's files (fsynced), 128 MiB, without the network;
``hashed_again_mb_s`` is with the whole hashed once more before it is used, as a device does. Baseline of both: the same
file read, hashed by SHA-256, and copied (fsynced).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from pathlib import Path
from random import Random
from typing import NamedTuple

import rfc8785

from cloud.control_rows import AssignmentRow
from cloud.fleet.model_registry import ModelRegistry
from cloud.identity import audit
from cloud.ports import SystemClock
from cloud.rows import FleetRow, Head
from cloud.server.home import Home
from cloud.storage.archive.names import Names
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from edge import Edge
from edge.control.model_fetch import ModelFetch
from edge.control.model_filling import Filling, Installed
from edge.control.model_slots import Documents, Slots
from edge.link.membership import session_keys
from edge.link.model_client import ModelClient
from edge.link.signing import Nonces
from edge.storage.durable import digest_of, fsync_path, remove_tree
from simulations.benchmarks.measure import Goal, Measurement, alternate, scratch, timed
from simulations.control_plane import ControlPlane, Proxy
from simulations.processes import Children
from sync.keys import KeyRing
from sync.models import Manifest

MIB = 1 << 20
MODEL_BYTES = 200 * MIB
CHANGED_RUNS, RUN_BYTES = 4, MIB
PREFIX_BYTES = 1000
SPEED_BYTES = 128 * MIB
ROUNDS = 5
_FLEET = b"F" * 16
_RAW_IS = "read, SHA-256, copy, fsync"


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    if wanted & {"model_update_bytes", "model_share_bytes"}:
        yield from _received()
    if wanted & {"model_publish_mb_s", "model_write_mb_s"}:
        yield from _speed()


# -- bytes ------------------------------------------------------------------------------------------------------------


def _received() -> Iterator[Measurement]:
    with scratch() as folder, Children(folder) as children:
        fleet = _Fleet(folder, children)
        first = _random(MODEL_BYTES, 1)
        installed = fleet.update("first", first, ())
        changed = bytearray(first)
        for number in range(CHANGED_RUNS):
            at = (2 * number + 1) * MODEL_BYTES // (2 * CHANGED_RUNS)
            changed[at : at + RUN_BYTES] = _random(RUN_BYTES, 10 + number)
        updated = fleet.update("second", _random(PREFIX_BYTES, 2) + changed, (installed.installed,))
        half = MODEL_BYTES // 2
        shared = fleet.update("other", _random(half, 3) + first[half:], (installed.installed, updated.installed))
        for name, got in (("model_update_bytes", updated), ("model_share_bytes", shared)):
            yield Measurement(
                name,
                got.received + got.manifest_bytes + got.list_bytes,
                "bytes",
                1,
                got.model_bytes,
                extra={
                    "manifest_bytes": got.manifest_bytes,
                    "list_bytes": got.list_bytes,
                    "connections": got.connections,
                },
                baseline_is="all of the model's bytes",
            )


class _Got(NamedTuple):
    installed: Installed
    received: int
    manifest_bytes: int
    list_bytes: int
    model_bytes: int
    connections: int


class _Fleet:
    """A control plane process, a proxy before it, and a device that has joined."""

    def __init__(self, folder: Path, children: Children) -> None:
        self._folder = folder
        self._cloud = ControlPlane(children, folder / "cloud")
        self._cloud.init(str(folder / "archive"))
        token = self._cloud.token(uses=1)
        port = self._cloud.serve()
        self._proxy = Proxy(children, "proxy", port)
        with Edge.open(folder / "device") as edge:
            edge.join(token, name="device", url=self._proxy.url)
            self._keys = session_keys(edge.log, edge.path)
        self._nonces = Nonces(0, lambda _: None)

    def update(self, name: str, data: bytes | bytearray, installed: tuple[Installed, ...]) -> _Got:
        """Publish the bytes as a model, and fetch it."""
        source = self._folder / "model.safetensors"
        source.write_bytes(data)
        directory = str(self._cloud.directory)
        made = self._cloud.command("models", "publish", directory, str(source), "--name", name, "--version", "1")
        manifest, chunks = (Path(made[which]).read_bytes() for which in ("manifest", "chunk_list"))
        self._assign(manifest)
        parsed = Manifest.parse(manifest)
        found = Documents(parsed, parsed.chunk_list(chunks))
        slot = self._folder / "device" / name
        slot.mkdir()
        before = self._proxy.counts()
        keys = self._keys
        fetch = ModelFetch(lambda: ModelClient(self._proxy.url, keys.device, self._nonces), lambda: keys.ring)
        fetch(_filling(slot, found, installed))
        after = self._proxy.counts()
        if sha256((slot / source.name).read_bytes()).digest() != sha256(data).digest():
            raise AssertionError("the device has another model than was published")
        return _Got(
            Installed(slot, found),
            after["down"] - before["down"],
            len(manifest),
            len(chunks),
            len(data),
            after["connections"] - before["connections"],
        )

    def _assign(self, manifest: bytes) -> None:
        """As an assignment that was signed for the device: it may have the packs."""
        named = {"path": Manifest.parse(manifest).path, "sha256": sha256(manifest).hexdigest()}
        data = rfc8785.dumps({"models": {"model": named}})
        with Home.open(self._cloud.directory) as home, home.store.writing() as tx:
            tx.put_assignment(home.fleet.fleet, AssignmentRow(self._keys.device.device_id, 1, data=data))


# -- speed ------------------------------------------------------------------------------------------------------------


def _speed() -> Iterator[Measurement]:
    with scratch() as folder:
        source = folder / "model.safetensors"
        source.write_bytes(_random(SPEED_BYTES, 1))
        bench = _Bench(folder, source)
        publishing, writing, again, copying = alternate(
            ROUNDS,
            lambda: bench.mb_s(bench.publish),
            lambda: bench.mb_s(bench.write),
            lambda: bench.mb_s(bench.write_and_seal),
            lambda: bench.mb_s(bench.copy),
        )
        bench.check()
    goal = (Goal("ratio", ">=", 0.4),)
    yield Measurement("model_publish_mb_s", publishing, "MB/s", ROUNDS, copying, goal, baseline_is=_RAW_IS)
    yield Measurement(
        "model_write_mb_s",
        writing,
        "MB/s",
        ROUNDS,
        copying,
        goal,
        extra={"hashed_again_mb_s": again},
        baseline_is=_RAW_IS,
    )


class _Bench:
    """One published model, whose packs are read from the bucket's files."""

    def __init__(self, folder: Path, source: Path) -> None:
        self._folder = folder
        self._source = source
        self._round = 0
        self._made: dict[str, list[Path]] = {}
        self._ring = KeyRing({1: bytes(range(32))})
        self._slots = Slots(str(folder), "model")
        self._slots.folder.mkdir(parents=True)
        self._found = self.publish()

    def mb_s(self, action: Callable[[], object]) -> float:
        """Only what is newest stays: the disk is not to fill up."""
        speed = SPEED_BYTES / 1e6 / timed(action)
        for made in self._made.values():
            while len(made) > 1:
                remove_tree(made.pop(0))
        return speed

    def _new(self, folder: Path, kind: str) -> Path:
        self._round += 1
        path = folder / f"{kind}-{self._round}"
        self._made.setdefault(kind, []).append(path)
        return path

    def publish(self) -> Documents:
        """Into a new fleet."""
        bucket = self._new(self._folder, "bucket")
        store = SqliteStore.open(self._folder / f"{bucket.name}.db")
        with store.writing() as tx:
            tx.create_fleet(FleetRow(_FLEET, "f", 0), Head(0, bytes(16), 1, 0, 0, 0, 0))
        objects = open_objects(str(bucket))
        registry = ModelRegistry(store, lambda: objects, lambda: self._ring, _FLEET, SystemClock(), audit.record)
        made = registry.publish(self._source, "model", "1")
        store.close()
        manifest = Manifest.parse(made.manifest)
        self._found = Documents(manifest, manifest.chunk_list(made.chunk_list))
        return self._found

    def write(self) -> None:
        fsync_path(self._write() / self._source.name)

    def write_and_seal(self) -> None:
        self._slots.seal(self._write().name, self._found)

    def _write(self) -> Path:
        slot = self._new(self._slots.folder, "slot")
        slot.mkdir()
        bucket = self._made["bucket"][-1]
        ModelFetch(lambda: _Bucket(bucket), lambda: self._ring)(_filling(slot, self._found))
        return slot

    def copy(self) -> None:
        buffer = bytearray(MIB)
        view, hasher = memoryview(buffer), sha256()
        target = self._new(self._folder, "copy")
        target.mkdir()
        with self._source.open("rb", buffering=0) as read, (target / "file").open("wb", buffering=0) as write:
            while size := read.readinto(buffer):
                hasher.update(view[:size])
                write.write(view[:size])
            os.fsync(write.fileno())

    def check(self) -> None:
        if digest_of(self._made["slot"][-1] / self._source.name) != digest_of(self._source):
            raise AssertionError("what was written is not what was published")


def _filling(folder: Path, documents: Documents, installed: tuple[Installed, ...] = ()) -> Filling:
    return Filling(folder, documents, installed, lambda: False, lambda _done, _total: None)


class _Bucket:
    """A pack source without a network."""

    def __init__(self, bucket: Path) -> None:
        self._folder = bucket / Names(_FLEET).packs

    @contextmanager
    def read(self, pack: str, offset: int, length: int) -> Iterator[_File]:
        del length
        with (self._folder / pack).open("rb", buffering=0) as file:
            file.seek(offset)
            yield _File(file)

    def close(self) -> None:
        """Nothing is open between ranges."""


class _File:
    def __init__(self, file: FileIO) -> None:
        self._file = file

    def read_into(self, buffer: memoryview) -> None:
        at = 0
        while at < len(buffer):
            read = self._file.readinto(buffer[at:])
            if not read:
                raise EOFError(f"{self._file.name} has no more than {at} of {len(buffer)} bytes")
            at += read


def _random(size: int, seed: int) -> bytes:
    dice = Random(seed)
    return b"".join(dice.randbytes(min(MIB, size - at)) for at in range(0, size, MIB))
