"""The fleet's models: what was published, under which names, and of which packs in the object store it is made.

Publishing cuts a model's files (``chunking``), keeps the chunks that no listed model has (``packs``), and notes the
version with its manifest, which is what is signed afterwards (``agentdb-cloud trust sign``) and given to devices. What
always holds: the version is noted last, in one transaction, so whatever fails before leaves at most packs that nothing
names (``gc`` takes them after a week); a number is given out once; a listed version's packs are never deleted.

What changes what may be given to devices is in the audit trail, by the transaction that changes it.

Publishing and collecting must not overlap: the caller holds the fleet's lock for both (``Home.holding_models``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cloud.control_rows import TargetRow
from cloud.fleet import choices
from cloud.fleet.packs import PackWriter
from cloud.fleet.publication import Progress, Publication, sources_of, why_refused
from cloud.fleet.rollout_desk import Record
from cloud.model_rows import AliasRow, ChunkRow, ModelRow
from cloud.ports import ObjectStore, Reading, Store, Transaction
from cloud.storage.archive.names import Names
from sync import groups
from sync.chunks import ChunkList, file_digest
from sync.errors import InvalidValue, Malformed, NotFound, Refused, StorageError
from sync.keys import KeyRing
from sync.models import (
    FileRef,
    ListRef,
    Manifest,
    ModelName,
    Needs,
    PackRef,
    Probe,
    Soak,
    list_path,
    target_path,
)
from sync.ports import Clock

GC_AFTER_MS = 7 * 86_400_000
_INSTEAD = "agentdb-cloud assign DIR models/NAME another, or --nothing; end its rollout"
ALLOW_PICKLE = "--allow-pickle-that-runs-code"


class Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest says besides its files (``configs/model.toml``)."""

    lineage: dict[str, str] = {}
    metrics: dict[str, int | float] = {}
    needs: Needs = Needs()
    probes: list[Probe] = []
    soak: Soak = Soak()


class Published(NamedTuple):
    """``stored_bytes`` is what was new, as it lies in the object store; ``reused_bytes`` was there already."""

    name: str
    number: int
    version: str
    size: int
    files: int
    chunks: int
    packs: int
    stored_bytes: int
    reused_bytes: int
    runs_code: bool
    manifest: bytes
    chunk_list: bytes


class Collected(NamedTuple):
    """``kept``: packs that nothing names and that are too young to go."""

    packs: int
    bytes: int
    kept: int


