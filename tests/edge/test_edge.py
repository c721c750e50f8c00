"""Edge as its users meet it: collections, batches, searches, snapshots, status, configuration."""

from __future__ import annotations

from array import array
from pathlib import Path
from threading import Event, Thread

import pytest

from edge import Collection, Edge, EdgeConfig, StorageError
from sync.errors import (
    InvalidConfig,
    InvalidValue,
    UnknownCollection,
)
from tests.edge.stores import TickingClock

# -- collections ------------------------------------------------------------------------------------------------------


def test_what_a_collection_can_do(tmp_path: Path) -> None:
    with Edge.open(tmp_path, clock=TickingClock()) as edge:
        notes = edge.collection(
            "notes",
            fields={"n": "counter", "tags": "set", "high": ("int", "max"), "said": "keep-all"},
            vector=("v", 2),
        )
        notes.put("a", {"n": 1, "tags": ["x"], "high": 3, "said": "hello", "v": (1, 2), "free": {"deep": [1]}})
        notes.increment("a", "n", 4)
        notes.add("a", "tags", "y", 7)
        notes.remove("a", "tags", "x", "never there")
        notes.patch("a", {"high": 1, "free": None})
        assert notes.get("a") == {
            "high": 3,
            "n": 5,
            "said": ["hello"],
            "tags": [7, "y"],
            "v": array("f", [1.0, 2.0]),
        }
        assert "a" in notes
        assert notes.get("b") is None
        notes.increment("c", "n", upsert=True)
        notes.add("d", "tags", "z", upsert=True)
        notes.patch("e", {"x": 1}, upsert=True)
        notes.delete("a")
        assert "a" not in notes
        assert [key for key, _ in notes.scan()] == ["c", "d", "e"]
        assert notes.count() == 3
        assert edge.collection("notes") is notes
        assert edge.collections() == ["notes"]


