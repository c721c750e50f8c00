"""Opening a store: what it may import, its keys, its lock, and that one process has it at a time."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

import edge as package
from edge import Edge
from edge.storage import store_making
from edge.storage.store_lock import Holder, holder, holding
from sync.errors import (
    AgentDBError,
    CorruptStore,
    InvalidValue,
    NotFound,
    StorageError,
    StoreLocked,
)
from tests.edge.stores import SeededRandom

ROOT = Path(__file__).parent.parent.parent


def run(script: str, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_open_put_and_get_import_next_to_nothing(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "store") as edge:
        edge.collection("notes", vector=("v", 3)).put("a", {"x": 1, "v": [1, 2, 3]})
    imported = run(
        """
        import sys
        from edge import Edge
        edge = Edge.open(sys.argv[1])
        notes = edge.collection("notes")
        notes.put("b", {"x": 2, "v": [4, 5, 6]})
        assert notes.get("b")["x"] == 2
        with edge.batch():
            notes.patch("a", {"x": 3})
        assert notes.count() == 2
        edge.close()
        print(*sorted(sys.modules))
        """,
        tmp_path / "store",
    ).split()
    heavy = {
        *("lancedb", "lance", "numpy", "pyarrow", "aiohttp", "cryptography", "asyncio", "pandas", "click", "rich"),
        *(
            "dataclasses",
            "hashlib",
            "inspect",
            "json",
            "logging",
            "msgspec",
            "pathlib",
            "threading",
            "tomllib",
            "zstandard",
        ),
    }
    assert not heavy & set(imported)


def test_the_package_is_lazy_and_complete() -> None:
    assert run("import sys, edge; print('edge.node' in sys.modules, 'typing' in sys.modules)").startswith("False")
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))
    assert set(_errors()) <= set(package.__all__), "what can be raised can be caught by a name of this package"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = package.Nonsense


def _errors() -> list[str]:
    found: list[type[AgentDBError]] = [AgentDBError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls.__name__ for cls in found if cls.__module__ == "sync.errors"]


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_new_store_has_keys_that_make_its_device_id(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "a" / "b" / "store") as edge:
        store, device = Path(edge.path), edge.device
        assert edge.device_key().device_id == device
        assert edge.log.replica == device + (1).to_bytes(4, "big")
    keys = store / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    assert (keys / "device.key").stat().st_mode & 0o777 == 0o600
    with Edge.open(store) as again:
        assert again.device == device
    assert Edge.open(store, random=SeededRandom()).device == device, "closed by nobody, and it does not matter"


def test_keys_of_an_attempt_that_was_cut_short_are_used(tmp_path: Path) -> None:
    """The plug was pulled after the keys were made, before the log had its tables."""
    store_making.begin(str(tmp_path), used=False)
    device = store_making.new_device(str(tmp_path), SeededRandom())
    with Edge.open(tmp_path, random=SeededRandom(2)) as edge:
        assert edge.device == device
    assert not (tmp_path / "making").exists()


def test_a_store_whose_making_was_cut_short_is_made(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    with Edge.open(tmp_path, create=False) as edge:
        edge.collection("notes").put("a", {"x": 1})
        assert edge.verify() == []


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("left", ["keys", "exact", "lance"])
def test_a_log_that_lost_everything_is_no_new_store(tmp_path: Path, left: str, create: bool) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes").put("a", {"x": 1})
    if left != "keys":
        shutil.rmtree(tmp_path / "keys")
        (tmp_path / left).mkdir()
    (tmp_path / "log.db").write_bytes(b"")
    for _ in range(2):  # the attempt itself must not make it look different
        with pytest.raises(CorruptStore, match=left) as caught:
            Edge.open(tmp_path, create=create)
        assert "snapshot" in caught.value.hint
    (tmp_path / "log.db").unlink()
    with pytest.raises(CorruptStore, match="missing"):
        Edge.open(tmp_path, create=create)


def test_keys_alone_are_a_wish_to_begin_again(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "old") as edge:
        device = edge.device
        edge.collection("notes").put("a", {"x": 1})
    (tmp_path / "new").mkdir()
    (tmp_path / "old" / "keys").rename(tmp_path / "new" / "keys")
    with pytest.raises(NotFound):
        Edge.open(tmp_path / "new", create=False)
    with Edge.open(tmp_path / "new") as edge:
        assert (edge.device, edge.collections()) == (device, [])
    with Edge.open(tmp_path / "new", create=False) as edge:
        assert edge.device == device


@pytest.mark.parametrize("name", ["cloud.db", "cloud.toml"])
def test_a_control_planes_directory_does_not_become_a_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for create in (True, False):
        with pytest.raises(InvalidValue, match="control plane"):
            Edge.open(tmp_path, create=create)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_keys_that_are_missing_damaged_or_open_to_others(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        path = tmp_path / "keys" / "device.key"
        path.chmod(0o644)
        with pytest.raises(StorageError, match="read by others"):
            edge.device_key()
        path.chmod(0o600)
        path.write_bytes(b"short")
        with pytest.raises(CorruptStore, match="damaged"):
            edge.device_key()
        path.unlink()
        with pytest.raises(CorruptStore, match="missing"):
            edge.device_key()
        edge.collection("notes").put("a", {"x": 1})
    with Edge.open(tmp_path) as edge:
        assert edge.collection("notes").get("a") == {"x": 1}, "the records do not need the keys"


def test_no_store_and_no_wish_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        Edge.open(tmp_path / "none", create=False)
    assert "agentdb-edge init" in caught.value.hint
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"):
        Edge.open(tmp_path / "store")


def test_a_file_in_the_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(InvalidValue, match="there is a file") as caught:
            Edge.open(path)
        assert caught.value.hint


# -- one process at a time --------------------------------------------------------------------------------------------


def test_the_second_one_is_told_who_holds_the_store(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes").put("a", {"x": 1})
        with pytest.raises(StoreLocked, match=str(os.getpid())):
            Edge.open(tmp_path)
        said = run(
            """
            import sys
            from edge import Edge
            from sync.errors import StoreLocked
            try:
                Edge.open(sys.argv[1])
            except StoreLocked as error:
                print(error, error.retryable)
            """,
            tmp_path,
        )
        assert said.startswith(f"the store at {tmp_path} is open in process {os.getpid()} (")
        assert re.search(r"\) since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC True$", said)
        held = holder(str(tmp_path / "lock"))
        assert held is not None
        assert held[:2] == (os.getpid(), said.split("(")[1].split(")")[0])
        assert abs(held.since_ms - time.time() * 1000) < 120_000
        assert holding(str(tmp_path / "lock")) == held
    assert holding(str(tmp_path / "lock")) is None
    run("import sys; from edge import Edge; Edge.open(sys.argv[1]).close()", tmp_path)


def test_a_lock_vanishes_with_its_process(tmp_path: Path) -> None:
    run("import sys, os; from edge import Edge; edge = Edge.open(sys.argv[1]); os._exit(0)", tmp_path)
    with Edge.open(tmp_path) as edge:
        assert edge.verify() == []


@pytest.mark.parametrize("left", ["{pid} robot\n1700000000000\n", "1 init\n", "4194304 gone\n", "no pid", ""])
def test_what_a_lock_says_keeps_nobody_out(tmp_path: Path, left: str) -> None:
    """A process that was killed leaves its name behind, and another may have its number by now."""
    Edge.open(tmp_path).close()
    (tmp_path / "lock").write_text(left.format(pid=os.getppid()))
    assert holding(str(tmp_path / "lock")) is None
    started = time.monotonic()
    with Edge.open(tmp_path) as edge:
        assert time.monotonic() - started < 5
        edge.collection("notes").put("a", {"x": 1})
        assert holder(str(tmp_path / "lock")) == holding(str(tmp_path / "lock")) != Holder(os.getppid(), "robot")


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import sys; from edge import Edge; edge = Edge.open(sys.argv[1])\nprint('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match=f"process {process.pid} "):
            Edge.open(tmp_path)
        process.kill()
        process.wait()
    left = holder(str(tmp_path / "lock"))
    assert left is not None
    assert left.pid == process.pid, "its name is still there"
    Edge.open(tmp_path).close()


def test_who_asks_whether_a_store_is_open_keeps_nobody_out(tmp_path: Path) -> None:
    Edge.open(tmp_path).close()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            holding(str(tmp_path / "lock"))
            time.sleep(0.0001)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for _ in range(100):
                Edge.open(tmp_path).close()
        finally:
            done.set()
        for one in asking:
            one.result()


def test_two_processes_write_in_turns(tmp_path: Path) -> None:
    script = """
        import sys
        from edge import Edge
        for turn in range(25):
            with Edge.open(sys.argv[1], wait_s=60) as edge:
                notes = edge.collection("notes", fields={"n": "counter"})
                notes.increment("both", "n", upsert=True)
                notes.put(f"{sys.argv[2]}-{turn}", {"x": notes.get("both")["n"]})
    """
    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(run, script, tmp_path, name) for name in ("a", "b", "c")]:
            one.result()
    with Edge.open(tmp_path, read_only=True) as edge:
        notes = edge.collection("notes")
        assert notes.get("both") == {"n": 75}
        assert sorted(fields["x"] for key, fields in notes.scan() if key != "both") == list(range(1, 76))


def test_who_can_wait_gets_the_store_when_it_is_closed(tmp_path: Path) -> None:
    edge = Edge.open(tmp_path)
    timer = threading.Timer(0.3, edge.close)
    timer.start()
    Edge.open(tmp_path, wait_s=30).close()
    timer.join()
    assert holder(str(tmp_path / "lock")) is None


@pytest.mark.parametrize("wait_s", [-1, float("nan"), float("inf"), "1", None])
def test_a_wait_is_a_span_of_time(tmp_path: Path, wait_s: float) -> None:
    with pytest.raises(InvalidValue, match="wait_s"):
        Edge.open(tmp_path, wait_s=wait_s)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_timeout_is_a_span_of_time(tmp_path: Path, timeout_s: float) -> None:
    with Edge.open(tmp_path) as edge:
        with pytest.raises(InvalidValue, match="timeout_s"):
            edge.sync(timeout_s=timeout_s)
        for fine in (None, 0.001, 1e300):
            with pytest.raises(NotFound, match="not joined"):
                edge.sync(timeout_s=fine)


def _put_in_child(edge: Edge, pipe: multiprocessing.connection.Connection) -> None:
    try:
        edge.collection("notes").put("child", {"x": 1})
        pipe.send("written")
    except StorageError as error:
        pipe.send(str(error))


def test_a_forked_child_must_not_write(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with Edge.open(tmp_path) as edge:
        edge.collection("notes").put("a", {"x": 1})
        here, there = context.Pipe()
        child = context.Process(target=_put_in_child, args=(edge, there))
        child.start()
        assert "fork" in here.recv()
        child.join()
        edge.collection("notes").put("b", {"x": 1})
        assert "child" not in edge.collection("notes")


def test_a_fork_that_lives_on_does_not_keep_the_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    edge = Edge.open(tmp_path)
    here, there = context.Pipe()
    child = context.Process(target=there.recv)
    child.start()
    try:
        edge.close()
        Edge.open(tmp_path).close()
    finally:
        here.send("go")
        child.join()


def test_two_that_open_a_new_store_at_the_same_moment(tmp_path: Path) -> None:
    """One makes it, the other waits for it: nobody finds a directory in its way."""

    def opened(number: int) -> None:
        barrier.wait()
        Edge.open(tmp_path / "above" / f"store{number}", wait_s=30.0).close()

    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for number in range(40):
            list(pool.map(opened, [number, number]))
