"""What the log remembers beside an operation: its writer's own slots as they were before it, and the run it is of.

It is kept for the fields whose rule has one slot for each replica (counter, max, min), hidden among the fields under a
name that no field can have, and never leaves the device: ``[run, [[ts, value] or nil for each such field]]``. Should
the store turn out to be a copy, ``renaming`` knows by it what every operation added. Operations from before there was
this memory have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from sync.moving import MOVED_RULES, RUN_BITS
from sync.ports import RandomSource
from sync.records import Record

HIDDEN = ""
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def new_run(random: RandomSource) -> int:
    """An id for what this process is going to write."""
    return int.from_bytes(random.token(4), "big") >> (32 - RUN_BITS)


def with_own(
    packed: bytes, fields: Mapping[str, Any], rules: str, image: bytes | None, replica: bytes, run: int
) -> bytes:
    """The packed ``fields``, and what their writer's slots were in ``image``, if they have such rules."""
    if MOVED_RULES.isdisjoint(rules):
        return packed
    slots = {} if image is None else Record.decode(image).slots
    before: list[list[Any] | None] = []
    for name, rule in zip(fields, rules, strict=True):
        if rule in MOVED_RULES:
            held = slots.get((name, rule), {}).get(replica)
            before.append(None if held is None else [held[0], held[2]])
    return with_hidden(fields, [run, before])


def with_hidden(fields: Mapping[str, Any], hidden: list[Any] | None) -> bytes:
    packed: bytes = _pack(fields if hidden is None else {**fields, HIDDEN: hidden})
    return packed


def moved_hidden(hidden: list[Any] | None, moved: Mapping[int, int]) -> list[Any] | None:
    """The same after its replica's timestamps have moved (``log_clock``)."""
    if hidden is None:
        return None
    run, before = hidden
    return [run, [None if held is None else [moved.get(held[0], held[0]), held[1]] for held in before]]