class ModelRegistry:
    """Of one fleet. ``ring`` has its keys: new chunks are sealed under the newest; ``record`` is the audit trail's."""

    def __init__(
        self,
        store: Store,
        objects: Callable[[], ObjectStore],
        ring: Callable[[], KeyRing],
        fleet: bytes,
        clock: Clock,
        record: Record,
    ) -> None:
        self._store = store
        self._objects = objects
        self._ring = ring
        self._fleet = fleet
        self._clock = clock
        self._record = record
        self._names = Names(fleet)

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        path: Path,
        name: str,
        version: str,
        details: Details = Details(),  # noqa: B008 - frozen
        *,
        aliases: Sequence[str] = (),
        allow_pickle: bool = False,
        plain_sha256: bool = False,
        progress: Progress | None = None,
    ) -> Published:
        """A file or a folder as the next number of ``name``, with these aliases. ``progress`` counts bytes read.

        Raises InvalidValue (a name, a path, a version that is there already; a file that runs code when it is loaded),
        InvalidFilter (what it needs of a device), TooLarge, StorageError, and what the object store raises.
        """
        _check_name(name)
        for alias in aliases:
            _check_alias(alias)
        if not 0 < len(version) <= 64 or not version.isprintable():
            raise InvalidValue("a version has 1 to 64 printable characters", hint="such as 1.3.0")
        groups.parse_needs(details.needs.hardware)
        _check_details(details)
        sources = sources_of(path)
        reasons = [(source.path, why) for source in sources if (why := why_refused(source))]
        if reasons and not allow_pickle:
            raise InvalidValue(
                f"{reasons[0][0]}: {reasons[0][1]}: whoever loads it runs what its maker put there",
                hint=f"convert it to safetensors or ONNX; or, if you trust its maker as your own code: {ALLOW_PICKLE}",
            )
        number = self._next_number(name, version)
        work = Publication(
            self._known, sum(source.size for source in sources), plain_sha256=plain_sha256, progress=progress
        )
        files = work.store(sources, self._writer())
        chunk_list = ChunkList(work.placed()).encode()
        manifest = Manifest(
            schema=1,
            name=name,
            number=number,
            version=version,
            size=sum(file.size for file in files),
            chunks=ListRef(sha256(chunk_list).hexdigest(), len(work.chunks)),
            packs=[PackRef(pack.hex(), epoch) for pack, epoch in work.packs()],
            files=files,
            lineage=details.lineage,
            metrics=details.metrics,
            needs=details.needs,
            probes=details.probes,
            soak=details.soak,
            runs_code=bool(reasons),
        )
        data = manifest.encode()
        Manifest.parse(data).chunk_list(chunk_list)  # what a device will say to it
        self._check_packs(work.reused_packs())
        row = ModelRow(name, number, version, self._clock.wall_ms(), sha256(data).digest(), data)
        with self._store.writing() as tx:
            if tx.model(self._fleet, name, number) is not None:
                raise StorageError(f"{name} {number} was published meanwhile", hint="publish it again")
            tx.put_chunks(self._fleet, work.new_rows())
            listed = TargetRow(0, sha256(chunk_list).digest(), list_path(name, number), chunk_list)
            tx.add_targets(self._fleet, [listed])
            tx.put_models(self._fleet, [row])
            tx.put_aliases(self._fleet, [AliasRow(name, alias, number) for alias in aliases])
            said = {"version": version, "sha256": row.sha256.hex(), "aliases": list(aliases)}
            self._note(tx, "model.published", f"{name} {number}", runs_code=manifest.runs_code, **said)
        return Published(
            name,
            number,
            version,
            manifest.size,
            len(files),
            len(work.chunks),
            len(work.ids),
            work.stored_bytes,
            work.reused_bytes,
            manifest.runs_code,
            data,
            chunk_list,
        )

    def _next_number(self, name: str, version: str) -> int:
        with self._store.reading() as view:
            rows = view.models(self._fleet, name)
        for row in rows:
            if row.version == version and row.manifest:
                raise InvalidValue(
                    f"{name} has a version {version} already: number {row.number}", hint="versions are not replaced"
                )
        return max((row.number for row in rows), default=0) + 1

    # -- what there is ------------------------------------------------------------------------------------------------

    def versions(self, name: str = "") -> list[ModelRow]:
        """Those that are listed, by name and number."""
        with self._store.reading() as view:
            return [row for row in view.models(self._fleet, name) if row.manifest]

    def aliases(self, name: str = "") -> list[AliasRow]:
        with self._store.reading() as view:
            return view.aliases(self._fleet, name)

    def find(self, name: str, which: str) -> ModelRow:
        """By number, alias or version, in this order; "" is the newest. Raises NotFound."""
        with self._store.reading() as view:
            return self._find(view, name, which)

    def chunk_list(self, row: ModelRow) -> bytes:
        """As the version's manifest names it. Raises NotFound."""
        digest = bytes.fromhex(Manifest.parse(row.manifest).chunks.sha256)
        with self._store.reading() as view:
            found = view.target(self._fleet, digest)
        if found is None:
            raise NotFound(f"the chunk list of {row.name} {row.number} is not here")
        return found.data

    def set_alias(self, name: str, alias: str, which: str) -> ModelRow:
        """Raises InvalidValue, NotFound."""
        _check_alias(alias)
        with self._store.writing() as tx:
            row = self._find(tx, name, which)
            tx.put_aliases(self._fleet, [AliasRow(name, alias, row.number)])
            self._note(tx, "model.named", f"{name} {row.number}", alias=alias)
        return row

    def drop_alias(self, name: str, alias: str) -> None:
        """Raises NotFound."""
        with self._store.writing() as tx:
            if not tx.drop_alias(self._fleet, name, alias):
                raise NotFound(f"{name} has no alias {alias}", hint="agentdb-cloud models list shows them")
            self._note(tx, "model.unnamed", name, alias=alias)

    # -- removing -----------------------------------------------------------------------------------------------------

    def remove(self, name: str, which: str) -> ModelRow:
        """No longer list a version; its packs go with ``gc``, as far as no other version has them. Raises NotFound,
        InvalidValue while an alias points at it, Refused while devices may be given it.
        """
        with self._store.writing() as tx:
            row = self._find(tx, name, which)
            pointing = [alias.alias for alias in tx.aliases(self._fleet, name) if alias.number == row.number]
            if pointing:
                raise InvalidValue(
                    f"{name} {row.number} is {', '.join(pointing)}", hint="point the alias elsewhere first"
                )
            path = target_path(name, row.number)
            if path in choices.named_paths(tx, self._fleet):
                raise Refused(f"{path} is assigned: who has not all of it could not fetch it", hint=_INSTEAD)
            tx.put_models(self._fleet, [row._replace(manifest=b"")])
            self._note(tx, "model.removed", f"{name} {row.number}", version=row.version)
        return row

    def gc(self, *, after_ms: int = GC_AFTER_MS, progress: Progress | None = None) -> Collected:
        """Delete packs that no listed version names and that are older than ``after_ms``. ``progress`` counts packs."""
        named = {pack.id for row in self.versions() for pack in Manifest.parse(row.manifest).packs}
        before_ms = self._clock.wall_ms() - after_ms
        listed = ((info.name.removeprefix(self._names.packs), info) for info in self._objects().list(self._names.packs))
        found = [info for pack, info in listed if pack not in named and len(pack) == 64]
        old = [info for info in found if info.modified_ms <= before_ms]
        if old:
            with self._store.writing() as tx:
                self._note(tx, "models.collected", "packs", packs=len(old), bytes=sum(info.size for info in old))
        for done, info in enumerate(old, 1):
            with self._store.writing() as tx:  # first: nothing may be published that relies on it
                tx.drop_pack(self._fleet, bytes.fromhex(info.name.removeprefix(self._names.packs)))
            self._objects().delete(info.name)
            if progress is not None:
                progress(done, len(old))
        return Collected(len(old), sum(info.size for info in old), len(found) - len(old))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, view: Reading, name: str, which: str) -> ModelRow:
        rows = {row.number: row for row in view.models(self._fleet, name) if row.manifest}
        named = {alias.alias: alias.number for alias in view.aliases(self._fleet, name)}
        if not which and rows:
            return rows[max(rows)]
        number = int(which) if which.isdecimal() and len(which) < 10 else named.get(which, 0)
        for row in (rows.get(number), *(row for row in rows.values() if row.version == which)):
            if row is not None:
                return row
        raise NotFound(f"no model {name} {which}".rstrip(), hint="agentdb-cloud models list shows what there is")

    def _note(self, tx: Transaction, action: str, subject: str, **details: Any) -> None:
        self._record(tx, self._fleet, self._clock.wall_ms(), "operator", action, subject, **details)

    def _known(self, digests: Sequence[bytes]) -> dict[bytes, ChunkRow]:
        with self._store.reading() as view:
            return view.find_chunks(self._fleet, digests)

    def _check_packs(self, packs: Sequence[bytes]) -> None:
        """That what is not stored again is really there. Raises StorageError."""
        for pack in packs:
            try:
                self._objects().head(self._names.pack(pack))
            except NotFound as error:
                with self._store.writing() as tx:
                    tx.drop_pack(self._fleet, pack)
                raise StorageError(
                    f"{error.message}, though versions that are listed need it",
                    hint="publish it again, and it is stored anew; of the others publish new versions",
                ) from error

    def _writer(self) -> PackWriter:
        ring = self._ring()
        return PackWriter(self._objects(), self._names.pack, ring.current, ring.key(ring.current))


def _check_details(details: Details) -> None:
    """As a device will, before anything is stored: by a manifest of one file without a byte. Raises InvalidValue."""
    file = FileRef("empty", 0, (0, 0), file_digest([]).hex())
    listed = ListRef(sha256(ChunkList(()).encode()).hexdigest(), 0)
    said = {name: getattr(details, name) for name in details.__struct_fields__}
    try:
        Manifest.parse(Manifest(1, "a", 1, "1", 0, listed, [], [file], **said).encode())
    except (InvalidValue, Malformed) as error:
        raise InvalidValue(f"not for a manifest: {error}", hint="configs/model.toml shows all that there is") from error


def _check_alias(alias: str) -> None:
    _check_name(alias)
    if alias.isdecimal():
        raise InvalidValue(f"an alias is not a number: {alias}", hint="such as champion or canary")


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, ModelName)
    except msgspec.ValidationError as error:
        raise InvalidValue(
            f"not a model's name or alias: {name!r:.80}", hint="of a-z, 0-9, '.', '_', '-', at most 64"
        ) from error
