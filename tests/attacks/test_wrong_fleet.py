"""Attack: a member, correctly signed, who asks for what is another fleet's or another device's.

Expected: 403 (409 for a segment that is not of his stream, 400 for one that another key has signed), and the other
fleet's feed does not move. Against the real control plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud.config import ServerConfig
from cloud.control_plane import ControlPlane
from sync.keys import DeviceKey, KeyRing
from sync.messages import Message, Pull, PullBaseline, PullPage, Push, PushAck, Welcome
from sync.operations import Kind, Operation, Shape
from sync.schema import COLLECTIONS, COLLECTIONS_SCHEMA, declare
from sync.segment import GENESIS, seal
from sync.stamps import replica_id, timestamp_of
from tests.cloud.identity_world import NOW_MS, World
from tests.cloud.server_world import LiveServer, Reply, hello


class Scene:
    def __init__(self, world: World, server: LiveServer) -> None:
        self.world, self.server = world, server
        self.mine, self.neighbour = world.joined("mine"), world.joined("neighbour")
        self.other_fleet = world.enrollment.create_fleet("other").fleet
        self._nonce = 0

    def post(self, message: Message, key: DeviceKey | None = None) -> Reply:
        self._nonce += 1
        return self.server.post(key or self.mine, self._nonce, message)

    def welcome(self, key: DeviceKey) -> Welcome:
        reply = self.post(hello(self.world.fleet, key.device_id), key)
        assert isinstance(reply.message, Welcome), reply
        return reply.message

    def head(self, fleet: bytes) -> int:
        with self.world.store.reading() as view:
            return view.head(fleet).position


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    world = World(tmp_path)
    plane = ControlPlane(world.store, world.keys, world.clock, world.random)
    with LiveServer(world, plane, ServerConfig(port=0)) as server:
        yield Scene(world, server)
    world.store.close()


def test_hello_to_another_fleet(scene: Scene) -> None:
    assert scene.post(hello(scene.other_fleet, scene.mine.device_id)).status == 403
    assert scene.post(hello(bytes(16), scene.mine.device_id)).status == 403


def test_hello_as_another_device_s_replica(scene: Scene) -> None:
    assert scene.post(hello(scene.world.fleet, scene.neighbour.device_id)).status == 403


def test_reading_as_another_device(scene: Scene) -> None:
    """What a device may have can differ from what its neighbour may have."""
    incarnation = scene.welcome(scene.mine).incarnation
    theirs, mine = replica_id(scene.neighbour.device_id, 1), replica_id(scene.mine.device_id, 1)
    page = Pull(theirs, 0, 10, 1 << 20, 0, incarnation)
    assert scene.post(page).status == 403
    assert scene.post(PullBaseline(theirs, b"", True, incarnation)).status == 403
    reply = scene.post(msgspec.structs.replace(page, replica=mine))
    assert isinstance(reply.message, PullPage)


def _segment(scene: Scene, key: DeviceKey, fleet: bytes, owner: DeviceKey, ring: KeyRing) -> bytes:
    """One declaration of a collection, in a segment of ``fleet``, of ``owner``'s stream, signed by ``key``."""
    replica = replica_id(owner.device_id, 1)
    operation = _declaration(replica)
    sealed = seal(
        [operation], fleet=fleet, stream=replica, replica=replica, first_seq=1, previous=GENESIS, ring=ring, signer=key
    )
    return sealed.data


def _declaration(replica: bytes) -> Operation:
    document = declare("notes").to_document()
    shape = Shape(Kind.PUT, COLLECTIONS, ("spec",), COLLECTIONS_SCHEMA.rule_letter("spec"))
    return Operation(replica, 1, timestamp_of(NOW_MS), 0, shape, "notes", (document,))


@pytest.mark.parametrize("case", ["fleet", "stream", "signer"])
def test_a_segment_that_is_not_mine(scene: Scene, case: str) -> None:
    world = scene.world
    fleet = scene.other_fleet if case == "fleet" else world.fleet
    owner = scene.neighbour if case == "stream" else scene.mine
    signer = scene.neighbour if case == "signer" else scene.mine
    reply = scene.post(Push(_segment(scene, signer, fleet, owner, world.keys.ring(fleet))))
    assert reply.status == {"fleet": 409, "stream": 403, "signer": 400}[case], reply
    assert scene.head(world.fleet) == scene.head(scene.other_fleet) == 0


def test_the_same_segment_is_taken_from_whom_it_is(scene: Scene) -> None:
    ring = scene.world.keys.ring(scene.world.fleet)
    reply = scene.post(Push(_segment(scene, scene.mine, scene.world.fleet, scene.mine, ring)))
    assert isinstance(reply.message, PushAck), reply
    assert reply.message.refusals == []
    assert scene.head(scene.world.fleet) == 1
