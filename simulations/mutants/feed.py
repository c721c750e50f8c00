"""Faults in what the cloud tells devices: handshake, pages of the feed, baselines."""

from __future__ import annotations

from simulations.mutants import Mutant

_PLANE = "cloud/control_plane.py"
_FEED = "cloud/stream/feed.py"
_BASELINE = "cloud/stream/baseline.py"

MUTANTS = [
    Mutant(
        "restored-once-for-all",
        _PLANE,
        "            restored_head=head.restored_for(hello.incarnation),\n",
        "            restored_head=head.restored_head,\n",
        "who was away during two restores does not give back what the first one lost",
        "tests/contracts/test_convergence.py::test_a_cloud_restored_twice_while_a_device_was_away",
    ),
    Mutant(
        "first-refusal-untold",
        _PLANE,
        "view.refused(caller.fleet, hello.replica, hello.acked + 1, last_seq)",
        "view.refused(caller.fleet, hello.replica, hello.acked + 2, last_seq)",
        "after a lost ack the first operation of it that was refused is never heard of again",
        "tests/contracts/test_convergence.py::test_refusals_whose_ack_was_lost_come_with_the_next_handshake",
    ),
    Mutant(
        "last-head-untold",
        _PLANE,
        "            last_head=row.head if row else 0,\n",
        "            last_head=0,\n",
        "a clone's segment in a restored cloud is taken for an old one of the original's",
        "tests/contracts/test_convergence.py::test_a_clone_is_quicker_with_a_restored_cloud_and_has_written_less",
    ),
    Mutant(
        "trimmed-feed-not-said",
        "cloud/stream/checks.py",
        "    if hello.cursor < head.trimmed or hello.cursor > head.position:\n",
        "    if hello.cursor > head.position:\n",
        "a device that was away until the feed was trimmed asks for what is not there, for ever",
    ),
    Mutant(
        "head-of-another-view",
        _PLANE,
        "        return PullPage(page.segments, page.cursor, head.position, now_ms,",
        "        return PullPage(page.segments, head.position, head.position, now_ms,",
        "a page that was cut by its limits moves the cursor to the feed's head",
    ),
    Mutant(
        "state-left-out",
        _FEED,
        "        if row.replica == self._replica and not row.state:",
        "        if row.replica == self._replica:",
        "state that a clone pushed under the shared name never reaches the original",
        "tests/contracts/test_convergence.py::test_a_clones_repair_is_interrupted_and_its_original_reads_on",
    ),
    Mutant(
        "own-device-left-out",
        _FEED,
        "        if row.replica == self._replica and not row.state:",
        "        if row.replica[:12] == self._replica[:12] and not row.state:",
        "after a new name a device is never sent what it, or its clone, wrote under the old one",
    ),
    Mutant(
        "cut-page-counts-whole",
        _FEED,
        "            operations = operations[:fitting]\n        scope = None",
        "            operations = operations[:fitting]\n"
        "            self._join(operations, row.last - count + 1, size, row.plain_length, None)\n"
        "            self._cursor = row.last\n"
        "            return False\n"
        "        scope = None",
        "a push that does not fit a page is sent in part, and counts as sent",
    ),
    Mutant(
        "pieces-cover-too-much",
        _FEED,
        "            through = positions[end] - 1 if end < len(run) else last\n",
        "            through = last\n",
        "a page that is cut into pieces is refused by every device, for ever",
        "tests/cloud/test_feed.py::test_a_push_that_just_fitted_its_segment",
    ),
    Mutant(
        "baseline-cursor-of-the-last-page",
        _BASELINE,
        "    return cursor, (collection, check_key(key))\n",
        "    return head.position, (collection, check_key(key))\n",
        "what changed while a baseline was read does not come by the feed",
    ),
    Mutant(
        "baseline-skips-at-the-page-end",
        _BASELINE,
        "                    return _page(sealer, operations, _token(cursor, everything, after), cursor)\n",
        "                    return _page(\n"
        "                        sealer, operations, _token(cursor, everything, (row.collection, row.key)), cursor\n"
        "                    )\n",
        "the record that does not fit a page is in none",
        "tests/cloud/test_repair.py::test_what_changes_between_the_pages_comes_by_the_feed",
    ),
    Mutant(
        "baseline-goes-on-without-tombstones",
        _BASELINE,
        "    if everything and not had_everything:\n        return head.position, None\n",
        "",
        "a device that begins to write between two pages never hears of deletes in the first",
        "tests/cloud/test_repair.py::test_who_begins_to_write_between_two_pages_hears_of_the_deletes_before_them",
    ),
    Mutant(
        "baseline-of-the-living",
        _BASELINE,
        "            if (everything or is_alive(row.image)) and (",
        "            if is_alive(row.image) and (",
        "a device that gets a baseline after a restore keeps what was deleted",
    ),
]
