"""Follower: the delta log as a process reads it that does not have the store's lock. Another may write it meanwhile.

The table of images is behind the log by what the writer has in memory (``log_writer``). A follower merges the same
operations into an ``overlay`` of its own: those that are new since it last looked, or all after ``folded`` when the
writer has written its images to the table. It looks before each call (``following_reader``).

What always holds: nothing is written, not even by what a projection notes (``set_checkpoint`` keeps it in memory); what
would write raises ReadOnly. What the writer does beneath, a fold, a trim, a new incarnation, shows in ``replica`` and
``folded``: then the overlay begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from typing import Any

import apsw
import msgpack

from edge.storage.delta_log import DeltaLog
from edge.storage.erasures import Erasures
from edge.storage.following_reader import FollowingReader, Stamp, connect_reading
from edge.storage.log_reader import LogReader
from edge.storage.log_schema import check_end, close, translate
from edge.storage.log_writer import LogWriter
from sync.errors import ReadOnly, UnknownCollection
from sync.images import is_alive
from sync.ports import Clock, RandomSource
from sync.schema import CollectionSchema

_OURS = ("_", "agent.")  # collections that our own stores declare with their first use
_PLACE = "SELECT name, value FROM meta WHERE name IN ('replica', 'folded') ORDER BY name"
_RECORDS = (
    "SELECT c.name, r.key, r.living, r.image "
    "FROM collections c JOIN records r ON r.collection = c.id ORDER BY c.name, r.key"
)


class _NoWriter(LogWriter):
    def check_open(self) -> None:
        raise read_only(self.path)


def read_only(path: str) -> ReadOnly:
    return ReadOnly(
        f"{path} was opened for reading",
        hint="without read_only=True, a process that has the lock writes; wait_s says how long to wait for it",
    )


class Follower(DeltaLog):
    """Build it with ``follow``. Safe to use from several threads."""

    read_only = True

    def __init__(
        self,
        opened: tuple[apsw.Connection, Stamp | None],
        path: str,
        *,
        clock: Clock,
        random: RandomSource,
        vfs: str | None,
    ) -> None:
        self._opened = opened
        self._place: list[Any] = []
        self._followed = 0  # the seq of the last operation that is merged
        self._learned: dict[str, bytes] = {}
        self._notes: dict[str, dict[str, Any]] = {}
        super().__init__(opened[0], path, clock=clock, random=random, vfs=vfs)

    @staticmethod
    def follow(path: str, *, clock: Clock, random: RandomSource, vfs: str | None = None) -> Follower:
        """Open the log at ``path`` for reading. Raises NotFound, CorruptStore, UnsupportedVersion, StorageError."""
        opened = connect_reading(path, vfs=vfs)
        try:
            return Follower(opened, path, clock=clock, random=random, vfs=vfs)
        except apsw.Error as error:
            close(opened[0])
            raise translate(error, path) from error
        except BaseException:
            close(opened[0])
            raise

    def close(self) -> None:
        self._following.close()

    def _hands(self, db: apsw.Connection) -> tuple[LogWriter, LogReader]:
        writer = _NoWriter(db, self.path)
        self._following = FollowingReader(
            self.path,
            self.vfs,
            self.numbers,
            writer.overlay,
            self.shapes,
            opened=self._opened,
            replaced=self._replaced,
            settle=self._catch_up,
        )
        return writer, self._following

    # -- following ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._following.within(_nothing)

    def _replaced(self, db: apsw.Connection) -> None:
        self.writer.db = db

    def _catch_up(self) -> None:
        """In a transaction of the reader's. What fails is done again, from the beginning, by the next call."""
        place, self._place = self._place, []
        found = [value for _, value in self.writer.db.execute(_PLACE)]
        if found != place:
            self.writer.overlay.clear()
            self._followed = 0
        self._read_where_it_stands()
        self._place = found

    def _replay(self) -> None:
        after = max(self._followed, self.writer.folded_seq)
        operations = self.reader.operations_after(self.writer.db, self.replica, after)
        transaction = self._begun()
        transaction.prefetch((operation.shape.collection, operation.key) for operation in operations)
        transaction.replay(operations)
        self.writer.adopt(transaction)
        self._followed = operations[-1].seq if operations else after

    def _learn_schema(self, name: str, image: bytes) -> None:
        if self._learned.get(name) != image:
            super()._learn_schema(name, image)
            self._learned[name] = image

    # Whoever asks where the log stands hears of what was committed by now.

    @property
    def schemas(self) -> dict[str, CollectionSchema]:
        self._following.within(_nothing)
        return self._schemas

    @schemas.setter
    def schemas(self, value: dict[str, CollectionSchema]) -> None:
        self._schemas = value

    @property
    def position(self) -> int:
        self._following.within(_nothing)
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        self._position = value

    @property
    def head_seq(self) -> int:
        self._following.within(_nothing)
        return self._head_seq

    @head_seq.setter
    def head_seq(self, value: int) -> None:
        self._head_seq = value

    @property
    def acked_seq(self) -> int:
        self._following.within(_nothing)
        return self._acked_seq

    @acked_seq.setter
    def acked_seq(self, value: int) -> None:
        self._acked_seq = value

    @property
    def erasures(self) -> Erasures:
        self._following.within(_nothing)
        return self._erasures

    @erasures.setter
    def erasures(self, value: Erasures) -> None:
        self._erasures = value

    @property
    def cursor(self) -> int:
        self._following.within(_nothing)
        return self._cursor

    @cursor.setter
    def cursor(self, value: int) -> None:
        self._cursor = value

    def changed_at(self, collection: str) -> int:
        self._following.within(_nothing)
        return super().changed_at(collection)

    # -- what writes, elsewhere ---------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        raise read_only(self.path)

    def declare(self, schema: CollectionSchema) -> None:
        """Nothing happens if it is declared so. One of our own that is not yet is empty, and is taken as declared.

        Raises UnknownCollection, ReadOnly.
        """
        known = self.schemas.get(schema.name)
        if known is None and schema.name.startswith(_OURS):
            self.schemas[schema.name] = schema
        elif known is None:
            raise UnknownCollection(
                f"there is no collection {schema.name!r}", hint="a process that may write declares it; this one reads"
            )
        elif known.to_document() != schema.to_document():
            raise read_only(self.path)

    def fold(self) -> None:
        """Nothing: the images stay in memory."""

    def set_checkpoint(self, name: str, note: Mapping[str, Any]) -> None:
        """Of a projection of this process's own: in memory."""
        self._notes[name] = dict(note)

    def checkpoint(self, name: str) -> dict[str, Any] | None:
        """Of a projection of this process's own; the writer's are ``noted``."""
        return self._notes.get(name)

    def forget_checkpoints(self, prefix: str) -> None:
        """What projections of this process have noted under names that begin so."""
        for name in [name for name in self._notes if name.startswith(prefix)]:
            del self._notes[name]

    def noted(self, prefix: str) -> dict[str, dict[str, Any]]:
        """The writer's checkpoints whose names begin so, all of one moment."""
        begin = "checkpoint." + prefix
        rows = self.reader.all(
            "SELECT name, value FROM meta WHERE name >= ? AND name < ?", begin, begin[:-1] + chr(ord(begin[-1]) + 1)
        )
        return {name.removeprefix("checkpoint."): msgpack.unpackb(value) for name, value in rows}

    def check_end(self) -> None:
        """While nobody writes, and before this is used. Without shared memory SQLite does not say where the end is.

        Raises CorruptStore if the newest commits cannot be read, StorageError.
        """
        try:
            check_end(self.writer.db, self.path)
        except apsw.ReadOnlyError:
            return
        except (apsw.Error, OSError) as error:
            raise translate(error, self.path) from error

    # -- everything ---------------------------------------------------------------------------------------------------

    def all_records(self) -> Iterator[tuple[str, str, int, bytes]]:
        self._settle()  # raises if this is closed
        other = Follower.follow(self.path, clock=self._wall, random=self._random, vfs=self.vfs)
        try:
            db = other._following.pin()  # noqa: SLF001 - of the same class
            names = {number: name for name, number in other.numbers.items()}
            newer = {
                (names[collection], key): (names[collection], key, int(is_alive(image)), image)
                for (collection, key), (_, image, _) in other.writer.overlay.items()
                if image is not None
            }
            held = (row for row in db.execute(_RECORDS) if row[:2] not in newer)
            yield from merge(held, sorted(newer.values(), key=_place_of), key=_place_of)
        except apsw.Error as error:
            raise translate(error, self.path) from error
        finally:
            other.close()


def _nothing() -> None:
    """For whoever only wants to be told of what is new."""


def _place_of(row: tuple[str, str, int, bytes]) -> tuple[str, str]:
    return row[:2]
