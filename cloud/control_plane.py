"""The control plane: a message in, a message out. Composition root of the cloud, and what the simulator
calls.

It knows no HTTP, starts no thread and never waits: a Pull that finds nothing is answered with an empty page; whoever
serves long polls asks again when ``on_head`` says that the fleet's feed moved. It may be called from several threads.

What always holds: ``handle`` raises nothing but an AgentDBError, and has then changed nothing (``answer``
returns it as the Failure that the device gets); a caller is who its verified signature says, and is only
ever answered about its own fleet and its own replicas. Which process holds what in memory does not matter:
schemas are checked against the feed's position, and everything else is read from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from cloud.fleet.choosing import Choosing
from cloud.fleet.control_desk import ControlDesk
from cloud.fleet.publishing import Published, Repository
from cloud.fleet.rollout_desk import RolloutDesk
from cloud.fleet.twin_desk import TwinDesk
from cloud.identity import audit
from cloud.identity.enrollment import Enrollment, wrapped_keys
from cloud.identity.key_service import FleetKeys
from cloud.ports import Caller, Reading, Store
from cloud.rows import Conflict, DeadLetter, DeviceRow, FleetRow, Head
from cloud.storage.archive.state import load_state
from cloud.stream import leases
from cloud.stream.admission import acknowledge, admit, refusals, shown_segment
from cloud.stream.baseline import baseline_page
from cloud.stream.checks import HELLO_HINT, check_incarnation, check_replica, wants_baseline
from cloud.stream.feed import PageBuilder, RowCache, Sealer
from cloud.stream.fetched import fetched
from cloud.stream.ingest import Context, Ingested, ingest
from cloud.stream.leases import LEASE_MS
from cloud.stream.resolution import resolve
from cloud.stream.retention import Retention
from cloud.stream.rules import Resolver
from cloud.stream.schemas import SchemaBook
from cloud.stream.scopes import Scopes, filtered
from sync.errors import (
    AgentDBError,
    BadSignature,
    BrokenChain,
    ProtocolError,
    Refused,
    Unauthenticated,
    UnsupportedVersion,
)
from sync.keys import PublicIdentity
from sync.messages import (
    PROTOCOL_VERSIONS,
    Answer,
    AnyMessage,
    BaselinePage,
    Enroll,
    Failure,
    FetchControl,
    FetchRecords,
    Hello,
    Pull,
    PullBaseline,
    PullPage,
    Push,
    PushAck,
    RecordsPage,
    Report,
    Welcome,
)
from sync.ports import Clock, RandomSource
from sync.segment import FLAG_FEED, Opened, SegmentHeader, open_segment, segment_id
from sync.stamps import replica_id
from sync.targets import parse_path
from sync.tokens import JoinToken

if TYPE_CHECKING:
    from cloud.fleet.signing import SigningKey


class _Held(Exception):
    """A segment whose whole range is held: known from its header, so that it need not be decrypted."""

    def __init__(self, header: SegmentHeader) -> None:
        super().__init__()
        self.header = header


class ControlPlane:
    """``scopes`` say what a device may have of the feed (None: everything). ``lease_ms``: how long a silent device is
    waited for before others forget what it has not heard was deleted. ``online_key`` signs what devices are to run,
    as ``choosing`` decides: the one that ``scopes`` were made of.
    """

    def __init__(
        self,
        store: Store,
        keys: FleetKeys,
        clock: Clock,
        random: RandomSource,
        *,
        resolvers: Mapping[str, Resolver] | None = None,
        scopes: Scopes | None = None,
        lease_ms: int = LEASE_MS,
        online_key: Callable[[], SigningKey | None] = lambda: None,
        choosing: Choosing | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._scopes = scopes
        self._lease_ms = lease_ms
        self._resolvers: dict[str, Resolver] = dict(resolvers or {})
        self._cache = RowCache()
        self._books: dict[bytes, SchemaBook] = {}
        self._listeners: dict[bytes, list[Callable[[], None]]] = {}
        self._lock = Lock()
        self.enrollment = Enrollment(store, keys, clock, random)
        self.control = ControlDesk(store, clock, online_key, choosing or Choosing())
        self.rollouts = RolloutDesk(store, clock, audit.record, self._woken, self.control.goal)
        self.twins = TwinDesk(store, clock, audit.record, self.rollouts, self._woken)
        self.retention = Retention(store, clock, self._replica, self.control.delete_days, self._woken)

    # -- messages -------------------------------------------------------------------------------------------------

    def handle(self, message: AnyMessage, caller: Caller | None) -> Answer:
        """The answer to a request; ``caller`` is None for an enrollment. Raises AgentDBError."""
        if isinstance(message, Enroll):
            return self.enrollment.enroll(message)
        if caller is None:
            raise Unauthenticated("who is asking?", hint="sign the request")
        if isinstance(message, Hello):
            return self._hello(message, caller)
        if isinstance(message, Push):
            return self._push(message, caller)
        if isinstance(message, Pull):
            return self._pull(message, caller)
        if isinstance(message, PullBaseline):
            return self._pull_baseline(message, caller)
        if isinstance(message, FetchRecords):
            return self._fetch_records(message, caller)
        if isinstance(message, FetchControl):
            return self.control.fetch(message, caller)
        if isinstance(message, Report):
            return self.twins.report(message, caller)
        raise ProtocolError(f"{type(message).__name__} is not a request")

    def answer(self, message: AnyMessage, caller: Caller | None) -> Answer:
        """The same, with a Failure for an error."""
        try:
            return self.handle(message, caller)
        except AgentDBError as error:
            return Failure.of(error)

    def on_head(self, fleet: bytes, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after each commit of this process that moved the fleet's head, on the thread that made
        it: be brief, raise nothing. Returns what ends it.
        """
        with self._lock:
            self._listeners[fleet] = [*self._listeners.get(fleet, []), callback]

        def forget() -> None:
            with self._lock:
                self._listeners[fleet] = [held for held in self._listeners[fleet] if held is not callback]

        return forget

    # -- requests -------------------------------------------------------------------------------------------------

    def _hello(self, hello: Hello, caller: Caller) -> Welcome:
        versions = set(hello.versions) & set(PROTOCOL_VERSIONS)
        if not versions:
            raise UnsupportedVersion(
                f"the device speaks {hello.versions}, the cloud {list(PROTOCOL_VERSIONS)}", hint="update the older side"
            )
        if hello.fleet != caller.fleet:
            raise Refused("this device belongs to another fleet")
        check_replica(hello.replica, caller.device)
        now_ms = self._clock.wall_ms()
        with self._store.reading() as view:
            due = leases.is_due(view, hello, caller.fleet, now_ms)
        if due:
            leases.renew(self._store, hello, caller.fleet, now_ms, self._lease_ms)
        with self._store.reading() as view:
            head = view.head(caller.fleet)
            stable = leases.stable_of(view, caller.fleet, head)
            row = view.replica(caller.fleet, hello.replica)
            last_seq = row.last_seq if row else 0
            newest = self.control.newest(view, caller, hello.assignment)
            archived = load_state(view, caller.fleet).archived
            # A lost ack covers one segment; more are only refused of a device that forgot what it knew.
            refused = view.refused(caller.fleet, hello.replica, hello.acked + 1, last_seq)
        return Welcome(
            version=max(versions),
            time_ms=self._clock.wall_ms(),
            incarnation=head.incarnation,
            restored_head=head.restored_for(hello.incarnation),
            last_seq=last_seq,
            last_segment=shown_segment(row),
            head=head.position,
            baseline=wants_baseline(hello, head),
            keys=wrapped_keys(self._keys, caller.fleet, caller.identity, without=hello.epochs),
            refusals=refusals(refused),
            last_head=row.head if row else 0,
            stable=stable,
            assignment=newest,
            archived=archived,
        )

    def _push(self, push: Push, caller: Caller) -> PushAck:
        try:
            opened = self._open(push.segment, caller)
        except _Held as held:
            with self._store.reading() as view:
                admit(view, held.header, caller.fleet, segment_id(push.segment))
                return acknowledge(view, caller.fleet, held.header, self._clock.wall_ms())
        with self._store.writing() as tx:
            head = tx.lock_head(caller.fleet)
            ruled = self.control.ruling(caller.fleet)
            context = Context(caller.fleet, self._replica(head), self._clock, self._resolvers, ruled)
            done = ingest(tx, opened, self._book(tx, caller.fleet, head), context)
        self._committed(caller.fleet, done, opened)
        return done.ack

    def _open(self, segment: bytes, caller: Caller) -> Opened:
        """Raises _Held if the segment's whole range is held, and everything that ``open_segment`` and
        ``admit`` do.
        """

        def identity(key_id: bytes) -> PublicIdentity:
            if key_id != caller.identity.key_id:
                raise BadSignature("the segment is signed by another key than the request")
            return caller.identity

        def check(header: SegmentHeader) -> None:
            if header.fleet != caller.fleet or header.stream != header.replica or header.flags & FLAG_FEED:
                raise BrokenChain("the segment is of another fleet or stream")
            check_replica(header.replica, caller.device)
            with self._store.reading() as view:
                if not admit(view, header, caller.fleet):
                    raise _Held(header)

        return open_segment(segment, identity=identity, ring=self._keys.ring(caller.fleet), check=check)

    def _pull(self, pull: Pull, caller: Caller) -> PullPage:
        check_replica(pull.replica, caller.device)
        with self._store.reading() as view:
            head = view.head(caller.fleet)
            check_incarnation(pull.incarnation, head)
            if not head.trimmed <= pull.cursor <= head.position:
                raise BrokenChain(f"the feed does not have position {pull.cursor}", hint=HELLO_HINT)
            scope = filtered(self._scopes, view, caller, pull.scope)
            builder = PageBuilder(
                self._sealer(caller.fleet, head),
                self._cache,
                pull.replica,
                pull.cursor,
                pull.max_operations,
                pull.max_bytes,
                scope.filter,
            )
            page = builder.build(view, head)
            newest = self.control.newest(view, caller)
        now_ms = self._clock.wall_ms()
        return PullPage(page.segments, page.cursor, head.position, now_ms, newest, scope.narrowed)

    def _pull_baseline(self, pull: PullBaseline, caller: Caller) -> BaselinePage:
        check_replica(pull.replica, caller.device)
        with self._store.reading() as view:
            head = view.head(caller.fleet)
            check_incarnation(pull.incarnation, head)
            sealer = self._sealer(caller.fleet, head)
            scope = filtered(self._scopes, view, caller, pull.scope)
            page = baseline_page(view, head, sealer, pull.after, everything=pull.everything, scope=scope.filter)
        now_ms = self._clock.wall_ms()
        return BaselinePage(page.segments, page.token, page.cursor, head.position, now_ms, scope.narrowed)

    def _fetch_records(self, asked: FetchRecords, caller: Caller) -> RecordsPage:
        check_replica(asked.replica, caller.device)
        with self._store.reading() as view:
            head = view.head(caller.fleet)
            check_incarnation(asked.incarnation, head)
            scope = filtered(self._scopes, view, caller, asked.scope)
            places = [(name.collection, name.key) for name in asked.places]
            page = fetched(view, self._sealer(caller.fleet, head), places, scope.filter)
        return RecordsPage(*page, head.position, self._clock.wall_ms())

    # -- for operators ----------------------------------------------------------------------------------------------

    def create_fleet(self, name: str) -> FleetRow:
        return self.enrollment.create_fleet(name)

    def create_token(self, fleet: bytes, **options: Any) -> JoinToken:
        """Options as of ``Enrollment.create_token``."""
        return self.enrollment.create_token(fleet, **options)

    def devices(self, fleet: bytes) -> list[DeviceRow]:
        return self.enrollment.devices(fleet)

    def conflicts(self, fleet: bytes, after: int = 0, limit: int = 1000, *, state: str = "") -> list[Conflict]:
        with self._store.reading() as view:
            return view.conflicts(fleet, after, limit, state=state)

    def dead_letters(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        with self._store.reading() as view:
            return view.dead_letters(fleet, after, limit)

    def publish(self, fleet: bytes, repository: Repository) -> Published:
        """Take what was signed offline. Raises as ``cloud.fleet.publishing.publish``."""
        with self._store.writing() as tx:
            done = self.control.publish(tx, fleet, repository)
            at_ms = self._clock.wall_ms()
            audit.record(tx, fleet, at_ms, "operator", "trust.published", f"snapshot {done.snapshot}", **done._asdict())
            for path in repository.assigned:
                audit.record(tx, fleet, at_ms, "operator", "channel.set", parse_path(path).place, path=path)
        self._moved(fleet, True)
        return done

    def assign(self, fleet: bytes, place: str, path: str) -> None:
        """What the whole fleet runs in a place, "" for nothing. Raises as ``ControlDesk.set_channel``."""
        with self._store.writing() as tx:
            self.control.set_channel(tx, fleet, place, path)
            audit.record(tx, fleet, self._clock.wall_ms(), "operator", "channel.set", place, path=path)
        self._moved(fleet, True)

    def resolve(self, fleet: bytes, number: int, *, take: str, value: Any = None) -> Conflict:
        """Decide an open conflict: ``take`` "winner", "loser" or "value". Raises NotFound, Refused (not
        open any more), InvalidValue, TooLarge or SchemaMismatch.
        """
        with self._store.writing() as tx:
            head = tx.lock_head(fleet)
            context = Context(fleet, self._replica(head), self._clock, self._resolvers)
            book = self._book(tx, fleet, head)
            conflict, rows, head = resolve(tx, head, book, context, number, take, value)
        book.position = head.position
        self._moved(fleet, bool(rows))
        return conflict

    def register_resolver(self, name: str, resolver: Resolver) -> None:
        """For collections declared with ``conflict="resolver:NAME"``."""
        self._resolvers[name] = resolver

    def status(self, fleet: bytes) -> dict[str, Any]:
        """A summary for people and scripts. Raises NotFound."""
        with self._store.reading() as view:
            head, row = view.head(fleet), view.fleet(fleet)
            counts = view.counts(fleet)
            book = SchemaBook.load(view, fleet, head.position)
            replicas = view.replicas(fleet)
        return {
            "fleet": fleet.hex(),
            "name": row.name if row else "",
            "head": head.position,
            "trimmed": head.trimmed,
            "records": head.living,
            "incarnation": head.incarnation.hex(),
            "generation": head.generation,
            "restored_head": head.restored_head,
            "collections": [name for name in book.names() if not name.startswith("_")],
            "last_push_ms": max((held.at_ms for held in replicas), default=0),
            **counts,
        }

    # -- inside -----------------------------------------------------------------------------------------------------

    def _replica(self, head: Head) -> bytes:
        return replica_id(self._keys.service_key.device_id, head.generation)

    def _sealer(self, fleet: bytes, head: Head) -> Sealer:
        return Sealer(fleet, head.incarnation, self._replica(head), self._keys.ring(fleet), self._keys.service_key)

    def _book(self, view: Reading, fleet: bytes, head: Head) -> SchemaBook:
        book = self._books.get(fleet)
        if book is None or book.position != head.position:
            book = SchemaBook.load(view, fleet, head.position)
        return book

    def _committed(self, fleet: bytes, done: Ingested, opened: Opened) -> None:
        book = done.book
        book.position = done.head.position
        self._books[fleet] = book
        if done.rows and len(done.rows[0].packed) < _CACHE_BELOW and not done.ack.refusals:
            self._cache.put(done.head.incarnation, done.rows[0], opened.operations)
        self._moved(fleet, bool(done.rows))

    def _woken(self, fleet: bytes) -> None:
        self._moved(fleet, True)

    def _moved(self, fleet: bytes, moved: bool) -> None:
        if moved:
            for callback in self._listeners.get(fleet, []):
                callback()


# Small pushes are joined for each page they are in; unpacked, they spare each follower the decoding.
_CACHE_BELOW = 16 << 10
