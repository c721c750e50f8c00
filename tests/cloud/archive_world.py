"""What the tests of the archive share: a fleet whose feed is written by hand, and its archive in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cloud.ports import ObjectStore
from cloud.rows import Claim, Conflict, DeadLetter, FeedRow, RecordRow, ReplicaRow, collections_of
from cloud.storage.archive.anchor import MemoryAnchor
from cloud.storage.archive.reader import ArchiveReader
from cloud.storage.archive.restore import Restored, restore_fleet
from cloud.storage.archive.verify import VerifyReport, verify
from cloud.storage.archive.writer import Archive
from cloud.storage.fold import fold_all
from cloud.storage.objects import open_objects
from cloud.storage.sqlite_store import SqliteStore
from sync.digest import StateDigest
from sync.images import is_alive
from sync.operations import Kind, Operation, Shape
from sync.segment import pack
from sync.stamps import replica_id, timestamp_of
from tests.cloud.identity_world import World

PUT = Shape(Kind.PUT, "notes", ("body", "title"), "ll")
PATCH = Shape(Kind.PATCH, "notes", ("title",), "l")
COUNT = Shape(Kind.INCREMENT, "notes", ("views",), "c")
ADD = Shape(Kind.ADD, "tags", ("names",), "s")
DELETE = Shape(Kind.DELETE, "notes")


class Change(NamedTuple):
    """One operation, as a test says it."""

    shape: Shape
    key: str
    values: tuple[Any, ...] = ()


class ArchiveWorld(World):
    """``push`` does to the store what ingest does, without judging anything."""

    def __init__(self, directory: Path, objects: ObjectStore | None = None, devices: int = 3) -> None:
        super().__init__(directory)
        self.directory = directory
        self.objects = objects if objects is not None else open_objects("memory://")
        self.anchor = MemoryAnchor()
        self.replicas = [replica_id(self.joined(f"device-{n}").device_id, 1) for n in range(devices)]
        self.history: list[Operation] = []
        self.archive = self.archive_of(self.store)
        self._seqs = dict.fromkeys(self.replicas, 0)

    def archive_of(self, store: SqliteStore, objects: ObjectStore | None = None) -> Archive:
        return Archive(store, objects or self.objects, self.keys, self.fleet, clock=self.clock, anchor=self.anchor)

    def push(
        self, changes: Sequence[Change], device: int = 0, *, store: SqliteStore | None = None, seen: int | None = None
    ) -> int:
        """One device's segment, accepted a second after the one before. Returns the feed's new head."""
        store = store or self.store
        replica = self.replicas[device]
        self.clock.now_ms += 1000
        with store.writing() as tx:
            head = tx.lock_head(self.fleet)
            operations: list[Operation] = []
            for change in changes:
                self._seqs[replica] += 1
                ts = timestamp_of(self.clock.now_ms) + len(operations) + device
                at = head.position if seen is None else seen
                operations.append(Operation(replica, self._seqs[replica], ts, at, *change))
            packed = pack(operations)
            segment = self.random.token(32)
            last = head.position + len(operations)
            times = (packed.min_ts, packed.max_ts, self.clock.now_ms)
            names = collections_of({operation.shape.collection for operation in operations})
            first, columns = head.position + 1, (packed.data, packed.plain_length)
            row = FeedRow(first, last, replica, False, *columns, *times, segment, names)
            tx.append_feed(self.fleet, [row])
            rows = {
                (name, key): held
                for name in {op.shape.collection for op in operations}
                for key, held in tx.lookup(self.fleet, name, [op.key for op in operations]).items()
            }
            changed = fold_all(rows, enumerate(operations, row.first))
            tx.put_records(self.fleet, [rows[place] for place in changed])
            tx.put_replicas(
                self.fleet, [ReplicaRow(replica, self._seqs[replica], segment, head.position, self.clock.now_ms)]
            )
            clock = max(head.clock, packed.max_ts)
            tx.set_head(self.fleet, head._replace(position=last, clock=clock))
            tx.set_head(self.fleet, head._replace(position=last, clock=clock, living=tx.count_living(self.fleet)))
        if store is self.store:
            self.history += operations
        return last

    def push_random(self, seed: int, rows: int = 1) -> None:
        """Rows of one to five operations of any kind, by any device, on a few keys."""
        dice = random.Random(seed)
        for _ in range(rows):
            device = dice.randrange(len(self.replicas))
            changes = [random_change(dice, f"d{device}") for _ in range(dice.randint(1, 5))]
            self.push(changes, device, seen=dice.randrange(len(self.history) + 1))

    def refuse(self, device: int = 0) -> None:
        """An operation that is not taken: it moves the replica and lies in the dead letters."""
        replica = self.replicas[device]
        self._seqs[replica] += 1
        with self.store.writing() as tx:
            held = tx.replica(self.fleet, replica)
            segment, cursor = self.random.token(32), held.cursor if held else 0
            tx.put_replicas(self.fleet, [ReplicaRow(replica, self._seqs[replica], segment, cursor, self.clock.now_ms)])
            letter = DeadLetter(
                0, replica, self._seqs[replica], self.clock.now_ms, "notes", "k", "too-large", "too large", b"op"
            )
            tx.add_dead_letters(self.fleet, [letter])

    def conflict(self, state: str = "resolved", resolution: int = 0) -> int:
        """A conflict that the newest operation brought to light."""
        with self.store.writing() as tx:
            position = tx.head(self.fleet).position
            held = Claim(self.replicas[0], 1, 5, "device-0", "SECRET-CANARY one")
            came = Claim(self.replicas[1], 1, 6, "device-1", {"a": [1, None, b"x"]}, True)
            now = self.clock.now_ms
            row = Conflict(
                0, position, now, "notes", "k1", "title", held, came, "came", "latest", state, resolution, ""
            )
            return tx.add_conflict(self.fleet, row)

    # -- after -----------------------------------------------------------------------------------------------------

    def restore(self, name: str = "restored.db", **target: Any) -> tuple[SqliteStore, Restored]:
        path = self.directory / name
        path.unlink(missing_ok=True)
        store = SqliteStore.open(path)
        target.setdefault("anchor", self.anchor)
        return store, restore_fleet(self.objects, self.keys, store, self.fleet, random=self.random, **target)

    def verify(self) -> VerifyReport:
        return verify(self.objects, self.keys, self.fleet, anchor=self.anchor)

    @property
    def reader(self) -> ArchiveReader:
        return ArchiveReader(self.objects, self.keys, self.fleet)

    def names(self, prefix: str = "") -> list[str]:
        return [info.name for info in self.objects.list(self.reader.names.root + prefix)]

    def expected(self, position: int | None = None) -> dict[tuple[str, str], RecordRow]:
        """The records after folding the feed up to a position, by the library."""
        rows: dict[tuple[str, str], RecordRow] = {}
        fold_all(rows, enumerate(self.history[:position], 1))
        return rows


def rows_in(store: SqliteStore, fleet: bytes) -> dict[tuple[str, str], RecordRow]:
    with store.reading() as view:
        return {(row.collection, row.key): row for row in view.records(fleet, None, 100_000, 1 << 30)}


def digest_of(rows: dict[tuple[str, str], RecordRow]) -> str:
    digest = StateDigest()
    for collection, key in sorted(rows, key=lambda place: (place[0].encode(), place[1].encode())):
        digest.add(collection, key, rows[collection, key].image)
    return digest.hexdigest()


def living(rows: dict[tuple[str, str], RecordRow]) -> int:
    return sum(is_alive(row.image) for row in rows.values())


def put(key: str, body: str = "text", title: str = "title") -> Change:
    return Change(PUT, key, (body, title))


def random_change(dice: random.Random, author: str) -> Change:
    key = f"k{dice.randrange(6)}"
    word = f"{author}-{dice.randrange(1000)}"
    kind = dice.randrange(5)
    if kind == 0:
        return put(key, word, word)
    if kind == 1:
        return Change(PATCH, key, (dice.choice([word, None]),))
    if kind == 2:
        return Change(COUNT, key, (dice.randrange(100),))
    if kind == 3:
        return Change(ADD, key, ([[word], []],))
    return Change(DELETE, key)
