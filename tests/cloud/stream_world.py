"""What the tests of the stream share: a fleet with its control plane, and devices in a few lines.

``Device`` speaks the protocol's messages without ``SyncSession``, so that a test can send each of them
whenever it likes, twice, or wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from cloud.control_plane import ControlPlane
from cloud.identity.key_service import MemoryKeyService
from cloud.ports import Caller
from cloud.rows import Conflict, RecordRow
from cloud.storage.fold import fold_all
from cloud.storage.sqlite_store import SqliteStore
from cloud.stream.rules import Resolver
from cloud.stream.scopes import Scopes
from sync.digest import StateDigest
from sync.effects import SessionKeys
from sync.keys import DeviceKey
from sync.messages import (
    BaselinePage,
    Failure,
    FetchRecords,
    Hello,
    Pull,
    PullBaseline,
    PullPage,
    Push,
    PushAck,
    RecordName,
    RecordsPage,
    Welcome,
)
from sync.operations import Kind, Operation, Shape
from sync.pages import open_baseline, open_page, open_records
from sync.records import Record, compose, compose_increment, fold, state_operation
from sync.schema import COLLECTIONS, COLLECTIONS_SCHEMA, CollectionSchema, declare
from sync.segment import FLAG_LAST, FLAG_STATE, GENESIS, Sealed, seal, unpack
from sync.stamps import HybridClock, replica_id, timestamp_of
from tests.cloud.identity_world import SeededRandom, SetClock, enroll_request

Place = tuple[str, str]
_numbers = count()


class Fleet:
    """A store, its control plane, and the fleet's devices by name. Without a directory the store is in
    memory (SQLite's ``memdb``, shared by its connections), which spares a property test its thousand disk
    syncs.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        seed: int = 1,
        resolvers: Mapping[str, Resolver] | None = None,
        scopes: Scopes | None = None,
    ) -> None:
        self.clock = SetClock()
        self.random = SeededRandom(seed)
        if directory is None:
            self.store = SqliteStore.open(f"/cloud-{next(_numbers)}", vfs="memdb")
        else:
            self.store = SqliteStore.open(directory / "cloud.db")
        self.keys = MemoryKeyService(self.random)
        self.plane = ControlPlane(self.store, self.keys, self.clock, self.random, resolvers=resolvers, scopes=scopes)
        self.id = self.plane.create_fleet("test").fleet
        self.devices: dict[str, Device] = {}

    def device(self, name: str, *, priority: int = 0) -> Device:
        """A new member, which has said hello."""
        key = DeviceKey.generate(self.random)
        token = self.plane.create_token(self.id, uses=1)
        self.plane.handle(enroll_request(token, key, name), None)
        if priority:
            self.plane.enrollment.set_priority(self.id, key.device_id, priority)
        device = self.devices[name] = Device(self, name, key)
        device.hello()
        return device

    def digest(self) -> str:
        """The store's own."""
        digest = StateDigest()
        with self.store.reading() as view:
            after: Place | None = None
            while rows := view.records(self.id, after, 500):
                for row in rows:
                    digest.add(row.collection, row.key, row.image)
                after = (rows[-1].collection, rows[-1].key)
            assert view.head(self.id).living == digest.records
        return digest.hexdigest()

    def shown(self, collection: str, key: str) -> dict[str, Any] | None:
        """What the cloud's record shows."""
        with self.store.reading() as view:
            row = view.lookup(self.id, collection, [key]).get(key)
        record = Record.decode(row.image) if row else Record()
        return record.values() if record.alive else None

    def head(self) -> int:
        with self.store.reading() as view:
            return view.head(self.id).position

    def conflicts(self) -> list[Conflict]:
        return self.plane.conflicts(self.id)

    def exchange(self, *, rounds: int = 3) -> None:
        """Everybody pushes and pulls until nothing is left."""
        for _ in range(rounds):
            for device in self.devices.values():
                device.push()
                device.pull()

    def close(self) -> None:
        assert self.store.verify() == []
        self.store.close()


