"""Planted bugs in what a policy keeps on its device: it leaves, or is lost on the way."""

from __future__ import annotations

from simulations.mutants import Mutant

_KEPT, _TRANSACTION = "edge/storage/kept_back.py", "edge/storage/transaction.py"
_TESTS = "tests/contracts/test_kept_back"

MUTANTS = [
    Mutant(
        "kept-goes-in-a-repair",
        "edge/storage/delta_log.py",
        "kept_back.as_before(self, rows)",
        "rows",
        "after the cloud was restored, what is local is known to all",
        f"{_TESTS}.py::test_a_repair_sends_what_others_had_and_no_more",
    ),
    Mutant(
        "kept-goes-whatever-its-rule",
        _KEPT,
        "if not refused and not log.kept.why(name, key, size or 0):",
        "if not refused:",
        "what is local goes with the next sync of anything else of its collection",
        f"{_TESTS}.py::test_one_batch_of_both",
    ),
    Mutant(
        "any-ack-lets-go",
        _KEPT,
        '_DROP = "DELETE FROM kept_back WHERE collection = ? AND key = ? AND version = ?"',
        '_DROP = "DELETE FROM kept_back WHERE collection = ? AND key = ? AND ? > 0"',
        "what was written while its state was under way never goes",
        f"{_TESTS}_meanwhile.py::test_a_write_while_its_state_is_under_way",
    ),
    Mutant(
        "kept-counters-share-a-slot",
        _TRANSACTION,
        "            by = kept_writer(by, self._run.id, image)\n",
        "",
        "of what two copies of a store counted and kept back, one replaces the other's",
        f"{_TESTS}_meanwhile.py::test_a_copied_directory_brings_what_it_counted_under_the_shared_name",
    ),
    Mutant(
        "kept-deletes-are-forgotten",
        "edge/storage/log_sweep.py",
        "{kept_back.not_swept(db)}",
        "",
        "a record that was deleted while its place was local comes back with the next policy",
        f"{_TESTS}.py::test_a_delete_that_is_kept_back_is_a_delete_for_all_in_the_end",
    ),
    Mutant(
        "kept-stamps-are-not-mended",
        "edge/storage/log_clock.py",
        "if kept := kept_mending.stamps(log):",
        "if kept := set():",
        "after a clock that was ahead, a later write of what is kept back is acknowledged and without effect",
        f"{_TESTS}_meanwhile.py::test_what_a_wrong_clock_stamped_is_mended",
    ),
]
