"""Faults in the device's side of the protocol: session, handshake, pages, link."""

from __future__ import annotations

from simulations.mutants import Mutant

_SESSION = "sync/session.py"
_HANDSHAKE = "sync/handshake.py"
_LINK = "edge/storage/link_state.py"

MUTANTS = [
    Mutant(
        "refusals-dropped",
        _SESSION,
        "Persist(acked, (), tuple(ack.refusals), own_until=ack.head)",
        "Persist(acked, (), (), own_until=ack.head)",
        "a refused write is gone without a dead letter on the device",
    ),
    Mutant(
        "baseline-ends-early",
        _SESSION,
        "Apply(operations, cursor, page.next or None, self._pristine, page.narrowed, None, Whole())",
        "Apply(operations, page.cursor, None, self._pristine, page.narrowed, None, Whole())",
        "a new device takes the first page of several for the whole state",
    ),
    Mutant(
        "page-not-stored",
        _SESSION,
        "elif isinstance(effect, Apply) and done:",
        "elif isinstance(effect, Apply):",
        "a page that was dropped, because the device had begun to write, counts as applied while the session lasts",
    ),
    Mutant(
        "lost-ack-not-adopted",
        _HANDSHAKE,
        "effects.append(Persist(held, sent, tuple(welcome.refusals), welcome.incarnation, own_until=welcome.head))",
        "effects.append(Persist(position.acked, sent, (), welcome.incarnation, own_until=welcome.head))",
        "after a lost ack the same range is pushed for ever, and refused as another segment in its place",
    ),
    Mutant(
        "retry-with-new-seq",
        _SESSION,
        "        sealed = self._seal(operations, position.acked[0] + 1, position.acked[1] or GENESIS, 0)\n",
        "        shift = len(position.sent)\n"
        "        operations = [operation._replace(seq=operation.seq + shift) for operation in operations]\n"
        "        sealed = self._seal(operations, position.acked[0] + 1 + shift, position.acked[1] or GENESIS, 0)\n",
        "what is sent again after a lost request has other seqs: a gap that the cloud never takes",
    ),
    Mutant(
        "cursor-survives-restore",
        _HANDSHAKE,
        "cursor = min(*known, welcome.restored_head, welcome.head) if lost_feed else min(known)",
        "cursor = position.cursor",
        "after a restore of the cloud the device does not read again what others write where it has been before",
    ),
    Mutant(
        "loss-not-noticed",
        _HANDSHAKE,
        "    if lost_feed or lost_ours or position.repair:",
        "    if position.repair:",
        "what a restored cloud has forgotten, and the device has trimmed, does not come back",
    ),
    Mutant(
        "lost-feed-by-length",
        _HANDSHAKE,
        "lost_feed = position.cursor > (welcome.restored_head if other_life else welcome.head)",
        "lost_feed = position.cursor > welcome.head",
        "a restored cloud whose feed has grown past the cursor is taken for the old one",
        "tests/contracts/test_known_failures.py::test_a_cursor_that_survives_a_server_restore_skips_no_writes",
    ),
    Mutant(
        "clone-not-noticed",
        _HANDSHAKE,
        "    if welcome.last_seq > position.head_seq or foreign:",
        "    if welcome.last_seq > position.head_seq:",
        "of two copies under one name the one that has written more adopts the other's segment as its own",
    ),
    Mutant(
        "clone-repairs-under-its-name",
        _HANDSHAKE,
        "    if welcome.last_seq > position.head_seq or foreign:",
        "    if not position.repair and (welcome.last_seq > position.head_seq or foreign):",
        "two copies that both owe their state keep one name, and never get what the other writes",
        "tests/contracts/test_convergence.py::test_two_copies_that_both_have_to_push_their_state",
    ),
    Mutant(
        "clone-in-a-new-life",
        _HANDSHAKE,
        "since = bool(welcome.last_segment) and welcome.last_head >= welcome.restored_head",
        "since = False",
        "a clone that was quicker with a restored cloud is not noticed by its original",
        "tests/contracts/test_convergence.py::test_a_clone_is_quicker_with_a_restored_cloud_and_has_written_less",
    ),
    Mutant(
        "renewed-and-not-reread",
        _HANDSHAKE,
        "known = (position.cursor, own_until)",
        "known = (position.cursor, position.cursor)",
        "who takes a new name never reads what its clone wrote under the old one",
        "tests/contracts/test_convergence.py::test_a_clone_misses_nothing_that_its_original_wrote_under_their_name",
    ),
    Mutant(
        "page-of-its-last-segment",
        "sync/pages.py",
        "        covered = _through(opened.clear, opened.header.first_seq, page.cursor)\n"
        "        operations += opened.operations\n",
        "        covered = _through(opened.clear, opened.header.first_seq, page.cursor)\n"
        "        operations = opened.operations\n",
        "of a page with several segments only the last one is applied, and the cursor moves over all",
    ),
    Mutant(
        "repair-forgotten",
        _LINK,
        'repair=bool(log.meta_get("repair")),',
        "repair=False,",
        "a process that dies before its repair is done never pushes the state it owes",
    ),
    Mutant(
        "cursor-rewound-in-memory",
        _LINK,
        "        cursor=effect.cursor,\n",
        "        cursor=None,\n",
        "a process that dies right after its repair reads on from its old cursor",
    ),
    Mutant(
        "state-without-tombstones",
        "edge/storage/log_reader.py",
        '"SELECT key, image FROM records WHERE collection = ? AND key > ? ORDER BY key LIMIT ?",',
        '"SELECT key, image FROM records WHERE living = 1 AND collection = ? AND key > ? ORDER BY key LIMIT ?",',
        "a restored cloud gets living records back and no deletes: what was deleted stays",
    ),
    Mutant(
        "large-records-stop-repairs",
        "edge/storage/kept_back.py",
        "for part in split_image(image, OPERATION_BYTES_MAX)[:_PARTS_MAX]",
        "for part in [image]",
        "one record that two devices made too large stops the repair, and with it push and pull",
        "tests/contracts/test_known_failures.py::test_one_oversized_value_stops_nobodys_sync",
    ),
    Mutant(
        "sync-does-not-ask",
        "edge/link/replicator.py",
        "        self._hurried = True\n",
        "",
        "sync beside a live link says that both have everything before it has heard what a peer pushed",
        "tests/contracts/test_link.py::test_a_live_link_is_not_in_sync_before_it_has_asked",
    ),
]
