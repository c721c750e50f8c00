"""Reading the delta log: point reads, scans, counts, and the log's tail.

Reads have a connection of their own, so that none waits for another thread's fsync (WAL: a reader sees the last
commit and blocks nobody). It is opened with the first read: a process that only puts does not pay for it. Long
walks over everything (``walk``) take one more connection for their duration, and see one state of the store from
beginning to end.

What always holds: a read sees every write that was acknowledged before it began. Nothing here writes.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apsw
import msgpack

from edge.storage.log_rows import select_held
from edge.storage.log_schema import HAS_TABLE, close, connect, translate
from edge.storage.own_slots import HIDDEN
from edge.storage.shapes import ShapeCache
from edge.storage.transaction import Held, Ref
from sync.errors import CorruptStore, StorageError
from sync.images import is_alive
from sync.operations import Operation, Shape

_IMAGE = "SELECT image FROM records WHERE collection = ? AND key = ?"
_OPERATIONS = (
    "SELECT seq, ts, seen, collection, key, kind, rules, fields FROM operations WHERE seq > ? ORDER BY seq LIMIT ?"
)
_SCAN = (
    "SELECT key, image FROM records WHERE collection = ? AND living = 1 AND key >= ? AND key > ? AND key < ? "
    "ORDER BY key LIMIT ?"
)
# Two subqueries: SQLite answers a lone min or max from the tree's edge, but reads every row for both at once.
_ENDS = (
    "SELECT (SELECT min(seq) FROM operations), (SELECT max(seq) FROM operations) + 1, "
    "(SELECT position FROM operations ORDER BY seq LIMIT 1)"
)
_COUNT = (
    "SELECT (SELECT count(*) FROM records WHERE collection = ?1) - "
    "(SELECT count(*) FROM records WHERE collection = ?1 AND living <= 0)"
)


class DeadLetter(NamedTuple):
    """An operation that the cloud refused: why, and when this device learned of it (milliseconds since 1970)."""

    seq: int
    collection: str
    key: str
    code: str
    reason: str
    at_ms: int
    operation: Operation

    def shown(self) -> dict[str, Any]:
        """As plain values; without the operation."""
        return {name: value for name, value in self._asdict().items() if name not in ("replica", "operation")}


class LogReader:
    """``collections`` is the owner's live map of names to ids, ``overlay`` its images that are newer than their
    table.
    """

    def __init__(
        self,
        path: str,
        vfs: str | None,
        collections: Mapping[str, int],
        overlay: Mapping[Ref, Held],
        shapes: ShapeCache,
    ) -> None:
        self._path = path
        self._vfs = vfs
        self._collections = collections
        self._overlay = overlay
        self._shapes = shapes
        self._lock = allocate_lock()
        self._db: apsw.Connection | None = None
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._db is not None:
                close(self._db)
                self._db = None

    def one(self, sql: str, *bindings: Any) -> Any:
        """The first row (its value, if it has one column), or None."""
        with self._lock:
            try:
                return (self._db or self._connect()).execute(sql, bindings).get
            except apsw.Error as error:
                raise translate(error, self._path) from error

    def all(self, sql: str, *bindings: Any) -> list[Any]:
        with self._lock:
            try:
                return (self._db or self._connect()).execute(sql, bindings).fetchall()
            except apsw.Error as error:
                raise translate(error, self._path) from error

    def has_table(self, name: str) -> bool:
        """Whether it was made: some are with their first row. Raises StorageError."""
        return self.one(HAS_TABLE, name) is not None

    def image(self, collection: str, key: str) -> bytes | None:
        collection_id = self._collections.get(collection)
        if collection_id is None:
            return None
        newer = self._overlay.get((collection_id, key))
        if newer is not None and not self._closed:
            return newer[1]
        with self._lock:
            try:
                found: bytes | None = (self._db or self._connect()).execute(_IMAGE, (collection_id, key)).get
            except apsw.Error as error:
                raise translate(error, self._path) from error
        return found

    def images(self, collection: str, keys: Sequence[str]) -> dict[str, bytes]:
        collection_id = self._collections.get(collection)
        if collection_id is None:
            return {}
        overlay = self._overlay
        newer = {key: held[1] for key in keys if (held := overlay.get((collection_id, key))) is not None}
        wanted = [(collection_id, key) for key in keys if key not in newer]
        found: dict[str, bytes] = {}
        with self._lock:
            try:
                if wanted or self._closed:
                    found = {row[1]: row[3] for row in select_held(self._db or self._connect(), wanted)}
            except apsw.Error as error:
                raise translate(error, self._path) from error
        found.update((key, image) for key, image in newer.items() if image is not None)
        return found

    def scan(self, collection: str, after: str, prefix: str, limit: int) -> list[tuple[str, bytes]]:
        """Living records with a key above ``after`` that starts with ``prefix``, in order of key (UTF-8 bytes).

        Fewer than ``limit`` only if there are no more.
        """
        collection_id = self._collections.get(collection)
        if collection_id is None:
            return []
        newer = self._newer(collection_id, after, prefix)
        above = _after_prefix(prefix)
        out: list[tuple[str, bytes]] = []
        while True:
            page = self.all(_SCAN, collection_id, max(after, prefix), after, above, limit)
            if not newer:
                return out + page if not out else (out + page)[:limit]
            last = page[-1][0] if len(page) == limit else above
            merged = dict(page)
            merged.update((key, newer.pop(key)) for key in [key for key in newer if key <= last])
            out += [(key, merged[key]) for key in sorted(merged) if is_alive(merged[key])]
            if len(out) >= limit or len(page) < limit:
                return out[:limit]
            after = last

    def count(self, collection: str) -> int:
        """Exact when no write of the collection is under way."""
        collection_id = self._collections.get(collection)
        if collection_id is None:
            return 0
        change = 0
        for (number, _), (_, image, living) in list(self._overlay.items()):
            if number == collection_id and image is not None:
                change += is_alive(image) - (living > 0)
        return int(self.one(_COUNT, collection_id)) + change

    def pending(self, replica: bytes, after_seq: int, max_operations: int, max_bytes: int) -> list[Operation]:
        """Local operations after ``after_seq``: at least one, if there is one, and no more than the bounds allow."""
        return self._operations(self.all(_OPERATIONS, after_seq, max_operations), replica, max_bytes)

    def operations_after(self, db: apsw.Connection, replica: bytes, after_seq: int, limit: int = -1) -> list[Operation]:
        """All of them, or as many as ``limit``, on the writer's connection: at the start there is no other yet."""
        return self._operations(db.execute(_OPERATIONS, (after_seq, limit)), replica, None)

    def _operations(self, rows: Iterable[Any], replica: bytes, max_bytes: int | None) -> list[Operation]:
        names = {number: name for name, number in self._collections.items()}
        out: list[Operation] = []
        size = 0
        for seq, ts, seen, collection_id, key, kind, rules, packed in rows:
            size += len(packed) + len(key)
            if out and max_bytes is not None and size > max_bytes:
                break
            fields = unpack_fields(packed)
            shape = self._shapes.intern(Shape(kind, names[collection_id], tuple(fields), rules))
            out.append(Operation(replica, seq, ts, seen, shape, key, tuple(fields.values())))
        return out

    def all_images(self, db: apsw.Connection, collection: str) -> dict[str, bytes]:
        """Every image of a small collection, on the writer's connection."""
        collection_id = self._collections.get(collection)
        if collection_id is None:
            return {}
        images: dict[str, bytes] = dict(
            db.execute("SELECT key, image FROM records WHERE collection = ?", (collection_id,))
        )
        images.update(self._newer(collection_id))
        return images

    def state(self, after: tuple[str, str] | None, limit: int) -> list[tuple[str, str, bytes]]:
        """(collection, key, image) after ``after`` in that order, tombstones too; only what the table holds."""
        start, after_key = after or ("", "")
        out: list[tuple[str, str, bytes]] = []
        for name in sorted(self._collections):
            if name >= start and len(out) < limit:
                rows = self.all(
                    "SELECT key, image FROM records WHERE collection = ? AND key > ? ORDER BY key LIMIT ?",
                    *(self._collections[name], after_key if name == start else "", limit - len(out)),
                )
                out += [(name, key, image) for key, image in rows]
        return out

    def _newer(self, collection_id: int, after: str = "", prefix: str = "") -> dict[str, bytes]:
        """The overlay's images of one collection, as of now. ``list`` of a dict is atomic: writers go on meanwhile."""
        return {
            key: held[1]
            for (number, key), held in list(self._overlay.items())
            if number == collection_id and key > after and key.startswith(prefix) and held[1] is not None
        }

    def changes(self, after_position: int, limit: int, known_position: int) -> list[tuple[int, str, str]]:
        """(position, collection, key) of changes after a position, oldest first, local and remote.

        None beyond ``known_position``, up to which memory has followed the disk: whoever learns of a change must find
        the image it led to, and a commit is on the disk a moment before its images are in ``overlay``.
        """
        if after_position >= known_position:
            return []
        first = self._first_seq_after(after_position)
        rows = self.all(
            "SELECT position, collection, key FROM operations WHERE seq >= ? AND position <= ? ORDER BY seq LIMIT ?",
            *(first, known_position, limit),
        ) + self.all(
            "SELECT position, collection, key FROM marks WHERE position > ? AND position <= ? "
            "ORDER BY position LIMIT ?",
            *(after_position, known_position, limit),
        )
        rows.sort()
        names = {number: name for name, number in list(self._collections.items())}
        return [(position, names[number], key) for position, number, key in rows[:limit]]

    def _first_seq_after(self, position: int) -> int:
        """The first seq whose position is larger. Both grow together, so a search by halving needs no index."""
        while True:
            low, high, begin = self.one(_ENDS)
            if low is None:
                return 0
            first = (low, begin)
            while low < high:
                middle: int = (low + high) // 2
                at = self.one("SELECT position FROM operations WHERE seq = ?", middle)
                if at is None:
                    self._check_moved(first, middle)
                    break
                if at > position:
                    high = middle
                else:
                    low = middle + 1
            else:
                return int(low)

    def _check_moved(self, first: tuple[int, int], missing: int) -> None:
        """The log was trimmed meanwhile, or began anew under another name: else it has lost an operation."""
        low, _, begin = self.one(_ENDS)
        if (low, begin) == first:
            raise CorruptStore(f"{self._path}: operation {missing} is missing from the log", hint="run verify()")

    def dead_letters(self) -> list[DeadLetter]:
        rows = self.all(
            "SELECT seq, collection, key, code, reason, at_ms, operation FROM dead_letters ORDER BY at_ms, seq"
        )
        return [DeadLetter._make((*row[:-1], unpack_operation(row[-1]))) for row in rows]

    def walk(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows of one consistent state, on a connection of its own: a long walk holds up nobody."""
        db = self.connect()
        try:
            yield from db.execute(sql, tuple(bindings))
        except apsw.Error as error:
            raise translate(error, self._path) from error
        finally:
            close(db)

    def _connect(self) -> apsw.Connection:
        if self._closed:
            raise StorageError(f"{self._path} is closed", hint="open the store again")
        self._db = self.connect()
        self._db.execute("PRAGMA query_only=1")
        return self._db

    def connect(self) -> apsw.Connection:
        """One more connection, for whoever closes it. Raises StorageError."""
        return connect(self._path, vfs=self._vfs)


def unpack_fields(packed: bytes) -> dict[str, Any]:
    """An operation's fields. Raises CorruptStore."""
    return unpack_hidden(packed)[0]


def unpack_hidden(packed: bytes) -> tuple[dict[str, Any], list[Any] | None]:
    """An operation's fields, and what the log remembers beside them (``own_slots``). Raises CorruptStore."""
    try:
        fields = msgpack.unpackb(packed, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CorruptStore(f"an operation in the log cannot be read: {error}", hint="run verify()") from error
    if type(fields) is not dict:
        raise CorruptStore("an operation in the log is not a map of fields", hint="run verify()")
    return fields, fields.pop(HIDDEN, None)


def pack_operation(operation: Operation) -> bytes:
    """For the dead-letter table, which outlives the log."""
    packed: bytes = msgpack.packb(
        [*operation[:4], [*operation.shape], operation.key, operation.values], use_bin_type=True
    )
    return packed


def unpack_operation(packed: bytes) -> Operation:
    replica, seq, ts, seen, (kind, collection, names, rules), key, values = msgpack.unpackb(packed, raw=False)
    return Operation(replica, seq, ts, seen, Shape(kind, collection, tuple(names), rules), key, tuple(values))


def _after_prefix(prefix: str) -> str:
    """The least string above all that start with ``prefix``, in the order of UTF-8 bytes, which is that of code
    points.
    """
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return "\U0010ffff" * 129  # above every key: keys are at most 512 bytes
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)
