"""Attached: which attachments' records must stay, since the bytes that they name may be nowhere else.

A body goes with the last record that names it. What always holds: it is not here, or where the cloud keeps bodies now
has all of it, before a record that names it may go.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge.storage.bodies import ATTACHMENTS, BODIES_DIRECTORY, names_body
from edge.storage.body_notes import BodyNotes
from sync.images import image_values

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog


class Attached:
    """As the notes of bodies are now: for one pass."""

    def __init__(self, log: DeltaLog) -> None:
        self._bodies = Path(log.path).parent / BODIES_DIRECTORY
        notes = BodyNotes(log)
        place = notes.place()
        self._confirmed = {digest for digest, note in notes.all().items() if place and note.confirmed == place}

    def holds_back(self, collection: str, image: bytes) -> bool:
        """Whether this record has to stay for its body."""
        if collection != ATTACHMENTS:
            return False
        body = names_body(image_values(image) or {})
        if body is None or body.digest in self._confirmed:
            return False
        name = body.digest.hex()
        return (self._bodies / name[:2] / name).exists()
