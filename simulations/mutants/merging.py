"""Faults where values meet: records, slots, composing, short cuts, stamps, segments."""

from __future__ import annotations

from simulations.mutants import Mutant

_RECORDS = "sync/records.py"
_COMPOSE = "sync/compose.py"

MUTANTS = [
    Mutant(
        "tie-by-arrival",
        _RECORDS,
        "        if held is not None and (held[:2] > stamp or (",
        "        if held is not None and (held[0] > stamp[0] or (",
        "of two writes in one tick of two devices the one that arrives last wins, here this one, there that one",
    ),
    Mutant(
        "record-stamp-by-arrival",
        _RECORDS,
        "        if stamp > (self.ts, self.replica):\n",
        "        if stamp[0] > self.ts:\n",
        "the stamp of a record written in one tick by two devices depends on the order of arrival",
    ),
    Mutant(
        "delete-spares-its-tick",
        _RECORDS,
        "        self.lww = {name: slot for name, slot in self.lww.items() if slot[:2] > stamp}\n",
        "        self.lww = {name: slot for name, slot in self.lww.items() if slot[0] >= stamp.ts}\n",
        "fields written in the tick of a delete survive it, where they came before it",
        "tests/sync/test_merge_laws.py::test_merging_is_commutative_associative_and_idempotent",
    ),
    Mutant(
        "old-edits-after-a-delete",
        _RECORDS,
        "        if stamp <= self.floor:\n            return False\n        changed = self._touch(stamp)\n",
        "        changed = self._touch(stamp)\n",
        "an edit from before a delete, which arrives after it, brings the record back",
    ),
    Mutant(
        "old-fields-in-a-state",
        _RECORDS,
        "            if (ts, replica) > floor:\n                changed |= self._set_lww(name, (ts, replica), value)\n",
        "            changed |= self._set_lww(name, (ts, replica), value)\n",
        "state from before a delete puts its fields back under the tombstone",
    ),
    Mutant(
        "old-slots-in-a-state",
        _RECORDS,
        "                if is_above(floor, slot, entry):\n                    changed |= advance(mine, slot, entry)\n",
        "                changed |= advance(mine, slot, entry)\n",
        "state from before a delete brings counters and sets back",
    ),
    Mutant(
        "counters-added-up",
        _RECORDS,
        "                if is_above(floor, slot, entry):\n                    changed |= advance(mine, slot, entry)\n",
        "                if is_above(floor, slot, entry):\n"
        '                    if rule == "c" and slot in mine and mine[slot][0] < entry[0]:\n'
        "                        entry = (*entry[:2], entry[2] + mine[slot][2])  # noqa: PLW2901\n"
        "                    changed |= advance(mine, slot, entry)\n",
        "totals are added instead of compared when state is merged: a repair counts twice",
    ),
    Mutant(
        "removal-of-what-was-not-seen",
        _RECORDS,
        "                for tag_replica, tag_ts in tags:\n"
        "                    if (tag_ts, tag_replica) > self.floor:\n"
        "                        changed |= advance(slots, (element, tag_replica), (tag_ts, REMOVED))\n",
        "                for tag_replica, tag_ts in tags:\n"
        "                    if (tag_ts, tag_replica) > self.floor:\n"
        "                        changed |= advance(slots, (element, tag_replica), (tag_ts, REMOVED))\n"
        "                for other in [slot for slot in slots if slot[0] == element and slots[slot][0] < ts]:\n"
        "                    changed |= advance(slots, other, (slots[other][0], REMOVED))\n",
        "a removal takes additions that its writer had not seen, if they have arrived already",
    ),
    Mutant(
        "siblings-by-arrival",
        "sync/slots.py",
        "        if held[0] != entry[0]:\n            if held[0] > entry[0]:\n                return False\n",
        "        if held[0] != entry[0]:\n"
        "            if held[1] and held[0] > entry[0]:\n"
        "                return False\n",
        "a removed entry gives way to an older one that arrives later: a removed element or sibling comes back",
    ),
    Mutant(
        "counts-what-others-counted",
        _COMPOSE,
        "by + (held[2] if held else 0)",
        'by + total(_slots(record, name, "c"))',
        "an increment takes everybody's contributions for its own: they are counted twice",
    ),
    Mutant(
        "counter-put-ignores-others",
        _COMPOSE,
        "    return check_value(name, own + value - total(slots))\n",
        "    return check_value(name, value if slots.keys() - {replica} else own + value - total(slots))\n",
        "a put of a counter to which others have contributed does not make it show what was put",
    ),
    Mutant(
        "maximum-forgets",
        _COMPOSE,
        "    return max([value, *(entry[2] for _, entry in sorted(slots.items()))])\n",
        "    return max([value, *(entry[2] for other, entry in sorted(slots.items()) if other != _replica)])\n",
        "a smaller contribution takes the place of this replica's larger one",
    ),
    Mutant(
        "siblings-stay",
        _COMPOSE,
        "    return [value, [[other, entry[0]] for other, entry in others if entry[1]]]\n",
        "    return [value, [[other, entry[0]] for other, entry in others if entry[1]][:1]]\n",
        "of several siblings that a writer has seen and replaces, one is replaced",
    ),
    Mutant(
        "put-leaves-what-others-added",
        _COMPOSE,
        "            if slot[2] is not None:\n                wanted.setdefault(name, None)\n",
        "            if slot[2] is not None and slot[1] == replica:\n                wanted.setdefault(name, None)\n",
        "a put does not clear the fields that other devices had written",
    ),
    Mutant(
        "tie-by-arrival-in-short",
        "sync/images.py",
        "            if held_ts < ts and held.keys() <= set(names):\n",
        "            if held_ts <= ts and held.keys() <= set(names):\n",
        "the short cut for whole records lets the later arrival of one tick win",
    ),
    Mutant(
        "parts-without-their-floor",
        "sync/images.py",
        "            part.ts, part.replica, part.floor = whole.ts, whole.replica, whole.floor\n",
        "            part.ts, part.replica = whole.ts, whole.replica\n",
        "a large record that was deleted once is repaired without the delete",
        "tests/sync/test_images.py::test_a_large_image_comes_in_parts_that_join_to_it",
    ),
    Mutant(
        "clock-not-carried-along",
        "sync/stamps.py",
        "        if ts > self.last:\n            self.last = ts\n",
        "        if ts > self.last + (60_000 << COUNTER_BITS):\n            self.last = ts\n",
        "a device whose clock is behind overwrites what it has seen, with an older stamp: its write is lost",
        "tests/sync/test_stamps.py::test_it_rises_whatever_happens",
    ),
    Mutant(
        "cut-in-the-middle",
        "sync/segment.py",
        "    yield from pack_split(operations[half:])\n",
        "    yield from pack_split(operations[half + 1 :] or operations[half:])\n",
        "what is too much for one segment loses an operation where it is cut",
        "tests/cloud/test_feed.py::test_a_push_that_just_fitted_its_segment",
    ),
    Mutant(
        "seen-is-the-seq",
        "sync/columns.py",
        "    seen = decode_ints(columns[3], count, budget, 0, STAMP_MAX)\n",
        "    seen = decode_ints(columns[1], count, budget, 0, STAMP_MAX)\n",
        "what a writer had seen arrives as its seq: conflicts are missed, others invented",
    ),
]
