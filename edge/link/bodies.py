"""Attachments' bodies between this device and the cloud: what waits is uploaded, what is read is fetched.

A body goes part by part, each sealed here (``sync.bodies``); how far it is, is noted, and the next pass goes on from
there. What always holds: a body is confirmed only when every part was taken from this device, or was opened here and
is what it has to be; what arrives is compared with its digest before it is given its name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from edge.storage.durable import write_all
from edge.storage.log_schema import translate
from sync.bodies import body_name, open_part, parts_of, seal_part
from sync.errors import AgentDBError, BodyNotHere, CorruptStore, Malformed, SyncError, Unreachable
from sync.keys import KeyRing
from sync.limits import BODY_PART_BYTES

if TYPE_CHECKING:
    from edge.link.body_client import BodyClient
    from edge.storage.bodies import Held
    from edge.storage.cache import Cache

_log = logging.getLogger("agentdb.edge")


class Sent(NamedTuple):
    """What an upload did. ``failed`` is the first failure of one body, after which the others were tried."""

    bodies: int
    bytes: int
    failed: AgentDBError | None = None


class _Place(NamedTuple):
    """Where a body is in the cloud: its name by the key of an epoch; ``held`` are the parts that are there."""

    epoch: int
    name: bytes
    held: frozenset[int]


class BodyLink:
    """Of one store and one fleet. ``client`` makes a connection."""

    def __init__(self, cache: Cache, fleet: bytes, ring: KeyRing, client: Callable[[], BodyClient]) -> None:
        self._cache = cache
        self._fleet = fleet
        self._ring = ring
        self._client = client

    def upload(self, *, using: Callable[[BodyClient], object] | None = None) -> Sent:
        """Ask where the cloud keeps bodies now, and bring there everything that waits. A body that cannot be taken
        holds up no other. ``using`` is told of the connection.

        Raises Unreachable, and what else concerns all of them; what had been uploaded is noted.
        """
        cache = self._cache
        bodies = size = 0
        failed: AgentDBError | None = None
        if cache.is_concerned():
            with closing(self._client()) as client:
                if using is not None:
                    using(client)
                where = client.place()
                cache.notes.note_place(where)
                for one in cache.pending():
                    try:
                        if self._upload(client, one, where):
                            bodies, size = bodies + 1, size + one.size
                    except SyncError:
                        raise
                    except AgentDBError as error:
                        _log.warning("attachments: %s is not in the cloud: %s", one.digest.hex(), error)
                        failed = failed or error
        cache.problem = str(failed) if failed is not None else ""
        return Sent(bodies, size, failed)

    def fetch(self, digest: bytes, size: int) -> None:
        """Bring the body here; go on from where an interrupted one has ended. Raises BodyNotHere (the cloud has not got
        it), QuotaExceeded, SyncError, DataError (what it has is not the body; nothing is kept), StorageError.
        """
        cache, parts = self._cache, parts_of(size)
        with closing(self._client()) as client, cache.room(size):
            where = client.place()
            cache.notes.note_place(where)
            place = self._find(client, digest, parts)
            if place is None or len(place.held) < parts:
                raise BodyNotHere(
                    "the cloud has not got it yet", hint="sync the device that has it, then read it again"
                )
            try:
                with cache.bodies.partial(digest) as file:
                    hasher = sha256()
                    for number in range(_resume(file, size, hasher.update), parts):
                        data = self._opened(client, place, number, parts)
                        hasher.update(data)
                        write_all(file, data)
                    whole = file.tell() == size and hasher.digest() == digest
            except OSError as error:
                raise translate(error, str(cache.bodies.root)) from error
            if not whole:
                cache.bodies.drop_partial(digest)
                raise Malformed(
                    f"what the cloud has under the name of {digest.hex()} is something else", hint="nothing was kept"
                )
            cache.bodies.arrived(digest)
            cache.notes.sent(digest, place.epoch, parts)
            cache.notes.confirm(digest, where)

    # -- one body -----------------------------------------------------------------------------------------------------

    def _upload(self, client: BodyClient, one: Held, where: bytes) -> bool:
        """False if it is not here any more. ``where`` the cloud kept bodies when this began: it may move meanwhile."""
        cache, parts = self._cache, parts_of(one.size)
        with cache.bodies.using(one.digest):
            file = cache.bodies.open(one.digest)
            if file is None:
                return False
            with file:
                place = self._find(client, one.digest, parts)
                note = cache.notes.of(one.digest)
                whole = place is not None and len(place.held) == parts
                if whole and note.confirmed and place is not None and place.epoch == note.epoch:
                    cache.notes.confirm(one.digest, where)  # what it had elsewhere was moved
                    return True
                epoch = place.epoch if whole and place is not None else self._ring.current
                name = body_name(self._ring, epoch, self._fleet, one.digest)
                if place is None or place.epoch != epoch:
                    place = _Place(epoch, name, frozenset())
                done = note.sent if note.epoch == epoch else 0
                for number in range(parts):
                    if number < done and number in place.held:
                        continue
                    self._upload_part(client, place, file, number, parts)
                    cache.notes.sent(one.digest, epoch, number + 1)
                cache.notes.confirm(one.digest, where)
        return True

    def _upload_part(self, client: BodyClient, place: _Place, file: BinaryIO, number: int, parts: int) -> None:
        file.seek(number * BODY_PART_BYTES)
        data = _read_part(file)
        if number not in place.held:
            sealed = seal_part(
                data,
                ring=self._ring,
                epoch=place.epoch,
                fleet=self._fleet,
                name=place.name,
                number=number,
                parts=parts,
            )
            if client.put(place.name, number, sealed):
                return
        if self._opened(client, place, number, parts) != data:
            raise CorruptStore(
                f"the cloud has other bytes in part {number} of an attachment, from another device",
                hint="it stays on this device; the fleet's operator can delete the object",
            )

    def _opened(self, client: BodyClient, place: _Place, number: int, parts: int) -> bytes:
        return open_part(
            client.get(place.name, number),
            ring=self._ring,
            epoch=place.epoch,
            fleet=self._fleet,
            name=place.name,
            number=number,
            parts=parts,
        )

    def _find(self, client: BodyClient, digest: bytes, parts: int) -> _Place | None:
        """Where it is whole, or else where the newest epoch has a part of it. None: nothing is there."""
        epochs = self._ring.epochs()[::-1]
        names = [body_name(self._ring, epoch, self._fleet, digest) for epoch in epochs]
        wanted = frozenset(range(parts))
        places = [
            _Place(epoch, name, wanted.intersection(held))
            for epoch, name, held in zip(epochs, names, client.find(names), strict=True)
        ]
        found = [place for place in places if place.held == wanted] + [place for place in places if place.held]
        return found[0] if found else None


def unreachable(error: SyncError) -> BodyNotHere:
    """Why a body that is not here could not be fetched."""
    if isinstance(error, BodyNotHere):
        return error
    hint = "read it again when the network is back" if isinstance(error, Unreachable) else error.hint
    return BodyNotHere(f"the cloud cannot be asked for it: {error.message}", hint=hint)


def _resume(file: BinaryIO, size: int, seen: Callable[[bytes], object]) -> int:
    """How many parts are in the file; what is after them is cut off."""
    there = min(file.seek(0, 2), size)
    parts = there // BODY_PART_BYTES
    file.truncate(parts * BODY_PART_BYTES)
    file.seek(0)
    for _ in range(parts):
        seen(_read_part(file))
    return parts


def _read_part(file: BinaryIO) -> bytes:
    parts, left = [], BODY_PART_BYTES
    while left and (chunk := file.read(left)):
        parts.append(chunk)
        left -= len(chunk)
    return b"".join(parts)
