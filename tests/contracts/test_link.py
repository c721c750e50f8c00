"""The link over real HTTP: stores that were copied or restored, disks that fail for a while, a link that stays up."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.link.carrier import Carrier
from edge.link.transport import HttpTransport
from edge.node import Edge
from edge.ports import SystemClock
from edge.storage.delta_log import DeltaLog
from sync.errors import CorruptStore, DiskFull, StorageError
from sync.messages import Answer, Message, Pull
from tests.cloud.server_world import LiveServer
from tests.contracts.fleet_world import Cloud

PATIENCE_S = 20.0


class Served:
    """A real control plane behind a real server."""

    def __init__(self, directory: Path) -> None:
        (directory / "cloud").mkdir()
        self.cloud = Cloud(directory / "cloud", 1)
        self.cloud.store.close()
        self.cloud.clock = SystemClock()  # type: ignore[assignment]
        self.cloud.open()
        self.server = LiveServer(self.cloud, self.cloud.plane)  # type: ignore[arg-type]

    def token(self) -> str:
        return self.cloud.plane.create_token(self.cloud.fleet, url=self.server.url).encode()

    def device(self, path: Path) -> Edge:
        edge = Edge.open(path)
        edge.join(self.token(), name=path.name)
        return edge


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    with served.server:
        yield served
    served.cloud.store.close()


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def write_and_sync(edge: Edge, key: str) -> None:
    edge.collection("n").put(key, {"x": key})
    edge.sync(timeout_s=PATIENCE_S)


def test_snapshots_copies_and_lost_logs_sync_at_once(served: Served, tmp_path: Path) -> None:
    """All share the device's key with the original, which has used thousands of nonces since."""
    original = served.device(tmp_path / "a")
    write_and_sync(original, "1")
    original.snapshot(tmp_path / "snapshot")
    original.close()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    with Edge.open(tmp_path / "a") as original:
        for n in range(3):
            write_and_sync(original, f"later {n}")
        nonces = original.log.meta_get("nonce")
    for path in ("snapshot", "copy", "a", "copy"):
        with Edge.open(tmp_path / path) as edge:
            write_and_sync(edge, f"by {path}")
            assert edge.digest() == served.cloud.digest()
    (tmp_path / "a" / "keys").rename(tmp_path / "keys")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "keys").rename(tmp_path / "a" / "keys")
    with served.device(tmp_path / "a") as edge:  # the same key, and nothing else of it
        write_and_sync(edge, "by a store that lost its log")
        assert edge.collection("n").count() == 8
        assert edge.digest() == served.cloud.digest()
        assert edge.log.meta_get("nonce") > nonces


def test_a_copy_and_its_original_run_at_the_same_time(served: Served, tmp_path: Path) -> None:
    original = served.device(tmp_path / "a")
    write_and_sync(original, "1")
    original.close()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    with Edge.open(tmp_path / "a") as original, Edge.open(tmp_path / "copy") as copy:
        for edge in (original, copy):
            edge.start_sync()
        for n in range(10):
            original.collection("n").put(f"a{n}", {"x": n})
            copy.collection("n").put(f"copy{n}", {"x": n})
            time.sleep(0.02)
        assert eventually(lambda: original.collection("n").count() == copy.collection("n").count() == 21)
        assert original.digest() == copy.digest() == served.cloud.digest()


def test_what_a_copy_counted_twice_is_taken_back_by_a_live_link(served: Served, tmp_path: Path) -> None:
    """The copy's link is up when its original pushes what both have in their logs (ADR 12): no handshake is due."""
    with served.device(tmp_path / "a") as original:
        counters = original.collection("c", fields={"hits": "counter"})
        counters.put("k", {"hits": 1})
        original.sync(timeout_s=PATIENCE_S)
        counters.increment("k", "hits", 10)
        original.snapshot(tmp_path / "snapshot")
        with Edge.open(tmp_path / "snapshot") as copy:
            copy.start_sync()
            copy.collection("c").increment("k", "hits", 100)
            assert eventually(lambda: served.cloud.digest() == copy.digest())
            counters.increment("k", "hits", 1_000)
            original.start_sync()
            for edge in (copy, original):
                assert eventually(lambda edge=edge: edge.collection("c").get("k") == {"hits": 1_111})  # type: ignore[misc]
            assert original.digest() == copy.digest() == served.cloud.digest()


