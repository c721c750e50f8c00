"""Faults in what is done about wrong clocks, and in forgetting deletes."""

from __future__ import annotations

from simulations.mutants import Mutant

_CLOCK = "edge/storage/log_clock.py"
_SWEEP = "edge/storage/log_sweep.py"

MUTANTS = [
    Mutant(
        "clock-corrected-backwards",
        _CLOCK,
        "    offset_ms = time_ms - wall_ms\n",
        "    offset_ms = wall_ms - time_ms\n",
        "a clock that is ahead is put ahead twice as far: what the device writes is refused",
        "tests/edge/test_log_clock.py::test_what_was_refused_goes_before_what_still_waits",
    ),
    Mutant(
        "displaced-values-not-fetched",
        _CLOCK,
        "                displaced |= restamped.ts < operation.ts and operation.seen != log.cursor\n",
        "",
        "a value that had lost to a stamp from the future stays lost on the device whose clock was wrong",
        "tests/edge/test_log_clock.py::test_a_baseline_is_begun_only_if_something_may_have_been_displaced",
    ),
    Mutant(
        "restamped-but-not-merged-again",
        _CLOCK,
        "        image = fold(image, operation)\n        if image != held and",
        "        if image != held and",
        "a write stamped too low had lost on its own device, and goes on to do so there when it wins elsewhere",
        "tests/edge/test_log_clock.py::test_what_had_lost_by_a_slow_clock_wins_once_it_is_stamped_anew",
    ),
    Mutant(
        "image-keeps-its-wrong-stamp",
        _CLOCK,
        "            image = restamp_image(image, operation.replica, self.moved)\n",
        "            image = bytes(image)\n",
        "the device's own image says a stamp that the fleet never hears of: it wins here for ever",
    ),
    Mutant(
        "mended-while-under-way",
        _CLOCK,
        "        drifts = [] if self._cautious else self._drifts\n",
        "        drifts = self._drifts\n",
        "a segment that was given up arrives with the old stamps, after the device has moved them",
        "tests/edge/test_log_clock.py::test_nothing_moves_while_something_sent_has_no_answer",
    ),
    Mutant(
        "late-writes-undo-forgotten-deletes",
        "cloud/stream/ingest.py",
        "        if feed:\n            self._tell_late(writer)\n",
        "",
        "a write that lost against a delete is a new record to whoever has forgotten the delete",
        "tests/contracts/test_forgetting.py::test_what_a_device_brings_after_its_lease_resurrects_nothing_on_those_that_forgot",
    ),
    Mutant(
        "forgotten-though-it-changed",
        _SWEEP,
        '    sql = "SELECT id, image FROM records WHERE living = -1 LIMIT ?"\n',
        '    sql = "SELECT id, image FROM records WHERE living <= 0 LIMIT ?"\n',
        "a delete that nobody else has read yet is forgotten with those that everybody has",
        "tests/edge/test_log_sweep.py::test_what_has_changed_since_it_was_marked_stays",
    ),
    Mutant(
        "stable-one-device-early",
        "cloud/stream/leases.py",
        "        stable = min(running)\n",
        "        stable = sorted(running)[:2][-1]\n",
        "tombstones are collected although one device has not read the delete",
    ),
]
