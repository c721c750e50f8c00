"""What the log remembers beside an operation: its writer's own slots as they were before it, and the run it is of.

It is kept for the fields whose rule has one slot for each replica (counter, max, min), hidden among the fields under a
name that no field can have, and never leaves the device: ``[run, [[ts, value, added] or nil for each such field]]``;
``added`` is what the run had added to a counter before. Should the store turn out to be a copy, ``renaming`` knows by
it what every operation did. Operations from before there was this memory have none.

A *run* is what one process writes between opening the store and closing it (``sync.moving`` says what runs are for).
What always holds: within a run, of one field, each operation's slot is the next one's slot before it. Where it would
not be (a commit failed, the store got another name, somebody deleted the record), another run begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgpack

from sync.moving import MOVED_RULES, RUN_BITS, is_in_range
from sync.ports import RandomSource
from sync.records import Record
from sync.slots import Slots

if TYPE_CHECKING:
    from edge.storage.transaction import Ref

HIDDEN = ""
_FIELDS_MAX = 65_536  # of one run: each is remembered
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Run:
    """What this process writes. Not thread-safe: whoever uses it holds the write lock."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._added: dict[tuple[Ref, str], tuple[int, Any]] = {}  # by counter: its last slot's ts, and what was added
        self.begin()

    def begin(self) -> None:
        """Another run."""
        self.id = int.from_bytes(self._random.token(4), "big") >> (32 - RUN_BITS)
        self._added.clear()

    def with_own(
        self,
        packed: bytes,
        fields: Mapping[str, Any],
        rules: str,
        image: bytes | None,
        ref: Ref,
        ts: int,
        replica: bytes,
    ) -> bytes:
        """The packed ``fields`` of a write at ``ts`` and, if they have such rules, what its writer's slots are in
        ``image``.
        """
        if MOVED_RULES.isdisjoint(rules):
            return packed
        held = {} if image is None else Record.decode(image).slots
        merged = [(name, rule, _own(held, name, rule, replica)) for name, rule in zip(fields, rules, strict=True)]
        merged = [it for it in merged if it[1] in MOVED_RULES]
        if not all(self._continues((ref, name), before) for name, _, before in merged):
            self.begin()
        out: list[list[Any] | None] = []
        for name, rule, before in merged:
            added = self._added.get((ref, name), (0, 0))[1]
            out.append(None if before is None else [*before, added])
            if rule == "c":
                self._added[ref, name] = (ts, added + fields[name] - (0 if before is None else before[1]))
        return with_hidden(fields, [self.id, out])

    def _continues(self, field: tuple[Ref, str], before: tuple[int, Any] | None) -> bool:
        known = self._added.get(field)
        if known is None:
            return len(self._added) < _FIELDS_MAX
        return before is not None and before[0] == known[0] and is_in_range(known[1])


def _own(slots: Mapping[tuple[str, str], Slots], name: str, rule: str, replica: bytes) -> tuple[int, Any] | None:
    held = slots.get((name, rule), {}).get(replica)
    return None if held is None or rule not in MOVED_RULES else (held[0], held[2])


def with_hidden(fields: Mapping[str, Any], hidden: list[Any] | None) -> bytes:
    packed: bytes = _pack(fields if hidden is None else {**fields, HIDDEN: hidden})
    return packed


def moved_hidden(hidden: list[Any] | None, moved: Mapping[int, int]) -> list[Any] | None:
    """The same after its replica's timestamps have moved (``log_clock``)."""
    if hidden is None:
        return None
    run, before = hidden
    return [run, [None if held is None else [moved.get(held[0], held[0]), *held[1:]] for held in before]]
