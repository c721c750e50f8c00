"""Slots: the registers that fields other than last-writer ones are made of, and what a reader sees of them.

A slot maps who wrote (a replica; for a set, an element and a replica) to an entry ``(ts, LIVE, …)`` or ``(ts, REMOVED,
…)``. For a counter, a maximum and a minimum the third item is the contribution, for keep-all the value, a set has none.

What always holds: an entry only ever gives way to a larger one (``advance``), and what is shown depends on the entries
alone, never on the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import copysign, isfinite
from sys import float_info
from typing import Any

import msgpack

from sync.limits import INT_MAX, INT_MIN
from sync.stamps import Stamp
from sync.values import element_order

REMOVED, LIVE = 0, 1
Slots = dict[Any, Any]

_pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def advance(slots: Slots, slot: Any, entry: tuple[Any, ...]) -> bool:
    """Keep the larger of two entries of one slot, and say whether it is the new one.

    Larger is: the later; of two that are as late, the removal, since it is a removal of exactly that write; then the
    one with larger bytes (two different entries with all else equal are a forgery, but every replica must choose the
    same).
    """
    held = slots.get(slot)
    if held is not None:
        if held[0] != entry[0]:
            if held[0] > entry[0]:
                return False
        elif held[1] != entry[1]:
            if held[1] < entry[1]:
                return False
        elif _pack(held[2:]) >= _pack(entry[2:]):
            return False
    slots[slot] = entry
    return True


def is_above(floor: Stamp, slot: Any, entry: tuple[Any, ...]) -> bool:
    """Whether the entry was written after the record was last deleted."""
    replica = slot[1] if type(slot) is tuple else slot
    return (entry[0], replica) > floor


def observed(slots: Slots, elements: set[Any]) -> list[Any]:
    """``[[element, [[replica, ts], …]], …]``: the living additions of these elements, in canonical order."""
    tags: dict[Any, list[Any]] = {}
    for (element, replica), (ts, live) in sorted(slots.items(), key=_slot_order):
        if live and element in elements:
            tags.setdefault(element, []).append([replica, ts])
    return [[element, seen] for element, seen in tags.items()]


def flatten(rule: str, slots: Slots) -> list[Any]:
    """The canonical form of the slots of one field."""
    ordered = sorted(slots.items(), key=_slot_order)
    if rule == "s":
        return [[element, replica, *entry] for (element, replica), entry in ordered]
    return [[replica, *entry] for replica, entry in ordered]


def unflatten(rule: str, flat: list[Any]) -> Slots:
    """The inverse of ``flatten``. Raises ValueError or TypeError for what it could not have produced."""
    if rule == "s":
        return {(element, replica): (ts, live) for element, replica, ts, live in flat}
    return {replica: (ts, live, value) for replica, ts, live, value in flat}


def total(slots: Slots) -> Any:
    """The sum of a counter's contributions, always added in the same order: floats round differently in another."""
    return sum(entry[2] for _, entry in sorted(slots.items()))


def _slot_order(item: tuple[Any, Any]) -> tuple[Any, ...]:
    slot = item[0]
    return (*element_order(slot[0]), slot[1]) if type(slot) is tuple else (slot,)


def _shown_sum(slots: Slots) -> Any:
    """Held within what a value can be: each contribution is, but the sum of several need not be."""
    value = total(slots)
    if type(value) is int:
        return min(max(value, INT_MIN), INT_MAX)
    return value if isfinite(value) else copysign(float_info.max, value)


def _shown_max(slots: Slots) -> Any:
    return max(entry[2] for _, entry in sorted(slots.items()))  # in order: 1 and 1.0 are as large


def _shown_min(slots: Slots) -> Any:
    return min(entry[2] for _, entry in sorted(slots.items()))


def _shown_set(slots: Slots) -> list[Any]:
    return sorted({element for (element, _), entry in slots.items() if entry[1]}, key=element_order)


def _shown_siblings(slots: Slots) -> list[Any] | None:
    live = sorted((entry[0], replica, entry[2]) for replica, entry in slots.items() if entry[1])
    return [value for _, _, value in live] or None


# By rule letter; each is given at least one slot.
SHOWN: Mapping[str, Callable[[Slots], Any]] = {
    "c": _shown_sum,
    "x": _shown_max,
    "n": _shown_min,
    "s": _shown_set,
    "k": _shown_siblings,
}
