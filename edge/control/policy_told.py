"""What becomes of a policy is reported: committed once it is active, refused if this device cannot run it.

It stands between ``TrustStore`` and who runs policies. What always holds: an outcome that a crash kept from being noted
is noted when the next process asks what it trusts (``catch_up``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from edge.control.trust import POLICY
from edge.storage import policy_row
from sync.errors import AgentDBError, DataError, InputError, Refused

if TYPE_CHECKING:
    from edge.control.acceptance import Part
    from edge.control.twin import Twin
    from edge.storage.control_tables import Document
    from edge.storage.delta_log import DeltaLog
    from sync.assignments import Agreed

_log = logging.getLogger("agentdb.edge")


class PolicyTold:
    """A ``Part`` like the one that it is given."""

    def __init__(self, part: Part, log: DeltaLog, twin: Callable[[], Twin]) -> None:
        self._part = part
        self._log = log
        self._twin = twin

    def check(self, target: Agreed, data: bytes) -> None:
        """Raises as the part's."""
        try:
            self._part.check(target, data)
        except (DataError, InputError, Refused) as error:
            self._note(target.path, target.sha256, "refused", error.message)
            raise

    def activated(self, documents: list[Document]) -> None:
        self._part.activated(documents)
        self.catch_up()

    def wanted(self) -> Collection[bytes]:
        return self._part.wanted()

    def catch_up(self) -> None:
        """Note what is active, if that is not what was noted last. What cannot be noted is logged."""
        try:
            row = policy_row.load(self._log)
        except AgentDBError as error:
            _log.warning("policy: its outcome cannot be reported: %s", error)
            return
        if row is not None:
            self._note(row.path, row.sha256, "committed", "")

    def _note(self, path: str, sha256: bytes, outcome: str, reason: str) -> None:
        try:
            twin = self._twin()
            said = twin.system().get("outcomes", {}).get(POLICY, {})
            if (said.get("sha256"), said.get("outcome")) != (sha256.hex(), outcome):
                twin.note_outcome(POLICY, path, sha256.hex(), outcome, reason)
        except AgentDBError as error:
            _log.warning("policy: its outcome cannot be reported: %s", error)
