"""docs/CRASH_TESTS.md, written from the results of one or several runs: nobody types a figure."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

from simulations.crash.results import Result, table
from simulations.processes import ROOT

TARGET = ROOT / "docs" / "CRASH_TESTS.md"
PARTS = ("kills", "power", "flips", "faults")
_HEAD = """# Crash tests

Written by `python -m simulations.crash all --report`; `make soak` runs all of it. The stores, the processes and the
system calls are real; only the disk of `power` is replayed. A case is one process killed, one state of a disk, one
flipped bit, one failing call. Where fewer cases were run than there are, they were drawn at random. A violation is a
lost or foreign record, a store that does not open, an error that is none of ours, or anything that verify or a search
gets wrong afterwards.
"""
_TAIL = """## What is known and stays

* **A bit that flips in a write-ahead log** (a killed process's, not yet moved into the database) ends the log for
  SQLite. A device refuses such a log if later commits prove that it is damaged, and not cut short; in the last commit
  and in the log's header nothing proves it, and in a control plane's nothing at all: then the commits from there on
  are missing, and nothing says so (`lost tail`, [ADR 0009](adr/0009-pages-carry-checksums.md)). What is there is
  whole, and as it once was. A store that was closed has no such log.
* **A commit that was written and could not be synced** raises an error and is not to be seen in that process, but may
  be there when the store is opened again (`typed error, and written`): whether the disk has it, nobody knows.
* **A byte of `cloud.toml`** may make another valid setting: it is the owner's text, and has no checksum.
"""


def write(results: Sequence[Result]) -> Path:
    """Raises ValueError if a part is missing."""
    TARGET.write_text(render(results), encoding="utf-8")
    return TARGET.relative_to(ROOT)


def render(results: Sequence[Result]) -> str:
    missing = [part for part in PARTS if not any(result.part == part for result in results)]
    if missing:
        raise ValueError(f"the run is not complete: {', '.join(missing)}")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("apsw", "lancedb"))
    found = sum(len(result.violations) for result in results)
    cases = sum(result.cases for result in results)
    parts = [_HEAD, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {versions}.\n"]
    parts.append(f"**{cases:,} cases, {found:,} violations.**\n")
    for part in PARTS:
        text = (import_module(f"simulations.crash.{part}").__doc__ or "").strip()
        parts.append(f"## {part}\n\n{text}\n\n{table([result for result in results if result.part == part])}\n")
    return "\n".join([*parts, _TAIL])


def read(files: Sequence[Path]) -> list[Result]:
    """The results of earlier runs, from their ``--json`` lines. Raises OSError, ValueError."""
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        Result(
            line["part"],
            line["store"],
            line["what"],
            line["cases"],
            line["possible"],
            line["outcomes"],
            tuple(line["violation"]),
            line["seconds"],
        )
        for line in lines
    ]
