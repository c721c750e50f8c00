"""The route of models' packs: signed as all others, only what is assigned, in bounded ranges; the control plane looks
at the newest assignment that it has signed.
"""

from __future__ import annotations

import http.client
import threading
from typing import Any

import pytest
import rfc8785

from cloud.control_rows import AssignmentRow
from cloud.fleet.model_access import AssignedPacks
from cloud.server import models
from edge.control.model_slots import Documents
from edge.link.signing import CONTENT_TYPE, sign_request
from sync.chunks import PACK_BYTES_MAX, RANGE_BYTES_MAX
from sync.keys import DeviceKey
from sync.messages import Failure, decode
from tests.cloud.fleet.model_world import some_bytes
from tests.edge.control.fetch_world import FetchWorld, Served


@pytest.fixture
def world(fetched_from: FetchWorld) -> FetchWorld:
    return fetched_from


def ask(world: FetchWorld, path: str, key: DeviceKey | None = None, method: str = "GET") -> tuple[int, bytes | str]:
    """Status, and the bytes or the failure's code."""
    headers = sign_request(key or world.key, world.nonces.next(), method, path, b"")
    return send(world, path, headers, method)


def send(world: FetchWorld, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, bytes | str]:
    connection = http.client.HTTPConnection(*world.server.address, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.headers["Content-Type"] == CONTENT_TYPE:
        message = decode(data) if data else None
        return response.status, message.code if isinstance(message, Failure) else ""
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Server"] == "agentdb"
    return response.status, data


def first_pack(model: Documents) -> str:
    return model.manifest.packs[0].id


def test_a_range_of_what_is_assigned_is_given_out(world: FetchWorld) -> None:
    pack = first_pack(world.publish("embed", "1", {"m": some_bytes(300_000)}))
    whole = world.objects.get(world.registry._names.pack(bytes.fromhex(pack)))
    for offset, length in ((0, 1), (0, len(whole)), (1234, 100_000), (len(whole) - 1, 1)):
        assert ask(world, f"/v1/packs/{pack}/{offset}-{length}") == (200, whole[offset : offset + length])
    assert world.objects.served[0] == Served(pack, 0, 1)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("{pack}/0-{over}", 400, "invalid-value"),
        ("{pack}/{end}-5", 400, "invalid-value"),
        ("{pack}/299999-100000", 400, "invalid-value"),
        ("{pack}/999999999-1", 400, "invalid-value"),
        ("{other}/0-5", 404, "not-found"),
        ("{unknown}/0-5", 404, "not-found"),
        ("{pack}/0-0", 404, "not-found"),
        ("{pack}/00-5", 404, "not-found"),
        ("{pack}/-5", 404, "not-found"),
        ("{pack}/0-5/", 404, "not-found"),
        ("../packs/{pack}/0-5", 404, "not-found"),
    ],
)
def test_anything_else_is_refused(world: FetchWorld, path: str, status: int, code: str) -> None:
    pack = first_pack(world.publish("embed", "1", {"m": some_bytes(300_000)}))
    other = first_pack(world.publish("other", "1", {"m": some_bytes(300_000, 2)}))
    world.assigned.discard(other)
    path = path.format(pack=pack, other=other, unknown="0" * 64, over=RANGE_BYTES_MAX + 1, end=PACK_BYTES_MAX - 4)
    assert ask(world, f"/v1/packs/{path}") == (status, code)


def test_strangers_and_altered_requests_are_refused(world: FetchWorld) -> None:
    pack = first_pack(world.publish("embed", "1", {"m": some_bytes(300_000)}))
    path = f"/v1/packs/{pack}/0-5"
    assert ask(world, path, DeviceKey.from_bytes(bytes(range(64))))[0] == 401
    headers = sign_request(world.key, world.nonces.next(), "GET", path, b"")
    assert send(world, f"/v1/packs/{pack}/0-6", headers)[0] == 401, "the range is signed"
    assert send(world, path, headers)[0] == 200
    assert send(world, path, headers)[0] == 401, "once"
    assert send(world, path, {})[0] in (400, 401)
    assert ask(world, path, method="PUT")[0] == 405
    assert ask(world, path, method="HEAD")[0] == 405


def test_no_more_ranges_are_in_memory_than_there_is_room_for(
    world: FetchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = first_pack(world.publish("embed", "1", {"m": some_bytes(300_000)}))
    monkeypatch.setattr(models, "UNDER_WAY_MAX", 2)
    gate, waiting = threading.Event(), threading.Semaphore(0)

    def hold(_name: str, data: bytes) -> bytes:
        waiting.release()
        gate.wait(10)
        return data

    world.objects.on_range = hold
    headers = [sign_request(world.key, world.nonces.next(), "GET", f"/v1/packs/{pack}/0-5", b"") for _ in range(3)]
    answers: list[tuple[int, bytes | str]] = []
    threads = [
        threading.Thread(target=lambda head=head: answers.append(send(world, f"/v1/packs/{pack}/0-5", head)))
        for head in headers[:2]
    ]
    for thread in threads:
        thread.start()
        assert waiting.acquire(timeout=10)
    assert send(world, f"/v1/packs/{pack}/0-5", headers[2]) == (503, "unreachable")
    gate.set()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200, 200]
    assert ask(world, f"/v1/packs/{pack}/0-5")[0] == 200


def assign(world: FetchWorld, *given: Documents) -> None:
    named: dict[str, Any] = {
        model.manifest.name: {
            "path": model.manifest.path,
            "length": len(model.manifest.encode()),
            "sha256": world.registry.find(model.manifest.name, str(model.manifest.number)).sha256.hex(),
        }
        for model in given
    }
    data = rfc8785.dumps({"v": 1, "models": named})
    with world.world.store.writing() as tx:
        tx.put_assignment(world.world.fleet, AssignmentRow(world.key.device_id, 1, data=data))


def test_a_device_may_have_what_its_newest_assignment_names(world: FetchWorld) -> None:
    fleet, device = world.world.fleet, world.key.device_id
    old = world.publish("embed", "1", {"m": some_bytes(300_000)})
    new = world.publish("embed", "2", {"m": some_bytes(300_000, 2)})
    other = world.publish("other", "1", {"m": some_bytes(300_000, 3)})
    assigned = AssignedPacks(world.world.store)
    packs = {name: first_pack(model) for name, model in (("old", old), ("new", new), ("other", other))}

    def allowed() -> set[str]:
        given = assigned(fleet, device)
        return {name for name, pack in packs.items() if pack in given}

    assert allowed() == set()
    assign(world, old, other)
    assert allowed() == {"old", "other"}
    assign(world, new)
    assert allowed() == {"new"}
    assert packs["new"] not in assigned(fleet, b"another devi")
    assert packs["new"] not in assigned(b"another fleet 16", device)
    assign(world)
    assert allowed() == set()
