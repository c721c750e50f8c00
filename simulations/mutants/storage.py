"""Faults between a commit and the disk, on devices and in the cloud."""

from __future__ import annotations

from simulations.mutants import Mutant

_WRITER = "edge/storage/log_writer.py"
_CARE = "edge/storage/log_care.py"

MUTANTS = [
    Mutant(
        "put-acknowledged-though-refused",
        _WRITER,
        "            roll_back(self.db)\n            raise translate(error, self.path) from error\n        if done:\n",
        "            roll_back(self.db)\n            done = True\n        if done:\n",
        "a put that the disk refused is acknowledged, can be read, and is gone after a restart",
    ),
    Mutant(
        "batch-split-by-a-crash",
        _WRITER,
        "        insert(self.db, _OPERATION, operations)\n",
        "        for row in operations:\n"
        "            insert(self.db, _OPERATION, [row])\n"
        '            self.db.execute("COMMIT")\n'
        '            self.db.execute("BEGIN IMMEDIATE")\n',
        "a crash leaves the first operations of a batch",
    ),
    Mutant(
        "ack-before-fsync",
        "edge/storage/log_schema.py",
        'DURABILITY = {"full": "FULL", "relaxed": "NORMAL"}',
        'DURABILITY = {"full": "NORMAL", "relaxed": "NORMAL"}',
        "a power cut takes writes that were acknowledged",
    ),
    Mutant(
        "trimmed-before-the-ack",
        _CARE,
        "(min(log.acked_seq, folded_seq), position, TRIM_ROWS_MAX)",
        "(folded_seq, position, TRIM_ROWS_MAX)",
        "operations whose push is being retried are dropped from the log",
    ),
    Mutant(
        "trimmed-before-the-fold",
        _CARE,
        "        log.fold()  # an operation whose image is only in memory must stay\n",
        "",
        "after trimming and a crash, records are gone whose images were only in memory",
        "tests/edge/test_delta_log.py::test_trimming_keeps_images_that_were_only_in_memory",
    ),
    Mutant(
        "snapshot-with-a-later-cursor",
        _CARE,
        '            copy.execute("PRAGMA synchronous=FULL")\n',
        '            copy.execute("PRAGMA synchronous=FULL")\n'
        '            later = b"\\xcf" + (log.cursor + 1).to_bytes(8)\n'
        "            copy.execute(\"UPDATE meta SET value = ? WHERE name = 'cursor'\", (later,))\n",
        "a snapshot's clock is newer than its data: what comes next in the feed is skipped where it is opened",
        "tests/contracts/test_known_failures_archive.py::test_a_devices_snapshot_has_the_clock_of_its_data",
    ),
    Mutant(
        "cloud-ack-before-commit",
        "cloud/storage/sqlite_store.py",
        "                yield SqliteTransaction(db)\n"
        '                db.execute("COMMIT")\n'
        "            except apsw.Error as error:\n",
        "                yield SqliteTransaction(db)\n"
        "                try:\n"
        '                    db.execute("COMMIT")\n'
        "                except (apsw.IOError, apsw.FullError):\n"
        "                    self._rollback()\n"
        "            except apsw.Error as error:\n",
        "a push that the cloud's disk refused at the commit is acknowledged",
    ),
    Mutant(
        "cloud-ack-before-fsync",
        "cloud/storage/sqlite_store.py",
        'self._set_synchronous("full" if durable else "normal")',
        'self._set_synchronous("off")',
        "a power cut in the cloud takes pushes that were acknowledged",
    ),
    Mutant(
        "upsert-keeps-the-grave",
        "cloud/storage/sqlite_writing.py",
        "field_positions = excluded.field_positions, grave = excluded.grave",
        "field_positions = excluded.field_positions",
        "the cloud forgets what a deleted record held, or brings back what was deleted before it was made anew",
        "tests/cloud/test_delete_conflicts.py::test_an_edit_that_wins_over_a_delete_brings_the_whole_record_back",
    ),
    Mutant(
        "upsert-keeps-field-positions",
        "cloud/storage/sqlite_writing.py",
        "position = excluded.position, field_positions = excluded.field_positions,",
        "position = excluded.position,",
        "where each field was last written is not kept: conflicts are found where there are none",
    ),
    Mutant(
        "one-dead-letter-a-replica",
        "cloud/storage/sqlite_reading.py",
        "        rows = self._db.execute(_REFUSED, (fleet, replica, first_seq, last_seq, limit))\n",
        "        rows = self._db.execute(_REFUSED, (fleet, replica, first_seq, last_seq, 1))\n",
        "after a lost ack the device learns of one of the operations that were refused",
        "tests/contracts/test_store_contract.py::test_dead_letters_are_kept_once",
    ),
]
