"""The baseline of all writes and reads: SQLite itself, through the same driver, with the same promise and no more.

WAL, ``synchronous=FULL``: a commit is on the disk when it returns. One table, the document as one msgpack value. It has
a rowid: rows are appended and only the small index of keys is written at random, which touches a tenth of the pages of
a ``WITHOUT ROWID`` table of such rows. So it is the stronger baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import apsw
import msgpack

from simulations.workloads import Document

INSERT = "INSERT OR REPLACE INTO documents VALUES (?, ?)"
SELECT = "SELECT body FROM documents WHERE key = ?"
Row = tuple[str, bytes]


def connect(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path))
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS documents (key TEXT PRIMARY KEY, body BLOB NOT NULL)")
    return db


def row_of(document: Document) -> Row:
    return document.key, msgpack.packb(document.fields)


def rows_of(documents: Iterable[Document]) -> list[Row]:
    return [row_of(document) for document in documents]


def insert_many(db: apsw.Connection, rows: Sequence[Row]) -> None:
    """One transaction."""
    with db:
        db.executemany(INSERT, rows)
