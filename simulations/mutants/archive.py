"""Faults in the archive and in restoring from it."""

from __future__ import annotations

from simulations.mutants import Mutant

_RESTORE = "cloud/storage/archive/restore.py"
_SNAPSHOTS = "cloud/storage/archive/snapshots.py"
_WRITER = "cloud/storage/archive/writer.py"
_CHAIN = "cloud/storage/archive/chain.py"

MUTANTS = [
    Mutant(
        "manifest-before-the-read-back",
        "cloud/storage/archive/putter.py",
        "        if self._read_back(name) != data:\n",
        "        if not data:\n",
        "an object that the store did not keep, or altered, is named by a manifest: the restore fails",
        "tests/cloud/test_archive_crashes.py::test_a_crash_at_any_call_of_the_object_store",
    ),
    Mutant(
        "commit-without-the-read-back",
        "cloud/storage/archive/putter.py",
        "        found = self._read_back(name)\n        if found != data:\n",
        "        found = data if created else self._read_back(name)\n        if found != data:\n",
        "a manifest that the store did not keep counts as committed: what it names is not archived again",
        "tests/cloud/test_archive_crashes.py::test_an_object_store_that_stores_other_bytes_is_found_out",
    ),
    Mutant(
        "archive-waits-for-the-old-mark",
        _RESTORE,
        "            position=past.position,\n            at_ms=",
        "            position=manifest.head,\n            at_ms=",
        "after a restore to an earlier position nothing is archived until the feed has passed the old one",
        "tests/cloud/test_archive.py::test_the_restored_store_goes_on_in_a_branch",
    ),
    Mutant(
        "restored-as-if-nothing-was-lost",
        _RESTORE,
        "            restored_head=past.position,\n",
        "            restored_head=manifest.head,\n",
        "devices do not give back what a restore to an earlier position lost, and skip what is written there",
        "tests/contracts/test_known_failures_archive.py::test_a_cursor_from_beyond_the_target_of_a_restore_counts_for_nothing",
    ),
    Mutant(
        "restored-feed-without-beginning",
        _RESTORE,
        "            trimmed=past.start,\n",
        "            trimmed=0,\n",
        "from a snapshot: a device with an older cursor is sent the feed with a hole in it",
        "tests/cloud/test_archive.py::test_from_a_snapshot_and_what_follows",
    ),
    Mutant(
        "restore-takes-back-decisions",
        _RESTORE,
        "        manifest, past = self._past.newest.manifest, self._past\n",
        "        manifest, past = self._past.base or self._past.newest.manifest, self._past\n",
        "going back in time takes back revocations",
        "tests/cloud/test_archive.py::test_going_back_takes_back_data_and_no_decisions",
    ),
    Mutant(
        "resolved-by-what-is-gone",
        _RESTORE,
        "    if row.resolution <= position:\n",
        "    if row.resolution >= 0:\n",
        "a conflict whose answer lies beyond the target stays resolved, without the answer",
        "tests/cloud/test_archive.py::test_going_back_takes_back_data_and_no_decisions",
    ),
    Mutant(
        "restored-rows-of-one-writer",
        _RESTORE,
        "            single.replica if single else self._cloud,\n",
        "            rows[0].replica,\n",
        "after a restore one device is not sent what others wrote, because it lies in a segment with its own",
        "tests/cloud/test_archive.py::test_large_rows_pass_through_and_small_ones_are_joined",
    ),
    Mutant(
        "snapshot-without-its-books",
        _SNAPSHOTS,
        "        self._beside.append((row.position, row.field_positions, row.grave))\n",
        '        self._beside.append((row.position, b"", b""))\n',
        "restored from a snapshot, the cloud knows neither graves nor where fields were written",
        "tests/cloud/test_archive.py::test_from_a_snapshot_and_what_follows",
    ),
    Mutant(
        "snapshot-of-the-living",
        _SNAPSHOTS,
        "        for row in rows:\n"
        "            builder.add(row)\n"
        "            if builder.size >= PART_BYTES:\n"
        "                yield builder.finish()\n"
        "        totals.records += len(rows)\n",
        "        from sync.images import is_alive\n\n"
        "        for row in rows:\n"
        "            if not is_alive(row.image):\n"
        "                continue\n"
        "            builder.add(row)\n"
        "            totals.records += 1\n"
        "            if builder.size >= PART_BYTES:\n"
        "                yield builder.finish()\n",
        "restored from a snapshot, the cloud has no tombstones: old edits bring records back",
        "tests/cloud/test_archive.py::test_from_a_snapshot_and_what_follows",
    ),
    Mutant(
        "snapshot-of-several-moments",
        _WRITER,
        "        for part in snapshot_parts(view, self._sealer(reader, head), totals):\n",
        "        for part in snapshot_parts(view, self._sealer(reader, head), totals):\n"
        '            view._db.execute("COMMIT")\n'
        '            view._db.execute("BEGIN")\n',
        "what is pushed while a snapshot is made is in some of its parts",
        "tests/cloud/test_archive.py::test_a_snapshot_is_of_one_moment",
    ),
    Mutant(
        "snapshot-of-the-future",
        _CHAIN,
        "        if manifest.snapshot is not None and manifest.snapshot.position <= end:\n",
        "        if manifest.snapshot is not None and manifest.snapshot.position <= cut:\n",
        "a restore to before a snapshot starts from it",
        "tests/cloud/test_archive.py::test_segments_that_would_be_too_large_are_cut",
    ),
    Mutant(
        "abandoned-end-comes-back",
        _CHAIN,
        "        end = min(cut, target)\n",
        "        end = min(max(cut, manifest.head), target)\n",
        "a restore of a restored fleet has what the first one had left behind",
        "tests/cloud/test_archive.py::test_the_restored_store_goes_on_in_a_branch",
    ),
    Mutant(
        "archive-turned-back",
        _CHAIN,
        "    if known is not None and (numbers[-1] < known.number or reader",
        "    if known is not None and (numbers[-1] < 0 or numbers[-1] >= known.number and reader",
        "a bucket whose newest objects were taken away is restored as if it were whole",
        "tests/attacks/test_archive_tampering.py::test_every_object_when_it_is_missing",
    ),
    Mutant(
        "archive-of-a-stale-writer",
        _WRITER,
        "        if not self._putter.commit(reader.names.manifest(number), data):\n",
        "        if not self._putter.commit(reader.names.manifest(number), data) and number < 0:\n",
        "a control plane that was replaced believes that what it archives is kept",
        "tests/cloud/test_archive_crashes.py::test_of_two_writers_one_stops",
    ),
]
