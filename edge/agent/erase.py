"""Erasing an agent or a namespace: the record that shuts it, deleting what lives, and ridding the store of it (ADR 19).

``erase`` is for the device that asks; ``carry_out`` is what it and every other device then does, once for each erasure
and again until it came to its end. It leaves to others: what is shut, and the log (``edge.storage.erasures``), search
tables and matrices (``edge.storage.projections``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge.agent.names import escape
from edge.agent.recalls import RECALLS
from edge.agent.shelf import CHECKPOINTS, SNAPSHOTS
from edge.storage import erasures
from edge.storage.erasures import ERASURES
from edge.storage.transaction import Write
from sync.errors import NotFound, StorageError
from sync.operations import Kind
from sync.stamps import device_of

if TYPE_CHECKING:
    from edge.agent.shelf import Shelf

_STEP = 500
_ROUNDS_MAX = 10
_ELSEWHERE = (
    "what the other devices have, until their next sync",
    "sealed segments in the archive, until its retention ends",
    "copies and exports that were made of the store, and freed blocks of the disk",
)

Purge = Callable[[str, Sequence[str]], None]


class Receipt(NamedTuple):
    """``scope`` is the digest that stands for what was erased; ``deleted`` counts living records by collection;
    ``elsewhere`` says where copies may be that this store does not reach. Times in milliseconds since 1970.
    """

    scope: str
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

    scope: str
    at_ms: int
    shut: bool
    here: bool


def erase(shelf: Shelf, agent: str, namespace: str | None, purge: Purge, folder: str) -> Receipt:
    """Raises InvalidValue, StorageError: then it is shut, and carried out later."""
    shelf.check_alone("erase")
    scope = _scope(agent, namespace)
    before = _bytes_in(folder)
    at = shelf.clock.wall_ms()
    with shelf.lock(ERASURES):
        shelf.submit((shelf.put_of(ERASURES, scope, {"at": at, "until": None}),))
        deleted = carry_out(shelf, scope, purge)
    device = device_of(shelf.log.replica).hex()
    return Receipt(scope, agent, namespace, at, device, deleted, before, _bytes_in(folder))


def lift(shelf: Shelf, agent: str, namespace: str | None) -> None:
    """Raises NotFound, StorageError."""
    scope = _scope(agent, namespace)
    at = shelf.log.erasures.at.get(scope)
    if at is None:
        raise NotFound("there is no erasure of that", hint="edge.erasures() lists them")
    shelf.submit((shelf.put_of(ERASURES, scope, {"at": at, "until": shelf.log.clock.now()}),))


def carry_out_pending(shelf: Shelf, purge: Purge) -> list[str]:
    """What was erased, here or elsewhere, and is not gone from this store. Returns the scopes. Raises StorageError."""
    with shelf.lock(ERASURES):
        waiting = erasures.pending(shelf.log)
        for scope in waiting:
            carry_out(shelf, scope, purge)
    return waiting


def carry_out(shelf: Shelf, scope: str, purge: Purge) -> dict[str, int]:
    """Returns how many living records were deleted, by collection. Raises StorageError."""
    log = shelf.log
    at = log.erasures.at[scope]
    deleted: dict[str, int] = {}
    for _ in range(_ROUNDS_MAX):
        found = _delete_living(shelf, scope)
        for name, keys in found.items():
            deleted[name] = deleted.get(name, 0) + len(keys)
        purge(scope, erasures.concerned(log))
        if not erasures.living(log, erasures.concerned(log), scope):
            erasures.note_done(log, scope, at)
            return deleted
    raise StorageError("something goes on writing what is being erased", hint="stop it; the erasure is tried again")


def shown(shelf: Shelf) -> list[Erasure]:
    log = shelf.log
    waiting = set(erasures.pending(log))
    return [
        Erasure(scope, at, log.erasures.until[scope] is None, scope not in waiting)
        for scope, at in sorted(log.erasures.at.items(), key=lambda entry: entry[1])
    ]


def _scope(agent: str, namespace: str | None) -> str:
    name = None if namespace is None else escape("a namespace", namespace)
    return erasures.scope_of(escape("an agent", agent), name)


def _delete_living(shelf: Shelf, scope: str) -> dict[str, list[str]]:
    log = shelf.log
    shelf.recalls.drop(lambda key: scope in erasures.scopes_of(RECALLS, key))
    shelf.large.forget_all()
    writes = _snapshot_writes(shelf, scope)
    found = erasures.living(log, erasures.concerned(log), scope)
    writes += [Write(Kind.DELETE, name, key, upsert=True) for name, keys in found.items() for key in keys]
    for at in range(0, len(writes), _STEP):
        shelf.submit(writes[at : at + _STEP])
    return found


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


def _bytes_in(folder: str) -> int:
    total = 0
    for path in Path(folder).rglob("*"):
        with suppress(FileNotFoundError):  # a table's file, compacted meanwhile
            total += path.lstat().st_size
    return total
