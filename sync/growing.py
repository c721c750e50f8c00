"""A session that follows its device's scope (ADR 24): what comes into it is fetched by a baseline of its own, between
whose pages the feed goes on under the scope that the data is complete under.

What always holds: the scope that is named to the feed is one under which the data is complete as of the cursor. It
changes with the last page of a growth, together with the cursor, which goes back to where the feed was at the first
page: what was read twice merges to nothing, and nothing in between is missed. A page that left out some of what was
asked for is *owed*, durably, until a growth has been read whole; that begins as soon as the cloud leaves out nothing.
"""

from __future__ import annotations

from sync.asking import ask_page
from sync.effects import PULL, PUSH, Apply, Effect, Growth, GrowthPage, Leave
from sync.keeping import KeepingSession
from sync.messages import BaselinePage, PullBaseline, PullPage, Welcome
from sync.pages import open_baseline
from sync.places import Whole


class GrowingSession(KeepingSession):
    """Without ``rescoped``, and with a cloud that leaves out nothing, a ``KeepingSession`` like any other."""

    _asked: Growth | None = None  # whose page was asked for last; None: the feed, or a baseline
    _whole: bool | None = None  # whether the last page of the feed left out nothing; None: none came yet
    _welcome: Welcome | None = None  # after which what leaves has not been seen to

    def rescoped(self, scope: bytes, growth: Growth | None, *, owed: bool) -> None:
        """Another policy holds: these are the durable notes. What was asked of the feed under the old ones is asked
        again, so that nothing waits for the end of a long poll.
        """
        self.position = self.position._replace(scope=scope, growth=growth, owed=owed)
        self._flights.forget(PULL)
        self._whole = None

    def advance(self, effect: Effect, *, done: bool = True, repair: bool = False) -> None:
        super().advance(effect, done=done, repair=repair)
        if not isinstance(effect, Apply) or not done:
            return
        if effect.narrowed:
            self.position = self.position._replace(owed=True)
        if effect.growth is not None:
            self.position = self.position.growing(effect.growth)
            if effect.growth.after is None:
                self._whole = None

    @property
    def settled(self) -> bool:
        whole = self.position.growth is None and not (self.position.owed and self._whole is not False)
        return super().settled and whole and not self._may_leave

    # -- inside -----------------------------------------------------------------------------------------------------

    def _follow(self, welcome: Welcome) -> None:
        super()._follow(welcome)
        self._welcome = welcome if welcome.version > 2 else None

    def _plan(self) -> None:
        super()._plan()
        if self._welcome is not None and self._may_leave and not self._effects:
            self._effects.append(Leave(self.head, self._welcome.archived))
            self._welcome = None

    @property
    def _may_leave(self) -> bool:
        """Whether everything local is acknowledged, and all of the scope is here."""
        position, welcome = self.position, self._welcome
        return (
            self.connected
            and welcome is not None
            and self._repair is None
            and PUSH not in self._flights
            and not (position.repair or position.owed)
            and position.baseline is None
            and position.growth is None
            and position.acked[0] >= position.head_seq
            and position.cursor >= welcome.head
        )

    def _plan_pull(self) -> None:
        position, growth = self.position, self.position.growth
        fed = self._asked is None
        self._asked = None
        if position.baseline is not None:
            super()._plan_pull()
        elif growth is not None and (fed or position.cursor >= self.head):
            if growth.incarnation != position.incarnation:  # the cloud has another life: from the beginning
                growth = Growth(growth.scope)
            self._asked = growth
            wanted = (position.replica, growth.token, True, position.incarnation, growth.scope)
            self._send(PULL, PullBaseline(*wanted))
        elif position.owed and self._whole is None:  # whether there is still something left out
            self._send(PULL, ask_page(position, self._limits, self.version, self.assignment, wait=False))
        else:
            super()._plan_pull()

    def _pulled(self, page: PullPage) -> None:
        super()._pulled(page)
        self._whole = not page.narrowed
        if self.position.owed and self._whole and self.position.growth is None:
            self.position = self.position._replace(growth=Growth(self.position.scope))

    def _pulled_baseline(self, page: BaselinePage) -> None:
        of, position = self._asked, self.position
        if of is None:
            super()._pulled_baseline(page)
            return
        operations = open_baseline(page, of.token, self._keys, position.incarnation)
        self.head = page.head
        gaps = of.gaps or page.narrowed
        after = Growth(of.scope, page.next, position.incarnation, gaps) if page.next else None
        cursor = min(position.cursor, page.cursor) if after is None else None
        self._effects.append(Apply(operations, cursor, None, growth=GrowthPage(of, after, gaps), whole=Whole()))
