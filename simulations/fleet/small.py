"""Small bounds, so that a run of a hundred records meets what a million meet in life: baselines and snapshots of many
pages, archives of many batches, records that outgrow an operation.

They are constants of the product's modules, and these are all that is changed in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from cloud.storage.archive import batches, rebuild, side, snapshots, writer
from cloud.stream import baseline, feed, ingest
from edge.storage import kept_back, transaction, write_checks
from sync import column_checks, columns, segment

SMALL_OPERATION = 8 << 10  # bytes
_BOUNDS: list[tuple[ModuleType, str, int]] = [
    (baseline, "RECORDS_PER_PAGE", 4),
    (baseline, "_RECORDS_PER_READ", 3),
    (feed, "JOIN_BELOW", 3),
    (feed, "_RUN_BYTES_MAX", 700),
    (column_checks, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (columns, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (kept_back, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (transaction, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (write_checks, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (ingest, "OPERATION_BYTES_MAX", SMALL_OPERATION),
    (snapshots, "_IMAGE_BYTES_MAX", SMALL_OPERATION - 1024),
    (segment, "SEGMENT_SEALED_BYTES_MAX", 4 * SMALL_OPERATION),
    (snapshots, "_SEGMENT_RECORDS_MAX", 7),
    (batches, "JOINED_OPERATIONS_MAX", 9),
    (writer, "BATCH_ROWS_MAX", 6),
    (side, "PIECE_ROWS_MAX", 5),
    (rebuild, "HELD_ROWS_MAX", 8),
]


@contextmanager
def small_bounds() -> Iterator[None]:
    kept = [getattr(module, name) for module, name, _ in _BOUNDS]
    try:
        for module, name, bound in _BOUNDS:
            setattr(module, name, bound)
        yield
    finally:
        for (module, name, _), bound in zip(_BOUNDS, kept, strict=True):
            setattr(module, name, bound)
