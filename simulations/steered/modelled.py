"""The models of a steered device: the real ``ModelStore`` on its disk, cared for by events instead of threads.

What bytes there are of files is told apart as a power cut would: what a note does not call staged may be torn. What
must hold at every moment (``look``): what is given out is whole, was signed, and was not returned from; once a version
has been kept, there always is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud.fleet.model_access import AssignedPacks
from cloud.storage.archive.names import Names
from edge.control.model_fetch import ModelFetch
from edge.control.model_part import tell
from edge.control.model_store import ModelStore
from edge.control.probing import Outcome
from edge.control.trust import MODELS
from edge.link.membership import session_keys
from edge.storage.model_tables import ModelTables
from simulations.fleet.violation import Violation
from simulations.steered.weights import DEADLY, FAULTY, HARDWARE, WRONG, Weights
from sync import activation
from sync.activation import COMMITTED, FETCHING, SOAKING, Note, Version
from sync.errors import AgentDBError, NotFound, StorageError, Unreachable
from sync.models import Manifest

if TYPE_CHECKING:
    from edge.node import Edge
    from simulations.fleet.device_node import DeviceNode
    from simulations.steered.steering import Steering

_DIES, _DIES_PROBING, _DIES_FETCHING = 0.08, 0.1, 0.06
_WRITES_OF_A_STEP = 14
_CUT = 0.15
_TEND_MS_MAX = 300_000
_TEND_MS_MIN = 1_000


class Modelled:
    """Of one device. ``client`` makes a connection for chunk lists."""

    def __init__(self, node: DeviceNode, steering: Steering, client: Callable[[], Any]) -> None:
        self.node = node
        self.steering = steering
        self.dice = node.world.dice(f"models of {node.name}")
        self.hardware = self.dice.choice(HARDWARE)
        self._holds = self.dice.random() < 0.5  # its agent asks by ``path``, and not by ``use``
        self.store: ModelStore | None = None
        self.power_cut = False
        self.client = client
        self._kept: set[str] = set()  # names of which a version was kept, for membership only
        self._brought_down: set[bytes] = set()  # for membership only
        self._due_ms = -1
        self._has_source = False

    def forget(self) -> None:
        """The store is another's, or an older one: a copy has no models."""
        self._kept = set()

    # -- life and death -----------------------------------------------------------------------------------------------

    def opened(self, edge: Edge) -> None:
        """What ``Edge.models`` makes, but for its threads. Raises StorageError."""
        if self.power_cut:
            self._tear(edge)
            self.power_cut = False
        self.store = store = ModelStore(edge.log, edge.path, self.node.clock, runners={}, probe=self._probe)
        vars(edge)["models"] = store
        edge.twin.report({"hardware": self.hardware})
        tell(store, edge.trust.sound(MODELS))
        store.tell_outcomes(edge._model_outcome)  # noqa: SLF001 - as Edge.models does
        self._due_ms, self._has_source = -1, False
        self.tend_later(self.dice.randrange(_TEND_MS_MIN, 60_000))

    def died(self) -> None:
        """The process is gone, and its locks with it; it has told nobody."""
        edge, store = self.node.edge, self.store
        self.store = None
        if edge is not None and store is not None:
            vars(edge).pop("models", None)
            for name in list(store._held):  # noqa: SLF001 - what the kernel does for a process that ends
                store._let_go(name)  # noqa: SLF001

    def _tear(self, edge: Edge) -> None:
        """What was written to a slot that is still being filled may be on the disk in part."""
        for name, note in ModelTables(edge.log).notes().read.items():
            if note.state != FETCHING or note.candidate is None:
                continue
            folder = Path(edge.path, "models", name, note.candidate.slot)
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                data = bytearray(file.read_bytes())
                how = self.dice.randrange(4)
                if how == 0:
                    file.unlink()
                elif how == 1:
                    file.write_bytes(data[: self.dice.randrange(len(data) + 1)])
                elif how == 2 and data:
                    at = self.dice.randrange(len(data))
                    data[at : at + 512] = bytes(len(data[at : at + 512]))
                    file.write_bytes(data)
                self.node.world.counts["files torn by power cuts"] += how < 3

    # -- what is due --------------------------------------------------------------------------------------------------

    def tend_later(self, delay_ms: int) -> None:
        world, life = self.node.world, self.node.lives
        at_ms = world.now_ms + delay_ms
        if world.now_ms < self._due_ms <= at_ms:
            return
        self._due_ms = at_ms
        world.at(delay_ms, lambda: self.tend() if self.node.lives == life and self._due_ms == at_ms else None)

    def tend(self) -> None:
        """Fetch, try, soak, keep or return."""
        node, store = self.node, self.store
        if node.edge is None or store is None:
            return
        armed = node.disk.crash_in is None and self.steering.dangerous and self.dice.random() < _DIES
        if armed:
            node.disk.crash_in = self.dice.randrange(_WRITES_OF_A_STEP)
        connected = node.link.session is not None
        try:
            if connected != self._has_source:
                store.connect(*self._source() if connected else (None, None))
                self._has_source = connected
            store.fetch()
            store.advance()
            self._use(store)
        except AgentDBError as error:
            if not isinstance(error, StorageError):
                raise Violation("typed errors", f"{node.name}: tending models failed with {error!r}") from error
            node.world.note(node.name, f"models: {error.code}")
        self._after(store, armed=armed)

    def _after(self, store: ModelStore, *, armed: bool) -> None:
        node = self.node
        if node.disk.dead:
            node.world.counts["deaths with models"] += 1
        elif armed:
            node.disk.crash_in = None
        if node.check_death():
            return
        self.look()
        if node.steered is not None:
            with suppress(StorageError):  # its disk fails; with the next step then
                node.steered.report_soon()
        due_ms = store.due_ms()
        if due_ms is not None or store.is_fetching():
            self.tend_later(min(_TEND_MS_MAX, max(_TEND_MS_MIN, due_ms or 30_000)))

    def _use(self, store: ModelStore) -> None:
        """The agent uses what it is given, and says how it went."""
        for name, note in store.notes().items():
            if note.active is not None and note.state == SOAKING:
                weights = self._weights(note.active)
                ok = weights.kind != FAULTY or weights.is_good(self.hardware)
                for _ in range(2):
                    with suppress(NotFound):  # it was returned meanwhile
                        store.report_use(name, ok=ok)

    def _source(self) -> tuple[ModelFetch, Callable[[str], bytes]]:
        node = self.node
        return ModelFetch(lambda: _Packs(self), lambda: session_keys(node.opened.log, node.opened.path).ring), (
            lambda sha256: bytes(self.client().target(sha256))
        )

    def _probe(self, folder: Path, manifest: Manifest, _runner: object, _stopped: object) -> Outcome:
        digest = self.steering.signers[self.node.fleet].signed[f"models/{manifest.name}/{manifest.number}.json"]
        weights = self.steering.shelf.known[digest]
        node = self.node
        if _contents(folder) != weights.files:
            raise Violation("one good model", f"{node.name}: {weights.path} is tried, and is not whole")
        assert self.store is not None
        if any(one.digest == digest for one in self.store.tables.refused(manifest.name)):
            raise Violation("refused", f"{node.name} tries {weights.path} again, which it returned from")
        node.world.note(node.name, f"tries {weights.path}", count="models tried")
        bad = not weights.is_good(self.hardware)
        dies = self.steering.dangerous and self.dice.random() < _DIES_PROBING
        if dies or (bad and weights.kind == DEADLY):
            node.disk.kill()
            raise StorageError("the process has ended")
        return Outcome("golden: the output is another" if bad and weights.kind == WRONG else "", {})

    # -- what must hold -----------------------------------------------------------------------------------------------

    def digests(self) -> set[bytes]:
        """Of all that runs here, or may be returned to."""
        notes = self.store.notes().values() if self.store is not None else ()
        parts = [(note.active, note.candidate, note.previous, note.wanted) for note in notes]
        return {version.digest for versions in parts for version in versions if version is not None}

    def look(self) -> None:
        """Raises Violation."""
        store, node = self.store, self.node
        if store is None or node.edge is None or node.disk.dead:
            return
        try:
            durable, unread = ModelTables(node.edge.log).notes()
            refused = {name: {one.digest for one in store.tables.refused(name)} for name in durable}
        except StorageError:
            return
        if unread:
            raise Violation("durable", f"{node.name}: notes of models that are none: {unread}")
        if durable != store.notes():
            raise Violation("durable", f"{node.name}: its models are at {store.notes()}, its log at {durable}")
        for name in sorted(self._kept - {name for name, note in durable.items() if note.active is not None}):
            raise Violation("one good model", f"{node.name} has no version of {name} any more")
        for name, note in durable.items():
            try:
                activation.check(note)
            except AssertionError as error:
                raise Violation("one good model", f"{node.name}: {name} is noted as {note}: {error}") from error
            if note.active is not None:
                self._check_active(store, name, note, refused[name])
            else:
                self._check_none(store, name)
            if note.returned is not None and note.why == activation.CRASHES:
                self._brought_down.add(note.returned.digest)
            if note.state == COMMITTED:
                self._kept.add(name)
            if note.state == SOAKING and note.previous is not None:
                self._check_files(note.previous, store.slots(name).path(note.previous.slot))

    def _check_active(self, store: ModelStore, name: str, note: Note, refused: set[bytes]) -> None:
        active = note.active
        assert active is not None
        if active.digest in refused:
            raise Violation("refused", f"{self.node.name}: {name} {active.number} runs, and was returned from")
        if self._holds:
            self._check_files(active, store.path(name))
            return
        with store.use(name) as path:
            self._check_files(active, path)

    def _check_none(self, store: ModelStore, name: str) -> None:
        """The agent asks all the same, and lets go of what it had by that."""
        try:
            path = store.path(name)
        except NotFound:
            return
        raise Violation("one good model", f"{self.node.name}: {path} is given out, and no version of {name} is in use")

    def _check_files(self, version: Version, folder: Path) -> None:
        weights = self._weights(version)
        if _contents(folder) != weights.files:
            raise Violation("one good model", f"{self.node.name}: {weights.path} runs or is kept, and is not whole")

    def _weights(self, version: Version) -> Weights:
        weights = self.steering.shelf.known.get(version.digest)
        signed = self.steering.signers[self.node.fleet].signed
        if weights is None or signed.get(weights.path) != version.digest:
            raise Violation("signed", f"{self.node.name} has a model {version.number} that nobody has signed")
        return weights

    def difference(self, wanted: dict[str, bytes]) -> str:
        """What keeps its models from being as they should be, or ""."""
        notes = self.store.notes() if self.store is not None else {}
        for place, digest in wanted.items():
            if not place.startswith(MODELS):
                continue
            note = notes.get(place.removeprefix(MODELS), Note())
            weights = self.steering.shelf.known[digest]
            problem = self.store.problems.get(place.removeprefix(MODELS)) if self.store is not None else ""
            runs = note.active is not None and note.active.digest == digest
            if weights.is_good(self.hardware) and not (runs and note.state == COMMITTED):
                if digest in self._brought_down:
                    continue  # its process ended too often while it was tried: not its fault, and not to be known
                return f"{self.node.name} does not run {weights.path}: it is {note.state} ({problem})"
            if not weights.is_good(self.hardware) and (runs or not self._has_refused(place, digest)):
                return f"{self.node.name} has not returned from {weights.path}: it is {note.state} ({problem})"
        return ""

    def _has_refused(self, place: str, digest: bytes) -> bool:
        refused = self.store.tables.refused(place.removeprefix(MODELS)) if self.store is not None else []
        return any(one.digest == digest for one in refused)


