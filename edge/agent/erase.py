"""Erasing an agent or a namespace: the record that shuts it, deleting what lives, and ridding the store of it (ADR 19).

``erase`` is for the device that asks; ``carry_out`` is what it and every other device then does, once for each erasure
and again until it came to its end. It leaves to others: what is shut, and the log (``edge.storage.erasures``), search
tables and matrices (``edge.storage.projections``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edge.agent.names import escape
from edge.agent.recalls import RECALLS
from edge.agent.shelf import CHECKPOINTS, SNAPSHOTS
from edge.storage import erasures
from edge.storage.erasures import ERASURES
from edge.storage.transaction import Write
from sync.errors import FutureStamp, NotFound, StorageError
from sync.operations import Kind
from sync.schema import declare
from sync.stamps import device_of

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf

_STEP = 500
_ROUNDS_MAX = 10
_ELSEWHERE = (
    "what the other devices have, until their next sync",
    "sealed segments in the archive, and sealed parts of attachments beside it, until their retention ends",
    "copies and exports that were made of the store, and freed blocks of the disk",
)

Purge = Callable[[str, Sequence[str]], None]


class Receipt(NamedTuple):
    """``erasure`` is the key of the record that shuts it; ``deleted`` counts living records by collection;
    ``elsewhere`` says where copies may be that this store does not reach. Times in milliseconds since 1970.
    """

    erasure: str
    agent: str
    namespace: str | None
    at_ms: int
    device: str
    deleted: dict[str, int]
    bytes_before: int
    bytes_after: int
    elsewhere: tuple[str, ...] = _ELSEWHERE


class Erasure(NamedTuple):
    """``shut``: it was not lifted. ``here``: this device has carried it out."""

    erasure: str
    at_ms: int
    shut: bool
    here: bool


def erase(shelf: Shelf, agent: str, namespace: str | None, purge: Purge) -> Receipt:
    """Raises InvalidValue, StorageError: then it is shut, and carried out later."""
    shelf.check_alone("erase")
    log, scope = shelf.log, _scope(agent, namespace)
    before = shelf.cache.used_bytes()
    with shelf.lock(ERASURES):
        key = next(iter(log.erasures.shut(scope)), "")
        if not key:
            if ERASURES not in log.schemas:
                log.declare(declare(ERASURES, fields={"at": ("int", "min"), "until": ("int", "min")}))
            key = erasures.new_key(scope, log.clock.now())
            shelf.submit((shelf.put_of(ERASURES, key, {"at": shelf.clock.wall_ms()}),))
        deleted = carry_out(shelf, key, purge)
    device = device_of(log.replica).hex()
    return Receipt(key, agent, namespace, log.erasures.at[key], device, deleted, before, shelf.cache.used_bytes())


def lift(shelf: Shelf, agent: str, namespace: str | None) -> None:
    """Raises NotFound, StorageError."""
    log = shelf.log
    shut = log.erasures.shut(_scope(agent, namespace))
    if not shut:
        raise NotFound(
            "there is no erasure of that, or it is lifted",
            hint="edge.erasures() lists them; a namespace that was erased by its name is lifted by its name",
        )
    schema, now = log.schemas[ERASURES], log.clock.now()
    shelf.submit([Write(Kind.PATCH, ERASURES, key, {"until": now}, schema=schema) for key in shut])


def carry_out_pending(shelf: Shelf, purge: Purge) -> None:
    """What was erased, here or elsewhere, and is not gone from this store. Raises StorageError."""
    failure: StorageError | None = None
    with shelf.lock(ERASURES):
        for key in erasures.pending(shelf.log):
            try:
                carry_out(shelf, key, purge)
            except StorageError as error:  # of this one: the others go on
                failure = error
    if failure is not None:
        raise failure


def carry_out(shelf: Shelf, erasure: str, purge: Purge) -> dict[str, int]:
    """Returns how many living records were deleted, by collection. Raises StorageError."""
    log = shelf.log
    deleted: dict[str, int] = {}
    for _ in range(_ROUNDS_MAX):
        found, ahead = _delete_living(shelf, erasure)
        for name, keys in found.items():
            deleted[name] = deleted.get(name, 0) + len(keys)
        purge(erasure, erasures.concerned(log))
        if ahead is not None:
            raise StorageError(f"not all of it can be deleted yet: {ahead.message}", hint="it is tried again")
        if not erasures.living(log, erasure):
            erasures.note_done(log, erasure)
            return deleted
    raise StorageError("something goes on writing what is being erased", hint="stop it; the erasure is tried again")


def shown(shelf: Shelf) -> list[Erasure]:
    log = shelf.log
    waiting = {*erasures.pending(log)}
    return [
        Erasure(key, at, log.erasures.until[key] is None, key not in waiting)
        for key, at in sorted(log.erasures.at.items(), key=lambda entry: (entry[1], entry[0]))
    ]


def _scope(agent: str, namespace: str | None) -> str:
    name = None if namespace is None else escape("a namespace", namespace)
    return erasures.scope_of(escape("an agent", agent), name)


def _delete_living(shelf: Shelf, erasure: str) -> tuple[dict[str, list[str]], FutureStamp | None]:
    """And why one could not be deleted: it was written by a clock that is ahead."""
    scope = erasures.scope_in(erasure)
    shelf.recalls.drop(lambda key: scope in erasures.scopes_of(RECALLS, key))
    shelf.large.forget_all()
    writes = _snapshot_writes(shelf, scope)
    found = erasures.living(shelf.log, erasure)
    writes += [Write(Kind.DELETE, name, key, upsert=True) for name, keys in found.items() for key in keys]
    ahead: FutureStamp | None = None
    for at in range(0, len(writes), _STEP):
        try:
            shelf.submit(writes[at : at + _STEP])
        except FutureStamp:  # of a single one; what keeps that one back keeps back no other
            for write in writes[at : at + _STEP]:
                try:
                    shelf.submit((write,))
                except FutureStamp as error:
                    ahead = error
                    if write.key in found.get(write.collection, ()):
                        found[write.collection].remove(write.key)
    return found, ahead


def _snapshot_writes(shelf: Shelf, scope: str) -> list[Write]:
    """A snapshot of the agent goes; one of all agents goes on without it."""
    writes: list[Write] = []
    if SNAPSHOTS not in shelf.log.schemas:
        return writes
    for key, fields in shelf.records(SNAPSHOTS):
        heads = {at: head for at, head in fields["heads"].items() if scope not in erasures.scopes_of(CHECKPOINTS, at)}
        if len(heads) == len(fields["heads"]):
            continue
        if heads:
            writes.append(shelf.put_of(SNAPSHOTS, key, {**fields, "heads": heads}))
        else:
            writes.append(Write(Kind.DELETE, SNAPSHOTS, key, upsert=True))
    return writes
