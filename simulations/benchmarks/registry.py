"""Which module measures what. A module has ``run(wanted)``: it yields the measurements of that many names.

The order is that of the run: what imports numpy and lancedb into this process comes last, so that their threads and
memory touch nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module

from simulations.benchmarks.measure import Measurement

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "cold_start": ("cold_start_ms", "cold_start_rss_mb"),
    "durable_puts": ("put_durable_ops_s",),
    "batch_puts": ("put_batch_ops_s",),
    "group_commit": ("put_group_commit_speedup",),
    "gets": ("get_us",),
    "policy": ("policy_decision_us", "policy_may_us", "policy_cedar_us"),
    "policy_change": ("policy_change_ms",),
    "agent_writes": ("memory_add_us", "state_put_us", "state_get_us", "checkpoints_mb", "async_stall_ms"),
    "segments": ("segment_bytes_per_op", "edit_bytes_per_op", "seal_ops_s", "open_ops_s"),
    "sync_path": ("sync_ops_s", "sync_wire_bytes"),
    "restore": ("restore_ops_s",),
    "models": ("model_update_bytes", "model_share_bytes", "model_publish_mb_s", "model_write_mb_s"),
    "search_memory": ("search_rss_mb",),
    "search": ("search_ms", "search_recall", "search_lance_ms", "search_text_ms"),
    "vectors": ("vector_knn_ms", "ann_knn_ms", "ann_recall"),
    "agent_search": ("open_large_ms", "memory_search_text_ms", "memory_search_hybrid_ms", "open_million_mb"),
}
NAMES = tuple(name for names in BENCHMARKS.values() for name in names)


def select(only: str | None) -> dict[str, frozenset[str]]:
    """Module → the names wanted of it; a module's own name stands for all of its measurements. Raises LookupError."""
    if not only:
        return {module: frozenset(names) for module, names in BENCHMARKS.items()}
    asked = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [name for name in asked if name not in NAMES and name not in BENCHMARKS]
    if unknown or not asked:
        raise LookupError(f"no benchmark is called {', '.join(unknown) or repr(only)}; there are: {', '.join(NAMES)}")
    wanted = {
        module: frozenset(name for name in names if name in asked or module in asked)
        for module, names in BENCHMARKS.items()
    }
    return {module: names for module, names in wanted.items() if names}


def run(module: str, wanted: frozenset[str]) -> Iterator[Measurement]:
    found: Iterable[Measurement] = import_module(f"simulations.benchmarks.{module}").run(wanted)
    for measurement in found:
        if measurement.name in wanted:
            yield measurement
