"""What a writer puts into an operation, given what it sees of the record.

What always holds: merged into the record that the writer saw, the operation makes it show what the writer asked for;
merged into what others made of the record meanwhile, it takes back nothing that its writer had not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sync.errors import TooLarge
from sync.limits import OPERATION_FIELDS_MAX
from sync.slots import Slots, observed, total
from sync.values import check_value

if TYPE_CHECKING:
    from sync.records import Record


def compose(
    record: Record | None,
    values: Mapping[str, Any],
    rule_letter: Callable[[str], str],
    replica: bytes,
    *,
    replace: bool,
) -> tuple[tuple[str, ...], str, tuple[Any, ...]]:
    """``(names, rules, values)`` of a PUT (``replace``) or PATCH that makes the record show ``values``.

    A PUT sets the last-writer fields that it does not name to None; it leaves merged fields that it does not name as
    they are. A counter is moved to the value, a set to exactly these elements, max and min take the value as one more
    contribution, keep-all replaces the siblings that this writer sees. Raises InvalidValue for a counter that leaves
    its range.
    """
    wanted = dict(values)
    if replace and record is not None and record.alive:
        for name, slot in record.lww.items():
            if slot[2] is not None:
                wanted.setdefault(name, None)
    names = tuple(sorted(wanted))
    if len(names) > OPERATION_FIELDS_MAX:
        raise TooLarge(
            f"the record has {len(names)} fields, of which a put must clear those that it does not name; the bound is "
            f"{OPERATION_FIELDS_MAX}",
            hint="delete the record, then put it",
        )
    # What is left out is a last-writer field, even if a newer schema merges the field of that name in another way.
    rules = "".join(rule_letter(name) if name in values else "l" for name in names)
    out: list[Any] = []
    for name, rule in zip(names, rules, strict=True):
        if rule == "l":
            out.append(wanted[name])
        else:
            out.append(_COMPOSE[rule](_slots(record, name, rule), name, wanted[name], replica))
    return names, rules, tuple(out)


def compose_increment(record: Record | None, name: str, by: float, replica: bytes) -> int | float:
    """This replica's new running total of a counter field. Raises InvalidValue if it leaves its range."""
    held = _slots(record, name, "c").get(replica)
    value: int | float = check_value(name, by + (held[2] if held else 0))
    return value


def compose_add(elements: list[Any]) -> list[Any]:
    return [elements, []]


def compose_remove(record: Record | None, name: str, elements: list[Any]) -> list[Any]:
    """Removal of what this writer sees of the elements; what it has not seen stays."""
    return [[], observed(_slots(record, name, "s"), set(elements))]


def _slots(record: Record | None, name: str, rule: str) -> Slots:
    return record.slots.get((name, rule), {}) if record is not None else {}


def _counter(slots: Slots, name: str, value: Any, replica: bytes) -> Any:
    own = slots[replica][2] if replica in slots else 0
    return check_value(name, own + value - total(slots))


def _set(slots: Slots, _name: str, value: list[Any], _replica: bytes) -> list[Any]:
    gone = {element for element, _ in slots} - set(value)
    return [value, observed(slots, gone)]


def _keep_all(slots: Slots, _name: str, value: Any, replica: bytes) -> list[Any]:
    others = ((other, entry) for other, entry in sorted(slots.items()) if other != replica)
    return [value, [[other, entry[0]] for other, entry in others if entry[1]]]


def _max(slots: Slots, _name: str, value: Any, _replica: bytes) -> Any:
    return max([value, *(entry[2] for _, entry in sorted(slots.items()))])


def _min(slots: Slots, _name: str, value: Any, _replica: bytes) -> Any:
    return min([value, *(entry[2] for _, entry in sorted(slots.items()))])


_COMPOSE: dict[str, Callable[[Slots, str, Any, bytes], Any]] = {
    "c": _counter,
    "s": _set,
    "k": _keep_all,
    "x": _max,
    "n": _min,
}
