"""Archive: brings a fleet's feed, records and side tables into the object store, one manifest at a time.

The order of every run: read a consistent view → seal → put every object and read it back → create the manifest,
which the object store lets succeed once → read it back → note it in the anchor and in the store. What always
holds: a crash between any two steps leaves objects that no manifest names, or a manifest that the next run
recognises as its own and adopts; nothing is ever replaced; whoever finds that somebody else has continued the
archive stops with ForeignArchive.

Everything is read back whole and compared: an object store that confirmed a checksum it did not check (moto does)
must not be the reason that the feed is trimmed. Restoring is ``restore``'s; trimming the feed, up to
``state.position`` and not beyond, the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

import msgspec

from cloud.ports import KeyService, ObjectStore, Reading, Store
from cloud.rows import FeedRow, Head
from cloud.storage.archive import envelope
from cloud.storage.archive import manifest as manifests
from cloud.storage.archive.anchor import Anchor, Anchored
from cloud.storage.archive.batches import FeedSegment, Sealer, feed_segments
from cloud.storage.archive.chain import first_position
from cloud.storage.archive.errors import ForeignArchive, MissingObject, RolledBack
from cloud.storage.archive.manifest import (
    INLINE_BYTES_MAX,
    Manifest,
    ObjectRef,
    PartRef,
    SegmentRef,
    SideRef,
    Snapshot,
)
from cloud.storage.archive.putter import Putter
from cloud.storage.archive.reader import ArchiveReader, Loaded
from cloud.storage.archive.side import IDENTITY, STREAM, Piece, collect, moved
from cloud.storage.archive.snapshots import Totals, snapshot_parts, state_digest
from cloud.storage.archive.state import ArchiveState, load_state, save_state
from sync.errors import CorruptStore
from sync.ports import Clock

Progress = Callable[[int, int], None]
"""Called with (done, total); the unit is said by who calls it."""

_ELSEWHERE = (
    "set [archive] url back to where it was; to change the place: agentdb-cloud archive move DIR URL,"
    " with --fresh if the old one is lost"
)
_SHARED = (
    "only one can: stop it, or this one, or give this one an archive of its own: agentdb-cloud archive move DIR URL"
)
BATCH_ROWS_MAX = 4096
BATCH_BYTES_MAX = 32 << 20
DIGEST_RECORDS_MAX = 20_000


class ArchiveRun(NamedTuple):
    """What a run did: ``manifests`` committed, with so many operations, objects and bytes; now at ``position``."""

    manifests: int
    operations: int
    objects: int
    bytes: int
    position: int
    number: int


class _Batch(NamedTuple):
    """What one manifest will say, taken from one consistent view. ``complete``: it reaches the feed's head."""

    head: Head
    rows: list[FeedRow]
    complete: bool
    identity: list[SideRef | Piece]
    stream: list[SideRef | Piece]
    snapshot: Snapshot | None
    digest: bytes
    due: bool


