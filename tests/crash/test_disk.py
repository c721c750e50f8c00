"""The disk that forgets does so, and no more than it may; and a product that did not sync would be found out."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from simulations.crash import judge, power
from simulations.crash.disk import SECTOR, Disk, Files
from simulations.crash.operations import Operation, Reader
from simulations.crash.recording import record
from simulations.crash.strace import TraceError, calls
from simulations.crash.zygote import Zygote
from tests.crash.traced import needs_strace

OLD: Files = {"log": b"old", "folder": None, "folder/note": b"kept"}


def _after(*operations: Operation, files: Files = OLD) -> Disk:
    disk = Disk(files)
    for number, operation in enumerate(operations):
        disk.apply(operation._replace(began=number), number)
    return disk


def _possible(disk: Disk, path: str, tries: int = 400) -> set[bytes | None]:
    """What may be left of a file; None if it is not there."""
    chance = random.Random(1)
    return {disk.after_power_cut(chance).get(path) for _ in range(tries)}


WRITE = (Operation("open", "log", file=1), Operation("write", "log", file=1, place=3, data=b"new"))


def test_what_was_not_synced_may_be_there_or_not() -> None:
    disk = _after(*WRITE)
    assert disk.after_power_cut(None)["log"] == b"old"
    assert disk.as_it_is()["log"] == b"oldnew"
    assert _possible(disk, "log") == {b"old", b"oldnew", b"old\0\0\0"}


def test_what_was_synced_stays() -> None:
    assert _possible(_after(*WRITE, Operation("sync", "log", file=1)), "log") == {b"oldnew"}


def test_a_sync_covers_what_returned_before_it_began() -> None:
    disk = Disk(OLD)
    disk.apply(WRITE[0], 0)
    disk.apply(WRITE[1], 5)
    disk.apply(Operation("sync", "log", file=1, began=4), 6)
    assert b"old" in _possible(disk, "log")


def test_writes_are_torn_at_sectors() -> None:
    data = bytes([1]) * SECTOR * 2
    found = _possible(_after(WRITE[0], Operation("write", "log", file=1, place=0, data=data)), "log")
    half = data[:SECTOR]
    assert half in found
    assert b"old" + bytes(SECTOR - 3) + half in found
    assert not any(content and set(content) - {0, 1, *b"old"} for content in found)


def test_names_last_when_their_directory_is_synced() -> None:
    made = (Operation("create", "a", file=2), Operation("sync", "a", file=2), Operation("rename", "a", "folder/b"))
    disk = _after(*made)
    assert _possible(disk, "folder/b") == {None, b""}
    assert _possible(disk, "a") == {None, b""}
    opened = (Operation("open", "folder", file=3), Operation("sync", "folder", file=3))
    assert _possible(_after(*made, *opened), "folder/b") == {b""}
    assert _possible(_after(Operation("unlink", "log")), "log") == {None, b"old"}


def test_a_rename_happens_whole_or_not_at_all() -> None:
    chance = random.Random(2)
    disk = _after(Operation("rename", "log", "folder/note"))
    for _ in range(100):
        files = disk.after_power_cut(chance)
        assert ("log" in files, files["folder/note"]) in {(True, b"kept"), (False, b"old")}


def _trace(tmp_path: Path, *lines: str) -> Path:
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{line}\n" for line in lines))
    return trace


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_a_trace_is_read(tmp_path: Path) -> None:
    log = f"5<{_hex(f'{tmp_path}/log')}>"
    trace = _trace(
        tmp_path,
        f'7 openat(AT_FDCWD<{_hex("/")}>, "{_hex(f"{tmp_path}/log")}", O_RDWR|O_CREAT, 0600) = {log}',
        f'7 pwrite64({log}, "{_hex("abc")}", 3, 9 <unfinished ...>',
        f"8 fsync({log}) = 0",
        "7 <... pwrite64 resumed>) = 3",
        f'7 write({log}, "{_hex("abc")}", 3) = 2',
        f'7 sendto(4<{_hex("socket:[1]")}>, "{_hex("ack 6")}", 5, 0, NULL, 0) = 5',
        "7 +++ exited with 0 +++",
    )
    found = [operation for _, operation in Reader(str(tmp_path)).operations(calls(trace))]
    assert [operation.kind for operation in found] == ["create", "sync", "write", "write", "ack"]
    assert [(operation.place, operation.data) for operation in found[2:]] == [(9, b"abc"), (0, b"ab"), (6, b"")]
    assert (found[2].began, found[3].path) == (1, "log")


@pytest.mark.parametrize(
    "line",
    [
        "7 {unreadable",
        "7 copy_file_range(5<ROOT/log>, NULL, 6<ROOT/b>, NULL, 9, 0) = 9",
        '7 pwrite64(5<ROOT/log>, "\\x61", 1, 0) = 1',  # nobody has opened it
        "7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5<ROOT/log>, 0) = 0x7f0000000000",
        '7 rename("ROOT/log", "\\x2f\\x65\\x6c\\x73\\x65") = 0',
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, line: str) -> None:
    trace = _trace(tmp_path, re.sub(r"ROOT/(\w+)", lambda found: _hex(f"{tmp_path}/{found[1]}"), line))
    with pytest.raises(TraceError):
        list(Reader(str(tmp_path)).operations(calls(trace)))


@needs_strace
@pytest.mark.slow
def test_a_store_that_did_not_sync_would_be_found_out(tmp_path: Path) -> None:
    """The recorded operations without their syncs: on such a disk acknowledged writes are lost."""
    with Zygote() as zygote:
        recording = record(zygote, "device", tmp_path / "device")
    careless = recording._replace(done=tuple(item for item in recording.done if item[1].kind != "sync"))
    lost = 0
    for number, state in enumerate(power.states(careless, ("store/log.db",), 25, random.Random(1))):
        base = tmp_path / str(number)
        judge.lay_out(base / "disk", state.files)
        how = {"heals": True, "syncs": False, "tables": False, "copies": False}
        lost += bool(judge.judged("device", base, state.acknowledged, how))
    assert lost > 5
