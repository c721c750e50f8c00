"""Faults in erasures: what was erased comes back, is left behind, or takes what is new with it."""

from __future__ import annotations

from simulations.mutants import Mutant

_ERASURES = "edge/storage/erasures.py"
_FLEET = "tests/contracts/test_erased_in_the_fleet.py"
_LOG = "tests/edge/test_erasures.py"

MUTANTS = [
    Mutant(
        "erased-comes-back",
        _ERASURES,
        "if one.shape.kind == Kind.DELETE or not self._denies(one, untils):",
        "if one is not None:",
        "what an uninformed device still sends of it is merged",
        f"{_LOG}::test_what_comes_of_it_is_dropped_and_answered",
    ),
    Mutant(
        "erased-and-nobody-says-so",
        "edge/storage/transaction.py",
        "            older = image is None or Record.decode(image).newest_ts < ts\n",
        "            older = image is not None and Record.decode(image).newest_ts < ts\n",
        "a writer whose store was set back leaves its record in the cloud for good",
        f"{_LOG}::test_what_comes_of_it_is_dropped_and_answered",
    ),
    Mutant(
        "erased-in-the-log-alone",
        _ERASURES,
        "    db.executemany(_SAY_NOTHING, [(int(Kind.DELETE), _EMPTY, row[0]) for row in found])\n",
        "",
        "the log keeps every text, and an unsent one is sent",
        "tests/edge/agent/test_erase.py::test_what_was_never_sent_says_nothing_when_it_is",
    ),
    Mutant(
        "lifted-lets-in-the-old",
        _ERASURES,
        "return any(until is None or operation.ts <= until for until in found)",
        "return any(until is None for until in found)",
        "after an erasure is lifted a late device brings back what was erased",
        f"{_LOG}::test_lifted_it_takes_what_is_new",
    ),
    Mutant(
        "lifted-shuts-out-the-new",
        _ERASURES,
        "return until is not None and Record.decode(image).newest_ts > until",
        "return False",
        "a device that hears late of an erasure that was lifted deletes what was written since",
        f"{_FLEET}::test_a_lifted_erasure_lets_in_what_is_new_and_nothing_old",
    ),
    Mutant(
        "lifted-after-what-it-lets-in",
        _ERASURES,
        "untils = self._untils_with(operations)",
        "untils = self.until",
        "what comes in one answer with the lift is dropped, and deleted on every device",
        f"{_LOG}::test_a_lift_and_what_it_lets_in_come_together",
    ),
    Mutant(
        "pages-keep-it",
        _ERASURES,
        '            db.execute("VACUUM")\n',
        "",
        "free pages of the database have what was erased",
        "tests/edge/agent/test_erase.py::test_no_byte_is_left",
    ),
]