class Archive:
    """The archive of one fleet. One caller at a time; another process is noticed, not waited for."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        keys: KeyService,
        fleet: bytes,
        *,
        clock: Clock,
        anchor: Anchor | None = None,
        digest_records_max: int = DIGEST_RECORDS_MAX,
    ) -> None:
        self._store = store
        self._keys = keys
        self._fleet = fleet
        self._clock = clock
        self._anchor = anchor
        self._digest_records_max = digest_records_max
        self._newest: Loaded | None = None
        self._putter = Putter(objects)
        self._objects = objects

    @property
    def state(self) -> ArchiveState:
        """Where the archive stands, as the store knows it."""
        with self._store.reading() as view:
            return load_state(view, self._fleet)

    def run_once(self, progress: Progress | None = None) -> ArchiveRun:
        """Archive everything up to the feed's head; ``progress`` counts operations.

        Writes nothing if nothing has changed. Raises ForeignArchive, RolledBack or MissingObject if the archive is not
        as this store left it, and the object store's errors. Whatever it raises, it may be called again.
        """
        return self._run(progress, snapshot=False)

    def snapshot(self, progress: Progress | None = None) -> ArchiveRun:
        """The same, and a snapshot of all records as of the head, unless the newest is of the head already;
        ``progress`` counts living records.
        """
        return self._run(progress, snapshot=True)

    def adopt(self) -> ArchiveState:
        """The state, after taking over what a run of ours committed before it crashed. Raises as ``run_once``."""
        return self._catch_up(ArchiveReader(self._objects, self._keys, self._fleet))

    def _run(self, progress: Progress | None, *, snapshot: bool) -> ArchiveRun:
        reader = ArchiveReader(self._objects, self._keys, self._fleet)
        begun = self._putter.objects, self._putter.bytes
        state = self._catch_up(reader)
        if state.begins_late:
            state, snapshot = self._at_head(state), True
        start, number = state.position, state.number
        while True:
            with self._store.reading() as view:
                batch = self._gather(reader, view, state, progress if snapshot else None, snapshot=snapshot)
            if batch.due:
                state = self._write(reader, batch, state)
            if progress is not None and not snapshot and state.position > start:
                progress(state.position - start, batch.head.position - start)
            if batch.complete:
                break
        return ArchiveRun(
            state.number - number,
            state.position - start,
            self._putter.objects - begun[0],
            self._putter.bytes - begun[1],
            state.position,
            state.number,
        )

    def _at_head(self, state: ArchiveState) -> ArchiveState:
        """Nothing of the feed before the snapshot goes into an archive that begins with one."""
        with self._store.reading() as view:
            return msgspec.structs.replace(state, position=view.head(self._fleet).position)

    # -- is it still our archive? ----------------------------------------------------------------------------------

    def _catch_up(self, reader: ArchiveReader) -> ArchiveState:
        """The state, after adopting manifests that a run of ours committed before it crashed."""
        state = self.state
        self._check_newest(reader, state)
        while True:
            try:
                loaded = reader.manifest(state.number + 1)
            except MissingObject:
                return state
            with self._store.reading() as view:
                self._check_ours(reader, view, state, loaded.manifest)
            state = self._note(loaded, state)

    def _check_newest(self, reader: ArchiveReader, state: ArchiveState) -> None:
        known = self._anchor.last(self._fleet) if self._anchor is not None else None
        if known is not None and known.number > state.number:
            name = reader.names.manifest(known.number)
            try:
                found = reader.manifest_sha256(known.number)
            except MissingObject as error:
                self._check_place(reader)
                raise RolledBack(f"{name}: it was committed, and now is missing") from error
            if found != known.sha256:
                raise RolledBack(f"{name}: it was committed, and now is another")
        if state.number == 0 or (self._newest is not None and self._newest.sha256 == state.sha256):
            return
        self._check_place(reader)
        if state.branch is None:
            self._newest = reader.manifest(state.number, state.sha256)
        elif reader.manifest_sha256(state.number) != state.sha256:
            raise RolledBack(f"{reader.names.manifest(state.number)}: it is not what it was at the restore")

    def _check_place(self, reader: ArchiveReader) -> None:
        """An empty place is not a damaged archive: probably it is not where the archive is."""
        if not reader.numbers():
            raise MissingObject("there is nothing of this fleet where the archive should be", hint=_ELSEWHERE)

    def _check_ours(self, reader: ArchiveReader, view: Reading, state: ArchiveState, manifest: Manifest) -> None:
        """Whether this store could have written the manifest that follows its newest; raises ForeignArchive."""
        head = view.head(self._fleet)
        name = reader.names.manifest(manifest.number)
        if (manifest.incarnation, manifest.previous, manifest.branch) != (head.incarnation, state.sha256, state.branch):
            raise ForeignArchive(
                f"{name}: another control plane has continued this archive",
                hint=_SHARED,
            )
        if first_position(manifest) != state.position or manifest.head > head.position:
            raise ForeignArchive(
                f"{name}: the archive knows of more than this store",
                hint="the store was turned back; restore it from the archive",
            )
        ours = iter(view.feed(self._fleet, state.position, limit=BATCH_ROWS_MAX, max_bytes=BATCH_BYTES_MAX))
        row = next(ours, None)
        for ref in (ref for segment in manifest.segments for ref in segment.rows):
            while row is not None and row.last < ref.first:
                row = next(ours, None)
            if (
                row is None
                or not row.first <= ref.first <= ref.last <= row.last
                or (row.replica, row.state, row.at_ms) != (ref.replica, ref.state, ref.at_ms)
                or ref.segment not in (row.segment, b"")
            ):
                raise ForeignArchive(
                    f"{name}: it holds another feed than this store from position {ref.first} on",
                    hint="the store was turned back and went another way; restore it from the archive",
                )

    # -- one manifest ------------------------------------------------------------------------------------------------

    def _gather(
        self, reader: ArchiveReader, view: Reading, state: ArchiveState, progress: Progress | None, *, snapshot: bool
    ) -> _Batch:
        head = view.head(self._fleet)
        rows = view.feed(self._fleet, state.position, limit=BATCH_ROWS_MAX, max_bytes=BATCH_BYTES_MAX)
        reached = rows[-1].last if rows else state.position
        if (rows and rows[0].first != state.position + 1) or (not rows and reached != head.position):
            raise CorruptStore(
                f"the feed does not go on at {state.position + 1}, where the archive ends",
                hint="it was trimmed or turned back before it was archived; restore from the archive",
            )
        complete = reached == head.position
        held_identity, held_stream = self._held(state)
        identity = list(collect(view, self._fleet, IDENTITY, held_identity))
        stream: list[SideRef | Piece] = [*held_stream]
        if complete:
            stream = list(collect(view, self._fleet, STREAM, held_stream))
        due = bool(rows or state.branch or moved(identity, held_identity) or moved(stream, held_stream))
        taken, digest = None, b""
        if snapshot and complete and reached > state.snapshot:
            taken, due = self._take_snapshot(reader, view, head, state, progress), True
            digest = taken.digest
        elif due and complete and head.living <= self._digest_records_max:
            digest = bytes.fromhex(state_digest(view, self._fleet).hexdigest())
        return _Batch(head, rows, complete, identity, stream, taken, digest, due)

    def _held(self, state: ArchiveState) -> tuple[Sequence[SideRef], Sequence[SideRef]]:
        """The pieces of side tables that are in the archive already; what an abandoned branch held is not ours."""
        if self._newest is None or state.branch is not None:
            return (), ()
        return self._newest.manifest.identity, self._newest.manifest.stream

    def _take_snapshot(
        self, reader: ArchiveReader, view: Reading, head: Head, state: ArchiveState, progress: Progress | None
    ) -> Snapshot:
        totals = Totals()
        parts: list[PartRef] = []
        for part in snapshot_parts(view, self._sealer(reader, head), totals):
            name = reader.names.snapshot(head.position, reader.ring.current, sha256(part.data).digest())
            side = self._put_meta(reader, part.side, state.number + 1)
            parts.append(PartRef(self._putter.put([(name, part.data)])[0], side, part.records, part.last_id))
            if progress is not None:
                progress(min(totals.digest.records, head.living), head.living)
        digest = bytes.fromhex(totals.digest.hexdigest())
        return Snapshot(head.position, totals.records, totals.digest.records, digest, parts)

    def _write(self, reader: ArchiveReader, batch: _Batch, state: ArchiveState) -> ArchiveState:
        """Put what the batch needs, then commit the manifest that says so."""
        number, head = state.number + 1, batch.head
        segments = self._put_segments(reader, batch, state)
        identity = [self._put_piece(reader, piece, number) for piece in batch.identity]
        stream = [self._put_piece(reader, piece, number) for piece in batch.stream]
        reached = segments[-1].last if segments else state.position
        stream_position = reached
        if not batch.complete:
            held = self._newest if state.branch is None else None
            stream_position = held.manifest.stream_position if held is not None else 0
        manifest = Manifest(
            number=number,
            fleet=self._fleet,
            previous=state.sha256,
            incarnation=head.incarnation,
            generation=head.generation,
            branch=state.branch,
            time_ms=self._clock.wall_ms(),
            head=reached,
            at_ms=batch.rows[-1].at_ms if batch.rows else state.at_ms,
            clock=head.clock,
            last_segment=segments[-1].id if segments else state.last_segment,
            segments=segments,
            identity=identity,
            stream=stream,
            stream_position=stream_position,
            snapshot=batch.snapshot,
            digest=batch.digest,
        )
        data = envelope.seal_envelope(
            envelope.MANIFEST,
            manifests.encode(manifest),
            fleet=self._fleet,
            number=number,
            previous=state.sha256,
            ring=reader.ring,
            signer=self._keys.service_key,
        )
        if not self._putter.commit(reader.names.manifest(number), data):
            raise ForeignArchive(
                f"{reader.names.manifest(number)}: another writer was faster",
                hint="only one control plane may archive a fleet; run again, and it finds out whose manifest it is",
            )
        return self._note(Loaded(manifest, sha256(data).digest(), len(data)), state)

    def _put_segments(self, reader: ArchiveReader, batch: _Batch, state: ArchiveState) -> list[SegmentRef]:
        made = list(feed_segments(batch.rows, self._sealer(reader, batch.head), state.last_segment))
        named = []
        for segment in made:
            first, last = segment.rows[0].first, segment.rows[-1].last
            name = reader.names.segment(first, last, segment.sealed.header.epoch, segment.sealed.id)
            named.append((name, segment.sealed.data))
        return [_segment_ref(segment, ref) for segment, ref in zip(made, self._putter.put(named), strict=True)]

    def _put_piece(self, reader: ArchiveReader, piece: SideRef | Piece, number: int) -> SideRef:
        if isinstance(piece, SideRef):
            return piece
        small = len(piece.plain) <= INLINE_BYTES_MAX
        ref = None if small else self._put_meta(reader, piece.plain, number)
        return SideRef(piece.table, piece.rows, piece.final, piece.plain_sha256, ref, piece.plain if small else b"")

    def _put_meta(self, reader: ArchiveReader, plain: bytes, number: int) -> ObjectRef:
        signer = self._keys.service_key
        data = envelope.seal_envelope(
            envelope.META, plain, fleet=self._fleet, number=number, ring=reader.ring, signer=signer
        )
        name = reader.names.meta(number, reader.ring.current, sha256(data).digest())
        return self._putter.put([(name, data)])[0]

    def _note(self, loaded: Loaded, before: ArchiveState) -> ArchiveState:
        """Only what was committed and read back is remembered: first by the key holder, then by the store."""
        manifest = loaded.manifest
        state = ArchiveState(
            number=manifest.number,
            sha256=loaded.sha256,
            position=manifest.head,
            at_ms=manifest.at_ms,
            last_segment=manifest.last_segment,
            snapshot=manifest.snapshot.position if manifest.snapshot else before.snapshot,
        )
        if self._anchor is not None:
            self._anchor.note(self._fleet, Anchored(state.number, state.sha256))
        with self._store.writing() as tx:
            save_state(tx, self._fleet, state)
        self._newest = loaded
        return state

    def _sealer(self, reader: ArchiveReader, head: Head) -> Sealer:
        return Sealer(self._fleet, reader.ring, self._keys.service_key, head.generation)


def _segment_ref(segment: FeedSegment, ref: ObjectRef) -> SegmentRef:
    times = [row.at_ms for row in segment.rows]
    return SegmentRef(
        object=ref,
        id=segment.sealed.id,
        first=segment.rows[0].first,
        last=segment.rows[-1].last,
        min_at_ms=min(times),
        max_at_ms=max(times),
        rows=segment.rows,
    )
