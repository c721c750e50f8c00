"""The carrier: carries out what a ``SyncSession`` asks of the device itself, against its delta log and its keys.

Everything but ``Send``, and without a loop or a thread: the replicator puts a transport beside it, a simulator its own
wire. The caller holds the session and steps it; effects are carried out one by one, in their order.

What always holds: ``advance`` is called only after the delta log's transaction has committed.
"""

from __future__ import annotations

from edge.link.membership import keep_keys
from edge.storage import link_state
from edge.storage.delta_log import DeltaLog
from sync.effects import Apply, Effect, Learn, Load, LoadState, Mend, NewIncarnation, Persist, Send, Sweep
from sync.session import SyncSession


class Carrier:
    """``store`` is the directory that has the keys. Counted since it was made: operations ``pushed`` and ``pulled``,
    ``refused`` ones, ``handshakes``.
    """

    def __init__(self, log: DeltaLog, store: str, session: SyncSession) -> None:
        self._log = log
        self._store = store
        self._session = session
        self.pushed = self.pulled = self.refused = self.handshakes = 0

    def carry_out(self, effect: Effect) -> None:
        """Any effect but ``Send``. Raises StorageError and its kinds; the session is then as before, and has to begin
        again from what is durable (``SyncSession.interrupt``).
        """
        log, session = self._log, self._session
        if isinstance(effect, Load):
            session.loaded(log.pending(*effect))
            return
        if isinstance(effect, LoadState):
            session.loaded_state(*link_state.state_page(log, *effect))
            return
        assert not isinstance(effect, Send), "sending is the caller's"
        done, repair = True, False
        if isinstance(effect, Learn):
            self._learn(effect)
        elif isinstance(effect, Persist):
            before = log.acked_seq
            link_state.store(log, effect)
            if effect.acked is not None:
                self.pushed += max(0, effect.acked[0] - before)
            self.refused += len(effect.refusals)
        elif isinstance(effect, Apply):
            done = self._apply(effect)
            repair = done and log.took_back
        elif isinstance(effect, Mend):
            log.mend_stamps(as_state=effect.as_state)
            session.mended(log.head_seq, log.baseline)
        elif isinstance(effect, Sweep):
            log.sweep(*effect)
        elif isinstance(effect, NewIncarnation):
            session.reincarnated(log.new_incarnation())
        session.advance(effect, done=done, repair=repair)

    def _learn(self, effect: Learn) -> None:
        self.handshakes += 1
        if effect.keys:
            keep_keys(self._store, effect.keys)
        self._log.learn_time(effect.time_ms)

    def _apply(self, effect: Apply) -> bool:
        """False, and nothing done, for a baseline page of a device that has begun to write meanwhile."""
        operations, cursor, baseline, pristine = effect
        if self._log.apply(operations, cursor=cursor, baseline=baseline, pristine=pristine) is None:
            return False
        self.pulled += len(operations)
        return True
