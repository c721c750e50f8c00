"""Whether commits are missing at the end of a write-ahead log that a killed process left.

For SQLite a frame with a wrong checksum is the end of the log. That is right for a write that the power cut short, and
wrong for a bit that flipped later: then every commit from there on is gone, and nothing says so. The two differ. With
``synchronous=FULL`` a commit is synced before the next one is written, so a frame that follows a commit, and continues
its checksum, says that everything up to that commit was once on the disk. If SQLite does not see that commit, the disk
has changed what it had.

What it cannot tell from a write cut short: damage to the last commit, or to the log's own header. The format:
https://sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import apsw

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682  # with the lowest bit, checksums are over big-endian words
_MASK = 0xFFFFFFFF


def has_lost_commits(db: apsw.Connection, path: str) -> bool:
    """Ask before anything is written, with nobody else at work in the log, which was written with ``synchronous=FULL``.
    Costs nothing where there is no write-ahead log. Raises apsw.Error, OSError.
    """
    try:
        with open(f"{path}-wal", "rb") as file:
            head = file.read(_HEADER.size)
            return len(head) == _HEADER.size and _is_broken(db, file, head)
    except FileNotFoundError:
        return False


def _is_broken(db: apsw.Connection, file: BinaryIO, head: bytes) -> bool:
    magic, _, page_size, _, salt, pepper, *checksum = _HEADER.unpack(head)
    order = ">" if magic & 1 else "<"
    if magic & ~1 != _MAGIC or list(_checksum(head[:24], order, (0, 0))) != checksum:
        return False
    [(_, known, _)] = db.execute("PRAGMA wal_checkpoint(NOOP)").fetchall()
    file.seek(_HEADER.size + known * (_FRAME.size + page_size))
    commit: tuple[int, int] | None = None  # the checksum of the frame before, if that was a commit
    while len(frame := file.read(_FRAME.size + page_size)) == _FRAME.size + page_size:
        _, pages, first, second, *own = _FRAME.unpack_from(frame)
        ours = (first, second) == (salt, pepper)
        if ours and commit is not None and _checksum(frame[:8] + frame[24:], order, commit) == tuple(own):
            return True
        commit = (own[0], own[1]) if ours and pages else None
    return False


def _checksum(data: bytes, order: str, before: tuple[int, int]) -> tuple[int, int]:
    one, other = before
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for word in words:
        one = (one + word + other) & _MASK
        other = (other + next(words) + one) & _MASK
    return one, other
