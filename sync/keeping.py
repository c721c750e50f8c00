"""A session that also pushes what was kept back (ADR 24): records that were written while the policy kept them on the
device, and that may go by now, as state.

They take turns with the segments of the log, which begins: what waits to be mended waits for the answer to what is in
it, and is mended by the handshake after that. What always holds: nothing of them is sent during a repair; which of them
went is known by the ticket that they were loaded with, and they are let go with the cloud's answer alone. A lost answer
means that they are loaded again, and merged to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync.effects import LoadKept, Persist, Release, Ticket
from sync.errors import AgentDBError, FutureStamp, ProtocolError
from sync.messages import PushAck
from sync.operations import Operation
from sync.segment import FLAG_LAST, FLAG_STATE, GENESIS
from sync.session import SyncSession

_RECORDS_MAX = 1_000


class KeepingSession(SyncSession):
    """Without ``keeps`` a ``SyncSession`` like any other."""

    _due = False  # there may be something that was kept back and may go
    _turn = False  # whether it is before the log
    _after: tuple[str, str] | None = None
    _next: tuple[str, str] | None = None
    _ticket: Ticket | None = None  # of what is under way
    _kept_size = _RECORDS_MAX

    def keeps(self) -> None:
        """Something may be kept back that may go by now: look, from the beginning."""
        self._due, self._after, self._next = True, None, None

    def loaded_kept(self, operations: Sequence[Operation], ticket: Ticket, after: tuple[str, str] | None) -> None:
        """The answer to ``LoadKept``; nothing, if there is nothing. ``after``: where to go on."""
        self._loading = False
        if not self.connected:
            return
        if not operations:
            self._due, self._after = False, None
            return
        seq = self.position.acked[0]
        sealed = self._seal(operations, seq, GENESIS, FLAG_STATE | FLAG_LAST)
        if sealed is not None:  # it becomes what the cloud holds of this replica: a cloud that lost it is found out
            self._sealed, self._ticket, self._next = sealed, ticket, after
            self._effects.append(Persist(sent=self.position.sending(seq, sealed.id)))

    @property
    def owes_kept(self) -> bool:
        """Whether something that was kept back may be to push."""
        return self._due

    @property
    def settled(self) -> bool:
        return super().settled and not self._due

    # -- inside -----------------------------------------------------------------------------------------------------

    def _plan_push(self) -> None:
        position = self.position
        waits = position.acked[0] < position.head_seq and not self._turn
        if not self._due or waits or self._repair is not None:
            self._turn = True
            super()._plan_push()
            return
        self._turn = False
        self._loading = True
        size = min(self._kept_size, self._push_size)
        self._effects.append(LoadKept(self._after, size, self._limits.push_bytes))

    def _acknowledged(self, ack: PushAck) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            super()._acknowledged(ack)
            return
        sealed, self._sealed = self._sealed, None
        if sealed is None:
            raise ProtocolError("the cloud acknowledged what was not sent")
        self.head = max(self.head, ack.head)
        acked = (ack.last_seq, ack.last_segment)
        if acked != (self.position.acked[0], sealed.id):  # somebody writes under this name
            self._disconnect(None, 0)
            return
        self._effects.append(Persist(acked, (), own_until=ack.head))
        if not ack.refusals:
            self._kept_size = min(_RECORDS_MAX, self._kept_size * 2)
            self._effects.append(Release(ticket))
            self._after = self._next
        elif len(ticket) > 1:  # whose it is, the answer does not say: again, one by one at last
            self._kept_size = max(1, len(ticket) // 8)
        else:
            refusal = ack.refusals[0]
            self._effects.append(Release(ticket, (refusal.code, refusal.reason)))
            self._after = self._next
            if refusal.code == FutureStamp.code:
                self._disconnect(FutureStamp("this device's clock is ahead", hint="it asks the cloud for the time"), 0)

    def _disconnect(self, error: AgentDBError | None, wait_ms: int) -> None:
        self._ticket = None
        self._turn = False
        super()._disconnect(error, wait_ms)
