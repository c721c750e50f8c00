"""The carrier: carries out what a ``SyncSession`` asks of the device itself, against its delta log and its keys.

Everything but ``Send``, and without a loop or a thread: the replicator puts a transport beside it, a simulator its own
wire. The caller holds the session and steps it; effects are carried out one by one, in their order.

What always holds: ``advance`` is called only after the delta log's transaction has committed.
"""

from __future__ import annotations

from functools import partial

from edge.link.membership import keep_keys
from edge.storage import kept_back, link_state, policy_row, scoping
from edge.storage.delta_log import DeltaLog
from edge.storage.evicted import to_fetch
from edge.storage.log_writer import Within
from sync.effects import (
    Apply,
    Effect,
    Learn,
    Leave,
    Load,
    LoadKept,
    LoadPlaces,
    LoadState,
    Mend,
    NewIncarnation,
    Persist,
    Release,
    Send,
    Sweep,
)
from sync.fetching import FetchingSession


class Carrier:
    """``store`` is the directory that has the keys. Counted since it was made: operations ``pushed`` and ``pulled``,
    ``refused`` ones, ``handshakes``.
    """

    def __init__(self, log: DeltaLog, store: str, session: FetchingSession) -> None:
        self._log = log
        self._store = store
        self._session = session
        self._rescoped = log.rescoped
        self._kept = -1
        self._looked: tuple[int, int] | None = None
        self.pushed = self.pulled = self.refused = self.handshakes = 0

    @property
    def follows(self) -> bool:
        """Whether the session was told which policy holds, and of what may go that was kept back."""
        return self._rescoped == self._log.rescoped and self._kept == self._log.kept.changes

    def follow(self) -> None:
        """Before the session is asked what is ready: whether another policy holds by now, whether something that
        was kept back may go, or something that has left is needed again. Raises StorageError.
        """
        if self._kept != (changes := self._log.kept.changes):
            if kept_back.is_there(self._log):
                self._session.keeps()
            self._kept = changes
        if self._rescoped != (noted := self._log.rescoped):
            scope, growth, owed = scoping.load(self._log)
            self._session.rescoped(scope, growth, owed=owed)
            self._rescoped = noted
        evicted = self._log.writer.evicted
        if evicted.wanted or evicted.asked:
            looked = (self._log.rescoped, evicted.turns)
            if looked != self._looked:
                self._looked = looked
                self._session.wants()

    def carry_out(self, effect: Effect) -> None:
        """Any effect but ``Send``. Raises StorageError and its kinds; the session is then as before, and has to begin
        again from what is durable (``SyncSession.interrupt``).
        """
        log, session = self._log, self._session
        assert not isinstance(effect, Send), "sending is the caller's"
        if isinstance(effect, (Load, LoadState, LoadKept, LoadPlaces)):
            self._load(effect)
            return
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
        elif isinstance(effect, Leave):
            self._leave(effect)
        elif isinstance(effect, Release):
            kept_back.release(log, *effect)
        elif isinstance(effect, NewIncarnation):
            session.reincarnated(log.new_incarnation())
        session.advance(effect, done=done, repair=repair)

    def _load(self, effect: Load | LoadState | LoadKept | LoadPlaces) -> None:
        log, session = self._log, self._session
        if isinstance(effect, Load):
            session.loaded(log.pending(*effect))
        elif isinstance(effect, LoadState):
            session.loaded_state(*link_state.state_page(log, *effect))
        elif isinstance(effect, LoadPlaces):
            session.loaded_places(to_fetch(log))
        else:
            session.loaded_kept(*kept_back.load(log, *effect))

    def _learn(self, effect: Learn) -> None:
        self.handshakes += 1
        self._kept = -1  # time has passed, and another cloud may take what that one would not
        if effect.keys:
            keep_keys(self._store, effect.keys)
        self._log.learn_time(effect.time_ms)

    def _leave(self, effect: Leave) -> None:
        if policy_row.is_there(self._log):
            from edge.storage import leaving

            leaving.leave(self._log, effect.head, effect.archived)

    def _apply(self, effect: Apply) -> bool:
        """False, and nothing done, for a baseline page of a device that has begun to write meanwhile, and for a page
        of a growth that another policy has ended.
        """
        looked_at = effect.pristine or effect.narrowed or effect.growth is not None
        within: Within = partial(scoping.page_notes, self._log, effect) if looked_at else dict
        done = self._log.apply(
            effect.operations, cursor=effect.cursor, baseline=effect.baseline, within=within, whole=effect.whole
        )
        if done is None:
            return False
        if effect.whole is not None:
            self._log.writer.evicted.answered((*effect.whole.none, *effect.whole.denied))
        self.pulled += len(effect.operations)
        return True
