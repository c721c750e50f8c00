"""``docs/BENCHMARKS.md``, written from the lines of one complete run: nobody types a figure."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from simulations.benchmarks.registry import BENCHMARKS
from simulations.processes import ROOT

TARGET = ROOT / "docs" / "BENCHMARKS.md"
_LIBRARIES = ("apsw", "cryptography", "lancedb", "msgpack", "numpy", "zstandard")
_KNOWN = {"name", "value", "unit", "baseline", "ratio", "runs", "baseline_is", "target", "met"}
_HEAD = """# Benchmarks

Written by `python -m simulations.benchmarks --report`; run it to get the figures of your machine. Medians of
alternating rounds; every baseline was measured in the same run. "ratio" is value / baseline.
"""


def write(lines: Sequence[dict[str, Any]], busy: float) -> Path:
    TARGET.write_text(render(lines, busy), encoding="utf-8")
    return TARGET.relative_to(ROOT)


def render(lines: Sequence[dict[str, Any]], busy: float) -> str:
    """``busy``: the machine's load before the run, that of other programs. Raises ValueError if a line is missing."""
    by_name = {line["name"]: line for line in lines}
    missing = [name for names in BENCHMARKS.values() for name in names if name not in by_name]
    if missing:
        raise ValueError(f"the run is not complete: {', '.join(missing)}")
    parts = [_HEAD, _machine(busy), _table(lines)]
    for module in BENCHMARKS:
        text = (import_module(f"simulations.benchmarks.{module}").__doc__ or "").strip()
        parts.append(f"## {module}\n\n{text}\n\n{_details(by_name, module)}")
    return "\n".join(parts).rstrip() + "\n"


def _machine(busy: float) -> str:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    where = f"{os.cpu_count()} cores ({platform.system()} {platform.machine()})"
    return (
        f"Measured on {where}; other programs kept {busy:.1f} of them busy before the run (1-minute load).\n"
        f"{python}, {versions}.\n"
    )


def _table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| measurement | value | baseline | ratio | target | met |", "|---|---|---|---|---|---|"]
    for line in lines:
        met = {True: "yes", False: "**no**", None: ""}[line.get("met")]
        rows.append(
            f"| `{line['name']}` | {_figure(line['value'])} {line['unit']} | {_figure(line['baseline'])} "
            f"| {_figure(line['ratio'])} | {line.get('target', '')} | {met} |"
        )
    return "\n".join(rows) + "\n"


def _details(by_name: dict[str, dict[str, Any]], module: str) -> str:
    rows = []
    for name in BENCHMARKS[module]:
        line = by_name[name]
        extra = [f"{key} {_figure(value)}" for key, value in line.items() if key not in _KNOWN]
        baseline = f"baseline: {line['baseline_is']}" if line.get("baseline_is") else ""
        said = "; ".join(filter(None, [f"{line['runs']} runs", baseline, *extra]))
        rows.append(f"* `{name}`: {said}")
    return "\n".join(rows) + "\n"


def _figure(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
