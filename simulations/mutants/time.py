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
    ),
    Mutant(
        "displaced-values-not-fetched",
        _CLOCK,
        "                displaced |= restamped.ts < operation.ts and operation.seen != log.cursor\n",
        "",
        "a value that had lost to a stamp from the future stays lost on the device whose clock was wrong",
    ),
    Mutant(
        "restamped-but-not-merged-again",
        _CLOCK,
        "        image = fold(image, operation)\n        if image != held:",
        "        if image != held:",
        "a write stamped too low had lost on its own device, and goes on to do so there when it wins elsewhere",
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
    ),
    Mutant(
        "late-writes-undo-forgotten-deletes",
        "cloud/stream/ingest.py",
        "        if feed:\n            self._tell_late(writer)\n",
        "",
        "a write that lost against a delete is a new record to whoever has forgotten the delete",
    ),
    Mutant(
        "forgotten-though-it-changed",
        _SWEEP,
        '    sql = "SELECT id, image FROM records WHERE living = -1 LIMIT ?"\n',
        '    sql = "SELECT id, image FROM records WHERE living <= 0 LIMIT ?"\n',
        "a delete that nobody else has read yet is forgotten with those that everybody has",
    ),
    Mutant(
        "stable-one-device-early",
        "cloud/stream/leases.py",
        "        stable = min(running)\n",
        "        stable = sorted(running)[:2][-1]\n",
        "tombstones are collected although one device has not read the delete",
    ),
]
