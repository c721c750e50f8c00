"""What of the assignments concerns models: told to ``ModelStore`` when both sides have named other versions to run.

It is what ``TrustStore`` hears of (``on_activated``). What always holds: a store that is assigned no models makes
nothing of them, not even their import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from edge.control.acceptance import MODELS
from edge.storage.control_tables import ControlTables
from edge.storage.paths import has_models
from sync.errors import DataError, Malformed

if TYPE_CHECKING:
    from edge.control.model_store import ModelStore
    from edge.storage.control_tables import Document
    from edge.storage.delta_log import DeltaLog
    from sync.assignments import Agreed


class ModelPart:
    """``models`` makes or gives the store's models; ``store`` is its directory."""

    def __init__(self, store: str, models: Callable[[], ModelStore]) -> None:
        self._store = store
        self._models = models

    def check(self, target: Agreed, data: bytes) -> None:
        """Raises Malformed, TooLarge, UnsupportedVersion."""
        from sync.models import Manifest

        manifest = Manifest.parse(data)
        if (manifest.name, manifest.number) != (target.name, target.number):
            raise Malformed(f"the manifest of {manifest.name!r} {manifest.number} as {target.path}")

    def activated(self, documents: list[Document]) -> None:
        """A name that is not among them any more stays as it is: ``models remove`` is for people. Raises StorageError,
        and DataError for what ``check`` would not have let through.
        """
        if documents:
            tell(self._models(), documents)

    def wanted(self) -> Collection[bytes]:
        """Digests of manifests that run here, or may be returned to."""
        if not has_models(self._store):
            return ()
        notes = self._models().notes().values()
        kept = [(note.active, note.candidate, note.previous, note.wanted) for note in notes]
        return [version.digest for versions in kept for version in versions if version is not None]


def concerned(log: DeltaLog, store: str) -> bool:
    """Whether there is something to do, or to say, of models: files of one, or one that is agreed although no file of
    it is here (it was refused, or a crash came before it was told). Raises StorageError.
    """
    return has_models(store) or any(place.startswith(MODELS) for place in ControlTables(log).named())


def tell(models: ModelStore, documents: list[Document]) -> None:
    """These are assigned; of what was known already nothing changes. One that is not understood here keeps no other
    back: then raises DataError, once all are told. Raises StorageError.
    """
    failed: DataError | None = None
    for one in documents:
        try:
            models.assigned(_name(one), one.number, one.data)
        except DataError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def look(models: ModelStore, documents: list[Document]) -> None:
    """As ``tell``, of a process that only reads, so that it can say what is not taken. Raises StorageError."""
    for one in documents:
        with suppress(DataError):  # of newer software: who writes refuses it
            models.look_at(_name(one), one.number, one.data)


def fit_again(models: ModelStore, assigned: Callable[[], list[Document]]) -> None:
    """The device has said something else of itself: what it could not take may fit now, or not for another reason.
    Raises StorageError.
    """
    if models.unfit:
        tell(models, [one for one in assigned() if _name(one) in models.unfit])


def _name(document: Document) -> str:
    return document.place.rpartition("/")[2]
