"""Which requests are under way: at most one in a lane, each with a number that is never used again.

An answer whose number is not under way (any more) is nobody's: it belongs to a connection that was given up.
"""

from __future__ import annotations

from sync.effects import Send
from sync.messages import Message


class Flights:
    """``lane in flights`` while a request of that lane has neither an answer nor a failure."""

    def __init__(self) -> None:
        self._numbers = 0
        self._flying: dict[str, int] = {}

    def __contains__(self, lane: object) -> bool:
        return lane in self._flying

    def __len__(self) -> int:
        return len(self._flying)

    def depart(self, lane: str, message: Message) -> Send:
        self._numbers += 1
        self._flying[lane] = self._numbers
        return Send(self._numbers, lane, message)

    def land(self, number: int) -> str | None:
        """The lane of the request with that number, which is then no longer under way; None if it was not."""
        for lane, flying in self._flying.items():
            if flying == number:
                del self._flying[lane]
                return lane
        return None

    def forget(self, lane: str) -> None:
        """An answer to what is under way in it is nobody's."""
        self._flying.pop(lane, None)

    def clear(self) -> None:
        self._flying.clear()
