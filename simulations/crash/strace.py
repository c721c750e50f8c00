"""strace, run and read: what a process did to the files under one directory, in the order in which it was done.

Reading is strict. A line that is not understood, or a call that changes files in a way that ``simulations.crash.disk``
does not know, is an error: a write that was overlooked would make every later verdict worthless.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_READ = "openat,open,creat,lseek,mmap"
_WRITE = (
    "write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,"
    "symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,fsync,fdatasync,sync_file_range,syncfs,sync,msync,copy_file_range,"
    "sendfile,splice,io_uring_setup,mknod,mknodat"
)
TRACED = f"{_READ},{_WRITE},dup,dup2,dup3,sendto"
_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?|0x[0-9a-f]+)(.*)", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_HANDLE = re.compile(r"(-?\d+|AT_FDCWD)(?:<((?:\\x[0-9a-f]{2}|[^>])*)>)?")


class TraceError(Exception):
    """The trace holds something that is not understood."""


class Call(NamedTuple):
    """A call that has returned: who made it, with what, and the numbers of the lines where it began and ended.

    ``nth`` counts this thread's calls of that name from 1, as strace does for ``inject``.
    """

    thread: int
    name: str
    arguments: str
    result: int
    began: int
    ended: int
    nth: int

    def strings(self) -> list[bytes]:
        found = []
        for match in _STRING.finditer(self.arguments):
            if match[2]:
                raise TraceError(f"{self.name}: a string is cut short")
            found.append(_bytes(match[1]))
        return found

    def handle(self, place: int = 0) -> tuple[int, str]:
        """The descriptor in an argument without strings before it, and the path that strace knows it by; -100 stands
        for the working directory.
        """
        found = _HANDLE.match(self._split()[place])
        if found is None:
            raise TraceError(f"{self.name}: no descriptor in {self.arguments[:200]}")
        return -100 if found[1] == "AT_FDCWD" else int(found[1]), _bytes(found[2] or "").decode("utf-8", "replace")

    def numbers(self) -> list[int]:
        """The plain integers among the arguments, from the left."""
        return [int(part, 0) for part in self._split() if re.fullmatch(r"-?\d+|0x[0-9a-f]+", part)]

    def _split(self) -> list[str]:
        return re.split(r", (?![^\[]*\])", self.arguments)


def why_not() -> str:
    """Why strace cannot be used here, in one line; "" if it can."""
    if not _program():
        return "strace is not installed"
    tried = subprocess.run(
        [_program(), "-f", "-e", "trace=none", sys.executable, "-c", ""], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"strace may not trace here: {tried.stderr.strip().splitlines()[0] if tried.stderr.strip() else '?'}"
    return ""


def _program() -> str:
    return shutil.which("strace") or ""


def _recording(target: Path) -> list[str]:
    return ["-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={TRACED}", "-e", "signal=none", "-o", str(target)]


def attach(pid: int, target: Path | None = None, inject: str = "") -> subprocess.Popen[str]:
    """Put strace on a process that waits; return when it is there. ``inject`` is what follows ``-e inject=``: then the
    calls of that name are written to ``target``, else all that ``calls`` reads.
    """
    if inject:
        name = inject.split(":", 1)[0]
        options = ["-f", "-y", "-e", f"trace={name}", "-e", "signal=none", "-e", f"inject={inject}"]
        options += ["-o", str(target) if target else os.devnull]
    else:
        assert target is not None
        options = _recording(target)
    process = subprocess.Popen(
        [_program(), *options, "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "attached" in line:
            return process
        if "Requested path" not in line:
            break
    process.kill()
    process.wait()
    raise TraceError(f"strace did not attach to {pid}: {line.strip()}")


def injected(trace: Path) -> list[str]:
    """The lines of the calls that strace tampered with."""
    return [line for line in trace.read_text("utf-8", "replace").splitlines() if "(INJECTED)" in line]


def calls(trace: Path) -> Iterator[Call]:
    """Every call that returned, in the order of the returns. Raises TraceError."""
    begun: dict[int, tuple[str, int]] = {}
    counts: dict[tuple[int, str], int] = {}
    for number, line in enumerate(trace.read_text("ascii").splitlines()):
        found = _LINE.fullmatch(line)
        if found is None:
            raise TraceError(f"line {number}: {line[:200]}")
        thread, text = int(found[1]), found[2]
        if text.startswith(("+++ ", "--- ")) or " resuming interrupted " in text:
            continue
        began = number
        if text.endswith(_UNFINISHED):
            begun[thread] = (text.removesuffix(_UNFINISHED), number)
            _count(counts, thread, text)
            continue
        if (resumed := _RESUMED.fullmatch(text)) is not None:
            head, began = begun.pop(thread)
            text = head + resumed[2]
            if not head.startswith(f"{resumed[1]}("):
                raise TraceError(f"line {number}: {line[:200]} does not belong to {head[:80]}")
        else:
            _count(counts, thread, text)
        call = _CALL.fullmatch(text)
        if call is None:
            raise TraceError(f"line {number}: {line[:200]}")
        if call[3] == "?":  # ended with the process
            continue
        yield Call(thread, call[1], call[2], int(call[3], 0), began, number, counts[thread, call[1]])


def _count(counts: dict[tuple[int, str], int], thread: int, text: str) -> None:
    key = thread, text.partition("(")[0]
    counts[key] = counts.get(key, 0) + 1


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", "")) if escaped.startswith("\\x") else escaped.encode()


def require() -> None:
    """End the process with one line if strace cannot be used."""
    if reason := why_not():
        print(f"crash tests need strace: {reason}", file=sys.stderr)
        sys.exit(2)
