"""LanceTables: what importing them costs, and the threads that Lance is given before it starts any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sync.schema import declare
from tests.edge.stores import open_log, put


def test_importing_it_imports_neither_lancedb_nor_numpy() -> None:
    code = "import sys, edge.storage.tables; print([m for m in ('numpy', 'lancedb', 'pyarrow') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("threads", ["1", "0", "", "nonsense"])
def test_lance_gets_the_threads_it_needs(tmp_path: Path, threads: str) -> None:
    """With LANCE_IO_THREADS=1 the first write hangs."""
    log = open_log(tmp_path, declare("notes", text=["body"]))
    put(log, "notes", {f"k{n}": {"body": f"word{n}"} for n in range(10)})
    log.close()
    code = f"""
import os
from pathlib import Path
from edge.storage.tables import LanceTables
from tests.edge.stores import open_log
os.environ["LANCE_IO_THREADS"] = os.environ["LANCE_CPU_THREADS"] = {threads!r}
os.cpu_count = lambda: 1
tables = LanceTables({str(tmp_path)!r}, open_log(Path({str(tmp_path)!r})))
assert len(tables.search_text("notes", "word1 word2 word3 word4 word5", 3)) > 0
print(os.environ["LANCE_IO_THREADS"], os.environ["LANCE_CPU_THREADS"])
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["2", "2"]
