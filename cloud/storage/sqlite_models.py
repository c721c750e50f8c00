"""The tables of models in the cloud's SQLite database: ``cloud.model_rows`` over one connection that is inside a
transaction.

They are made with the first connection that may write: databases of the first builds have none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import apsw

from cloud.model_rows import AliasRow, ChunkRow, ModelRow

TABLES = """
CREATE TABLE IF NOT EXISTS models (
    fleet BLOB NOT NULL, place INT NOT NULL, name TEXT NOT NULL, number INT NOT NULL, version TEXT NOT NULL,
    at_ms INT NOT NULL, sha256 BLOB NOT NULL, manifest BLOB NOT NULL,
    PRIMARY KEY (fleet, place), UNIQUE (fleet, name, number)
);
CREATE TABLE IF NOT EXISTS aliases (
    fleet BLOB NOT NULL, name TEXT NOT NULL, alias TEXT NOT NULL, number INT NOT NULL, PRIMARY KEY (fleet, name, alias)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS model_chunks (
    fleet BLOB NOT NULL, digest BLOB NOT NULL, length INT NOT NULL, pack BLOB NOT NULL, epoch INT NOT NULL,
    "offset" INT NOT NULL, PRIMARY KEY (fleet, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS model_chunks_of_pack ON model_chunks (fleet, pack);
"""

_MODEL = "SELECT name, number, version, at_ms, sha256, manifest FROM models WHERE fleet = ?1 "
_PUT_MODEL = """INSERT INTO models SELECT ?1, coalesce(max(place), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7
    FROM models WHERE fleet = ?1 ON CONFLICT (fleet, name, number) DO UPDATE SET version = excluded.version,
    at_ms = excluded.at_ms, sha256 = excluded.sha256, manifest = excluded.manifest"""
_CHUNKS = """SELECT c.digest, c.length, c.pack, c.epoch, c."offset" FROM carray(?) AS wanted
    CROSS JOIN model_chunks AS c ON c.fleet = ? AND c.digest = wanted.value"""


class SqliteModelReading:
    """Valid within the block that it was given to."""

    _db: apsw.Connection

    def models(self, fleet: bytes, name: str = "") -> list[ModelRow]:
        rows = self._db.execute(_MODEL + "AND (?2 = '' OR name = ?2) ORDER BY name, number", (fleet, name))
        return [ModelRow(*row) for row in rows]

    def model_page(self, fleet: bytes, after: int, limit: int) -> list[ModelRow]:
        rows = self._db.execute(_MODEL + "AND place > ?2 ORDER BY place LIMIT ?3", (fleet, after, limit))
        return [ModelRow(*row) for row in rows]

    def model(self, fleet: bytes, name: str, number: int) -> ModelRow | None:
        for row in self._db.execute(_MODEL + "AND name = ?2 AND number = ?3", (fleet, name, number)):
            return ModelRow(*row)
        return None

    def aliases(self, fleet: bytes, name: str = "") -> list[AliasRow]:
        sql = """SELECT name, alias, number FROM aliases WHERE fleet = ?1 AND (?2 = '' OR name = ?2)
            ORDER BY name, alias"""
        return [AliasRow(*row) for row in self._db.execute(sql, (fleet, name))]

    def find_chunks(self, fleet: bytes, digests: Collection[bytes]) -> dict[bytes, ChunkRow]:
        if not digests:
            return {}
        return {row[0]: ChunkRow(*row) for row in self._db.execute(_CHUNKS, (apsw.carray(tuple(digests)), fleet))}


class SqliteModelWriting(SqliteModelReading):
    """The same, inside a transaction that may write."""

    def put_models(self, fleet: bytes, rows: Iterable[ModelRow]) -> None:
        self._db.executemany(_PUT_MODEL, [(fleet, *row) for row in rows])

    def put_aliases(self, fleet: bytes, rows: Iterable[AliasRow]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)", [(fleet, *row) for row in rows])

    def drop_alias(self, fleet: bytes, name: str, alias: str) -> bool:
        self._db.execute("DELETE FROM aliases WHERE fleet = ? AND name = ? AND alias = ?", (fleet, name, alias))
        return self._db.changes() == 1

    def put_chunks(self, fleet: bytes, rows: Iterable[ChunkRow]) -> None:
        sql = "INSERT OR REPLACE INTO model_chunks VALUES (?, ?, ?, ?, ?, ?)"
        self._db.executemany(sql, [(fleet, *row) for row in rows])

    def drop_pack(self, fleet: bytes, pack: bytes) -> int:
        self._db.execute("DELETE FROM model_chunks WHERE fleet = ? AND pack = ?", (fleet, pack))
        return self._db.changes()