@pytest.fixture
def pair(served: Served, tmp_path: Path) -> Iterator[tuple[Edge, Edge]]:
    """A writer, and a follower whose link is up."""
    with served.device(tmp_path / "writer") as writer, served.device(tmp_path / "follower") as follower:
        write_and_sync(writer, "1")
        follower.start_sync()
        assert eventually(lambda: "n" in follower.collections() and "1" in follower.collection("n"))
        yield writer, follower


def failing(
    monkeypatch: pytest.MonkeyPatch, name: str, errors: list[StorageError], only: DeltaLog | None = None
) -> None:
    """The next calls of this method of every delta log, or of one, raise these."""
    real: Any = getattr(DeltaLog, name)

    def fails(log: DeltaLog, *args: Any, **kwargs: Any) -> Any:
        if errors and only in (None, log):
            raise errors.pop(0)
        return real(log, *args, **kwargs)

    monkeypatch.setattr(DeltaLog, name, fails)


@pytest.mark.parametrize("name", ["apply", "meta_set", "pending"])
def test_a_disk_that_fails_for_a_while_does_not_end_the_link(
    pair: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    writer, follower = pair
    write_and_sync(writer, "2")
    assert eventually(lambda: "2" in follower.collection("n"))
    errors: list[StorageError] = [DiskFull("the disk is full"), StorageError("busy"), DiskFull("the disk is full")]
    failing(monkeypatch, name, errors)
    follower.collection("n").put("mine", {"x": 1})
    while True:
        try:
            write_and_sync(writer, "3")
            break
        except StorageError:  # the writer's own disk is as full; sync() says so
            continue
    assert eventually(lambda: "3" in follower.collection("n") and follower.status()["sync"]["error"] == "")
    write_and_sync(writer, "4")
    assert eventually(lambda: "4" in follower.collection("n"))
    assert eventually(lambda: follower.digest() == writer.digest())


def test_a_damaged_log_ends_the_link_and_status_says_so(
    pair: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, follower = pair
    failing(monkeypatch, "apply", [CorruptStore("the log is damaged", hint="restore it")], only=follower.log)
    write_and_sync(writer, "2")
    assert eventually(lambda: follower.status()["sync"]["error"] == "the log is damaged")
    assert follower.status()["sync"]["connected"] is False
    follower.start_sync()  # it is mended: a new link takes the place of the dead one
    assert eventually(lambda: "2" in follower.collection("n"))
    assert eventually(lambda: bool(follower.status()["sync"]["connected"]))


def test_a_live_link_is_not_idle_before_it_follows_what_holds_in_the_store(
    pair: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another policy, say, which came beside it: until it has looked, and while it looks."""
    _, follower = pair
    replicator = follower._live._replicator  # type: ignore[union-attr]
    assert eventually(lambda: replicator.idle)
    looking, seen, follow = threading.Event(), threading.Event(), Carrier.follow

    def slowly(carrier: Carrier) -> None:
        looking.set()
        assert seen.wait(PATIENCE_S)
        follow(carrier)

    monkeypatch.setattr(Carrier, "follow", slowly)
    follower.log.rescoped += 1  # as ``policy_row`` counts
    assert not replicator.idle, "it has not looked"
    for _ in range(2):  # also if there is nothing to see
        replicator.wake()
        assert looking.wait(PATIENCE_S)
        assert not replicator.idle, "it looks"
        seen.set()
        assert eventually(lambda: replicator.idle)
        looking.clear()
        seen.clear()
    seen.set()


def test_a_live_link_is_not_in_sync_before_it_has_asked(
    pair: tuple[Edge, Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a peer has pushed before the call is here after it, however late the news of it comes by itself."""
    writer, follower = pair
    real = HttpTransport.exchange

    async def late(transport: HttpTransport, message: Message) -> Answer:
        answer = await real(transport, message)
        if isinstance(message, Pull) and message.wait_ms:
            await asyncio.sleep(2 * PATIENCE_S)
        return answer

    monkeypatch.setattr(HttpTransport, "exchange", late)
    follower.sync(timeout_s=PATIENCE_S)  # its next poll is a late one
    for n in range(5):
        write_and_sync(writer, f"by the writer {n}")
        follower.sync(timeout_s=PATIENCE_S)
        assert follower.collection("n").get(f"by the writer {n}") == {"x": f"by the writer {n}"}
