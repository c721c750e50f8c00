"""SQL for many rows at once.

A statement is one call into SQLite, during which the interpreter is free for other threads. A call for each row would
hand it to and fro as often, which costs 16 writers more than the rows do, and is a third slower even without them. 50
rows a call are enough for that. The texts depend only on how many rows there are, so SQLite's compiled form is reused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

import apsw

ROWS_MAX = 50
_OPERATION_COLUMNS = 9


def insert(db: apsw.Connection, head: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """``head`` is an INSERT up to and with its VALUES."""
    for chunk in chunks(rows):
        db.execute(head + _values(len(chunk[0]), len(chunk)), tuple(chain.from_iterable(chunk)))


def select_held(db: apsw.Connection, refs: Sequence[tuple[int, str]]) -> Iterator[tuple[int, str, int, bytes, int]]:
    """(collection, key, rowid, image, living) of those records (collection, key) that are in the table."""
    for chunk in chunks(refs):
        rows: list[Any] = db.execute(_held(len(chunk)), tuple(chain.from_iterable(chunk))).fetchall()
        yield from rows


def chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(rows), ROWS_MAX):
        yield rows[at : at + ROWS_MAX]


@cache
def _values(columns: int, rows: int) -> str:
    return ", ".join(["(" + ", ".join("?" * columns) + ")"] * rows)


@cache
def _held(rows: int) -> str:
    if rows == 1:
        return "SELECT collection, key, id, image, living FROM records WHERE collection = ? AND key = ?"
    return "".join(
        (
            "WITH wanted (collection, key) AS (VALUES ",
            _values(2, rows),
            ") SELECT r.collection, r.key, r.id, r.image, r.living FROM wanted AS w CROSS JOIN records AS r ",
            "WHERE r.collection = w.collection AND r.key = w.key",
        )
    )


@cache
def new_operations(rows: int) -> str:
    """Insert operations unless one of their records is in the table: all of them or none."""
    if rows == 1:
        return (
            "INSERT INTO operations SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 "
            "WHERE NOT EXISTS (SELECT 1 FROM records WHERE collection = ?5 AND key = ?6)"
        )
    return "".join(
        (
            "WITH new (seq, position, ts, seen, collection, key, kind, rules, fields) AS (VALUES ",
            _values(_OPERATION_COLUMNS, rows),
            ") INSERT INTO operations SELECT * FROM new WHERE NOT EXISTS ",
            "(SELECT 1 FROM new AS n CROSS JOIN records AS r WHERE r.collection = n.collection AND r.key = n.key)",
        )
    )
