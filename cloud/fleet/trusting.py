"""What a fleet's store holds of signed metadata, verified: as ``sync.manifests.TrustedSet``, kept until it changes.

Parsing and verifying takes milliseconds, and every assignment that is signed needs it.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from cloud.control_rows import ControlReading, TrustRow
from sync.errors import NotFound

if TYPE_CHECKING:
    from sync.manifests import TrustedSet

ROOT, TIMESTAMP, SNAPSHOT = "root", "timestamp", "snapshot"
_HINT = "sign a root and publish it: agentdb-cloud trust, agentdb-cloud publish"


def newest(view: ControlReading, fleet: bytes) -> dict[str, TrustRow]:
    """The newest of each role, by name; empty for a fleet without trust."""
    versions = dict(view.trust_versions(fleet))  # in ascending order: the last of a name stays
    rows = {name: view.trust(fleet, name, version) for name, version in versions.items()}
    return {name: row for name, row in rows.items() if row is not None}


class Trusting:
    """Of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: dict[bytes, tuple[list[tuple[str, int]], TrustedSet]] = {}

    def load(self, view: ControlReading, fleet: bytes) -> TrustedSet:
        """Raises NotFound for a fleet without trust; Untrusted if what is stored does not verify."""
        versions = view.trust_versions(fleet)
        if not versions:
            raise NotFound("this fleet has no root: nothing can be assigned to its devices", hint=_HINT)
        with self._lock:
            held = self._held.get(fleet)
        if held is not None and held[0] == versions:
            return held[1]
        from sync.manifests import TrustedSet

        stored = {name: row.data for name, row in newest(view, fleet).items()}
        trusted = TrustedSet.load(stored, fleet)
        with self._lock:
            self._held[fleet] = (versions, trusted)
        return trusted
