"""Faults in what a device does with its log: writing, following the feed, becoming a new replica."""

from __future__ import annotations

from simulations.mutants import Mutant

_CORE = "edge/storage/log_core.py"
_LOG = "edge/storage/delta_log.py"
_TRANSACTION = "edge/storage/transaction.py"

MUTANTS = [
    Mutant(
        "cursor-before-the-page",
        _CORE,
        "            try:\n"
        "                writer.begin()\n"
        "                transaction = self._transaction()\n"
        "                asked = ",
        "            try:\n"
        "                if cursor is not None:\n"
        '                    self.meta_set("cursor", cursor)\n'
        "                writer.begin()\n"
        "                transaction = self._transaction()\n"
        "                asked = ",
        "a crash or a full disk between cursor and page skips the page",
    ),
    Mutant(
        "tombstones-not-wanted",
        "edge/storage/scoping.py",
        "    if page.pristine and log.head_seq:\n",
        "    if page.pristine and log.head_seq > 1 << 20:\n",
        "a baseline without tombstones is applied by a device that has begun to write meanwhile",
        "tests/edge/test_delta_log_link.py::test_a_page_without_tombstones_is_not_for_a_device_that_has_written",
    ),
    Mutant(
        "seen-off-by-one",
        _TRANSACTION,
        "        self._seen = log.cursor\n",
        "        self._seen = log.cursor + 1\n",
        "the writer claims to have seen the next position: a concurrent write there is no conflict",
    ),
    Mutant(
        "seen-off-by-one-in-short",
        _CORE,
        "                    row, image = plain_put(seq, position, ts, self.cursor, put, self.replica)\n",
        "                    row, image = plain_put(seq, position, ts, self.cursor + 1, put, self.replica)\n",
        "the same, for a single put of a new record",
        "tests/edge/test_delta_log_link.py::test_every_write_says_what_its_writer_had_read",
    ),
    Mutant(
        "clock-forgotten-at-restart",
        _CORE,
        'notes["head"] = (transaction.seq, transaction.position, max(newest, self.clock.last))',
        'notes["head"] = (transaction.seq, transaction.position, 0)',
        "after a restart a slow clock stamps below what the device has seen: its writes are lost",
        "tests/edge/test_delta_log.py::test_stamps_never_run_back",
    ),
    Mutant(
        "put-over-what-is-in-memory",
        _CORE,
        "if self._settled and as_checked and ref not in writer.overlay and writer.has_room():",
        "if self._settled and as_checked and writer.has_room():",
        "a put over a record whose image is not in its table yet does not clear its fields elsewhere",
        "tests/edge/test_delta_log.py::test_a_put_says_which_fields_it_clears",
    ),
    Mutant(
        "replay-skips-one",
        _CORE,
        "operations_after(self.writer.db, self.replica, self.writer.folded_seq)",
        "operations_after(self.writer.db, self.replica, self.writer.folded_seq + 1)",
        "after a crash the first operation that was not folded is not merged again",
    ),
    Mutant(
        "copy-keeps-its-name",
        _LOG,
        "            if db.execute(\"SELECT 1 FROM meta WHERE name = 'copied'\").get:\n",
        "            if db.execute(\"SELECT 1 FROM meta WHERE name = 'copied' AND value = X'00'\").get:\n",
        "a store opened from a snapshot goes on under its original's name",
        "tests/edge/test_edge.py::test_a_snapshot_opens_as_a_replica_of_the_same_device",
    ),
    Mutant(
        "new-name-loses-memory",
        _LOG,
        "            self.fold()\n            self._settled = False\n",
        "            self._settled = False\n",
        "who takes a new name loses the images that were only in memory",
    ),
    Mutant(
        "new-name-old-clock",
        _LOG,
        'writer.put_meta("head", (0, self.position, self.clock.last))',
        'writer.put_meta("head", (0, self.position, 0))',
        "after a new name and a restart a slow clock stamps below what the store holds",
        "tests/edge/test_delta_log_link.py::test_a_new_incarnation_keeps_the_records_and_begins_its_log_anew",
    ),
    Mutant(
        "new-name-owes-nothing",
        _LOG,
        '                writer.put_meta("repair", True)\n',
        '                writer.put_meta("repair", False)\n',
        "a store opened from a snapshot never pushes what it had not pushed before",
    ),
    Mutant(
        "new-name-old-ack",
        _LOG,
        '                writer.put_meta("acked", (0, b""))\n',
        "",
        "a new replica believes that its first operations are acknowledged, and trims them",
    ),
    Mutant(
        "tombstones-not-taken",
        _TRANSACTION,
        "            if merged != image or (stubbed and whole is not None):\n",
        "            if merged != image and (image is None or is_alive(merged)):\n",
        "deletes of known records do not arrive",
    ),
    Mutant(
        "failed-batch-is-written",
        _TRANSACTION,
        "            self.seq, self.position, self.touched, self.stubs = seq, position, touched, stubs\n"
        "            del self.operations[count:]\n",
        "            self.touched = touched\n",
        "of a batch that failed in the middle the first half is pushed to everybody",
    ),
    Mutant(
        "checked-by-an-old-schema",
        _TRANSACTION,
        "            payload = schema.normalise(payload)  # declared anew since the caller's thread checked it\n",
        "",
        "a batch that was open while its collection was declared anew holds up the device's pushes",
        "tests/contracts/test_redeclared.py::test_a_batch_is_checked_by_the_schema_of_its_commit",
    ),
    Mutant(
        "unsettled-composition",
        _TRANSACTION,
        "        image = self.touched.get(ref)\n"
        "        if image is None and ref in self.held:\n"
        "            image = self.held[ref][1]\n",
        "        image = self.held[ref][1] if ref in self.held else self.touched.get(ref)\n",
        "two changes of one known record in a batch, or a shared commit, are both composed over the first image",
    ),
]
