"""Approximate indexes: made in the background when a collection is large, and served only while they are as good as
they were measured to be (ADR 17).

An index is a directory ``<store>/ann/<collection>/<number>`` and a note in the delta log: the log position that it was
made at, its setting, the recall that was measured, and the files' digests. It proposes candidates; scores come from the
record images, as everywhere.

What always holds:

* an index whose measured recall is below 0.95 is deleted; the note then says why, and the search is exact;
* what changed after its position is found exactly in the collection's table (whose rows have positions) and in memory;
  a candidate that has changed since is told by its digest and does not count;
* when that is more than a fifth of its rows, another is made and measured, and takes its place;
* one that is damaged, missing or fails in use is dropped, and the search is exact.

The thread that makes one holds no lock. A store that is closed meanwhile waits for it a few seconds, then leaves it;
what it wrote is not noted, and is removed with the next use.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.storage.durable import Files, damage, remove_tree, seal, storage_error
from edge.storage.tables_ann_build import FAR, Abandoned, Setting, build, candidates
from edge.storage.tables_errors import Unreadable, reading
from sync.errors import AgentDBError

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.vectors import Floats
    from sync.schema import CollectionSchema

K_MAX = FAR // 2  # half of the depth that recall was measured at may have changed
STALE_SHARE = 0.2  # of its rows; then another one is made
OPEN_CHECK_BYTES_MAX = 64 << 20
TRAINING_BYTES = 32 << 20  # of rows that k-means sees
_CLOSE_WAIT_S = 5.0
_FORMAT = 1
_log = logging.getLogger("agentdb.edge")


class AnnIndex(NamedTuple):
    """One that serves. ``handle`` is its LanceDB table; what changed after ``position`` it does not know."""

    schema: CollectionSchema
    handle: Any
    folder: Path
    position: int
    rows: int
    setting: Setting
    recall: float
    sample: int

    @property
    def says(self) -> str:
        return (
            f"approximate: an IVF index of {self.rows} rows, {self.setting.probes} partitions a search; recall@10 was "
            f"{self.recall:.3f} for {self.sample} stored vectors"
        )

    def candidates(self, row: Floats, fetch: int) -> list[tuple[str, int]]:
        """(key, digest of the vector that it knew), best first. Raises Unreadable."""
        assert self.schema.vector is not None
        with reading():
            return candidates(self.handle, self.schema.vector, row, self.setting, fetch)


class AnnIndexes:
    """Those of one store, in ``directory/ann``. Thread-safe. ``connect`` opens a folder with LanceDB."""

    def __init__(
        self, directory: Path | str, log: DeltaLog, connect: Callable[[Path], Any], training_bytes: int = TRAINING_BYTES
    ) -> None:
        self.problems: dict[str, str] = {}  # what last went wrong, by collection
        self._folder = Path(directory) / "ann"
        self._store = log
        self._connect = connect
        self._training_bytes = training_bytes
        self._lock = threading.RLock()
        self._open: dict[str, AnnIndex | None] = {}
        self._worker: threading.Thread | None = None
        self._building = ""
        self._failed_at: dict[str, int] = {}
        self._epochs: dict[str, int] = {}  # what is being made for a former one is not wanted any more
        self._closed = False

    # -- serving ------------------------------------------------------------------------------------------------------

    def of(self, schema: CollectionSchema) -> AnnIndex | None:
        """The index that serves the collection under this schema, or None."""
        with self._lock:
            name = schema.name
            if name not in self._open:
                self._open[name] = self._load(schema)
            found = self._open[name]
            return found if found is not None and found.schema.vector == schema.vector else None

    def _load(self, schema: CollectionSchema) -> AnnIndex | None:
        note = self._note(schema.name)
        if note is None or note["refused"] or note["vector"] != _vector(schema):
            return None
        if note["position"] > self._store.position:
            self.drop(schema.name, "it is newer than the log: the store was rolled back")
            return None
        folder = self._folder / schema.name / note["folder"]
        files: Files = {name: (size, digest) for name, (size, digest) in note["files"].items()}
        problems = damage(folder, files, hash_bytes_max=OPEN_CHECK_BYTES_MAX, first=_is_index)
        if not problems:
            try:
                with reading():
                    handle = self._connect(folder).open_table("index")
                    if handle.count_rows() == note["rows"]:
                        return _served(schema, handle, folder, note)
                    problems = ["it has another number of rows than was noted"]
            except Unreadable as error:
                problems = [str(error)]
        self.drop(schema.name, problems[0])
        return None

    def drop(self, name: str, problem: str = "") -> None:
        """Delete the collection's index, because of a ``problem`` or because it is not wanted any more."""
        with self._lock:
            if problem:
                self.problems[name] = problem
                _log.warning("the vector index of %s is dropped: %s", name, problem)
            else:
                self._epochs[name] = self._epochs.get(name, 0) + 1  # one that is being made is not wanted, either
            self._open[name] = None
            if self._note(name) is not None:
                self._store.meta_set(f"checkpoint.ann:{name}", None)
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def forget(self, name: str) -> None:
        """``drop``, and when it returns nothing is left, nor of one that was being made. Raises StorageError."""
        with self._lock:
            self._epochs[name] = self._epochs.get(name, 0) + 1
        self.wait()
        self.drop(name)
        remove_tree(self._folder / name)

    # -- making -------------------------------------------------------------------------------------------------------

    def attend(self, schema: CollectionSchema, count: int, newer: Callable[[int], int]) -> bool:
        """Begin to make an index if there is none for these ``count`` records, or too much is newer than it:
        ``newer`` counts the rows after a position. Returns whether one is being made.
        """
        with self._lock:
            if self._worker is not None and self._worker.is_alive():
                return True
            if self._closed or count < self._failed_at.get(schema.name, 0):
                return False
            served, note = self.of(schema), self._note(schema.name)
            if note is not None and note["vector"] == _vector(schema):
                changed = max(0, note["rows"] - count, newer(note["position"]))
                if (served is not None or note["refused"]) and changed <= STALE_SHARE * note["rows"]:
                    return False
            self._building = schema.name
            self._worker = threading.Thread(target=self._make, args=(schema, count), name="agentdb-ann", daemon=True)
            self._worker.start()
            return True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the index that is being made. Returns whether none is any more."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout_s)
        return worker is None or not worker.is_alive()

    def _make(self, schema: CollectionSchema, count: int) -> None:
        name = schema.name
        try:
            self._replace(schema)
            self.problems.pop(name, None)
            self._failed_at.pop(name, None)
        except Abandoned:
            pass
        except Exception as error:  # noqa: BLE001 - shown and tried again; searches are exact meanwhile
            if self._closed:
                return
            found = error if isinstance(error, AgentDBError) else storage_error(f"indexing {name!r}", error)
            self.problems[name] = str(found)
            self._failed_at[name] = count + count // 20 + 1
            _log.warning("no vector index of %s: %s", name, found)
        finally:
            self._building = ""

    def _replace(self, schema: CollectionSchema) -> None:
        name = schema.name
        epoch = self._epochs.get(name, 0)

        def stopped() -> bool:
            return self._closed or self._epochs.get(name, 0) != epoch

        position = self._store.position
        base = self._folder / name
        note = self._note(name)
        number = 1 + (int(note["folder"]) if note is not None else 0)
        while (base / f"{number:08}").exists():  # another process, or a thread that was left, may be writing there
            number += 1
        folder = base / f"{number:08}"
        files: Files = {}
        try:
            built = build(folder, self._connect, self._store, schema, self._training_bytes, stopped)
            if not built.refused:
                files = seal(folder, {})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if built.refused:
            shutil.rmtree(folder, ignore_errors=True)
        noted = {
            "format": _FORMAT,
            "vector": _vector(schema),
            "folder": f"{number:08}",
            "position": position,
            "rows": built.rows,
            "partitions": built.partitions,
            "setting": list(built.setting),
            "recall": built.recall.near,
            "recall_100": built.recall.far,
            "sample": built.sample,
            "refused": built.refused,
            "files": files,
        }
        with self._lock:
            if stopped():
                raise Abandoned
            self._store.set_checkpoint(f"ann:{name}", noted)
            self._open.pop(name, None)
            for other in base.iterdir() if base.exists() else ():
                if other.name != folder.name or built.refused:
                    shutil.rmtree(other, ignore_errors=True)

    # -- looking ------------------------------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any]:
        """Plain values: whether one serves, or why not, and what was measured."""
        note = self._note(name)
        out: dict[str, Any] = {"index": False, "building": self._building == name, "problem": ""}
        out["problem"] = self.problems.get(name, "")
        if note is not None:
            out.update(
                {word: note[word] for word in ("rows", "partitions", "recall", "recall_100", "sample", "refused")}
            )
            out["probes"], out["candidates"] = note["setting"]
            out["index"] = not note["refused"]
        return out

    def verify(self, schema: CollectionSchema) -> list[str]:
        """Hash every file of the collection's index; drop it if one is wrong. Returns what was wrong."""
        with self._lock:
            before = self.problems.get(schema.name)
            served = self.of(schema)
            if served is None:
                found = self.problems.get(schema.name)
                return [found] if found is not None and found != before else []
            note = self._note(schema.name)
            assert note is not None
            files: Files = {name: (size, digest) for name, (size, digest) in note["files"].items()}
            problems = damage(served.folder, files, first=_is_index)
            if problems:
                self.drop(schema.name, problems[0])
            return problems

    def close(self) -> None:
        """Let go. A thread that is making an index stops at its next step."""
        with self._lock:
            self._closed = True
            self._open.clear()
        self.wait(_CLOSE_WAIT_S)

    def _note(self, name: str) -> dict[str, Any] | None:
        note = self._store.checkpoint(f"ann:{name}")
        return note if note is not None and note.get("format") == _FORMAT else None


def _served(schema: CollectionSchema, handle: Any, folder: Path, note: dict[str, Any]) -> AnnIndex:
    setting = Setting(*note["setting"])
    return AnnIndex(schema, handle, folder, note["position"], note["rows"], setting, note["recall"], note["sample"])


def _vector(schema: CollectionSchema) -> list[Any]:
    assert schema.vector is not None
    return list(schema.vector)


def _is_index(name: str) -> bool:
    return name.startswith("index.lance/_")
