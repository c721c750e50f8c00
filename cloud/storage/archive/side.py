"""Side tables: what the control plane needs after a restore and the feed does not say.

*Identity* tables (who belongs to the fleet): devices with their revocations and nonces, join tokens, epochs, the audit
trail; what its devices are to run, and the models that were published. They are written as of the moment and always
restored from the newest manifest: going back in time must not take back a revocation, nor what was signed. *Stream*
tables belong to a feed position: what is held of each replica, conflicts, dead letters.

A table is cut into pieces of up to 1,000 rows and 8 MiB, each msgpack, in order. What always holds: a piece that
has not changed is not written again; a full and settled piece of a numbered table is not even read again; decoding
is strict by the row types of ``cloud.rows``. Private keys and epoch keys are never in a side table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec

from cloud.control_rows import ChannelRow, TargetRow, TrustRow
from cloud.model_rows import AliasRow, ModelRow
from cloud.ports import Reading
from cloud.rows import (
    AuditRow,
    Conflict,
    DeadLetter,
    DeviceRow,
    EpochRow,
    FleetRow,
    ReplicaRow,
    TokenRow,
)
from cloud.storage.archive.manifest import SideRef
from cloud.twin_rows import ExposureRow, RolloutRow
from sync.errors import Malformed
from sync.messages import UNDECODABLE
from sync.stamps import device_of

PIECE_ROWS_MAX = 1000
PIECE_BYTES_MAX = 8 << 20  # more only if one row is
_ROWS_PER_READ = 16  # a target may have 4 MiB, a model's manifest one


class Nonce(NamedTuple):
    """The largest request nonce of a device, so that old requests stay refused after a restore."""

    device: bytes
    nonce: int


class Bound(NamedTuple):
    """Of a revoked device: the last seq of this replica that is still taken."""

    device: bytes
    revoked_ms: int
    replica: bytes
    last_seq: int


class Assigned(NamedTuple):
    """The number of the newest assignment that was signed for a device: the next is signed from what was chosen."""

    device: bytes
    number: int


class Told(NamedTuple):
    """A device's labels, and what it is told to be. What it reported it reports again."""

    device: bytes
    labels: bytes
    own: bytes
    desired: bytes
    desired_version: int


class Piece(NamedTuple):
    """Rows of one table that are not in the archive yet."""

    table: int
    rows: int
    final: bool
    plain: bytes
    plain_sha256: bytes


Page = Callable[[Reading, bytes, int, int], list[Any]]


class Table(NamedTuple):
    """How a table is read. ``page`` is for one that is numbered from 1 without a gap: so many rows after a number."""

    number: int
    row: type
    read: Callable[[Reading, bytes], Iterable[Any]] | None = None
    page: Page | None = None


def _bounds(view: Reading, fleet: bytes) -> list[Bound]:
    revoked = {row.device: row.revoked_ms for row in view.devices(fleet) if row.revoked_ms}
    return [
        Bound(device, revoked[device], row.replica, view.revocation(fleet, row.replica) or 0)
        for row in (view.replicas(fleet) if revoked else [])
        if (device := device_of(row.replica)) in revoked
    ]


def _nonces(view: Reading, fleet: bytes) -> list[Nonce]:
    return [Nonce(row.device, view.nonce(row.device)) for row in view.devices(fleet)]


def _trust(view: Reading, fleet: bytes) -> list[TrustRow]:
    rows = (view.trust(fleet, name, version) for name, version in view.trust_versions(fleet))
    return [row for row in rows if row is not None]


def _assigned(view: Reading, fleet: bytes) -> list[Assigned]:
    return [Assigned(row.device, row.number) for row in view.assignments(fleet)]


def _told(view: Reading, fleet: bytes) -> Iterator[Told]:
    after = b""
    while rows := view.twins(fleet, after, _ROWS_PER_READ):
        for row in rows:
            told = Told(row.device, row.labels, row.own, row.desired, row.desired_version)
            if told[1:] != (b"{}", b"{}", b"{}", 0):
                yield told
        after = rows[-1].device


def _exposures(view: Reading, fleet: bytes) -> Iterator[ExposureRow]:
    for rollout in view.rollouts(fleet):
        after = b""
        while rows := view.exposures(fleet, rollout.id, after, PIECE_ROWS_MAX):
            yield from rows
            after = rows[-1].device


FLEET: Final = Table(1, FleetRow, read=lambda view, fleet: [row for row in [view.fleet(fleet)] if row])
DEVICES: Final = Table(2, DeviceRow, read=lambda view, fleet: view.devices(fleet))
BOUNDS: Final = Table(3, Bound, read=_bounds)
TOKENS: Final = Table(4, TokenRow, read=lambda view, fleet: view.tokens(fleet))
EPOCHS: Final = Table(5, EpochRow, read=lambda view, fleet: view.epochs(fleet))
AUDIT: Final = Table(6, AuditRow, page=lambda view, fleet, after, count: view.audit(fleet, after, count))
NONCES: Final = Table(7, Nonce, read=_nonces)
TRUST: Final = Table(8, TrustRow, read=_trust)
TARGETS: Final = Table(9, TargetRow, page=lambda view, fleet, after, count: view.targets(fleet, after, count))
CHANNELS: Final = Table(10, ChannelRow, read=lambda view, fleet: view.channels(fleet))
ASSIGNED: Final = Table(11, Assigned, read=_assigned)
TOLD: Final = Table(13, Told, read=_told)
ROLLOUTS: Final = Table(14, RolloutRow, read=lambda view, fleet: view.rollouts(fleet))
EXPOSURES: Final = Table(15, ExposureRow, read=_exposures)
REPLICAS: Final = Table(16, ReplicaRow, read=lambda view, fleet: view.replicas(fleet))
CONFLICTS: Final = Table(17, Conflict, page=lambda view, fleet, after, count: view.conflicts(fleet, after, count))
DEAD_LETTERS: Final = Table(
    18, DeadLetter, page=lambda view, fleet, after, count: view.dead_letters(fleet, after, count)
)

