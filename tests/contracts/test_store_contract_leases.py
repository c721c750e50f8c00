"""The store's contract about leases: see ``test_store_contract``."""

from __future__ import annotations

from cloud.ports import Store
from cloud.rows import Lease
from sync.stamps import replica_id
from tests.contracts.test_store_contract import DEVICE, FLEET, OTHER, REPLICA, store

__all__ = ["store"]


def test_leases(store: Store) -> None:
    second = replica_id(DEVICE, 2)
    with store.writing() as tx:
        assert tx.lease(FLEET, REPLICA) is None
        tx.put_lease(FLEET, Lease(second, 1, 2))
        tx.put_lease(FLEET, Lease(REPLICA, 3, 4))
        tx.put_lease(FLEET, Lease(REPLICA, 5, 6))
        assert tx.lease(FLEET, REPLICA) == Lease(REPLICA, 5, 6)
    with store.reading() as view:
        assert view.leases(FLEET) == [Lease(REPLICA, 5, 6), Lease(second, 1, 2)]
        assert view.leases(OTHER) == []
        assert view.lease(OTHER, REPLICA) is None
