"""Reading a store on a disk that cannot be written, or that has changed what it had (ADR 18)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge import AgentDBError, CorruptStore, Edge, NotFound
from edge.storage.following_reader import connect_reading
from tests.edge.readers_world import ROOT, child

AS_NOBODY = """
import os, sys
from edge import Edge
from edge.storage import log_care, log_follower, page_checksums, reading_projections  # the other may not import them
page_checksums.checksum_vfs()
import sync.digest
os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
with Edge.open(sys.argv[1], read_only=True) as edge:
    notes = edge.collection("notes")
    print(notes.count(), notes.get("k7"), len(edge.digest()), edge.log.verify(), flush=True)
    for line in sys.stdin:
        print(notes.count(), flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, who may not write: needs root")
@pytest.mark.parametrize("left", [("-wal", "-shm"), ("-wal",), ()], ids=["killed", "copied", "closed"])
def test_a_directory_that_cannot_be_written(tmp_path: Path, left: tuple[str, ...]) -> None:
    """As a writer left it that was killed; the same without the shared memory; as one left it that closed."""
    end = "edge.close()" if not left else "os._exit(0)"
    child(
        "import sys, os; from edge import Edge\nedge = Edge.open(sys.argv[1]); notes = edge.collection('notes')\n"
        f"for number in range(50): notes.put(f'k{{number}}', {{'n': number}})\n{end}",
        tmp_path / "s",
    )
    store = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp", f"agentdb-test-{os.getpid()}")  # all may go there
    store.mkdir(mode=0o755)
    try:
        for name in ("", *left):
            shutil.copy(tmp_path / "s" / f"log.db{name}", store)
            (store / f"log.db{name}").chmod(0o644)
        names = sorted(path.name for path in store.iterdir())
        with subprocess.Popen(
            [sys.executable, "-c", AS_NOBODY, str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            said = process.stdout.readline()
            assert said.split(" ", 1)[0] == "50", process.stderr.read()
            assert said.endswith("{'n': 7} 64 []\n")
            assert sorted(path.name for path in store.iterdir()) == names, "nothing was made"
            child(
                "import sys; from edge import Edge\n"
                "with Edge.open(sys.argv[1]) as edge: edge.collection('notes').put('more', {'n': 1})",
                tmp_path / "s",
            )
            for name in ("-wal", "-shm"):
                (store / f"log.db{name}").unlink(missing_ok=True)
            (store / "new").write_bytes((tmp_path / "s" / "log.db").read_bytes())
            (store / "new").chmod(0o644)
            (store / "new").replace(store / "log.db")
            process.stdin.write("\n")
            process.stdin.flush()
            if not left or left == ("-wal",):
                assert process.stdout.readline() == "51\n", process.stderr.read()
            process.stdin.close()
    finally:
        shutil.rmtree(store)


def test_a_log_whose_end_the_disk_has_changed_is_refused(tmp_path: Path) -> None:
    child(
        "import sys, os; from edge import Edge\nedge = Edge.open(sys.argv[1]); notes = edge.collection('notes')\n"
        "for number in range(20): notes.put(str(number), {'n': number})\nos._exit(0)",
        tmp_path,
    )
    wal = tmp_path / "log.db-wal"
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 1
    wal.write_bytes(data)
    (tmp_path / "log.db-shm").unlink()
    with pytest.raises(CorruptStore, match="newest writes cannot be read"):
        Edge.open(tmp_path, read_only=True)


def test_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        connect_reading(str(tmp_path / "log.db"))
    (tmp_path / "log.db").mkdir()
    with pytest.raises(AgentDBError):
        connect_reading(str(tmp_path / "log.db"))
