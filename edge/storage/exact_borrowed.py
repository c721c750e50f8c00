"""BorrowedIndex: the writer's matrix of vectors as another process searches it; what is newer is in memory.

Rows that are in the matrix are never overwritten, so its mapping stays good whatever the writer appends, or removes.
When what is newer has grown large, or is not in the log any more, the matrix that the writer has by then is opened; if
it has no newer one, the reader makes one from the images, in a folder of its own.

What always holds: nothing is written to the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.storage.exact import ExactIndex
from edge.storage.exact_file import Damaged, MatrixFile

if TYPE_CHECKING:
    from edge.storage.log_follower import Follower
    from sync.schema import CollectionSchema

_TRIES = 4


class BorrowedIndex(ExactIndex):
    """``directory`` is the reader's own; ``store`` the one whose matrix is borrowed."""

    def __init__(self, directory: Path, log: Follower, schema: CollectionSchema, store: Path) -> None:
        super().__init__(directory, log, schema)
        self._follower = log
        self._origin = store / "exact" / schema.name
        self._borrowed = False
        self._damage = ""  # of the writer's matrix

    def fold(self) -> None:
        with self._lock:
            if self._open() is not None and self._borrowed:
                self._rebuild("")
            else:
                super().fold()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def verify(self) -> list[str]:
        """What is wrong with the writer's matrix; one that it changed all the while is not judged."""
        for _ in range(_TRIES):
            with self._lock:
                before = self._noted_position()
                self._let_go()
                found = super().verify()
                if not found or self._noted_position() == before:
                    return found
        return []

    def _open(self) -> MatrixFile:
        if self._file is None and not self._borrow(after=-1):
            super()._rebuild(self._damage)
        assert self._file is not None
        return self._file

    def _rebuild(self, reason: str) -> None:
        """What the writer has by now, if that is more; else from the images."""
        if self._borrow(after=self.position if self._file is not None else -1):
            self.refresh()
            return
        self._let_go()
        super()._rebuild(reason)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._borrowed = None, False
        self._follower.forget_checkpoints(self._note_name)

    def _borrow(self, *, after: int) -> bool:
        """Whether the writer's matrix is served now: one that reflects more of the log than up to ``after``."""
        self._damage = ""
        tried: dict[str, Any] | None = None
        for _ in range(_TRIES):
            note = self._follower.noted(self._note_name).get(self._note_name)
            if note is None or note == tried or not after < note["position"] <= self._follower.position:
                return False
            try:
                file = MatrixFile.load(self._origin, self.spec, note, owned=False)
            except Damaged as reason:
                tried, self._damage = note, str(reason)  # if it is the same again; else the writer had another by then
                continue
            self._let_go()
            self._borrowed, self._damage = True, ""
            self._adopt(file, noted=True)
            return True
        return False

    def _noted_position(self) -> int:
        note = self._follower.noted(self._note_name).get(self._note_name)
        return int(note["position"]) if note is not None else 0
