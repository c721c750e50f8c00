"""Faults in how the cloud accepts, orders and judges."""

from __future__ import annotations

from simulations.mutants import Mutant

_ADMISSION = "cloud/stream/admission.py"
_INGEST = "cloud/stream/ingest.py"
_CONFLICTS = "cloud/stream/conflicts.py"
_FOLD = "cloud/storage/fold.py"

MUTANTS = [
    Mutant(
        "segment-without-chain",
        _ADMISSION,
        "    if header.previous != last_segment:\n",
        "    if header.previous == header.fleet:\n",
        "two copies of a store push in turns under one name, and never hear of each other's writes",
        "tests/cloud/test_ingest.py::test_gaps_overlaps_and_strangers_are_refused_and_change_nothing",
    ),
    Mutant(
        "dedupe-without-incarnation",
        _ADMISSION,
        "    row = view.replica(fleet, header.replica)\n    last_seq, last_segment",
        '    row = view.replica(fleet, header.replica[:12] + b"\\0\\0\\0\\1") or view.replica(fleet, header.replica)\n'
        "    last_seq, last_segment",
        "segments of a renewed replica are taken for its old name's: held already, or out of place",
    ),
    Mutant(
        "future-stamps-taken",
        _INGEST,
        "        if operation.ts > self._latest_ts:\n"
        "            check_not_future(operation.ts, self._now_ms)\n"
        "        shape = operation.shape\n",
        "        shape = operation.shape\n",
        "one device's wrong clock wins over everybody until that time has come",
    ),
    Mutant(
        "one-refusal-refuses-all",
        _INGEST,
        "                    self._refuse(operation, error)\n",
        "                    if len(self._opened.operations) > 1 or self._state:\n"
        "                        raise\n"
        "                    self._refuse(operation, error)\n",
        "one operation that cannot be taken holds up all that is pushed with it, for ever",
    ),
    Mutant(
        "clock-of-the-refused",
        _INGEST,
        "max((operation.ts for operation in heard if operation.ts <= self._latest_ts), default=0)",
        "max((operation.ts for operation in heard), default=0)",
        "a declaration from the future is refused, and the fleet's clock goes along with it",
        "tests/cloud/test_ingest.py::test_a_refused_declaration_from_the_future_does_not_move_the_fleets_clock",
    ),
    Mutant(
        "cloud-clock-from-zero",
        _INGEST,
        "clock = HybridClock(self._context.clock, max(self._head.clock, max_ts))",
        "clock = HybridClock(self._context.clock)",
        "the cloud's answer to a conflict has an older stamp than what it answers, and loses",
        "tests/cloud/test_conflicts.py::test_priority_beats_the_later_stamp",
    ),
    Mutant(
        "refusals-only-in-the-ack",
        _INGEST,
        "        self._tx.add_dead_letters(self._context.fleet, self._letters)\n",
        "",
        "when the ack is lost nobody knows of what was refused",
    ),
    Mutant(
        "seen-of-a-lost-life",
        _INGEST,
        "                seen = self._head.restored_head\n",
        "                seen = self._head.position\n",
        "after a restore, writes by devices that had seen more are never in conflict with what is there",
        "tests/cloud/test_conflicts.py::test_what_was_seen_in_another_life_of_the_cloud_is_not_seen",
    ),
    Mutant(
        "fleet-declaration-not-repeated",
        _INGEST,
        "            if spec is not None:\n"
        '                writer.write(set_field(COLLECTIONS, "spec", spec), name, held)\n',
        "            if spec is None:\n"
        '                writer.write(set_field(COLLECTIONS, "spec", spec), name, held)\n',
        "a device whose declaration was refused goes on by it, and has all its writes refused",
        "tests/cloud/test_ingest.py::test_refused_operations_hold_up_nothing",
    ),
    Mutant(
        "size-unchecked",
        _FOLD,
        "        if held.size > OPERATION_BYTES_MAX:\n",
        "        if held.size > 2 * OPERATION_BYTES_MAX:\n",
        "a record that two devices made too large cannot travel: baselines and repairs stop",
        "tests/cloud/test_ingest.py::test_a_record_cannot_outgrow_what_travels_as_one_operation",
    ),
    Mutant(
        "cloud-outgrows-records",
        "cloud/stream/cloud_writer.py",
        "        self._room.check(held, operation)\n",
        "",
        "what the cloud brings back makes a record that no baseline carries and, told anew, a page that nobody reads",
        "tests/cloud/test_delete_conflicts.py::test_what_comes_back_never_outgrows_what_travels",
    ),
    Mutant(
        "state-is-not-the-end-of-its-log",
        _INGEST,
        "seq = max(row.last_seq, header.first_seq) if self._state else header.last_seq",
        "seq = row.last_seq if self._state else header.last_seq",
        "after a repair the cloud does not know up to where the device's log is in the state",
        "tests/cloud/test_repair.py::test_state_gives_a_restored_cloud_back_what_it_lost",
    ),
    Mutant(
        "conflict-off-by-one",
        _CONFLICTS,
        "        if self.held.position > seen:\n",
        "        if self.held.position > seen + 1:\n",
        "a write concurrent to the very next position is no conflict",
    ),
    Mutant(
        "field-conflict-off-by-one",
        _CONFLICTS,
        "self.held.position_of(name) <= seen:\n                continue\n",
        "self.held.position_of(name) <= seen + 1:\n                continue\n",
        "the same, field by field",
    ),
    Mutant(
        "deletes-come-back",
        _CONFLICTS,
        "        return self.came_wins != self.came.delete\n",
        "        return self.came_wins or self.came.delete\n",
        "a delete that is later than a concurrent edit is undone by the cloud",
        "tests/cloud/test_delete_conflicts.py::test_a_delete_that_wins_over_an_edit_leaves_nothing",
    ),
    Mutant(
        "delete-conflict-off-by-one",
        _CONFLICTS,
        "        if floor != NEVER and self.held.position_of(FLOOR) > seen and device_of",
        "        if floor != NEVER and self.held.position_of(FLOOR) > seen + 1 and device_of",
        "an edit concurrent to a delete at the very next position is no conflict: the edited fields alone are left",
        "tests/cloud/test_delete_conflicts.py::test_an_edit_that_wins_over_a_delete_brings_the_whole_record_back",
    ),
    Mutant(
        "brought-back-now",
        _CONFLICTS,
        "values, record.floor.ts + 1)",
        "values)",
        "what comes back from the grave wins over a third device's concurrent edit",
        "tests/cloud/test_delete_conflicts.py::test_a_later_edit_of_an_old_field_wins_over_the_value_that_came_back",
    ),
    Mutant(
        "answer-to-the-overtaken",
        _CONFLICTS,
        "                found.overtaken = True\n",
        "                found.overtaken = False\n",
        "a field conflict of a push that goes on to delete the record is answered: the answer brings the record back",
        "tests/cloud/test_conflicts.py::test_what_a_push_goes_on_to_delete_is_not_answered",
    ),
    Mutant(
        "no-grave",
        _FOLD,
        "            self.grave = was or self.grave\n",
        '            self.grave = self.grave or b""\n',
        "an edit that wins over a delete brings back the edited fields alone",
        "tests/cloud/test_delete_conflicts.py::test_an_edit_that_wins_over_a_delete_brings_the_whole_record_back",
    ),
    Mutant(
        "grave-left-open",
        _FOLD,
        "        return operation.seen >= self.position_of(FLOOR) or",
        "        return operation.seen > self.position_of(FLOOR) or",
        "a record made anew right after its delete was seen gets its old fields back at the next conflict",
        "tests/cloud/test_delete_conflicts.py::test_a_record_made_anew_by_someone_who_knew_does_not_inherit",
    ),
    Mutant(
        "fields-keep-their-first-position",
        _FOLD,
        "name: position if name in after and after[name] != before.get(name) else self._positions.get(name, last)",
        "name: self._positions.get(name, last or position)",
        "a field that was written again counts as written long ago: conflicts are missed",
        "tests/cloud/test_conflicts.py::test_latest_the_later_stamp_wins_and_the_loser_is_on_record",
    ),
    Mutant(
        "decisions-are-overruled",
        "cloud/stream/rules.py",
        "            return _EVERYBODY\n",
        "            return _NOBODY\n",
        "what a resolver or a person decided is overruled by any device's later write",
        "tests/cloud/test_conflicts.py::test_nobody_overrules_a_person_by_priority",
    ),
    Mutant(
        "priority-is-the-stamp",
        "cloud/stream/rules.py",
        '        winner = "came" if came > held else "held"\n',
        '        winner = "came" if found.came_wins else "held"\n',
        "where priority should decide, the later stamp does",
        "tests/cloud/test_conflicts.py::test_priority_beats_the_later_stamp",
    ),
    Mutant(
        "successors-unchecked",
        "cloud/stream/schemas.py",
        "            check_successor(self._schemas[name], new)\n",
        "            check_successor(new, new)\n",
        "a second declaration that contradicts the first is taken, and writes by the first are refused",
        "tests/contracts/test_redeclared.py::test_a_refused_declaration_gives_way_to_the_fleets",
    ),
]
