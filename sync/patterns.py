"""Names and globs (a beginning and ``*``) in an order: which of them a name meets, looked up, not tried one by one.

What always holds: ``met(name)`` is what trying every pattern in its order would find. Globs are nested or apart, so all
names of a kind meet the same ones; ``one_of`` makes one, for a glob with a NUL at its end, which no name has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")


class Patterns(Generic[Meaning]):
    """Of (pattern, order, what it means), where no two of the same order meet one name in the same way."""

    def __init__(self, patterns: Iterable[tuple[str, int, Meaning]]) -> None:
        self._names: dict[str, list[tuple[int, Meaning]]] = {}
        self._globs: dict[str, list[tuple[int, Meaning]]] = {}
        for pattern, order, meaning in patterns:
            where = (self._globs, pattern[:-1]) if pattern.endswith("*") else (self._names, pattern)
            where[0].setdefault(where[1], []).append((order, meaning))
        self._sizes = sorted({len(glob) for glob in self._globs})

    def met(self, name: str) -> list[tuple[int, Meaning]]:
        """(order, meaning) of the patterns that a name meets, in their order."""
        found = list(self._names.get(name, ()))
        for size in self._sizes:
            if size > len(name):
                break
            found += self._globs.get(name[:size], ())
        found.sort(key=_order)
        return found

    def kinds(self) -> list[str]:
        """The patterns that stand for all kinds of names: each name; of each glob, and of *, what no longer one and no
        name has.
        """
        return [*sorted(self._names), *(f"{glob}*" for glob in sorted({"", *self._globs}))]


def one_of(kind: str) -> str:
    return f"{kind[:-1]}\0" if kind.endswith("*") else kind


def _order(met: tuple[int, object]) -> int:
    return met[0]
