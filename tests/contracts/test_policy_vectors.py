"""Vectors in the form that a policy wants: made so before the operation, so that real devices and a real control plane
have the same bytes, and find them by what they say.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge import Edge
from edge.control.policy import Policies
from edge.storage import policy_row
from edge.storage.policy_row import PolicyRow
from sync.policy import Policy
from sync.precisions import PRECISIONS, load, store, stored_bytes
from sync.schema import pack_vector
from tests.contracts.fleet_world import Cloud, Device

DIMENSIONS = 6
LONG = [0.9, -0.3, 0.05, 0.0, 1e-3, 0.2]
OTHER = [-0.1, 0.8, 0.3, 0.1, 0.0, -0.2]
RULES = [
    {"collections": ["pictures"], "prefixes": ["half/"], "vectors": "float16"},
    {"collections": ["pictures"], "prefixes": ["byte/"], "vectors": "int8"},
    {"collections": ["pictures"], "prefixes": ["none/"], "vectors": "none"},
    {"collections": ["coarse"], "vectors": "float32"},
    {"collections": ["four"], "vectors": "int8"},
    {"agents": ["guide"], "vectors": "int8"},
]


def obey(edge: Edge, rules: list[dict[str, Any]]) -> None:
    data = Policy.from_document({"schema": 1, "name": "kiosk", "sync": rules}).to_json()
    policy_row.store(edge.log, PolicyRow("policies/kiosk/1.json", 1, sha256(data).digest(), 1_000, 1, data))
    vars(edge)["_policies"] = Policies(edge.log)
    edge._policies.begin()


def stored(edge: Edge, key: str, collection: str = "pictures", field: str = "vector") -> Any:
    values = edge.log.values(collection, key)
    assert values is not None
    return values.get(field)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Device, Device, Cloud]]:
    (tmp_path / "cloud").mkdir()
    cloud = Cloud(tmp_path / "cloud", 1)
    a, b = Device(tmp_path / "a", cloud, "a", 2), Device(tmp_path / "b", cloud, "b", 3)
    obey(a.edge, RULES)
    yield a, b, cloud
    a.edge.close()
    b.edge.close()
    cloud.store.close()


def test_all_replicas_have_the_same_bytes_and_find_them(pair: tuple[Device, Device, Cloud]) -> None:
    a, b, cloud = pair
    pictures = a.edge.collection("pictures", vector=("vector", DIMENSIONS))
    exact = pack_vector(LONG, DIMENSIONS)
    pictures.put("full/1", {"vector": OTHER, "n": 1})
    pictures.put("half/1", {"vector": LONG, "n": 1})
    with a.edge.batch():
        pictures.put("byte/1", {"vector": OTHER})
        pictures.put("none/1", {"vector": LONG, "n": 1})
    pictures.patch("byte/1", {"vector": LONG, "n": 2})
    assert a.sync()
    assert b.sync()
    assert a.sync()  # both have declared the notes
    assert a.edge.digest() == b.edge.digest() == cloud.digest()
    assert a.edge.log.dead_letters() == []
    for edge in (a.edge, b.edge):
        assert stored(edge, "half/1") == store(exact, "float16")
        assert stored(edge, "byte/1") == store(exact, "int8")
        assert edge.log.values("pictures", "none/1") == {"n": 1}
        found = edge.collection("pictures").search(vector=LONG, k=9)
        assert {hit.key for hit in found} == {"half/1", "byte/1", "full/1"}
        assert found[-1].key == "full/1"
        assert min(hit.score for hit in found[:2]) > 0.999
        assert found[0].fields["vector"] in (load(store(exact, form), form) for form in ("float16", "int8"))
        rows = {row["_key"]: row["vector"] for row in edge.collection("pictures").to_arrow().to_pylist()}
        assert rows["byte/1"] == pytest.approx(LONG, abs=0.01)
        assert rows["none/1"] is None
        assert edge.verify() == []

    b.edge.collection("pictures").put("byte/1", {"vector": OTHER})  # no policy there: as declared
    assert b.sync()
    assert a.sync()
    assert stored(a.edge, "byte/1") == pack_vector(OTHER, DIMENSIONS)


def test_never_finer_than_declared_nor_what_could_not_be_told(pair: tuple[Device, Device, Cloud]) -> None:
    a, b, cloud = pair
    coarse = a.edge.collection("coarse", vector=("vector", DIMENSIONS, "l2", "", "int8"))
    four = a.edge.collection("four", vector=("vector", 4))
    pictures = a.edge.collection("pictures", vector=("vector", DIMENSIONS, "l2"))
    coarse.put("k", {"vector": LONG})
    four.put("k", {"vector": LONG[:4]})
    pictures.put("half/far", {"vector": [70_000.0, *LONG[1:]]})
    assert len(stored(a.edge, "k", "coarse")) == stored_bytes(DIMENSIONS, "int8")
    assert stored(a.edge, "k", "four") == pack_vector(LONG[:4], 4)
    assert stored(a.edge, "half/far") == pack_vector([70_000.0, *LONG[1:]], DIMENSIONS)
    assert a.sync()
    assert b.sync()
    assert a.sync()  # both have declared the notes
    assert a.edge.digest() == b.edge.digest() == cloud.digest()


def test_a_patch_under_none_takes_away_what_is_no_longer_true(pair: tuple[Device, Device, Cloud]) -> None:
    a, b, _ = pair
    pictures = a.edge.collection("pictures", vector=("vector", DIMENSIONS))
    obey(a.edge, [])
    pictures.put("none/1", {"vector": LONG, "n": 1})
    obey(a.edge, RULES)
    pictures.patch("none/1", {"n": 2})
    assert stored(a.edge, "none/1") == pack_vector(LONG, DIMENSIONS)
    pictures.patch("none/1", {"vector": OTHER})
    assert a.edge.log.values("pictures", "none/1") == {"n": 2}
    assert a.sync()
    assert b.sync()
    assert b.edge.collection("pictures").search(vector=LONG) == []


def test_spaces_of_agents_too(pair: tuple[Device, Device, Cloud]) -> None:
    a, b, _ = pair
    for agent, form in (("guide", "int8"), ("cook", "float32")):
        space = a.edge.agent(agent).vectors("faces", dimension=DIMENSIONS)
        space.upsert_many([("ada", LONG, {"floor": 2}), ("bob", OTHER)])
        assert len(stored(a.edge, f"{agent}/faces/ada", space._collection.name)) == stored_bytes(DIMENSIONS, form)
        assert a.sync()
        assert b.sync()
        (nearest,) = b.edge.agent(agent).vectors("faces").knn(LONG, 1)
        assert (nearest.key, nearest.metadata) == ("ada", {"floor": 2})
        assert PRECISIONS[0] == b.edge.agent(agent).vectors("faces").precision
