"""Segments: what an operation weighs on the wire, and how fast segments are made and opened.

``segment_bytes_per_op``: 10,000 memory documents in one sealed segment, header and signature included.
``edit_bytes_per_op``: the same for 1,000 one-field edits (a random float each: 8 of the bytes cannot be compressed).
``seal_ops_s``: encode + compress + seal + sign; ``open_ops_s``: the reverse, with every check.

Baseline: the codec alone. For the bytes: row-wise msgpack + zstd-3 of the same operations (key, timestamp, fields),
with nothing encrypted or signed; for the times: the same, encoded from and decoded to plain rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import zstandard

from edge.ports import SystemRandom
from simulations.benchmarks.measure import Goal, Measurement, alternate, timed
from simulations.workloads import COLLECTION, Document, edits, memory_documents
from sync.keys import DeviceKey, KeyRing, PublicIdentity
from sync.operations import Kind, Operation, Shape
from sync.segment import GENESIS, Opened, Sealed, expect, open_segment, seal
from sync.stamps import replica_id, timestamp_of

DOCUMENTS, EDITS = 10_000, 1_000
ROUNDS = 15
ZSTD_LEVEL = 3
_CODEC_IS = "row-wise msgpack + zstd-3, neither encrypted nor signed"


def run(wanted: frozenset[str]) -> Iterator[Measurement]:
    documents = memory_documents(DOCUMENTS)
    bench = _Bench(documents, Kind.PUT)
    sealed = bench.seal()
    yield Measurement(
        "segment_bytes_per_op",
        len(sealed.data) / DOCUMENTS,
        "bytes",
        1,
        len(bench.raw_pack()) / DOCUMENTS,
        (Goal("value", "<=", 42),),
        extra={"json_bytes_per_op": sum(len(document.as_json()) for document in documents) / DOCUMENTS},
        baseline_is=_CODEC_IS,
    )
    changes = edits(documents, EDITS)
    small = _Bench(changes, Kind.PATCH)
    yield Measurement(
        "edit_bytes_per_op",
        len(small.seal().data) / EDITS,
        "bytes",
        1,
        len(small.raw_pack()) / EDITS,
        (Goal("value", "<=", 15),),
        extra={"json_bytes_per_op": sum(len(change.as_json()) for change in changes) / EDITS},
        baseline_is=_CODEC_IS,
    )
    if not wanted & {"seal_ops_s", "open_ops_s"}:
        return
    if bench.open(sealed).operations != bench.operations:
        raise AssertionError("the segment did not give back what went in")
    packed = bench.raw_pack()
    sealing, opening, packing, unpacking = alternate(
        ROUNDS,
        lambda: DOCUMENTS / timed(bench.seal),
        lambda: DOCUMENTS / timed(lambda: bench.open(sealed)),
        lambda: DOCUMENTS / timed(bench.raw_pack),
        lambda: DOCUMENTS / timed(lambda: _raw_unpack(packed)),
    )
    for name, value, baseline in (("seal_ops_s", sealing, packing), ("open_ops_s", opening, unpacking)):
        goal = Goal("value", ">=", 200_000)
        yield Measurement(name, value, "ops/s", ROUNDS, baseline, (goal,), baseline_is=_CODEC_IS)


class _Bench:
    """Operations as a device has them in its log, and keys to seal them with."""

    def __init__(self, documents: Sequence[Document], kind: Kind) -> None:
        random = SystemRandom()
        self.key = DeviceKey.generate(random)
        self.ring = KeyRing({1: random.token(32)})
        self.fleet = random.token(16)
        self.replica = replica_id(self.key.device_id, 1)
        names = tuple(sorted(documents[0].fields))
        shape = Shape(kind, COLLECTION, names, "l" * len(names))
        first_ms = 1_700_000_000_000
        self.operations = [
            Operation(
                self.replica,
                seq,
                timestamp_of(document.fields.get("at_ms", first_ms + 700 * seq)),
                0,
                shape,
                document.key,
                tuple(document.fields[name] for name in names),
            )
            for seq, document in enumerate(documents, 1)
        ]
        self.rows = [(op.key, op.ts, op.fields) for op in self.operations]

    def seal(self) -> Sealed:
        return seal(
            self.operations,
            fleet=self.fleet,
            stream=self.replica,
            replica=self.replica,
            first_seq=1,
            previous=GENESIS,
            ring=self.ring,
            signer=self.key,
        )

    def open(self, sealed: Sealed) -> Opened:
        return open_segment(
            sealed.data,
            identity=self._identity,
            ring=self.ring,
            check=expect(fleet=self.fleet, stream=self.replica, replica=self.replica, first_seq=1, previous=GENESIS),
        )

    def _identity(self, _key_id: bytes) -> PublicIdentity:
        return self.key.public

    def raw_pack(self) -> bytes:
        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(msgpack.packb(self.rows))


def _raw_unpack(data: bytes) -> list[Any]:
    rows: list[Any] = msgpack.unpackb(zstandard.ZstdDecompressor().decompress(data))
    return rows
