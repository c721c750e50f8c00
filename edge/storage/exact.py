"""ExactIndex: exact vector search over one memory-mapped matrix, without a database.

The collection's vectors lie in one file (``exact_file``), and those that changed since it was written in a small
array in memory (``overlay``); a search scores all of them and ranks them exactly (``vectors``). It is the faster
tier while the matrix fits the memory budget, and the one that works where lancedb has no wheel.

What always holds:

* a search sees every write that was acknowledged before it began, and finds the true best k: recall is 1.0;
* the files are derived: whatever does not check out against the note in the delta log is rebuilt from the images.
  On opening: sizes, the digest of the keys, and the rows' CRCs (up to 64 MiB of them); by ``verify()``: all CRCs, and
  every row against its record image;
* ``position`` is the log position that the files reflect; the log must not be trimmed beyond it, or they are rebuilt.

numpy is imported with the first use, not with the module. One lock: searches of one collection take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import inf
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from edge.storage.durable import storage_error
from edge.storage.exact_file import Damaged, MatrixFile
from edge.storage.overlay import LogTrimmed, Overlay
from edge.storage.search import Scored
from edge.storage.vectors import Query, lengths_of, ranking, row_of
from sync.errors import SchemaMismatch, StorageError
from sync.images import image_values
from sync.schema import CollectionSchema

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog
    from edge.storage.vectors import Floats, Places

_PAGE = 1000
_ASKED_MAX = 1000  # reading their images takes 20 ms; those of 50,000 a second
_FOLD_ROWS_MIN = 1024
_FOLD_ROWS_MAX = 4096
_FOLD_SHARE = 0.1
_DEAD_SHARE_MAX = 0.25


class ExactIndex:
    """The vectors of ``schema``'s collection; its files are in ``directory/exact/<collection>/``.

    Raises SchemaMismatch if the schema has no vector, StorageError if the disk fails.
    """

    def __init__(self, directory: Path | str, log: DeltaLog, schema: CollectionSchema) -> None:
        if schema.vector is None:
            raise SchemaMismatch(f"collection {schema.name!r} has no vector field", hint="declare vector=(field, dim)")
        self.schema = schema
        self.spec = schema.vector
        self.rebuilds: list[str] = []  # why, for each time the files were rebuilt from the images
        self._note_name = f"exact:{schema.name}"
        self._folder = Path(directory) / "exact" / schema.name
        self._log = log
        self._lock = RLock()
        self._file: MatrixFile | None = None
        self._retired = False
        self._overlay: Overlay
        self._places: dict[str, int]
        self._dead: list[int]
        self._lengths: Floats | None

    @property
    def position(self) -> int:
        """The log position up to which the files on disk are current."""
        note = self._log.checkpoint(self._note_name) if self._file is None else self._file.note
        return int(note["position"]) if note else 0

    def refresh(self) -> int:
        """Take in what was written since the last call; fold it into the file when it has grown large.

        Returns how many records changed.
        """
        with self._lock:
            file = self._open()
            try:
                changed = self._overlay.refresh()
            except LogTrimmed as gap:
                self._rebuild(gap.message)
                return 0
            for key in changed:
                place = self._places.pop(key, None)
                if place is not None:
                    self._dead.append(place)
            limit = max(_FOLD_ROWS_MIN, min(_FOLD_ROWS_MAX, int(len(file.keys) * _FOLD_SHARE)))
            if len(self._overlay.slots) > limit and not self._retired:
                self.fold()
            return len(changed)

    def search(
        self,
        query: bytes,
        k: int,
        passing: Callable[[Sequence[str]], Collection[str]] | None = None,
        least: float = float("-inf"),
        narrowed: Callable[[], Collection[str] | None] | None = None,
    ) -> list[Scored]:
        """The best ``k`` records of those that are ``passing``, best first, ties in order of key; none that scores
        below ``least``.

        ``query`` is packed as ``sync.schema.pack_vector`` does. ``passing`` returns those of some keys that pass,
        and is asked in order of score, until ``k`` have. If far too few do, ``narrowed`` is asked for the keys that may
        pass at all, if it knows: of all that was written before it was asked. Raises InvalidValue for a query of zeros
        under cosine.
        """
        prepared = Query(self.spec, query)
        with self._lock:
            self.refresh()
            most = inf if narrowed is None else _ASKED_MAX
            found = self._best(self._groups(prepared, k), k, passing, least, most)
        if found is None and narrowed is not None:
            try:
                only = narrowed()  # not under the lock: it brings tables up to date, and others search meanwhile
            except StorageError:  # of what this tier does without: the answer is the same, and takes longer
                only = None
            with self._lock:
                self.refresh()
                found = self._best(self._groups(prepared, k, only), k, passing, least, inf)
        assert found is not None
        return found

    def _best(
        self,
        groups: Iterator[list[Scored]],
        k: int,
        passing: Callable[[Sequence[str]], Collection[str]] | None,
        least: float,
        most: float,
    ) -> list[Scored] | None:
        """None: of the first ``most`` fewer than ``k`` pass."""
        found: list[Scored] = []
        for group in groups:
            for at in range(0, len(group), k):
                if most <= 0:
                    return None
                some = [hit for hit in group[at : at + k] if hit.score >= least]
                most -= len(some)
                passed = None if passing is None else passing([hit.key for hit in some])
                found += some if passed is None else [hit for hit in some if hit.key in passed]
                if len(found) >= k or group[min(at + k, len(group)) - 1].score < least:
                    return found[:k]
        return found

    def fold(self) -> None:
        """Write what is in memory to the file, and move ``position`` up to the log's."""
        with self._lock:
            file = self._open()
            overlay = self._overlay
            if overlay.position == file.note["position"]:
                return
            stale = sum(1 for key in file.keys if not key) + len(self._dead)
            if stale > _DEAD_SHARE_MAX * max(len(file.keys), _FOLD_ROWS_MIN):
                self._rebuild("")
                return
            living = [slot for slot, key in enumerate(overlay.keys) if key]
            keys, rows = [overlay.keys[slot] for slot in living], overlay.rows[living].tobytes()
            try:
                file.extend(self._dead, keys, rows, overlay.position)
                self._adopt(file)
            except BaseException as error:
                self._file = None  # the next use returns to what the log notes
                if isinstance(error, OSError):
                    raise storage_error(f"writing the vectors of {self.schema.name!r}", error) from error
                raise

    def keep_up(self, changes: int) -> None:
        """Fold when the files are so many changes behind the log, however few records those are of: the log cannot be
        trimmed beyond them. In a large collection, a tenth of its records. Raises StorageError.
        """
        with self._lock:
            behind = self._log.position - self.position
            if not self._retired and behind >= changes and behind >= len(self._open().keys) * _FOLD_SHARE:
                self.refresh()
                self.fold()

    def verify(self) -> list[str]:
        """Check all rows, against their CRCs and against the record images; rebuild if anything is wrong.

        Returns what was wrong.
        """
        with self._lock:
            if self._retired:
                return []
            rebuilt = len(self.rebuilds)
            self.refresh()
            problems = self.rebuilds[rebuilt:] or self._open().check() or self._compare()
            if problems and len(self.rebuilds) == rebuilt:
                self._rebuild(problems[0])
            return problems

    def rebuild(self) -> None:
        """Write the files anew from the record images."""
        with self._lock:
            self._rebuild("asked for")

    def retire(self) -> None:
        """Another has its files from now on, by another declaration. Who is about to search it still can, as it is in
        memory; it writes nothing any more.
        """
        with self._lock:
            self._retired = True

    def close(self) -> None:
        """Fold what is worth it, so that the next start need not read it from the log, and let go of the file."""
        with self._lock:
            if self._file is not None:
                self.refresh()
                self.fold()
                self._file.close()
                self._file = None

    def __len__(self) -> int:
        """How many records can be found, as of the last refresh."""
        with self._lock:
            self._open()
            return len(self._places) + sum(1 for key in self._overlay.keys if key)

    # -- ranking ------------------------------------------------------------------------------------------------------

    def _groups(self, query: Query, k: int, only: Collection[str] | None = None) -> Iterator[list[Scored]]:
        import numpy as np

        file, overlay = self._open(), self._overlay
        below, fresh = file.rows, overlay.rows
        split = len(below)
        lengths = None
        if self._lengths is not None:
            over = lengths_of(self.spec, fresh)
            assert over is not None
            lengths = np.concatenate([self._lengths, over])
        scores = np.concatenate(
            [
                query.approximate(below, self._lengths),
                query.approximate(fresh, None if lengths is None else lengths[split:]),
            ]
        )

        def rows_at(places: Places) -> Floats:
            out = np.empty((len(places), self.spec.dimensions), dtype=np.float32)
            inside = places < split
            out[inside] = below[places[inside]]
            out[~inside] = fresh[places[~inside] - split]
            return out

        if only is None:
            dead = np.array(self._dead + [split + slot for slot in overlay.dead()], dtype=np.intp)
        else:
            inside = [place for key in only if (place := self._places.get(key)) is not None]
            above = [split + slot for key in only if (slot := overlay.slots.get(key)) is not None]
            above = [place for place in above if overlay.keys[place - split]]
            dead = np.delete(np.arange(len(scores)), inside + above)
        for places, exact in ranking(query, scores, query.error_bound(lengths), dead, rows_at, k):
            hits = [
                Scored(file.keys[place] if place < split else overlay.keys[place - split], score)
                for place, score in zip(places.tolist(), exact.tolist(), strict=True)
            ]
            hits.sort(key=lambda hit: (-hit.score, hit.key))
            yield hits

    # -- opening, rebuilding, checking --------------------------------------------------------------------------------

    def _open(self) -> MatrixFile:
        if self._file is None:
            self._check_current()
            note = self._log.checkpoint(self._note_name)
            if note is None:
                self._rebuild("")
            elif note["position"] > self._log.position:
                self._rebuild("the files are newer than the log: the store was rolled back")
            else:
                try:
                    self._adopt(MatrixFile.load(self._folder, self.spec, note), noted=True)
                except Damaged as reason:
                    self._rebuild(str(reason))
        assert self._file is not None
        return self._file

    def _adopt(self, file: MatrixFile, *, noted: bool = False) -> None:
        """Serve from ``file``, with an empty overlay. The note first: a file is only real once the log names it."""
        if not noted:
            self._log.set_checkpoint(self._note_name, file.note)
            file.discard_others()
        self._file = file
        self._overlay = Overlay(self._log, self.schema.name, self.spec, file.note["position"])
        self._places = {key: place for place, key in enumerate(file.keys) if key}
        self._dead = [place for place, key in enumerate(file.keys) if not key]
        self._lengths = lengths_of(self.spec, file.rows)

    def _rebuild(self, reason: str) -> None:
        self._check_current()
        if reason:
            self.rebuilds.append(reason)
        position = self._log.position
        try:
            self._adopt(MatrixFile.create(self._folder, self.spec, self._batches(), position))
        except OSError as error:
            raise storage_error(f"writing the vectors of {self.schema.name!r}", error) from error

    def _check_current(self) -> None:
        if self._retired:
            raise StorageError(f"{self.schema.name!r} has been declared anew meanwhile", hint="search again")

    def _batches(self) -> Iterator[tuple[list[str], bytes]]:
        for page in self._pages():
            yield [key for key, _ in page], b"".join(row.tobytes() for _, row in page)

    def _pages(self) -> Iterator[list[tuple[str, Floats]]]:
        after = ""
        while images := self._log.scan(self.schema.name, after=after, limit=_PAGE):
            page = []
            for key, image in images:
                row = row_of(self.spec, (image_values(image) or {}).get(self.spec.field))
                if row is not None:
                    page.append((key, row))
            yield page
            after = images[-1][0]

    def _compare(self) -> list[str]:
        """What the index would find wrongly or not at all; what changes meanwhile is no evidence of either."""
        file, overlay = self._open(), self._overlay
        expected: set[str] = set()
        suspects: list[str] = []
        for page in self._pages():
            for key, row in page:
                expected.add(key)
                slot, place = overlay.slots.get(key), self._places.get(key)
                held = overlay.rows[slot] if slot is not None else file.rows[place] if place is not None else None
                if held is None or held.tobytes() != row.tobytes():
                    suspects.append(key)
        suspects += sorted(self._places.keys() - expected)
        suspects += sorted({key for key in overlay.keys if key} - expected)
        moving = set(overlay.refresh()) if suspects else set()
        for key in sorted(moving):
            if (place := self._places.pop(key, None)) is not None:
                self._dead.append(place)
        return [f"the row of {key!r} is not its record's vector" for key in suspects if key not in moving]
