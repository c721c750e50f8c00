"""``sync`` is sans I/O: no file, socket, thread, clock or dice of its own. The linter has a contract; this looks
itself.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SYNC = Path(__file__).resolve().parents[2] / "sync"
FILES = sorted(SYNC.glob("*.py"))
FORBIDDEN = {
    *("aiohttp", "apsw", "asyncio", "concurrent", "datetime", "http", "io", "lancedb", "logging", "multiprocessing"),
    *("numpy", "os", "pathlib", "pyarrow", "random", "secrets", "select", "selectors", "shutil", "signal", "socket"),
    *(
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
        "uuid",
        "edge",
        "cloud",
        "simulations",
    ),
}
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_module_imports_io_threads_clocks_or_dice(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"{path.name}:{node.lineno}"
        assert FORBIDDEN.isdisjoint(name.partition(".")[0] for name in names), path.name


def test_importing_all_of_it_brings_in_no_database_and_no_server() -> None:
    modules = ", ".join(f"sync.{path.stem}" for path in FILES if path.stem != "__init__")
    code = f"import sys, {modules}; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=SYNC.parent, capture_output=True, text=True, check=True)
    heavy = {"lancedb", "numpy", "pyarrow", "aiohttp", "apsw", "sqlite3", "asyncio", "edge", "cloud"}
    assert heavy.isdisjoint(found.stdout.split())
