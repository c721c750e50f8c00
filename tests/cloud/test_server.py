"""The HTTP interface: what a correct device and an operator see; the hostile ones are in tests/attacks."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from cloud.config import ServerConfig
from cloud.server.app import DEVICE_REQUESTS_MAX
from cloud.server.jobs import Job
from sync.errors import (
    BrokenChain,
    CorruptStore,
    DiskFull,
    FutureStamp,
    InvalidValue,
    Malformed,
    NotFound,
    Refused,
    TooLarge,
    Unauthenticated,
)
from sync.messages import Enrolled, Failure, PullPage, Push, PushAck, Welcome
from tests.cloud.identity_world import World, enroll_request
from tests.cloud.server_world import CountingPlane, LiveServer, Reply, hello, live, pull


def _in_background(call: Callable[[], Reply]) -> tuple[threading.Thread, list[Reply]]:
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(call()))
    thread.start()
    return thread, replies


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_device_enrolls_and_then_speaks(tmp_path: Path) -> None:
    with live(tmp_path) as (world, plane, server):
        key = world.new_key()
        reply = server.enroll(enroll_request(world.token(), key))
        assert reply.status == 200
        assert isinstance(reply.message, Enrolled)

        reply = server.post(key, 1, hello(world.fleet, key.device_id))
        assert isinstance(reply.message, Welcome)
        reply = server.post(key, 2, Push(b"segment"))
        assert isinstance(reply.message, PushAck)
        _, caller = plane.handled[-1]
        assert caller == (world.fleet, key.device_id, key.public)


def test_requests_may_overtake_each_other(tmp_path: Path) -> None:
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        for nonce in (1, 5, 3, 4, 2, 1000, 999):
            assert server.post(key, nonce, pull(key.device_id)).status == 200


def test_a_poll_waits_for_the_feed_to_move(tmp_path: Path) -> None:
    with live(tmp_path) as (world, plane, server):
        key = world.joined()
        thread, replies = _in_background(lambda: server.post(key, 1, pull(key.device_id, 0, wait_ms=10_000)))
        _until(lambda: server.service.polls.waiting == 1)
        assert replies == []
        plane.advance(world.fleet)
        thread.join(5)
        assert isinstance(replies[0].message, PullPage)
        assert replies[0].message.cursor == 1
        assert server.service.polls.waiting == 0


def test_a_poll_that_waits_in_vain_gets_an_empty_page(tmp_path: Path) -> None:
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        started = time.monotonic()
        reply = server.post(key, 1, pull(key.device_id, 0, wait_ms=200))
        assert time.monotonic() - started >= 0.2
        assert isinstance(reply.message, PullPage)
        assert reply.message.segments == []


def test_a_newer_poll_of_a_device_releases_the_older(tmp_path: Path) -> None:
    with live(tmp_path) as (world, _, server):
        key = world.joined()
        first, replies = _in_background(lambda: server.post(key, 1, pull(key.device_id, 0, wait_ms=20_000)))
        _until(lambda: server.service.polls.waiting == 1)
        second, _ = _in_background(lambda: server.post(key, 2, pull(key.device_id, 0, wait_ms=500)))
        first.join(5)
        assert isinstance(replies[0].message, PullPage)
        second.join(5)
        assert not second.is_alive()


def test_polls_beyond_the_bound_do_not_wait(tmp_path: Path) -> None:
    with live(tmp_path, polls_max=1) as (world, plane, server):
        keys = [world.joined(), world.joined()]
        thread, _ = _in_background(lambda: server.post(keys[0], 1, pull(keys[0].device_id, 0, wait_ms=20_000)))
        _until(lambda: server.service.polls.waiting == 1)
        started = time.monotonic()
        assert server.post(keys[1], 1, pull(keys[1].device_id, 0, wait_ms=20_000)).status == 200
        assert time.monotonic() - started < 5
        plane.advance(world.fleet)
        thread.join(5)


def test_stopping_answers_polls_and_ends_what_is_under_way(tmp_path: Path) -> None:
    with live(tmp_path) as (world, plane, server):
        poller, pusher = world.joined(), world.joined()
        poll, polled = _in_background(lambda: server.post(poller, 1, pull(poller.device_id, 0, wait_ms=25_000)))
        _until(lambda: server.service.polls.waiting == 1)
        plane.gate.clear()
        push, pushed = _in_background(lambda: server.post(pusher, 1, Push(b"segment")))
        _until(lambda: any(isinstance(message, Push) for message, _ in plane.handled))
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        time.sleep(0.1)
        plane.gate.set()
        stopping.join(10)
        assert not stopping.is_alive()
        for thread in (poll, push):
            thread.join(5)
        assert isinstance(polled[0].message, PullPage)
        assert isinstance(pushed[0].message, PushAck)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidValue("no"), 400, "invalid-value"),
        (Malformed("no"), 400, "malformed"),
        (FutureStamp("no"), 400, "future-stamp"),
        (Unauthenticated("no"), 401, "unauthenticated"),
        (Refused("no"), 403, "refused"),
        (NotFound("no"), 404, "not-found"),
        (BrokenChain("no"), 409, "broken-chain"),
        (TooLarge("no"), 413, "too-large"),
    ],
)
def test_errors_have_a_status_and_say_what_they_say(tmp_path: Path, error: Exception, status: int, code: str) -> None:
    with live(tmp_path) as (world, plane, server):
        key = world.joined()
        plane.raises = error
        reply = server.post(key, 1, Push(b"segment"))
        assert (reply.status, reply.code) == (status, code)
        assert isinstance(reply.message, Failure)
        assert reply.message.reason == "no"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("the password is 1234"), 500, "internal"),
        (CorruptStore("/srv/secret/path"), 500, "corrupt-store"),
        (DiskFull("/srv/secret/path"), 503, "disk-full"),
    ],
)
def test_what_happens_inside_is_logged_and_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    with live(tmp_path) as (world, plane, server), caplog.at_level(logging.ERROR):
        key = world.joined()
        plane.raises = error
        reply = server.post(key, 1, Push(b"segment"))
        assert (reply.status, reply.code) == (status, code)
        assert str(error) not in repr(reply)
        assert str(error) in caplog.text
        plane.raises = None
        assert server.post(key, 2, Push(b"segment")).status == 200


def test_a_device_has_a_bounded_number_of_requests_under_way(tmp_path: Path) -> None:
    with live(tmp_path) as (world, plane, server):
        key, other = world.joined(), world.joined()
        plane.gate.clear()
        first = [
            _in_background(lambda nonce=nonce: server.post(key, nonce, Push(b"s")))  # type: ignore[misc]
            for nonce in range(1, DEVICE_REQUESTS_MAX + 1)
        ]
        _until(lambda: server.service.under_way == DEVICE_REQUESTS_MAX)
        reply = server.post(key, 99, Push(b"s"))
        assert reply.status == 429
        assert isinstance(reply.message, Failure)
        assert reply.message.retryable
        assert reply.message.retry_after_ms
        neighbour = _in_background(lambda: server.post(other, 1, Push(b"s")))
        plane.gate.set()
        for thread, replies in (*first, neighbour):
            thread.join(5)
            assert replies[0].status == 200


def test_health_says_that_the_archive_fails_and_the_server_goes_on(tmp_path: Path) -> None:
    runs: list[int] = []

    def fails() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise DiskFull("the bucket's secret name")

    world = World(tmp_path)
    plane = CountingPlane(world)
    jobs = [Job("archive", 0.05, fails), Job("snapshot", 3600, runs.clear)]
    with LiveServer(world, plane, ServerConfig(port=0), jobs) as server:

        def health() -> str:
            with urlopen(f"{server.url}/v1/health") as response:
                text: str = response.read().decode()
            return text

        _until(lambda: '"degraded"' in health())
        assert "secret" not in health()
        assert json.loads(health())["failing"] == ["archive"]
        _until(lambda: '"ok"' in health())
    world.store.close()


def test_a_job_that_asks_for_it_runs_when_the_server_stops(tmp_path: Path) -> None:
    runs: list[str] = []
    world = World(tmp_path)
    jobs = [
        Job("archive", 3600, lambda: runs.append("archive"), at_shutdown=True),
        Job("snapshot", 3600, lambda: runs.append("snapshot")),
    ]
    with LiveServer(world, CountingPlane(world), ServerConfig(port=0), jobs):
        assert runs == []
    assert runs == ["archive"]
    world.store.close()


def test_a_job_that_is_broken_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []

    def broken() -> None:
        ran.append("broken")
        raise RuntimeError("a bug")

    world = World(tmp_path)
    jobs = [Job("broken", 0.02, broken), Job("other", 0.02, lambda: ran.append("other"))]
    with LiveServer(world, CountingPlane(world), ServerConfig(port=0), jobs):
        _until(lambda: ran.count("broken") > 2 and ran.count("other") > 2)
    assert caplog.text.count("broken failed") == 1  # said when it begins, not every time
    assert "a bug" in caplog.text
    world.store.close()
