"""The exact tier's file: one contiguous float32 matrix that only grows, and the keys of its rows.

``rows-G.f32`` holds the rows, one after the other, little-endian, nothing else. ``keys-N.idx`` holds, as msgpack, what
they are: the key of each row ("" for a row that is no longer found) and a CRC-32 for each block of rows. Whoever owns
the file keeps a *note* in the delta log: the names of the two files, the digest of the second, and the log position.

What always holds: a row that was written is never overwritten, and files are fsynced before the note names them. So
after a crash the note describes a whole matrix; what lies behind its last row is cut off. The mapping is read-only.

It knows nothing of records: which rows are stale, and when to fold, is ``exact.ExactIndex``'s business.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack

from edge.storage.durable import fsync_path, replace_file
from sync.schema import VectorSpec

if TYPE_CHECKING:
    from edge.storage.vectors import Floats

FORMAT = 1
BLOCK_ROWS = 1024
OPEN_CHECK_BYTES_MAX = 64 << 20  # CRCs are checked on opening up to here (about 30 ms), and all of them by ``check``


class Damaged(Exception):
    """The files do not agree with the note or with themselves; ``str()`` says how."""


class MatrixFile:
    """An open matrix; ``keys`` and ``rows`` run parallel. Build it with ``load`` or ``create``; not thread-safe."""

    def __init__(self, folder: Path, spec: VectorSpec, note: Mapping[str, Any], index: Mapping[str, Any]) -> None:
        self.note = dict(note)
        self.keys: list[str] = list(index["keys"])
        self._crcs: list[int] = list(index["crcs"])
        self._folder = folder
        self._spec = spec
        self._path = folder / note["matrix"]
        self.rows: Floats = self._map()

    # -- opening ----------------------------------------------------------------------------------------------------

    @staticmethod
    def load(folder: Path, spec: VectorSpec, note: Mapping[str, Any], *, owned: bool = True) -> MatrixFile:
        """Open what ``note`` describes, and remove what it does not if the folder is ``owned``.

        Raises Damaged, also for a matrix of another field, other dimensions or another metric.
        """
        try:
            packed = (folder / note["index"]).read_bytes()
            if sha256(packed).digest() != note["digest"]:
                raise Damaged(f"{note['index']} has been altered")
            index = msgpack.unpackb(packed, raw=False, max_ext_len=0)
            said = (index["format"], index.get("field", spec.field), index["dimensions"], index["metric"])
            if said != (FORMAT, spec.field, spec.dimensions, spec.metric):
                raise Damaged(f"{note['index']} is of another format, field, dimension or metric")
            path = folder / note["matrix"]
            size = len(index["keys"]) * spec.dimensions * 4
            held = path.stat().st_size
            if held < size:
                raise Damaged(f"{note['matrix']} has {held} bytes instead of {size}")
            if owned:
                if held > size:  # an append that was never noted
                    os.truncate(path, size)
                for other in folder.iterdir():
                    if other.name not in (note["index"], note["matrix"]):
                        other.unlink()
            file = MatrixFile(folder, spec, note, index)
            if size <= OPEN_CHECK_BYTES_MAX and (problems := file.check()):
                raise Damaged(problems[0])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from error
        return file

    @staticmethod
    def create(
        folder: Path, spec: VectorSpec, batches: Iterable[tuple[Sequence[str], bytes]], position: int
    ) -> MatrixFile:
        """Write a new matrix from batches of (keys, their rows as bytes). The caller stores ``.note`` in its log."""
        folder.mkdir(parents=True, exist_ok=True)
        generation = 1 + max((int(path.stem.split("-")[1], 16) for path in folder.glob("rows-*.f32")), default=0)
        name = f"rows-{generation:08x}.f32"
        (folder / name).touch()
        empty: dict[str, Any] = {"keys": [], "crcs": []}
        file = MatrixFile(folder, spec, {"matrix": name, "serial": generation << 32, "index": ""}, empty)
        keys, crcs = file._append(batches)
        file._commit(keys, crcs, position)
        fsync_path(folder.parent)
        return file

    # -- growing ----------------------------------------------------------------------------------------------------

    def extend(self, dead: Iterable[int], keys: Sequence[str], rows: bytes, position: int) -> None:
        """Forget the keys of the ``dead`` rows, append new rows, and describe the log up to ``position``."""
        all_keys, crcs = self._append([(keys, rows)])
        for place in dead:
            all_keys[place] = ""
        self._commit(all_keys, crcs, position)

    def discard_others(self) -> None:
        """Remove the files of former states. Call it when the note is durable."""
        for other in self._folder.iterdir():
            if other.name not in (self.note["index"], self.note["matrix"]):
                other.unlink()

    def _append(self, batches: Iterable[tuple[Sequence[str], bytes]]) -> tuple[list[str], list[int]]:
        width = self._spec.dimensions * 4
        block = BLOCK_ROWS * width
        keys, crcs = list(self.keys), list(self._crcs)
        with self._path.open("r+b") as file:
            file.truncate(len(keys) * width)  # a former append may have failed half-way
            file.seek(0, os.SEEK_END)
            at = file.tell()
            for batch_keys, rows in batches:
                file.write(rows)
                keys += batch_keys
                view = memoryview(rows)
                while view:
                    piece = view[: block - at % block]
                    if at % block == 0:
                        crcs.append(0)
                    crcs[-1] = zlib.crc32(piece, crcs[-1])
                    at += len(piece)
                    view = view[len(piece) :]
            file.flush()
            os.fsync(file.fileno())
        assert at == len(keys) * width
        return keys, crcs

    def _commit(self, keys: list[str], crcs: list[int], position: int) -> None:
        spec = self._spec
        said = {"format": FORMAT, "field": spec.field, "dimensions": spec.dimensions, "metric": spec.metric}
        packed: bytes = msgpack.packb({**said, "keys": keys, "crcs": crcs}, use_bin_type=True)
        serial = self.note["serial"] + 1
        name = f"keys-{serial:016x}.idx"
        replace_file(self._folder / name, packed)
        digest = sha256(packed).digest()
        self.note.update(serial=serial, index=name, digest=digest, rows=len(keys), position=position)
        self.keys, self._crcs = keys, crcs
        self.rows = self._map()

    def _map(self) -> Floats:
        import numpy as np

        shape = (len(self.keys), self._spec.dimensions)
        if not self.keys:
            return np.empty(shape, dtype=np.float32)
        return np.asarray(np.memmap(self._path, dtype="<f4", mode="r", shape=shape))

    # -- checking ---------------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """Compare every block with its CRC. Returns what is wrong."""
        problems = []
        size = BLOCK_ROWS * self._spec.dimensions * 4
        try:
            with self._path.open("rb", buffering=0) as file:
                for number, crc in enumerate(self._crcs):
                    block = file.read(min(size, len(self.keys) * self._spec.dimensions * 4 - number * size))
                    if zlib.crc32(block) != crc:
                        problems.append(f"{self.note['matrix']}: altered from row {number * BLOCK_ROWS} on")
        except OSError as error:
            problems.append(f"{self.note['matrix']}: {error}")
        return problems

    def close(self) -> None:
        """Let go of the mapping."""
        import numpy as np

        self.rows = np.empty((0, self._spec.dimensions), dtype=np.float32)
        self.keys = []
