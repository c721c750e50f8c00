"""What devices are to run over the real server: who may ask for it, and who is woken when it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from cloud.control_rows import TargetRow
from edge.link.signed_client import SignedClient
from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from sync.errors import NotFound
from sync.keys import DeviceKey
from sync.limits import INT_MAX
from sync.messages import Control, FetchControl, Hello, Pull, PullPage, Welcome
from tests.cloud.server_world import LiveServer
from tests.control_world import DOCUMENTS, POLICY, POLICY_2, ControlWorld

POLICY_DIGEST = sha256(DOCUMENTS[POLICY]).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ControlWorld]:
    world = ControlWorld(tmp_path)
    world.publish()
    yield world
    world.store.close()


@pytest.fixture
def server(world: ControlWorld) -> Iterator[LiveServer]:
    with LiveServer(world, world.plane) as server:
        yield server


def client(server: LiveServer, key: DeviceKey) -> SignedClient:
    return SignedClient(server.url, key, Nonces(0, lambda _: None))


def asked(world: ControlWorld, assignment: int, wait_ms: int) -> Pull:
    with world.store.reading() as view:
        incarnation = view.head(world.fleet).incarnation
    return Pull(world.device.device_id + b"\0\0\0\1", 0, 100, 1 << 20, wait_ms, incarnation, assignment)


def test_a_member_gets_a_target_and_nobody_else(world: ControlWorld, server: LiveServer) -> None:
    member = client(server, world.device)
    assert member.ask("GET", f"/v1/targets/{POLICY_DIGEST}") == DOCUMENTS[POLICY]
    with pytest.raises(NotFound):
        member.ask("GET", f"/v1/targets/{'0' * 64}")
    member.close()
    path = f"/v1/targets/{POLICY_DIGEST}"
    stranger = world.new_key()
    for fields in (
        [("Content-Type", CONTENT_TYPE)],
        list(sign_request(stranger, 1, "GET", path, b"").items()),
        list(sign_request(world.device, 10_000, "GET", "/v1/targets/" + "1" * 64, b"").items()),
    ):
        reply = server.send("GET", path, fields, b"")
        assert reply.status == 401
    for odd in (path + "?x=1", path.upper(), path + "0"):
        reply = server.send("GET", odd, sign_request(world.device, 20_000, "GET", path, b"").items(), b"")
        assert reply.status in (400, 404)


def test_another_fleets_target_is_none(world: ControlWorld, server: LiveServer) -> None:
    other = world.enrollment.create_fleet("other").fleet
    with world.store.writing() as tx:
        tx.add_targets(other, [TargetRow(0, sha256(b"secret").digest(), "policies/o/1.json", b"secret")])
    member = client(server, world.device)
    with pytest.raises(NotFound):
        member.ask("GET", f"/v1/targets/{sha256(b'secret').hexdigest()}")
    member.close()


def test_what_is_to_run_is_fetched_by_a_signed_request(world: ControlWorld, server: LiveServer) -> None:
    hello = Hello([1, 2, 3], world.fleet, world.device.device_id + b"\0\0\0\1", 0, 0, b"", 0, b"")
    welcome = server.post(world.device, 1, hello).message
    assert isinstance(welcome, Welcome)
    assert (welcome.version, welcome.assignment, welcome.archived) == (3, 1, 0)
    control = server.post(world.device, 2, FetchControl(0, 0, [])).message
    assert isinstance(control, Control)
    assert control.roots == [world.operators.root()]
    assert len(control.roles) == 3
    assert control.assignment


@pytest.mark.parametrize("by", ["this process", "another"])
def test_a_page_that_waits_is_answered_at_once_when_it_changes(
    world: ControlWorld, server: LiveServer, by: str
) -> None:
    """Another process has the store alone, as the command line has: no callback of the plane is called."""
    plane = world.plane if by == "this process" else world.new_plane()
    got: list[tuple[float, PullPage]] = []

    def wait() -> None:
        page = server.post(world.device, 5, asked(world, 1, 20_000)).message
        assert isinstance(page, PullPage)
        got.append((time.monotonic(), page))

    thread = threading.Thread(target=wait)
    world.fetch()
    thread.start()
    time.sleep(1.2)  # the watcher has looked once or twice by then: nothing is due
    assert not got
    plane.assign(world.fleet, "policy", POLICY)
    begun = time.monotonic()
    thread.join(10)
    ((ended, page),) = got
    assert (page.segments, page.cursor, page.assignment) == ([], 0, 2)
    assert ended - begun < 1.0


def test_who_has_not_heard_is_answered_at_once_and_who_does_not_ask_never(
    world: ControlWorld, server: LiveServer
) -> None:
    world.fetch()
    world.plane.assign(world.fleet, "policy", POLICY_2)
    begun = time.monotonic()
    page = server.post(world.device, 7, asked(world, 1, 20_000)).message
    assert isinstance(page, PullPage)
    assert page.assignment == 2
    assert time.monotonic() - begun < 5
    began = time.monotonic()
    server.post(world.device, 8, asked(world, INT_MAX, 400))
    assert time.monotonic() - began >= 0.4, "of version 2"
    began = time.monotonic()
    server.post(world.device, 9, asked(world, 2, 400))
    assert time.monotonic() - began >= 0.4
