"""Care of the delta log: trimming it, copying it, checking it, and the digest over its state.

None of it is on the path of a write. ``trim`` is the only one that changes the store, in short transactions, so that it
never holds up writers for long; the others read one consistent state on a connection of their own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import apsw

from edge.storage import evicted
from edge.storage.log_reader import unpack_fields
from edge.storage.log_schema import close, sync_directory, translate
from edge.storage.page_checksums import checksum_vfs, has_checksums, reserve
from sync.digest import StateDigest
from sync.errors import AgentDBError, InvalidValue, StorageError
from sync.images import is_alive
from sync.records import Record

if TYPE_CHECKING:
    from edge.storage.delta_log import DeltaLog

TRIM_ROWS_MAX = 10_000
PROBLEMS_MAX = 100


def trim(log: DeltaLog, position: int) -> int:
    """Operations go once they are acknowledged and below ``position``, marks once they are below it."""
    with log.writer.lock:
        log.fold()  # an operation whose image is only in memory must stay
        folded_seq = log.head_seq
    total = 0
    while True:
        with log.writer.lock, log.transact() as db:
            log.writer.put_meta("head", (log.head_seq, log.position, log.clock.last))
            db.execute(
                "DELETE FROM operations WHERE seq IN "
                "(SELECT seq FROM operations WHERE seq <= ? AND position <= ? ORDER BY seq LIMIT ?)",
                (min(log.acked_seq, folded_seq), position, TRIM_ROWS_MAX),
            )
            dropped = db.changes()
            db.execute(
                "DELETE FROM marks WHERE position IN "
                "(SELECT position FROM marks WHERE position <= ? ORDER BY position LIMIT ?)",
                (position, TRIM_ROWS_MAX),
            )
            dropped += db.changes()
        total += dropped
        if dropped < TRIM_ROWS_MAX:
            return total


def snapshot(log: DeltaLog, target: str) -> None:
    """SQLite's backup API, then a mark that makes whoever opens the copy a replica of its own. Fsynced."""
    if os.path.exists(target):
        raise InvalidValue(f"{target} exists already", hint="choose a new path for the snapshot")
    part = target + ".part"
    try:
        source = log.reader.connect()
        copy = apsw.Connection(part, vfs=log.vfs or checksum_vfs())
        try:
            if has_checksums(source):
                # Its VFS computes checksums once it has seen a first page with room for them. Pages that the source
                # has in its write-ahead log come without.
                reserve(copy)
                copy.execute("CREATE TABLE first (page)")
            # One state for the whole copy: without it each write by somebody else begins the backup again.
            source.execute("BEGIN; SELECT 1 FROM meta").fetchall()
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(1000)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.execute("PRAGMA synchronous=FULL")
            copy.execute("INSERT INTO meta VALUES ('copied', X'C3') ON CONFLICT DO NOTHING")
            copy.execute("DELETE FROM meta WHERE name LIKE 'checkpoint.%'")  # the projections are not copied
        finally:
            close(copy)
            close(source)
        os.replace(part, target)
        sync_directory(os.path.dirname(os.path.abspath(target)))
    except (apsw.Error, OSError) as error:
        if os.path.exists(part):
            os.unlink(part)
        raise translate(error, target) from error


def digest(log: DeltaLog) -> str:
    state = StateDigest()
    rows = log.all_records()
    state.add_all((collection, key, image) for collection, key, living, image in rows if living > 0)
    return state.hexdigest()


def verify(log: DeltaLog) -> list[str]:
    """SQLite's own check, then ours: images decode and are canonical, and the log is dense."""
    problems: list[str] = []
    try:
        log.fold()  # what cannot be written is a problem, too
        for (answer,) in log.reader.walk(f"PRAGMA integrity_check({PROBLEMS_MAX})"):
            if answer != "ok":
                problems.append(f"database: {answer}")
        problems += _verify_log(log)
        for collection, key, living, image in log.all_records():
            problem = _problem_of(image, living)
            if problem:
                problems.append(f"record {key!r} of {collection!r}: {problem}")
            if len(problems) >= PROBLEMS_MAX:
                break
    except StorageError as error:
        problems.append(str(error))
    problems += [f"record {key!r} of {name!r} is here, and noted as evicted" for name, key in evicted.twice(log)]
    problems += [f"schema of {name!r}: {problem}" for name, problem in log.schema_problems.items()]
    return problems


def _verify_log(log: DeltaLog) -> list[str]:
    problems = []
    expected = None
    last_position = 0
    for seq, position, packed in log.reader.walk("SELECT seq, position, fields FROM operations ORDER BY seq"):
        if expected is not None and seq != expected:
            problems.append(f"log: operation {expected} is missing")
        if position <= last_position:
            problems.append(f"log: operation {seq} is at position {position}, after {last_position}")
        try:
            unpack_fields(packed)
        except StorageError as error:
            problems.append(f"log: operation {seq}: {error}")
        expected, last_position = seq + 1, position
        if len(problems) >= PROBLEMS_MAX:
            break
    return problems


def _problem_of(image: bytes, living: int) -> str:
    try:
        if Record.decode(image).encode() != image:
            return "its image is not in canonical form"
        if is_alive(image) != (living > 0):
            return "it is marked living and is not, or the reverse"
    except AgentDBError as error:
        return str(error)
    return ""
