"""What a traced process did to the files under one directory, as operations that ``simulations.crash.disk`` replays.

Descriptors are followed from their ``openat``, so that a file is known by itself and not by a name that it has lost.
What touches the directory in a way that is not known here raises TraceError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from simulations.crash.strace import Call, TraceError

ACK = b"ack "


class Operation(NamedTuple):
    """``kind``: create, mkdir, write, truncate, rename, link, unlink, rmdir, sync, open or ack.

    ``path`` and ``other`` are relative to the directory ("" is itself). ``file`` stands for an open description: what
    was opened or made as ``file`` is what is written and synced as ``file``. ``place`` is the offset of a write, the
    length of a truncation, the number of an acknowledgement. ``began``: how many calls had returned when it began.
    """

    kind: str
    path: str = ""
    other: str = ""
    file: int = 0
    place: int = 0
    data: bytes = b""
    began: int = 0
    call: str = ""


class Reader:
    """Turns calls into operations; ``inside`` says of a call whether it changes the directory."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._open: dict[int, tuple[int, str]] = {}  # descriptor -> (file, path)
        self._at: dict[int, int] = {}
        self._appends: set[int] = set()
        self._files = 0

    def operations(self, calls: Iterable[Call]) -> Iterator[tuple[Call, Operation]]:
        for call in calls:
            if call.result < 0:
                continue
            handler = getattr(self, f"_{call.name}", None)
            if handler is None:
                self._must_be_elsewhere(call)
                continue
            for operation in handler(call):
                yield call, operation._replace(began=call.began, call=call.name)

    # -- names --------------------------------------------------------------------------------------------------------

    def _relative(self, path: str) -> str | None:
        path = os.path.normpath(path)
        if path == self._root:
            return ""
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else None

    def _path(self, call: Call, place: int, text: bytes) -> str | None:
        """The path in a call of the ``…at`` family, relative to the root; None if it is elsewhere."""
        name = text.decode()
        if name.startswith("/"):
            return self._relative(name)
        _, base = call.handle(place)
        return self._relative(str(PurePosixPath(base) / name)) if base else None

    def _held(self, call: Call) -> tuple[int, str] | None:
        handle, path = call.handle()
        if self._relative(path.removesuffix(" (deleted)")) is None:
            return None
        if handle not in self._open:
            raise TraceError(f"{call.name} to {path}, which was not seen to be opened")
        return self._open[handle]

    def _must_be_elsewhere(self, call: Call) -> None:
        shown = call.arguments.replace("\\x", "")
        if self._root.encode().hex() in shown:
            raise TraceError(
                f"{call.name} touches {self._root}: {bytes.fromhex(''.join(re.findall('[0-9a-f]{2}', shown))[:200])!r}"
            )

    # -- calls --------------------------------------------------------------------------------------------------------

    def _openat(self, call: Call) -> Iterator[Operation]:
        path = self._path(call, 0, call.strings()[0])
        self._open.pop(call.result, None)
        self._appends.discard(call.result)
        if path is None:
            return
        flags = call.arguments.rpartition('"')[2]
        if "O_TMPFILE" in flags:
            raise TraceError(f"{path}: O_TMPFILE")
        self._files += 1
        self._open[call.result] = self._files, path
        self._at[call.result] = 0
        if "O_APPEND" in flags:
            self._appends.add(call.result)
        yield Operation("create" if "O_CREAT" in flags else "open", path, file=self._files)
        if "O_TRUNC" in flags:
            yield Operation("truncate", path, file=self._files, place=0)

    def _lseek(self, call: Call) -> Iterator[Operation]:
        self._at[call.handle()[0]] = call.result
        return iter(())

    def _mmap(self, call: Call) -> Iterator[Operation]:
        if "PROT_WRITE" in call.arguments and "MAP_SHARED" in call.arguments and "MAP_ANONYMOUS" not in call.arguments:
            path = _mapped(call)
            if self._relative(path) is not None and not path.endswith("-shm"):
                raise TraceError(f"{path} is written through a mapping")
        return iter(())

    def _dup(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is not None:
            raise TraceError(f"{held[1]}: {call.name}, whose offset is not followed")
        return iter(())

    _dup2 = _dup3 = _dup

    def _write(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is None:
            return
        handle = call.handle()[0]
        if handle in self._appends:
            raise TraceError(f"{held[1]} is opened for appending, whose offset is not followed")
        data = b"".join(call.strings())[: call.result]
        yield Operation("write", held[1], file=held[0], place=self._at[handle], data=data)
        self._at[handle] += call.result

    _writev = _write

    def _pwrite64(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is None:
            return
        place = int(call.arguments.rpartition(", ")[2])
        yield Operation("write", held[1], file=held[0], place=place, data=call.strings()[0][: call.result])

    def _ftruncate(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is not None:
            yield Operation("truncate", held[1], file=held[0], place=call.numbers()[-1])

    def _truncate(self, call: Call) -> Iterator[Operation]:
        path = self._relative(call.strings()[0].decode())
        if path is not None:
            self._files += 1
            yield Operation("open", path, file=self._files)
            yield Operation("truncate", path, file=self._files, place=call.numbers()[-1])

    def _fallocate(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is not None:
            mode, offset, length = call.numbers()[-3:]
            if mode != 0:
                raise TraceError(f"{held[1]}: fallocate with mode {mode}")
            yield Operation("grow", held[1], file=held[0], place=offset + length)

    def _fsync(self, call: Call) -> Iterator[Operation]:
        if (held := self._held(call)) is not None:
            yield Operation("sync", held[1], file=held[0])

    _fdatasync = _fsync

    def _rename(self, call: Call) -> Iterator[Operation]:
        yield from self._two("rename", call, *(self._relative(text.decode()) for text in call.strings()))

    def _renameat(self, call: Call) -> Iterator[Operation]:
        first, second = call.strings()
        if "RENAME_EXCHANGE" in call.arguments:
            raise TraceError("rename with RENAME_EXCHANGE")
        yield from self._two("rename", call, self._path(call, 0, first), self._path(call, 2, second))

    _renameat2 = _renameat

    def _link(self, call: Call) -> Iterator[Operation]:
        yield from self._two("link", call, *(self._relative(text.decode()) for text in call.strings()))

    def _linkat(self, call: Call) -> Iterator[Operation]:
        first, second = call.strings()
        yield from self._two("link", call, self._path(call, 0, first), self._path(call, 2, second))

    def _two(self, kind: str, call: Call, source: str | None, target: str | None) -> Iterator[Operation]:
        if source is None and target is None:
            return
        if source is None or target is None:
            raise TraceError(f"{call.name} between the directory and elsewhere")
        yield Operation(kind, source, target)

    def _unlink(self, call: Call) -> Iterator[Operation]:
        if (path := self._relative(call.strings()[0].decode())) is not None:
            yield Operation("unlink", path)

    def _rmdir(self, call: Call) -> Iterator[Operation]:
        if (path := self._relative(call.strings()[0].decode())) is not None:
            yield Operation("rmdir", path)

    def _unlinkat(self, call: Call) -> Iterator[Operation]:
        if (path := self._path(call, 0, call.strings()[0])) is not None:
            yield Operation("rmdir" if "AT_REMOVEDIR" in call.arguments else "unlink", path)

    def _mkdir(self, call: Call) -> Iterator[Operation]:
        if (path := self._relative(call.strings()[0].decode())) is not None:
            yield Operation("mkdir", path)

    def _mkdirat(self, call: Call) -> Iterator[Operation]:
        if (path := self._path(call, 0, call.strings()[0])) is not None:
            yield Operation("mkdir", path)

    def _sendto(self, call: Call) -> Iterator[Operation]:
        data = call.strings()[0]
        if data.startswith(ACK):
            yield Operation("ack", place=int(data[len(ACK) :].split()[0]))


def _mapped(call: Call) -> str:
    """The path behind the descriptor of an mmap, its fifth argument."""
    return call.handle(4)[1]
