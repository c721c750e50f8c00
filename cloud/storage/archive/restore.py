"""Restore: from the object store and the keys alone to a store that a control plane can serve from.

Newest manifest → the snapshot at or before the target → the segments from there → fold → side tables → compare
the state digest → and only then does the fleet exist in the new store. What always holds:

* nothing is used before its hash, signature, place in the chain and tag were verified (``reader``, ``chain``);
* a store that has the fleet is refused, and until the last step the new store has none; a file does not even get
  its name before (``restore_file``): a restore that fails or is killed leaves nothing that looks like a store;
* the new incarnation is random, its generation larger than every earlier one's, so its operations are new ones;
* going back in time takes back data, not decisions about who belongs to the fleet: identity tables come from the
  newest manifest.

The state digest is compared with the snapshot's when that is loaded, and with the one noted at the target wherever
a manifest there carries one: always for snapshots, and for fleets below ``writer.DIGEST_RECORDS_MAX`` records.
Restoring writes nothing to the archive; the restored store's first ``Archive.run_once()`` declares the branch, and
from then on a stale control plane that still runs is told so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cloud.control_rows import AssignmentRow
from cloud.model_rows import ChunkRow, ModelRow
from cloud.ports import KeyService, ObjectStore, Reading, Store, Transaction
from cloud.rows import Conflict, DeadLetter, FeedRow, Head, ReplicaRow, collections_of
from cloud.storage.archive import side
from cloud.storage.archive.anchor import Anchor, Anchored
from cloud.storage.archive.chain import History, Stretch, history, newest
from cloud.storage.archive.manifest import Manifest, SideRef
from cloud.storage.archive.reader import ArchiveReader
from cloud.storage.archive.rebuild import Rebuilder
from cloud.storage.archive.snapshots import read_snapshot, state_digest
from cloud.storage.archive.state import ArchiveState, save_state
from cloud.twin_rows import TwinRow
from sync.errors import AgentDBError, BrokenChain, InvalidValue, Malformed
from sync.models import Manifest as ModelManifest
from sync.operations import Operation
from sync.ports import RandomSource
from sync.segment import GENESIS, Opened, pack

Progress = Callable[[int, int], None]
_RESTORED = "the control plane was restored: look at it, then resume or abort it"


class Restored(NamedTuple):
    """What a restore made. ``manifest``: the one it started from; ``compared``: whether the archive had noted a
    state digest for exactly this position.
    """

    fleet: bytes
    position: int
    incarnation: bytes
    manifest: int
    records: int
    operations: int
    digest: str
    compared: bool


def restore_fleet(
    objects: ObjectStore,
    keys: KeyService,
    store: Store,
    fleet: bytes,
    *,
    random: RandomSource,
    position: int | None = None,
    at_ms: int | None = None,
    manifest: int | None = None,
    anchor: Anchor | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Bring one fleet into a store that does not have it.

    The target is a feed ``position``, the last operation accepted by ``at_ms``, or by default the newest state.
    ``manifest`` asks for the state that this manifest describes, whatever came after it: the way to the best verified
    state before some damage. ``progress`` counts records and operations.

    Raises InvalidValue if the fleet is there already, NotFound for a target that the archive does not hold, and a
    DataError that names the object for an archive that is not whole.
    """
    with store.reading() as view:
        if view.fleet(fleet) is not None:
            raise InvalidValue(
                f"the store holds fleet {fleet.hex()} already", hint="restore into a new store, then swap"
            )
    reader = ArchiveReader(objects, keys, fleet)
    past = history(reader, newest(reader, anchor, manifest), position=position, at_ms=at_ms)
    return _Restore(reader, past, store, keys, random, progress).run(anchor if manifest is not None else None)