class _Packs:
    """A connection to the packs, over the simulated network: ``edge.link.model_client`` in life."""

    def __init__(self, models: Modelled) -> None:
        self._models = models

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def read(self, pack: str, offset: int, length: int) -> Iterator[_Stream]:
        models, node = self._models, self._models.node
        models.client().reach("a range of a pack")
        cloud = node.cloud
        if pack not in AssignedPacks(cloud.store)(node.fleet, node.id):
            raise NotFound("no pack of a model that is assigned to this device")
        data = cloud.objects.get_range(Names(node.fleet).pack(bytes.fromhex(pack)), offset, length)
        if models.steering.hostile[node.fleet].on:
            altered = bytearray(data)
            altered[models.dice.randrange(length)] ^= 1
            data = bytes(altered)
            node.world.counts["ranges altered"] += 1
        node.world.counts["ranges of packs"] += 1
        yield _Stream(models, data)


class _Stream:
    def __init__(self, models: Modelled, data: bytes) -> None:
        self._models = models
        self._data = data

    def read_into(self, buffer: memoryview) -> None:
        models = self._models
        if models.steering.dangerous and models.dice.random() < _DIES_FETCHING:
            models.node.disk.kill()
        if models.node.disk.dead or (models.steering.dangerous and models.dice.random() < _CUT):
            models.node.world.counts["ranges cut off"] += 1
            raise Unreachable("the answer was cut off")
        buffer[:], self._data = self._data[: len(buffer)], self._data[len(buffer) :]


def _contents(folder: Path) -> dict[str, bytes]:
    try:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    except FileNotFoundError:
        return {}
