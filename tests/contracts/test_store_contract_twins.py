"""The store's contract about twins: see ``test_store_contract``."""

from __future__ import annotations

import pytest

from cloud.ports import Store
from cloud.twin_rows import TwinRow
from tests.contracts.test_store_contract import DEVICE, FLEET, OTHER, store

__all__ = ["store"]


def _row(device: bytes, **changes: object) -> TwinRow:
    full = TwinRow(device, b'{"site":"north"}', b'{"a":1}', b'{"a":1,"b":2}', 3, b'{"c":[1]}', 4, 2, 99)
    return full._replace(**changes)  # type: ignore[arg-type]


def test_a_twin_comes_back_and_is_replaced(store: Store) -> None:
    with store.writing() as tx:
        assert tx.twin(FLEET, DEVICE) is None
        tx.put_twins(FLEET, [_row(DEVICE)])
        assert tx.twin(FLEET, DEVICE) == _row(DEVICE)
        tx.put_twins(FLEET, [_row(DEVICE, desired=b"{}", acked=3)])
    with store.reading() as view:
        assert view.twin(FLEET, DEVICE) == _row(DEVICE, desired=b"{}", acked=3)
        assert view.twin(OTHER, DEVICE) is None
        assert view.twins(OTHER) == []


def test_twins_come_in_pages_in_order_of_device(store: Store) -> None:
    devices = [bytes([number]) * 12 for number in (9, 3, 200, 7)]
    with store.writing() as tx:
        tx.put_twins(FLEET, map(_row, devices))
    with store.reading() as view:
        first = view.twins(FLEET, limit=3)
        assert [row.device for row in first] == sorted(devices)[:3]
        assert view.twins(FLEET, first[-1].device) == [_row(max(devices))]


def test_a_twin_of_a_transaction_that_failed_is_not_there(store: Store) -> None:
    def fail() -> None:
        with store.writing() as tx:
            tx.put_twins(FLEET, [_row(DEVICE)])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.reading() as view:
        assert view.twin(FLEET, DEVICE) is None