class Device:
    """Records, a log, and what it knows of the cloud."""

    def __init__(self, fleet: Fleet, name: str, key: DeviceKey) -> None:
        self.fleet = fleet
        self.name = name
        self.key = key
        self.caller = Caller(fleet.id, key.device_id, key.public)
        self.images: dict[Place, bytes] = {}
        self.schemas: dict[str, CollectionSchema] = {COLLECTIONS: COLLECTIONS_SCHEMA}
        self.become(1)
        self.cursor = 0
        self.incarnation = b""
        self.scope = b""
        self.skew_ms = 0

    def become(self, incarnation: int) -> None:
        """Start over as a new replica; the images stay."""
        self.replica = replica_id(self.key.device_id, incarnation)
        self.log: list[Operation] = []
        self.acked: tuple[int, bytes] = (0, b"")
        self.clock = HybridClock(self.fleet.clock)

    # -- writing --------------------------------------------------------------------------------------------------

    def declare(self, name: str, **declaration: Any) -> None:
        schema = declare(name, **declaration)
        self.write(Kind.PUT, COLLECTIONS, name, {"spec": schema.to_document()})
        self.schemas[name] = schema

    def put(self, collection: str, key: str, **fields: Any) -> Operation:
        return self.write(Kind.PUT, collection, key, fields)

    def patch(self, collection: str, key: str, **fields: Any) -> Operation:
        return self.write(Kind.PATCH, collection, key, fields)

    def increment(self, collection: str, key: str, field: str, by: int = 1) -> Operation:
        record = self.record(collection, key)
        total = compose_increment(record, field, by, self.replica)
        return self._append(Shape(Kind.INCREMENT, collection, (field,), "c"), key, (total,))

    def delete(self, collection: str, key: str) -> Operation:
        return self._append(Shape(Kind.DELETE, collection), key, ())

    def write(self, kind: Kind, collection: str, key: str, fields: Mapping[str, Any]) -> Operation:
        schema = self.schemas.get(collection) or CollectionSchema(collection)
        values = schema.normalise(fields)
        names, rules, composed = compose(
            self.record(collection, key), values, schema.rule_letter, self.replica, replace=kind == Kind.PUT
        )
        return self._append(Shape(kind, collection, names, rules), key, composed)

    def _append(self, shape: Shape, key: str, values: tuple[Any, ...]) -> Operation:
        self.fleet.clock.now_ms += 1
        self.clock.offset_ms = self.skew_ms
        operation = Operation(self.replica, len(self.log) + 1, self.clock.now(), self.cursor, shape, key, values)
        self.log.append(operation)
        self.merge([operation])
        return operation

    # -- reading --------------------------------------------------------------------------------------------------

    def record(self, collection: str, key: str) -> Record | None:
        image = self.images.get((collection, key))
        return Record.decode(image) if image else None

    def get(self, collection: str, key: str) -> dict[str, Any] | None:
        record = self.record(collection, key)
        return record.values() if record is not None and record.alive else None

    def digest(self) -> str:
        digest = StateDigest()
        for place in sorted(self.images, key=lambda place: (place[0].encode(), place[1].encode())):
            digest.add(*place, self.images[place])
        return digest.hexdigest()

    def merge(self, operations: list[Operation]) -> None:
        for operation in operations:
            place = (operation.shape.collection, operation.key)
            self.images[place] = fold(self.images.get(place), operation)
            self.clock.observe(operation.ts)

    # -- the protocol ---------------------------------------------------------------------------------------------

    def hello(self) -> Welcome:
        message = Hello(
            [1],
            self.fleet.id,
            self.replica,
            len(self.log),
            *self.acked,
            self.cursor,
            self.incarnation,
        )
        welcome = self.fleet.plane.handle(message, self.caller)
        assert isinstance(welcome, Welcome)
        self.incarnation = welcome.incarnation
        return welcome

    def seal(self, operations: list[Operation], **changes: Any) -> Sealed:
        """A segment of this device; ``changes`` make it a wrong one."""
        arguments: dict[str, Any] = {
            "fleet": self.fleet.id,
            "stream": self.replica,
            "replica": self.replica,
            "first_seq": operations[0].seq,
            "previous": self.acked[1] or GENESIS,
            "ring": self.fleet.keys.ring(self.fleet.id),
            "signer": self.key,
        }
        return seal(operations, **{**arguments, **changes})

    def send(self, segment: bytes) -> PushAck:
        """Raises what the cloud raises."""
        ack = self.fleet.plane.handle(Push(segment), self.caller)
        assert isinstance(ack, PushAck)
        return ack

    def refused(self, segment: bytes) -> str:
        """The code of the Failure that this segment gets."""
        answer = self.fleet.plane.answer(Push(segment), self.caller)
        assert isinstance(answer, Failure), answer
        return answer.code

    def push(self, most: int = 1000) -> list[PushAck]:
        """Everything that is not acknowledged, in segments of ``most``."""
        acks = []
        while self.acked[0] < len(self.log):
            sealed = self.seal(self.log[self.acked[0] : self.acked[0] + most])
            acks.append(self.send(sealed.data))
            self.acked = (acks[-1].last_seq, acks[-1].last_segment)
            assert self.acked == (sealed.header.last_seq, sealed.id)
        return acks

    def push_state(self, most: int = 3) -> None:
        """Repair: the whole store as state."""
        shapes: dict[Any, Shape] = {}

        def shape_of(collection: str, names: tuple[str, ...]) -> Shape:
            shape = Shape(Kind.PUT, collection, names, "l" * len(names))
            return shapes.setdefault((collection, names), shape)

        operations = [state_operation(*place, image, shape_of) for place, image in sorted(self.images.items())]
        previous = GENESIS
        for start in range(0, len(operations), most):
            part = operations[start : start + most]
            last = FLAG_LAST if start + most >= len(operations) else 0
            sealed = self.seal(part, first_seq=self.acked[0], previous=previous, flags=FLAG_STATE | last)
            ack = self.send(sealed.data)
            previous = sealed.id
            if last:
                assert ack.last_segment == sealed.id
                self.acked = (ack.last_seq, ack.last_segment)

    def page(self, max_operations: int = 1000, max_bytes: int = 1 << 20) -> tuple[PullPage, list[Operation]]:
        pull = Pull(self.replica, self.cursor, max_operations, max_bytes, 0, self.incarnation, scope=self.scope)
        page = self.fleet.plane.handle(pull, self.caller)
        assert isinstance(page, PullPage)
        return page, open_page(page, self.cursor, self._keys(), self.incarnation)

    def pull(self, max_operations: int = 1000, max_bytes: int = 1 << 20) -> list[Operation]:
        """Everything there is."""
        out = []
        while True:
            page, operations = self.page(max_operations, max_bytes)
            assert page.cursor > self.cursor or page.cursor == page.head, "no progress"
            assert len(operations) <= max_operations
            self.merge(operations)
            out += operations
            self.cursor = page.cursor
            if page.cursor == page.head:
                return out

    def baseline(self, *, everything: bool = False) -> int:
        """Start from the records; the cursor that it ends with."""
        token = b""
        while True:
            request = PullBaseline(self.replica, token, everything, self.incarnation, self.scope)
            page = self.fleet.plane.handle(request, self.caller)
            assert isinstance(page, BaselinePage)
            self.merge(self.open_baseline(page, token))
            token = page.next
            if not token:
                self.cursor = page.cursor
                return page.cursor

    def fetch(self, places: Sequence[Place]) -> tuple[RecordsPage, dict[Place, Operation]]:
        """Records by name."""
        names = [RecordName(*place) for place in places]
        page = self.fleet.plane.handle(FetchRecords(self.replica, names, self.incarnation, self.scope), self.caller)
        assert isinstance(page, RecordsPage)
        operations = open_records(page, self._keys(), self.incarnation)
        return page, {(operation.shape.collection, operation.key): operation for operation in operations}

    def open_baseline(self, page: BaselinePage, token: bytes) -> list[Operation]:
        return open_baseline(page, token, self._keys(), self.incarnation)

    def _keys(self) -> SessionKeys:
        keys = self.fleet.keys
        return SessionKeys(self.fleet.id, self.key, keys.service_key.public, keys.ring(self.fleet.id))


def future(fleet: Fleet, ahead_ms: int) -> int:
    """A timestamp ahead of the cloud's clock."""
    return timestamp_of(fleet.clock.now_ms + ahead_ms)


def replayed(fleet: Fleet, upto: int = 1 << 60) -> dict[tuple[str, str], RecordRow]:
    """What a restore from the feed alone makes, up to this position."""
    rows: dict[tuple[str, str], RecordRow] = {}
    with fleet.store.reading() as view:
        for row in view.feed(fleet.id, 0, limit=100_000, max_bytes=1 << 30):
            operations: list[Operation] = unpack(row.packed, row.plain_length)
            placed = enumerate(operations, row.first)
            fold_all(rows, [(position, operation) for position, operation in placed if position <= upto])
    return rows
