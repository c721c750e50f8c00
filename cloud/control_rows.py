"""What the cloud's store keeps of what devices are to run (ADR 23): rows, and how they are read and written.

A part of ``cloud.ports.Store``'s contract, apart for its length; what the rows mean is ``cloud.fleet``'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class TrustRow(NamedTuple):
    """Signed metadata. ``name``: root, timestamp, snapshot or a role of targets. All roots are kept, of the rest the
    newest.
    """

    name: str
    version: int
    data: bytes


class TargetRow(NamedTuple):
    """A document that is signed, or is named by one. ``number`` is dense from 1 in a fleet; ``sha256`` is that of
    ``data``, ``path`` the one that it first came with.
    """

    number: int
    sha256: bytes
    path: str
    data: bytes


class AssignmentRow(NamedTuple):
    """The newest assignment that was signed for a device. ``chosen`` tells what it is made of: it is signed anew when
    that differs; ``signature`` has 64 bytes for each key that signed. After a restore only the number is known.
    """

    device: bytes
    number: int
    chosen: bytes = b""
    snapshot: int = 0
    expires_ms: int = 0
    data: bytes = b""
    signature: bytes = b""
    served_ms: int = 0


class ChannelRow(NamedTuple):
    """What the whole fleet runs in a place: "policy" or "models/<name>"."""

    place: str
    path: str


class ControlReading(Protocol):
    """Lists come in the order of their key; ``after`` is exclusive."""

    def control(self, fleet: bytes) -> int:
        """Grows with every change of what may be assigned to a device; 0 in a fleet without trust."""
        ...

    def trust_versions(self, fleet: bytes) -> list[tuple[str, int]]:
        """The name and version of all metadata that is held."""
        ...

    def trust(self, fleet: bytes, name: str, version: int = 0) -> TrustRow | None:
        """That version, or (0) the newest."""
        ...

    def target(self, fleet: bytes, sha256: bytes) -> TargetRow | None: ...
    def targets(self, fleet: bytes, after: int = 0, limit: int = 1000) -> list[TargetRow]: ...
    def assignment(self, fleet: bytes, device: bytes) -> AssignmentRow | None: ...
    def assignments(self, fleet: bytes) -> list[AssignmentRow]: ...
    def channels(self, fleet: bytes) -> list[ChannelRow]: ...


class ControlWriting(ControlReading, Protocol):
    """``put_`` inserts or replaces by the row's key."""

    def touch_control(self, fleet: bytes) -> int:
        """What may be assigned has changed: ``control`` from now on. Servers look for it, and wake devices."""
        ...

    def put_trust(self, fleet: bytes, rows: Iterable[TrustRow]) -> None:
        """Other versions than this go, unless it is a root."""
        ...

    def add_targets(self, fleet: bytes, rows: Iterable[TargetRow]) -> None:
        """Each gets the next number (its own is not looked at), unless its digest is there already."""
        ...

    def put_assignment(self, fleet: bytes, row: AssignmentRow) -> None: ...
    def put_channel(self, fleet: bytes, row: ChannelRow) -> None: ...
    def drop_channel(self, fleet: bytes, place: str) -> None:
        """No error if there is none."""
        ...
