"""Which projections a store gets: those of who writes it, or of who reads beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edge.storage.projections import Projections

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.storage.delta_log import DeltaLog


def projections_of(path: str, config: EdgeConfig, log: DeltaLog, besides: Callable[[], None]) -> Projections:
    bounds = {"exact_bytes_max": config.exact_mib_max << 20, "flush_interval_ms": config.flush_interval_ms}
    if log.read_only:
        from edge.storage.reading_projections import reading

        return reading(log, path, **bounds)
    indexes = {"ann_rows_min": config.ann_rows_min, "ann_bytes_max": config.ann_mib_max << 20}
    return Projections(log, path, **bounds, **indexes, besides=besides)