MODELS: Final = Table(24, ModelRow, page=lambda view, fleet, after, count: view.model_page(fleet, after, count))
ALIASES: Final = Table(25, AliasRow, read=lambda view, fleet: view.aliases(fleet))

_WHO: Final = (FLEET, DEVICES, BOUNDS, TOKENS, EPOCHS, AUDIT, NONCES)
IDENTITY: Final = (*_WHO, TRUST, TARGETS, CHANNELS, ASSIGNED, MODELS, ALIASES, TOLD, ROLLOUTS, EXPOSURES)
STREAM: Final = (REPLICAS, CONFLICTS, DEAD_LETTERS)
TABLES: Final = {table.number: table for table in (*IDENTITY, *STREAM)}
# Made here: two threads that decode a type for the first time at once can crash msgspec.
_DECODERS: Final = {
    number: msgspec.msgpack.Decoder(list[table.row])  # type: ignore[name-defined]
    for number, table in TABLES.items()
}


def collect(view: Reading, fleet: bytes, tables: Sequence[Table], held: Sequence[SideRef]) -> Iterator[SideRef | Piece]:
    """The pieces of these tables: references to those of ``held`` that still say it, else what is to be written."""
    for table in tables:
        before = [ref for ref in held if ref.table == table.number]
        known = {ref.plain_sha256: ref for ref in before}
        for piece in _pieces(view, fleet, table, before):
            if isinstance(piece, SideRef):
                yield piece
                continue
            rows, full = piece
            plain = msgspec.msgpack.encode(rows)
            digest = sha256(plain).digest()
            final = full and _settled(table, rows)
            yield known.get(digest) or Piece(table.number, len(rows), final, plain, digest)


def moved(pieces: Sequence[SideRef | Piece], held: Sequence[SideRef]) -> bool:
    """Whether anything has changed that is worth a manifest of its own. A nonce alone is not, nor a number."""
    quiet = (NONCES.number, ASSIGNED.number)
    return any(isinstance(piece, Piece) and piece.table not in quiet for piece in pieces) or {
        ref.plain_sha256 for ref in held if ref.table not in quiet
    } != {piece.plain_sha256 for piece in pieces if piece.table not in quiet}


def rows_of(table: Table, plain: bytes) -> list[Any]:
    """The rows of a piece. Raises Malformed."""
    try:
        rows: list[Any] = _DECODERS[table.number].decode(plain)
    except UNDECODABLE as error:
        raise Malformed(f"not rows of side table {table.number}: {error}") from error
    return rows


def _pieces(
    view: Reading, fleet: bytes, table: Table, held: Sequence[SideRef]
) -> Iterator[tuple[list[Any], bool] | SideRef]:
    """(rows, whether no more will be added to them), or a reference to rows that cannot have changed."""
    if table.page is None:
        assert table.read is not None
        yield from ((rows, False) for rows in _cut(table.read(view, fleet)))
        return
    after = 0
    for ref, following in zip_longest(held, held[1:]):
        if ref.final:
            yield ref
        elif following is not None:  # it ends where it ended, though a row of it may have changed
            yield table.page(view, fleet, after, ref.rows), True
        else:
            break
        after += ref.rows
    full = True
    while full:
        rows, full = _fill(view, fleet, table.page, after)
        if rows:
            yield rows, full
        after += len(rows)


def _cut(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Into pieces."""
    piece: list[Any] = []
    size = 0
    for row in rows:
        length = len(msgspec.msgpack.encode(row))
        if piece and (len(piece) == PIECE_ROWS_MAX or size + length > PIECE_BYTES_MAX):
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += length
    if piece:
        yield piece


def _fill(view: Reading, fleet: bytes, page: Page, after: int) -> tuple[list[Any], bool]:
    """The rows of one piece, and whether it is full."""
    rows: list[Any] = []
    size = 0
    while True:
        read = page(view, fleet, after + len(rows), _ROWS_PER_READ)
        for row in read:
            size += len(msgspec.msgpack.encode(row))
            if rows and size > PIECE_BYTES_MAX:
                return rows, True
            rows.append(row)
            if len(rows) == PIECE_ROWS_MAX:
                return rows, True
        if len(read) < _ROWS_PER_READ:
            return rows, False


def _settled(table: Table, rows: Sequence[Any]) -> bool:
    """A conflict changes until it is resolved, a model may be removed; nothing else that is numbered ever changes."""
    return table is not MODELS and (table is not CONFLICTS or all(row.state != "open" for row in rows))
