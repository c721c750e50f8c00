"""Faults in what changes with a sync rule: what is fetched, and what leaves the device."""

from __future__ import annotations

from simulations.mutants import Mutant

_GROWING, _SCOPING = "sync/growing.py", "edge/storage/scoping.py"
_LEAVING = "edge/storage/leaving.py"
_SHRINKS = "tests/contracts/test_scope_shrinks.py::"
_EVICTED = "edge/storage/evicted.py"
_AGES = "tests/contracts/test_scope_ages.py::"
_STUBS = "tests/contracts/test_scope_evicted.py::"
_AGENTS = "tests/contracts/test_scope_agents.py::"
_CHANGES = "tests/contracts/test_scope_changes.py::"

MUTANTS = [
    Mutant(
        "growth-leaves-the-cursor",
        _GROWING,
        "        cursor = min(position.cursor, page.cursor) if after is None else None\n",
        "        cursor = position.cursor if after is None else None\n",
        "what changed in the gained scope after its page was read, and before the last one, is never heard of",
        _CHANGES + "test_what_changes_while_a_growth_is_under_way_is_not_missed",
    ),
    Mutant(
        "growth-without-deletes",
        _GROWING,
        "(position.replica, growth.token, True, position.incarnation, growth.scope)",
        "(position.replica, growth.token, False, position.incarnation, growth.scope)",
        "what was deleted elsewhere while it was out of scope lives on here",
        _CHANGES + "test_what_was_deleted_while_it_was_out_of_scope_goes",
    ),
    Mutant(
        "narrowed-not-owed",
        _SCOPING,
        "    notes: dict[str, Any] = {OWED: True} if page.narrowed else {}\n",
        "    notes: dict[str, Any] = {}\n",
        "a policy that was assigned and taken back before the device heard of it leaves a gap for good",
        _CHANGES + "test_there_and_back_before_the_device_heard_of_it",
    ),
    Mutant(
        "page-of-an-old-growth",
        _SCOPING,
        '        if of.scope != standing.scope or of.token not in (b"", standing.token):\n            return None\n',
        "",
        "a page that was under way when another policy came ends that one's growth",
        _CHANGES + "test_another_policy_comes_during_a_growth",
    ),
    Mutant(
        "owed-forgotten-with-a-policy",
        _SCOPING,
        "    if growth is None and not owed:\n",
        "    if True:\n",
        "what a page left out, or a growth has not brought yet, is taken to be here as soon as another policy comes",
        _CHANGES + "test_what_is_owed_is_fetched_under_whatever_policy_comes",
    ),
    Mutant(
        "gone-on-the-ack",
        _LEAVING,
        "        if archived < note[3]:\n            return 0\n",
        "",
        "a lost database, and an archive that is behind it, lose what has left a device",
        _SHRINKS + "test_it_goes_once_the_archive_has_it_and_as_if_it_had_never_been_here",
    ),
    Mutant(
        "gone-though-changed",
        _LEAVING,
        "                if image is None or sha256(image).digest() != digest:\n",
        "                if image is None:\n",
        "what came after the mark is taken for what the archive has",
        _SHRINKS + "test_what_has_changed_since_it_was_marked_is_marked_again",
    ),
    Mutant(
        "marks-of-another-life",
        _LEAVING,
        "note is not None and note[:3] == _here(log, row)",
        "note is not None and note[1:3] == _here(log, row)[1:]",
        "after a restore the archive's position says nothing of what was marked before",
        _SHRINKS + "test_marks_of_another_life_of_the_cloud_are_void",
    ),
    Mutant(
        "gone-before-it-is-sent",
        _LEAVING,
        "        and log.acked_seq >= log.head_seq\n",
        "",
        "a write that comes between the session's look and the marking is marked as if the cloud had it",
        _SHRINKS + "test_while_anything_is_not_acknowledged_nothing_is_marked_or_goes",
    ),
    Mutant(
        "gone-with-its-slots",
        _EVICTED,
        "            if rule in MOVED_RULES and own:  # those of its earlier names, and of what was kept back, too\n",
        "            if False:\n",
        "a counter whose slot has gone begins again at nothing: what it had counted is lost for the fleet",
        _STUBS + "test_its_own_slots_go_on",
    ),
    Mutant(
        "written-over-the-unseen",
        _EVICTED,
        "        if kind in (Kind.PUT, Kind.REMOVE) or (\n",
        "        if False and (\n",
        "a put over what is not here leaves the fields that it does not name, and a removal removes nothing",
        _STUBS + "test_what_depends_on_the_rest_waits_for_it",
    ),
    Mutant(
        "collected-for-want-of-a-checkpoint",
        "edge/agent/shelf.py",
        "        return any(left.places(log, collection, prefix, 1) for collection, prefix in prefixes)\n",
        "        return False\n",
        "values are deleted in the whole fleet because the checkpoints that need them have left this device",
        _AGENTS + "test_nothing_is_collected_while_what_may_need_it_is_away",
    ),
    Mutant(
        "the-only-copy-of-a-body",
        "edge/storage/attached.py",
        "        if collection != ATTACHMENTS:\n",
        "        if True:\n",
        "an attachment whose bytes nobody else has leaves with its record",
        _AGENTS + "test_an_attachment_stays_until_the_cloud_has_its_bytes",
    ),
    Mutant(
        "marked-though-written-meanwhile",
        _LEAVING,
        "            marks = [(record, digest) for place, record, digest in due if place not in changed]\n",
        "            marks = [(record, digest) for place, record, digest in due]\n",
        "a write that comes while records are looked at is taken for one that the archive has",
        _SHRINKS + "test_what_is_written_while_it_is_marked_is_not",
    ),
    Mutant(
        "a-part-for-the-whole",
        "edge/storage/transaction.py",
        "                if stubbed:\n                    stubs.heard(",
        "                if stubbed:\n                    stubs.came_back(ref)\n"
        "                elif stubbed:\n                    stubs.heard(",
        "of a record that has left, what somebody has written since is shown as all of it",
        _AGES + "test_the_old_leaves_and_comes_back_whole_when_it_is_written_to",
    ),
    Mutant(
        "taken-back-passed-by",
        _EVICTED,
        "not in (Kind.DELETE, Kind.IMAGE) and operation.seq > 0\n",
        "not in (Kind.DELETE, Kind.IMAGE)\n",
        "what a copy has to take back of a record that has left it is counted twice",
        _AGES + "test_what_a_copy_takes_back_of_what_has_left_it",
    ),
    Mutant(
        "fetched-for-anybody",
        "cloud/stream/fetched.py",
        "    denied = [at for at, place in enumerate(places) if scope is not None and not scope.has(*place)]\n",
        "    denied: list[int] = []\n",
        "whoever can name a record gets it, whatever its device is assigned",
        "tests/attacks/test_scope_widened.py::test_whatever_it_names_it_gets_no_more_than_it_is_assigned",
    ),
    Mutant(
        "too-old-for-ever",
        _SCOPING,
        "        back = known is not None and bool(log.writer.evicted.collections) and is_older(known, table)\n",
        "        back = False\n",
        "what has left by its age stays away under a policy that knows no ages",
        _AGES + "test_a_longer_age_brings_back_what_is_young_enough_by_it",
    ),
    Mutant(
        "gone-unheard",
        _LEAVING,
        '                    db.execute("INSERT INTO marks VALUES (?, ?, ?)", (position, number, key))\n',
        "",
        "searchable tables keep what has left",
        _SHRINKS + "test_it_goes_once_the_archive_has_it_and_as_if_it_had_never_been_here",
    ),
]
