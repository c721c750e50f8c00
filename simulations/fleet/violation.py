"""An invariant that does not hold: what the simulator is there to find."""

from __future__ import annotations


class Violation(Exception):
    """``name`` is the invariant's."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name
