"""Vector spaces of two devices: what one quantised the other has bit by bit, and one declaration stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge import SchemaMismatch
from sync.precisions import PRECISIONS
from tests.contracts.test_agents_of_two import Two


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    two = Two(tmp_path)
    yield two
    for device in (two.a, two.b):
        device.edge.close()
    two.cloud.store.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_have_the_same_numbers(two: Two, precision: str) -> None:
    rng = np.random.default_rng(8)
    a, b = (
        device.edge.agent("guide").vectors("images", dimension=24, precision=precision) for device in (two.a, two.b)
    )
    a.upsert_many((f"a{at}", rng.standard_normal(24), {"at": at}) for at in range(20))
    b.upsert_many((f"b{at}", rng.standard_normal(24) * 50) for at in range(20))
    two.settle()
    b.upsert("a3", rng.standard_normal(24))
    a.delete("b7")
    two.settle()
    assert list(a.all()) == list(b.all())
    assert a.count() == 39
    query = rng.standard_normal(24)
    assert a.knn(query, 5) == b.knn(query, 5)
    copied = a.get("a5")
    assert copied is not None
    position = b.get("a5")
    a.upsert("a5", copied.vector, copied.metadata)  # what was read is stored as the same bytes
    two.settle()
    assert b.get("a5") == position


def test_of_two_declarations_the_clouds_stands_and_the_other_hears_of_it(two: Two) -> None:
    a = two.a.edge.agent("guide").vectors("images", dimension=4, precision="int8")
    a.upsert("k", [1, 2, 3, 4])
    b = two.b.edge.agent("guide").vectors("images", dimension=4)
    b.upsert("mine", [1, 2, 3, 4])
    two.a.clock.now_ms += 5
    assert two.a.sync(steps=200)
    two.b.sync(steps=200)
    refused = two.b.edge.log.dead_letters()
    assert refused, "the cloud does not take a second declaration of another precision"
    assert "int8" in refused[0].reason
    assert two.a.edge.agent("guide").vectors("images").precision == "int8"
    with pytest.raises(SchemaMismatch):
        two.a.edge.agent("guide").vectors("images", dimension=4, precision="float32")