class _Restore:
    def __init__(
        self,
        reader: ArchiveReader,
        past: History,
        store: Store,
        keys: KeyService,
        random: RandomSource,
        progress: Progress | None,
    ) -> None:
        self._reader = reader
        self._fleet = reader.fleet
        self._past = past
        self._store = store
        self._random = random
        self._progress = progress or (lambda _done, _total: None)
        self._operations = past.position - past.start
        self._total = (past.snapshot.records if past.snapshot else 0) + self._operations
        self._replicas = _Replicas(past.base.stream_position if past.base else 0)
        self._clock = past.newest.manifest.clock
        self._at_ms = 0
        self._cloud = keys.service_key.device_id + past.newest.manifest.generation.to_bytes(4, "big")

    def run(self, anchor: Anchor | None) -> Restored:
        rebuilder = Rebuilder(self._store, self._fleet)
        self._load_snapshot(rebuilder)
        self._load_feed(rebuilder)
        digest, living = self._digest()
        noted = self._past.digest
        if noted and noted.hex() != digest:
            raise BrokenChain(
                f"the restored state has digest {digest[:16]}…, the archive says {noted.hex()[:16]}…",
                hint="report this; restore an earlier position meanwhile",
            )
        head = self._open(living, anchor)
        return Restored(
            self._fleet,
            head.position,
            head.incarnation,
            self._past.newest.manifest.number,
            living,
            self._operations,
            digest,
            bool(noted),
        )

    # -- records and feed ------------------------------------------------------------------------------------------

    def _load_snapshot(self, rebuilder: Rebuilder) -> None:
        if self._past.snapshot is None:
            return
        total = self._total
        # Without anything after it, the digest that is compared at the end is the snapshot's own.
        parts = read_snapshot(
            self._reader,
            self._past.snapshot,
            lambda done, _: self._progress(done, total),
            compare=self._operations > 0,
        )
        for rows in parts:
            rebuilder.load(rows)

    def _load_feed(self, rebuilder: Rebuilder) -> None:
        expected, previous = self._past.start + 1, self._past.before
        for stretch, data in self._reader.fetch_all((item.ref.object, item) for item in self._past.stretches):
            name = stretch.ref.object.name
            opened = self._reader.open_feed_segment(stretch.ref, data, previous)
            if stretch.ref.first != expected:
                raise BrokenChain(f"{name}: it does not follow position {expected - 1}")
            operations = opened.operations[: stretch.last - stretch.ref.first + 1]
            self._replicas.take(stretch, operations)
            rebuilder.fold(stretch.ref.first, operations, self._feed_row(stretch, opened, operations))
            self._clock = max(self._clock, opened.header.max_ts)
            expected, previous = stretch.last + 1, opened.id
            self._progress(self._total - (self._past.position - stretch.last), self._total)
        if expected != self._past.position + 1:
            raise BrokenChain(f"the archive ends at {expected - 1}, before position {self._past.position}")
        rebuilder.finish()

    def _feed_row(self, stretch: Stretch, opened: Opened, operations: list[Operation]) -> FeedRow:
        """The segment as one row of the feed, its columns as they are.

        Rows of several writers that were packed into one segment stay together, in the cloud's name: each
        of them is then sent its own operations once more, which changes nothing.
        """
        rows = [row for row in stretch.ref.rows if row.first <= stretch.last]
        whole = stretch.last == stretch.ref.last
        packed = opened.packed if whole else pack(operations)
        single = rows[0] if len(rows) == 1 else None
        self._at_ms = rows[-1].at_ms
        return FeedRow(
            stretch.ref.first,
            stretch.last,
            single.replica if single else self._cloud,
            rows[0].state,
            packed.data,
            packed.plain_length,
            packed.min_ts,
            packed.max_ts,
            self._at_ms,
            single.segment if single and whole else b"",
            collections_of({operation.shape.collection for operation in operations}),
        )

    def _digest(self) -> tuple[str, int]:
        """Of what is really in the store now, and the number of living records."""
        with self._store.reading() as view:
            digest = state_digest(view, self._fleet)
        return digest.hexdigest(), digest.records

    # -- everything else, and the moment from which the fleet exists -------------------------------------------------

    def _open(self, living: int, anchor: Anchor | None) -> Head:
        manifest, past = self._past.newest.manifest, self._past
        number, digest, generation = self._end_of_chain()
        head = Head(
            position=past.position,
            incarnation=self._random.token(16),
            generation=generation,
            restored_head=past.position,
            trimmed=past.start,
            clock=self._clock,
            living=living,
            previous=manifest.incarnation,
        )
        state = ArchiveState(
            number=number,
            sha256=digest,
            position=past.position,
            at_ms=self._at_ms or manifest.at_ms,
            last_segment=past.last_segment,
            snapshot=past.start,
            branch=past.branch,
        )
        with self._store.writing() as tx:
            self._open_stream(tx)
            self._open_identity(tx, manifest, head)
            save_state(tx, self._fleet, state)
        if anchor is not None:  # told to go back: from now on this end of the chain is the one to hold on to
            anchor.note(self._fleet, Anchored(number, digest))
        return head

    def _open_stream(self, tx: Transaction) -> None:
        base, later = self._past.base, self._past.later
        replicas: list[ReplicaRow] = self._rows(side.REPLICAS, base.stream if base else [])
        conflicts: list[Conflict] = self._rows(side.CONFLICTS, base.stream if base else [])
        letters: list[DeadLetter] = self._rows(side.DEAD_LETTERS, base.stream if base else [])
        held = self._replicas.merge(replicas)
        if later is not None:
            noted = base.stream_position if base else 0
            conflicts += [
                _as_of(row, self._past.position)
                for row in self._rows(side.CONFLICTS, later.stream)
                if noted < row.position <= self._past.position
            ]
            seqs = {row.replica: row.last_seq for row in held}
            known = {row.number for row in letters}
            letters += [
                row
                for row in self._rows(side.DEAD_LETTERS, later.stream)
                if row.number not in known and 0 < row.seq <= seqs.get(row.replica, 0)
            ]
        tx.put_replicas(self._fleet, held)
        tx.put_conflicts(self._fleet, [_as_of(row, self._past.position) for row in conflicts])
        tx.add_dead_letters(self._fleet, letters)

    def _open_identity(self, tx: Transaction, manifest: Manifest, head: Head) -> None:
        refs = manifest.identity
        fleets = self._rows(side.FLEET, refs)
        if len(fleets) != 1 or fleets[0].fleet != self._fleet:
            raise Malformed(f"{self._reader.names.manifest(manifest.number)}: it does not describe this fleet")
        tx.create_fleet(fleets[0], head)
        tx.put_devices(self._rows(side.DEVICES, refs))
        bounds: dict[tuple[bytes, int], dict[bytes, int]] = {}
        for bound in self._rows(side.BOUNDS, refs):
            bounds.setdefault((bound.device, bound.revoked_ms), {})[bound.replica] = bound.last_seq
        for (device, revoked_ms), limits in bounds.items():
            tx.revoke(self._fleet, device, revoked_ms, limits)
        for token in self._rows(side.TOKENS, refs):
            tx.put_token(token)
        for epoch in self._rows(side.EPOCHS, refs):
            tx.put_epoch(self._fleet, epoch)
        for entry in self._rows(side.AUDIT, refs):
            tx.append_audit(self._fleet, entry)
        for nonce in self._rows(side.NONCES, refs):
            tx.advance_nonce(nonce.device, nonce.nonce)
        self._open_control(tx, refs)
        self._open_models(tx, refs)

    def _open_models(self, tx: Transaction, refs: list[SideRef]) -> None:
        """Their packs are beside the archive. Their chunk lists are among the targets, which are there by now."""
        models: list[ModelRow] = self._rows(side.MODELS, refs)
        tx.put_models(self._fleet, models)
        tx.put_aliases(self._fleet, self._rows(side.ALIASES, refs))
        for model in models:
            tx.put_chunks(self._fleet, _chunks_of(tx, self._fleet, model))

    def _open_control(self, tx: Transaction, refs: list[SideRef]) -> None:
        """What was signed after that manifest is lost with the database: a device says which number it holds."""
        trusted = self._rows(side.TRUST, refs)
        tx.put_trust(self._fleet, trusted)
        tx.add_targets(self._fleet, self._rows(side.TARGETS, refs))
        for channel in self._rows(side.CHANNELS, refs):
            tx.put_channel(self._fleet, channel)
        for assigned in self._rows(side.ASSIGNED, refs):
            tx.put_assignment(self._fleet, AssignmentRow(assigned.device, assigned.number))
        self._open_steered(tx, refs)
        if trusted:
            tx.touch_control(self._fleet)

    def _open_steered(self, tx: Transaction, refs: list[SideRef]) -> None:
        """A rollout may have been halted after that manifest: none goes on before a person has looked."""
        tx.put_twins(self._fleet, [TwinRow(*told) for told in self._rows(side.TOLD, refs)])
        for row in self._rows(side.ROLLOUTS, refs):
            paused = row._replace(state="paused", why=_RESTORED) if row.state == "running" else row
            tx.put_rollouts(self._fleet, [paused])
        tx.put_exposures(self._fleet, self._rows(side.EXPOSURES, refs))

    def _rows(self, table: side.Table, refs: list[SideRef]) -> list[Any]:
        return [row for ref in refs if ref.table == table.number for row in side.rows_of(table, self._reader.side(ref))]

    def _end_of_chain(self) -> tuple[int, bytes, int]:
        """Number and hash of the newest manifest that is there, and a generation that nobody has used.

        Where the newest cannot be read (the restore was told to start before it), each such manifest may hide one
        more incarnation.
        """
        numbers = self._reader.numbers()
        last, hidden, generation = numbers[-1], 0, self._past.newest.manifest.generation
        for number in reversed(numbers):
            if number <= self._past.newest.manifest.number:
                break
            try:
                generation = max(generation, self._reader.manifest(number).manifest.generation)
                break
            except AgentDBError:
                hidden += 1
        return last, self._reader.manifest_sha256(last), generation + hidden + 1


