"""Faults in what goes out in stages: exposure, gates, reports, desired state."""

from __future__ import annotations

from simulations.mutants import Mutant

_ROLLOUTS, _EXPOSING = "cloud/fleet/rollouts.py", "cloud/fleet/exposing.py"
_ROLLING = "tests/simulations/test_rolling.py::"
_DESK = "tests/cloud/fleet/test_rollout_desk.py::"
_STEPS = "tests/cloud/fleet/test_rollouts.py::"

MUTANTS = [
    Mutant(
        "halted-still-exposes",
        _EXPOSING,
        "        if row.state not in (RUNNING, DONE, SETTLED):\n",
        '        if row.state not in (RUNNING, DONE, SETTLED, "kept"):\n',
        "a rollout that was halted and kept goes to more devices",
        _DESK + "test_keep_leaves_it_to_those_who_have_it",
    ),
    Mutant(
        "exposure-not-noted",
        _EXPOSING,
        "            tx.put_exposures(fleet, [exposure])\n",
        "",
        "nobody counts as exposed, so no gate is ever met and no failure is ever seen",
        _ROLLING + "test_a_bad_model_is_halted_in_its_first_stage_and_a_good_one_reaches_everybody",
    ),
    Mutant(
        "silent-counted-as-good",
        _ROLLOUTS,
        "            part.committed + (devices if outcome == COMMITTED else 0),\n",
        "            part.committed + (devices if outcome not in FAILED else 0),\n",
        "offline devices pass a gate",
        _DESK + "test_offline_devices_are_neither_success_nor_failure",
    ),
    Mutant(
        "classes-not-looked-at",
        _ROLLOUTS,
        "    for name, part in sorted(tally.classes.items()):\n        if part.failed >= CLASS_MIN",
        "    for name, part in sorted(tally.classes.items()):\n        if part.failed > CLASS_MIN * 1_000",
        "a model that fails on one class of hardware gets as far as the share of that class lets it",
        _STEPS + "test_steps",
    ),
    Mutant(
        "no-class-in-the-first-stage",
        _EXPOSING,
        "    return view.exposed_of_kind(device.fleet, row.id, kind, CLASS_MIN) < CLASS_MIN\n",
        "    return False\n",
        "a small class of hardware meets the new model only in the second stage",
        _DESK + "test_a_bad_one_is_halted_and_taken_back_and_exposes_nobody_after",
    ),
    Mutant(
        "outcome-of-another-digest",
        _EXPOSING,
        '    if not isinstance(said, dict) or said.get("sha256") != exposure.goal:\n',
        "    if not isinstance(said, dict):\n",
        "that the version before is fine passes the gate of the next one",
        _DESK + "test_an_outcome_of_another_digest_says_nothing",
    ),
    Mutant(
        "no-soak",
        _ROLLOUTS,
        "    if now_ms - rollout.met_ms < gate.soak_s * 1000:\n",
        "    if now_ms - rollout.met_ms < 0:\n",
        "the next stage begins before failures have had time to show",
        _STEPS + "test_steps",
    ),
    Mutant(
        "report-taken-out-of-order",
        "cloud/fleet/twins.py",
        "    if version not in (row.reported_version, row.reported_version + 1) or not version:\n",
        "    if not version:\n",
        "a restored cloud takes a patch for the whole, and never hears the rest",
        "tests/edge/control/test_twin_fleet.py::test_a_restored_cloud_that_knows_no_report_is_told_all",
    ),
    Mutant(
        "restored-rollouts-run-on",
        "cloud/storage/archive/restore.py",
        '            paused = row._replace(state="paused", why=_RESTORED) if row.state == "running" else row\n',
        "            paused = row\n",
        "a rollout that was halted after the archive's last manifest goes on after a restore",
        "tests/cloud/test_archive_rollouts.py::test_rollouts_come_back_paused",
    ),
    Mutant(
        "replaced-objects-merge",
        "sync/twins.py",
        "            done[name] = {_REPLACE: None, **change}\n",
        "            done[name] = change\n",
        "what was deleted and made anew offline keeps in the cloud what it had before",
        "tests/sync/test_twins.py::test_as_shadows_do",
    ),
]