def test_scan_pages_filters_and_limits(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes")
        with edge.batch():
            for number in range(1200):
                notes.put(f"{number:04}", {"n": number, "even": number % 2 == 0})
        assert len(list(notes.scan())) == 1200
        assert [key for key, _ in notes.scan(filter={"even": True, "n": {"$gte": 1190}})] == [
            *("1190", "1192", "1194", "1196", "1198")
        ]
        assert [key for key, _ in notes.scan("11", limit=2)] == ["1100", "1101"]
        assert [key for key, _ in notes.scan(after="1197")] == ["1198", "1199"]


def test_a_declaration_can_grow(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        edge.collection("notes", fields={"a": "int"})
        head = edge.log.head_seq
        edge.collection("notes", fields={"a": "int"})
        assert edge.log.head_seq == head
        notes = edge.collection("notes", fields={"a": "int", "n": "counter"})
        notes.put("x", {"a": 1, "n": 2})
        notes.increment("x", "n")
        assert notes.get("x") == {"a": 1, "n": 3}
    with Edge.open(tmp_path) as edge:
        assert set(edge.collection("notes").schema.fields) == {"a", "n"}


def test_batches(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes")
        seen = edge.log.writer.db.total_changes()
        with edge.batch():
            notes.put("a", {"x": 1})
            assert notes.get("a") is None, "not before the end"
            with edge.batch():
                notes.put("b", {"x": 1})
            assert notes.get("b") is None, "it joined the outer one"
            notes.patch("a", {"y": 2})
        assert notes.get("a") == {"x": 1, "y": 2}
        assert edge.log.writer.db.total_changes() > seen

        def broken() -> None:
            with edge.batch():
                notes.put("c", {"x": 1})
                raise RuntimeError

        with pytest.raises(RuntimeError):
            broken()
        assert notes.get("c") is None
        notes.put("c", {"x": 2})
        with edge.batch():
            pass


# -- searching --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pumps(tmp_path: Path) -> Collection:
    edge = Edge.open(tmp_path)
    pumps = edge.collection("pumps", text=["body"], vector=("v", 2, "l2"))
    for number in range(20):
        pumps.put(f"p{number:02}", {"body": f"pump {number} is loud", "v": [number, 0], "n": number})
    return pumps


def test_a_search_sees_every_acknowledged_write(pumps: Collection) -> None:
    assert [hit.key for hit in pumps.search(vector=[3, 0], k=1)] == ["p03"]
    pumps.put("new", {"v": [3, 0.1], "n": 99})
    pumps.delete("p03")
    (hit,) = pumps.search(vector=[3, 0], k=1, explain=True)
    assert (hit.key, hit.tier, hit.fields["n"]) == ("new", "exact", 99)
    assert hit.fields["v"] == array("f", [3, 0.1])
    assert "budget" in hit.why
    assert pumps.search(vector=[3, 0], k=1)[0].why == ""
    filtered = pumps.search(vector=[3, 0], k=3, filter={"n": {"$gt": 10, "$lt": 50}})
    assert [hit.key for hit in filtered] == ["p11", "p12", "p13"]


@pytest.mark.slow
def test_text_and_hybrid_are_served_by_the_other_tier(pumps: Collection, tmp_path: Path) -> None:
    pumps.put("odd", {"body": "a valve squeaks", "v": [100, 0], "n": 1})
    (hit,) = pumps.search("valve", explain=True)
    assert (hit.key, hit.tier) == ("odd", "lance")
    hits = pumps.search("valve", [5, 0], k=2)
    assert {hit.key for hit in hits} == {"odd", "p05"}
    assert pumps.to_arrow().num_rows == 21


@pytest.mark.slow
def test_vectors_above_the_budget_are_served_by_the_other_tier(tmp_path: Path) -> None:
    with Edge.open(tmp_path, config=EdgeConfig(exact_mib_max=0)) as edge:
        pumps = edge.collection("pumps", vector=("v", 2))
        pumps.put("a", {"v": [1, 0]})
        pumps.put("b", {"v": [0, 1]})
        (hit,) = pumps.search(vector=[0.1, 1], k=1)
        assert (hit.key, hit.tier) == ("b", "lance")
        assert edge.status()["projections"]["running"]
        with pytest.raises(UnknownCollection):
            edge.lance("nothing")
        assert edge.lance("pumps").count_rows() == 2
        assert edge.verify() == []
    assert not edge.log.listeners, "nobody listens to a closed store"


# -- the store as a whole ---------------------------------------------------------------------------------------------


def test_a_snapshot_opens_as_a_replica_of_the_same_device(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "store") as edge:
        notes = edge.collection("notes", vector=("v", 2))
        notes.put("a", {"x": 1, "v": [1, 0]})
        notes.search(vector=[1, 0])
        edge.snapshot(tmp_path / "copy")
        notes.put("later", {"x": 1})
        with pytest.raises(InvalidValue):
            edge.snapshot(tmp_path / "copy")
        with Edge.open(tmp_path / "copy") as copy:
            assert copy.device == edge.device == copy.device_key().device_id
            assert copy.log.replica != edge.log.replica
            assert copy.collection("notes").search(vector=[1, 0])[0].key == "a"
            assert "later" not in copy.collection("notes")
            assert copy.verify() == []
    assert (tmp_path / "copy" / "keys" / "device.key").stat().st_mode & 0o777 == 0o600


def test_status_says_what_there_is_to_know(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", vector=("v", 2))
        notes.put("a", {"v": [1, 0]})
        notes.search(vector=[1, 0])
        said = edge.status()
        assert said["store"] == str(tmp_path)
        assert said["device"] == edge.device.hex()
        assert said["collections"] == {"notes": {"records": 1}}
        assert said["log"]["head_seq"] == said["log"]["pending"] == 2
        assert said["log"]["bytes"] > 0
        assert said["projections"]["tiers"]["exact:notes"]["position"] == 2
        assert said["dead_letters"] == []
        assert {"python", "sqlite", "numpy"} <= set(said["versions"])


def test_two_stores_with_the_same_records_have_the_same_digest(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "a") as a, Edge.open(tmp_path / "b") as b:
        a.collection("notes").put("x", {"n": 1})
        b.log.apply(a.log.state_operations(None, 10))
        assert a.digest() == b.digest()
        a.collection("notes").put("y", {"n": 1})
        assert a.digest() != b.digest()


def test_the_log_is_trimmed_when_nobody_needs_it(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", vector=("v", 2))
        with edge.batch():
            for number in range(50):
                notes.put(f"k{number}", {"v": [1, number]})
        assert edge.projections.trim(100) == 0, "not worth it"
        assert edge.projections.trim() == 0, "the cloud has nothing yet"
        edge.log.acknowledge(edge.log.head_seq, b"i" * 32)
        notes.search(vector=[1, 0])
        notes.put("later", {"v": [1, 0]})
        assert edge.projections.trim() == 51, "the projection has not read the last one"
        assert edge.projections.trim() == 0
        assert [key for _, _, key in edge.log.changes(51, 10)] == ["later"]
        assert notes.search(vector=[1, 0], k=1)[0].key == "k0"
        assert edge.verify() == []


# -- configuration ----------------------------------------------------------------------------------------------------


def test_configuration_from_the_store_from_a_file_and_as_an_object(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "edge.toml").write_text('[store]\ndurability = "relaxed"\n')
    other = tmp_path / "other.toml"
    other.write_text("[search]\nexact_mib_max = 7\n")
    with Edge.open(store) as edge:
        assert edge.config.durability == "relaxed"
        assert edge.log.writer.db.execute("PRAGMA synchronous").get == 1
    with Edge.open(store, config=other) as edge:
        assert (edge.config.exact_mib_max, edge.config.durability) == (7, "full")
        assert edge.log.writer.db.execute("PRAGMA synchronous").get == 2
    with Edge.open(store, config=EdgeConfig(flush_interval_ms=77)) as edge:
        assert edge.config.flush_interval_ms == 77
    with pytest.raises(InvalidConfig, match="no configuration file"):
        Edge.open(store, config=tmp_path / "missing.toml")
    (store / "edge.toml").write_text("[store\n")
    with pytest.raises(InvalidConfig, match="not valid TOML"):
        Edge.open(store)


def test_a_closed_store_says_so_in_the_same_way_whatever_is_asked(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", vector=("v", 2))
        notes.put("a", {"v": [1, 0]})
    for ask in (
        lambda: notes.get("b"),
        lambda: notes.put("a", {}),
        lambda: list(notes.scan()),
        lambda: notes.search(vector=[1, 0]),
        notes.count,
        edge.digest,
    ):
        with pytest.raises(StorageError, match="closed") as caught:
            ask()
        assert "open the store again" in caught.value.hint


def test_a_vector_that_is_only_a_name_is_told_what_is_missing(tmp_path: Path) -> None:
    with Edge.open(tmp_path) as edge, pytest.raises(InvalidValue, match="field, dimensions") as caught:
        edge.collection("notes", vector="emb")  # type: ignore[arg-type]
    assert "'emb', 384" in caught.value.hint


def test_status_says_which_fleet(tmp_path: Path) -> None:
    from tests.edge.link.joined import NOWHERE, join_nowhere

    with Edge.open(tmp_path / "alone") as edge:
        assert edge.status()["fleet"] is None
    join_nowhere(str(tmp_path / "joined"))
    with Edge.open(tmp_path / "joined") as edge:
        assert edge.status()["fleet"] == {"id": (b"f" * 16).hex(), "url": NOWHERE, "name": "lonely"}


def test_a_snapshot_ends_while_others_write(tmp_path: Path) -> None:
    with Edge.open(tmp_path / "store") as edge:
        notes = edge.collection("notes")
        with edge.batch():
            for number in range(3000):
                notes.put(f"k{number}", {"text": "x" * 3000})
        done = Event()

        def write() -> None:
            number = 0
            while not done.is_set():
                notes.put(f"w{number % 50}", {"n": number})
                number += 1

        writer = Thread(target=write)
        writer.start()
        snapshot = Thread(target=edge.snapshot, args=(tmp_path / "copy",))
        snapshot.start()
        snapshot.join(60)
        ended = not snapshot.is_alive()
        done.set()
        writer.join()
        snapshot.join()
    assert ended
    with Edge.open(tmp_path / "copy") as copy:
        assert copy.verify() == []
        assert sum(1 for _ in copy.collection("notes").scan("k")) == 3000


@pytest.mark.parametrize(
    "where",
    ["edge.storage.store_copy.copy_keys", "edge.storage.log_care.snapshot", "edge.storage.bodies.Bodies.copy_to"],
)
def test_an_interrupted_snapshot_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Above all no keys."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with Edge.open(tmp_path / "store") as edge:
        edge.collection("notes").put("a", {"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                edge.snapshot(tmp_path / "copies" / "copy")
        assert list((tmp_path / "copies").iterdir()) == []
        edge.snapshot(tmp_path / "copies" / "copy")
    assert [path.name for path in (tmp_path / "copies").iterdir()] == ["copy"]
    assert (tmp_path / "copies" / "copy").stat().st_mode & 0o777 == 0o700
    with Edge.open(tmp_path / "copies" / "copy") as copy:
        assert copy.collection("notes").get("a") == {"n": 1}


def test_who_is_about_to_search_vectors_that_are_declared_anew(tmp_path: Path) -> None:
    """As ``reembed`` does while others search: each is answered by the vectors that it asked for, and nobody's files go
    from under another.
    """
    with Edge.open(tmp_path) as edge:
        notes = edge.collection("notes", vector=("v", 2, "l2"))
        for number in range(1, 30):
            notes.put(f"k{number:02}", {"v": [number, 0]})
        assert notes.search(vector=[7, 0], k=1)[0].key == "k07"
        before = edge.projections.exact(notes.schema)
        edge.collection("notes", vector=("v", 2, "dot"))
        unopened = edge.projections.exact(notes.schema)
        edge.collection("notes", vector=("v", 2, "cosine"))
        assert len(notes.search(vector=[7, 0], k=100)) == 29
        for number in range(30, 5_000):
            edge.log.submit([edge.log.put_of("notes", f"k{number}", {"v": b"\0\0\0\0\0\0\x80?"}, notes.schema)])
        hits = before.search(array("f", [7, 0]).tobytes(), 2)
        assert [(hit.key, hit.score) for hit in hits] == [("k07", 0.0), ("k06", -1.0)]
        before.keep_up(1)
        with pytest.raises(StorageError, match="declared anew meanwhile"):
            unopened.search(array("f", [7, 0]).tobytes(), 2)
        assert len(notes.search(vector=[7, 0], k=10_000)) == 4_999
        assert edge.verify() == []