def _as_of(row: Conflict, position: int) -> Conflict:
    """A conflict whose resolution lies beyond the target is open again."""
    if row.resolution <= position:
        return row
    return row._replace(state="open", resolution=0, note=f"restored to position {position}, before its resolution")


class _Replicas:
    """What is held of each replica at the target: from the side table, and from the rows of the feed after it."""

    def __init__(self, noted: int) -> None:
        self._noted = noted
        self._after: dict[bytes, ReplicaRow] = {}

    def take(self, stretch: Stretch, operations: list[Operation]) -> None:
        first = stretch.ref.first
        for ref in stretch.ref.rows:
            last = min(ref.last, stretch.last)
            if ref.state or ref.first > stretch.last or last <= self._noted:
                continue
            inside = operations[ref.first - first : last - first + 1]
            held = self._after.get(ref.replica)
            self._after[ref.replica] = ReplicaRow(
                ref.replica,
                max([held.last_seq if held else 0, *(op.seq for op in inside)]),
                ref.segment if last == ref.last and ref.segment else GENESIS,
                max([held.cursor if held else 0, *(op.seen for op in inside)]),
                ref.at_ms,
            )

    def merge(self, noted: list[ReplicaRow]) -> list[ReplicaRow]:
        rows = {row.replica: row for row in noted}
        for replica, row in self._after.items():
            before = rows.get(replica)
            rows[replica] = (
                row
                if before is None
                else row._replace(last_seq=max(row.last_seq, before.last_seq), cursor=max(row.cursor, before.cursor))
            )
        return [rows[replica] for replica in sorted(rows)]


def _chunks_of(view: Reading, fleet: bytes, row: ModelRow) -> Iterator[ChunkRow]:
    """Where the chunks of a listed model lie: so that they are not stored again."""
    if not row.manifest:
        return
    manifest = ModelManifest.parse(row.manifest)
    found = view.target(fleet, bytes.fromhex(manifest.chunks.sha256))
    if found is None:
        return  # it was published without its list being archived: its chunks are stored anew when they are needed
    for chunk in manifest.chunk_list(found.data).chunks:
        pack = manifest.packs[chunk.pack]
        yield ChunkRow(chunk.digest, chunk.length, bytes.fromhex(pack.id), pack.epoch, chunk.offset)
