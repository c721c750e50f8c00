"""What a model needs of a device, and whether this one has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sync.errors import AgentDBError
from sync.groups import look_up, parse_needs

if TYPE_CHECKING:
    from sync.models import Manifest


class Unfit(NamedTuple):
    """Why not. ``unreported``: the device has not said of itself yet what was asked."""

    why: str
    unreported: bool = False


def unfit(manifest: Manifest, reported: Mapping[str, Any], *, code_runs: bool) -> Unfit | None:
    """Why a device that reports this (``edge.twin.reported()``) cannot take it; None: it can."""
    if manifest.runs_code and not code_runs:
        return Unfit("it runs code when it is loaded, which [models] allow_code in edge.toml does not allow")
    with suppress(ValueError, OSError):  # where the system does not say
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if manifest.needs.memory_bytes > there > 0:
            return Unfit(f"it needs {manifest.needs.memory_bytes:,} bytes of memory, this device has {there:,}")
    return _without_hardware(manifest.needs.hardware, reported)


def _without_hardware(query: str, reported: Mapping[str, Any]) -> Unfit | None:
    try:
        needs = parse_needs(query)
    except AgentDBError as error:  # of a later version's language
        return Unfit(f"what it needs is not understood here: {error.message}")
    documents = {"reported": reported}
    if needs.matches(documents):
        return None
    missing = sorted({".".join(path[1:]) for path in needs.paths if look_up(documents, path) is None})
    if missing:
        return Unfit(f"it needs {query}, and this device does not report {', '.join(missing)} (edge.twin.report)", True)
    return Unfit(f"it needs {query}, which this device does not report of itself")
