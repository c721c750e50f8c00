"""A session that fetches single records: those that have left the device and are written to again (ADR 24).

The caller says that there may be such places (``wants``), and is asked for them (``LoadPlaces``) when nothing greater
is under way: a baseline or a growth brings them, too.

What always holds: an answer is merged as whole records, with what the cloud has not got and what it does not give, in
one ``Apply``; one that is lost is asked for again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sync.effects import PULL, Apply, LoadPlaces
from sync.errors import ProtocolError
from sync.growing import GrowingSession
from sync.messages import Answer, FetchRecords, RecordName, RecordsPage
from sync.pages import open_records
from sync.places import Place, Whole


class FetchingSession(GrowingSession):
    """Without ``wants`` a ``GrowingSession`` like any other."""

    _wants = False
    _places: tuple[Place, ...] = ()  # that were asked for last

    def wants(self) -> None:
        """There may be records to fetch; they do not wait for the end of a long poll."""
        if not self._wants and self._live and self._may_fetch:
            self._flights.forget(PULL)
        self._wants = True

    def loaded_places(self, places: Sequence[Place]) -> None:
        """The answer to ``LoadPlaces``: none, if there are none (any more)."""
        if not self.connected or PULL in self._flights:
            return
        self._wants = bool(places)
        if places:
            position = self.position
            self._places = tuple(places)
            named = [RecordName(*place) for place in places]
            self._send(PULL, FetchRecords(position.replica, named, position.incarnation, position.scope))

    @property
    def settled(self) -> bool:
        return super().settled and not self.fetches

    @property
    def fetches(self) -> bool:
        """Whether there are records to fetch next."""
        return self._wants and self._may_fetch

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def _may_fetch(self) -> bool:
        position = self.position
        return self.connected and self.version > 2 and position.baseline is None and position.growth is None

    def _plan_pull(self) -> None:
        if self.fetches:
            self._effects.append(LoadPlaces())
        else:
            super()._plan_pull()

    def _receive(self, lane: str, answer: Answer) -> None:
        if not (isinstance(answer, RecordsPage) and lane == PULL and self.connected):
            super()._receive(lane, answer)
            return
        asked, self._places = self._places, ()
        operations = open_records(answer, self._keys, self.position.incarnation)
        there = {(operation.shape.collection, operation.key) for operation in operations}
        answered = asked[: answer.answered]
        if not answered or not there <= set(answered) or any(at >= len(answered) for at in answer.denied):
            raise ProtocolError("the cloud answered with records that were not asked for, or with nothing")
        denied = tuple(answered[at] for at in answer.denied)
        none = tuple(place for place in answered if place not in there and place not in denied)
        self.head = max(self.head, answer.head)
        self._effects.append(Apply(operations, None, None, whole=Whole(none, denied)))
