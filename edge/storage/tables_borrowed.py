"""BorrowedTables: the writer's Lance tables as another process searches them, with what is newer added beside them.

Lance's files never change once they are written. So a reader makes a folder of its own (``private_folder``) in which
each table is symbolic links to the files that the writer's checkpoint names, and what the writer has not flushed yet is
written there, by the same code. The writer may remove any of its files at any
moment, when it compacts: then the links are made anew, from the checkpoint that it has by then, and the search is
repeated; after ``_TRIES`` the table is made from the images, which nobody can take away.

What always holds: nothing is written to the store; a search sees every write that was acknowledged before it began.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edge.storage.tables import CHECKPOINT, LanceTables
from edge.storage.tables_errors import Unreadable, reading
from sync.errors import StorageError

if TYPE_CHECKING:
    from edge.storage.log_follower import Follower
    from edge.storage.tables_table import LanceTable

_TRIES = 5
_PAUSE_S = 0.01
_OWN_CHANGES_MAX = 5_000  # then what the writer has flushed meanwhile is borrowed instead

T = TypeVar("T")


class BorrowedTables(LanceTables):
    """``directory`` is the reader's own; ``store`` the one whose tables are borrowed."""

    def __init__(self, directory: Path, log: Follower, store: Path) -> None:
        super().__init__(directory, log)
        self._follower = log
        self._origin = store / "lance"
        self._lent: dict[str, dict[str, Any]] = {}  # the writer's checkpoints that the links are made from
        self._links: dict[str, list[Path]] = {}
        self._own_changes = 0
        self._borrow()

    def flush(self) -> int:
        with self._lock:
            if self._own_changes > _OWN_CHANGES_MAX:
                self._own_changes = 0
                if _position(self._follower.noted(CHECKPOINT)) > _position(self._lent):
                    self._borrow()
            for _ in range(_TRIES):
                try:
                    taken = super().flush()
                except StorageError:
                    self._borrow()
                else:
                    self._own_changes += taken
                    return taken
            super()._build_all("its files do not stay")
            return super().flush()

    def verify(self) -> list[str]:
        """What is wrong with the writer's tables; those that it changed all the while are not judged."""
        with self._lock:
            for _ in range(_TRIES):
                self._borrow()
                self.flush()
                names = [name for name in sorted(self._log.schemas) if self._exists(name)]
                found = [problem for name in names for problem in self._problems(name)]
                if not found or self._follower.noted(CHECKPOINT) == self._lent:
                    return found
        return []

    def _problems(self, name: str) -> list[str]:
        lent = self._lent.get(f"{CHECKPOINT}:{name}", {})
        if lent.get("settling") or (lent and "files" not in lent):
            return []  # its writer is removing old versions, or writing it anew; if it was killed, the next one goes on
        table = self._table(name)
        problems = table.rebuilds or table.check_files() or table.compare()
        wrong = f"({len(problems)} in all); opened for writing, it is rebuilt"
        return [f"table of {name!r}: {problems[0]} {wrong}"] if problems else []

    def _serve(self, collection: str, work: Callable[[LanceTable], T]) -> T:
        for _ in range(_TRIES):
            with self._lock:
                table = self._table(collection)
            try:
                with reading():
                    found = work(table)
                # Lance takes an index of which a file is missing for one of an older format, and finds less.
                if self._is_whole(collection):
                    return found
            except Unreadable:
                pass  # the same
            with self._lock:
                self._borrow()
                self.flush()
        with self._lock:
            table = self._table(collection)
            table.rebuild("its files do not stay")
            try:
                with reading():
                    return work(table)
            except Unreadable as error:
                raise StorageError(f"reading the table of {collection!r}: {error}") from error

    def _table(self, collection: str) -> LanceTable:
        if collection not in self._tables and not self._is_whole(collection):
            self._borrow()
        return super()._table(collection)

    def _build_all(self, reason: str) -> int:
        """What the writer has by now, if that is more; else from the images."""
        before = self.position
        self._borrow()
        after = self.position
        if before < after <= self._log.position:
            return after
        return super()._build_all(reason)

    # -- borrowing ----------------------------------------------------------------------------------------------------

    def _borrow(self) -> None:
        """Serve what the writer's checkpoints name now; nothing, if its files go faster than they can be linked.

        While a writer removes old versions, which takes it a moment, its checkpoint is of what may be gone already.
        """
        with self._lock:
            self._tables.clear()
            self._overlays.clear()
            self._db = None
            self._follower.forget_checkpoints(CHECKPOINT)
            self._own_changes = 0
            for attempt in range(_TRIES):
                if attempt:
                    time.sleep(_PAUSE_S * 2**attempt)
                self._lent = self._follower.noted(CHECKPOINT)
                if attempt < _TRIES - 1 and any(note.get("settling") for note in self._lent.values()):
                    continue
                if all(self._link(name, note) for name, note in self._lent.items()):
                    for name, note in self._lent.items():
                        self._follower.set_checkpoint(name, note)
                    return

    def _link(self, name: str, note: Mapping[str, Any]) -> bool:
        """False if a file is not there. While old versions are being removed, some are not, and it does not matter."""
        _, _, collection = name.partition(":")
        folder = self._folder / f"{collection}.lance"
        shutil.rmtree(folder, ignore_errors=True)
        self._links[collection] = [folder / file for file in note.get("files", ())]
        for file in note.get("files", ()):
            target, link = self._origin / folder.name / file, folder / file
            if target.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
            elif not note["settling"]:
                return False
        return True

    def _is_whole(self, collection: str) -> bool:
        return not any(link.is_symlink() and not link.exists() for link in self._links.get(collection, ()))


def _position(notes: Mapping[str, Mapping[str, Any]]) -> int:
    note = notes.get(CHECKPOINT)
    return int(note["position"]) if note is not None else 0
