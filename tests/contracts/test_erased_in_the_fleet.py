"""An erasure reaches the other devices, and what they still have of it does not come back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import Edge, Erased, StorageError
from tests.cloud.test_cli import ok, served
from tests.edge.agent.test_erase import CANARY, fill, holding


class Pair:
    """Two devices of one fleet, and its server, which is a process."""

    def __init__(self, folder: Path, url: str, fleet: Path) -> None:
        self.url = url
        self.edges = {}
        for name in ("a", "b"):
            edge = self.edges[name] = Edge.open(folder / name)
            edge.join(ok("token", fleet)["token"], name=name)
        self.a, self.b = self.edges["a"], self.edges["b"]

    def sync(self, *names: str) -> None:
        for name in names:
            self.edges[name].sync(url=self.url, timeout_s=60)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    fleet = tmp_path / "cloud"
    ok("init", fleet)
    with served(fleet) as (_, url):
        pair = Pair(tmp_path, url, fleet)
        yield pair
        for edge in pair.edges.values():
            edge.close()


def test_a_peer_that_still_has_it_does_not_bring_it_back(pair: Pair) -> None:
    fill(pair.a, "guide", CANARY)
    fill(pair.a, "cook", "harmless")
    pair.sync("a", "b")
    memory = pair.b.agent("guide").memory("visitors")
    found = memory.search(CANARY)[0].id
    pair.b.projections.lance("agent.memories")
    # b is offline: it changes what it has, and writes more.
    memory.update(found, text=f"{CANARY}, edited on b", importance=1.0)
    memory.add(f"{CANARY}, new on b")
    pair.b.agent("guide").thread().put(CANARY)
    pair.a.agent("guide").erase()
    assert holding(Path(pair.a.path)) == []
    assert len(holding(Path(pair.b.path))) >= 2
    pair.sync("b", "a")  # b's changes arrive before it hears
    assert holding(Path(pair.a.path)) == []
    pair.sync("b", "a", "b", "a")
    assert holding(Path(pair.b.path)) == []
    assert holding(Path(pair.a.path)) == []
    assert [one.here for edge in (pair.a, pair.b) for one in edge.erasures()] == [True, True]
    assert pair.a.digest() == pair.b.digest()
    assert [edge.agents() for edge in (pair.a, pair.b)] == [["cook"], ["cook"]]
    assert len(pair.b.agent("cook").memory("visitors").search("visitor", k=20)) == 20
    with pytest.raises(Erased):
        memory.add("b knows")
    assert pair.a.verify() == pair.b.verify() == []
    assert [len(edge.log.dead_letters()) for edge in (pair.a, pair.b)] == [0, 0]


def test_a_lifted_erasure_lets_in_what_is_new_and_nothing_old(pair: Pair) -> None:
    old = pair.a.agent("guide").memory()
    old.add(f"{CANARY} old")
    pair.sync("a", "b")
    pair.b.agent("guide").memory().add(f"{CANARY} of b, offline")
    pair.a.agent("guide").erase()
    pair.a.agent("guide").lift_erasure()
    old.add("new of a")
    pair.sync("a", "b", "a", "b", "a")
    assert [one.text for one in old.all()] == ["new of a"]
    pair.b.agent("guide").memory().add("new of b")
    pair.sync("b", "a")
    assert sorted(one.text for one in old.all()) == ["new of a", "new of b"]
    assert pair.a.digest() == pair.b.digest()
    assert holding(Path(pair.a.path)) == holding(Path(pair.b.path)) == []


def test_a_lift_that_comes_together_with_what_it_lets_in_lets_it_in(pair: Pair) -> None:
    ours, theirs = (edge.agent("guide").memory() for edge in (pair.a, pair.b))
    ours.add(f"{CANARY} old")
    pair.sync("a", "b")
    pair.a.agent("guide").erase()
    pair.sync("a", "b")
    pair.b.agent("guide").lift_erasure()
    theirs.add("new of b")
    pair.sync("b", "a", "b")  # for a it is one answer of the cloud
    assert [one.text for one in ours.all()] == [one.text for one in theirs.all()] == ["new of b"]
    assert pair.a.digest() == pair.b.digest()


def test_the_background_link_carries_it_out(pair: Pair) -> None:
    from time import sleep

    pair.a.agent("guide").memory().add(CANARY)
    pair.sync("a", "b")
    pair.b.start_sync(url=pair.url)
    pair.a.agent("guide").erase()
    pair.sync("a")
    for _ in range(600):
        if pair.b.erasures() and pair.b.erasures()[0].here:
            break
        sleep(0.05)
    assert [one.here for one in pair.b.erasures()] == [True]
    assert holding(Path(pair.b.path)) == []


def test_a_sync_tidies_up_although_an_erasure_cannot_be_carried_out_yet(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*_: object) -> None:
        raise StorageError("a reader keeps the log")

    pair.b.agent("guide").memory().add(CANARY)
    pair.b.agent("cook").memory().add("harmless")
    pair.sync("b", "a")
    pair.a.agent("guide").erase()
    pair.sync("a")
    for number in range(1_200):
        pair.b.collection("notes").put(str(number), {"body": "trimmed"})
    with monkeypatch.context() as patched:
        patched.setattr(pair.b, "_purge", held)
        with pytest.raises(StorageError, match="keeps the log"):
            pair.sync("b")
    assert pair.b.log.acked_seq >= 1_200
    rows = pair.b.log.reader.one("SELECT count(*) FROM operations WHERE seq <= ?", pair.b.log.acked_seq)
    assert rows == 0, "the log is trimmed"
    pair.sync("b")
    assert [one.here for one in pair.b.erasures()] == [True]
