"""Cutting a model's files where their content says so (FastCDC 2020): what is put before a part does not move its cuts.

The only user of pyfastcdc: models are cut where they are published, never on a device. What always holds: the chunks
of a file are all of it, in order; the same bytes are cut the same way whatever portions they are read in; the memory
that is used does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyfastcdc import FastCDC

SMALL_BYTES = 64 << 10
LARGE_BYTES = 256 << 10
LARGE_FROM_BYTES = 4 << 30  # a model of more would have a chunk list of more than a target may have
_BUFFERED_CHUNKS = 4  # of the largest size: 1 MiB for the small ones, which stays in the processor's cache


def average_for(size: int) -> int:
    """The average length of the chunks of a model of so many bytes; the least is a quarter, the most four times it."""
    return SMALL_BYTES if size <= LARGE_FROM_BYTES else LARGE_BYTES


def cut(readinto: Callable[[memoryview], int | None], average: int) -> Iterator[list[memoryview]]:
    """A file's chunks, some at a time; they are valid until the next are asked for. ``readinto`` says 0 at the end."""
    cutter = FastCDC(average, min_size=average // 4, max_size=average * 4)
    buffer = memoryview(bytearray(_BUFFERED_CHUNKS * cutter.max_size))
    held = 0
    ended = False
    while not ended:
        while held < len(buffer):
            read = readinto(buffer[held:])
            if not read:
                ended = True
                break
            held += read
        chunks = [chunk.data for chunk in cutter.cut_buf(buffer[:held])]
        if not ended:
            chunks.pop()  # it ends where the buffer does: it is cut again with what follows
        done = sum(map(len, chunks))
        if chunks:
            yield chunks
        rest = bytes(buffer[done:held])
        buffer[: len(rest)] = rest
        held = len(rest)
