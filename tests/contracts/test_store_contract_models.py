"""The store's contract about models: see ``test_store_contract``."""

from __future__ import annotations

from cloud.model_rows import AliasRow, ChunkRow, ModelRow
from cloud.ports import Store
from tests.contracts.test_store_contract import FLEET, OTHER, store

__all__ = ["store"]


def test_versions_of_models(store: Store) -> None:
    first = ModelRow("embed", 1, "1.0", 5, b"a" * 32, b"{}")
    second, other = ModelRow("embed", 10, "1.1", 6, b"b" * 32, b"{}"), ModelRow("asr", 1, "0.1", 7, b"c" * 32, b"{}")
    with store.writing() as tx:
        tx.put_models(FLEET, [second, first, other])
        assert tx.models(FLEET, "embed") == [first, second]
        tx.put_models(FLEET, [first._replace(manifest=b"")])
    with store.reading() as view:
        assert view.models(FLEET) == [other, first._replace(manifest=b""), second]
        assert view.model(FLEET, "embed", 10) == second
        assert view.model_page(FLEET, 0, 2) == [second, first._replace(manifest=b"")]
        assert view.model_page(FLEET, 2, 2) == [other]
        assert view.model_page(OTHER, 0, 2) == []
        assert view.model(FLEET, "embed", 2) is None
        assert view.models(OTHER) == []
        assert view.model(OTHER, "embed", 10) is None


def test_aliases(store: Store) -> None:
    with store.writing() as tx:
        tx.put_aliases(FLEET, [AliasRow("embed", "champion", 1), AliasRow("embed", "canary", 2)])
        tx.put_aliases(FLEET, [AliasRow("asr", "champion", 9), AliasRow("embed", "champion", 2)])
        assert tx.aliases(FLEET, "embed") == [AliasRow("embed", "canary", 2), AliasRow("embed", "champion", 2)]
        assert tx.drop_alias(FLEET, "embed", "canary")
        assert not tx.drop_alias(FLEET, "embed", "canary")
        assert not tx.drop_alias(OTHER, "embed", "champion")
    with store.reading() as view:
        assert view.aliases(FLEET) == [AliasRow("asr", "champion", 9), AliasRow("embed", "champion", 2)]
        assert view.aliases(OTHER) == []


def test_chunks(store: Store) -> None:
    rows = [ChunkRow(bytes([number]) * 32, number, bytes([number % 2]) * 32, 3, number * 100) for number in range(1, 6)]
    digests = [row.digest for row in rows]
    with store.writing() as tx:
        tx.put_chunks(FLEET, rows)
        moved = rows[0]._replace(offset=7)
        tx.put_chunks(FLEET, [moved])
        assert tx.find_chunks(FLEET, digests[:2]) == {digests[0]: moved, digests[1]: rows[1]}
        assert tx.find_chunks(FLEET, []) == {}
        assert tx.drop_pack(FLEET, bytes(32)) == 2
    with store.reading() as view:
        assert set(view.find_chunks(FLEET, [*digests, b"?" * 32])) == {row.digest for row in rows[::2]}
        assert view.find_chunks(OTHER, digests) == {}
