"""Attack: joining a fleet with a token that is not one, is not one any more, or is another fleet's; with a key that is
not one's own, or that would verify what nobody signed.

Expected: 401 for what is not believed, 403 for what is understood and denied, 400 for keys that must not be used; the
roster stays as it is, and every attempt at a token that exists is in the audit trail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge.link.signing import CONTENT_TYPE
from sync.keys import DeviceKey, PublicIdentity
from sync.messages import Enroll, Enrolled, Push, encode, enroll_proof
from sync.tokens import JoinToken, parse_token
from tests.cloud.identity_world import World, enroll_request
from tests.cloud.server_world import ENROLL, LiveServer, live

P = 2**255 - 19
# The encodings of the eight points of small order, and some that are not canonical (y + p, x = 0 with a sign).
SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (P - 1).to_bytes(32, "little"),
    (P).to_bytes(32, "little"),
    (P + 1).to_bytes(32, "little"),
    bytes(31) + b"\x80",
    (1 | 1 << 255).to_bytes(32, "little"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
]


class Scene:
    def __init__(self, world: World, server: LiveServer) -> None:
        self.world, self.server = world, server
        self.key = world.new_key()

    def refused(self, request: Enroll, status: int, action: str = "device.refused") -> None:
        before = self.world.actions()
        reply = self.server.enroll(request)
        assert reply.status == status, reply
        assert self.world.enrollment.devices(self.world.fleet) == []
        assert self.world.actions() == before + ([action] if action else [])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with live(tmp_path) as (world, _, server):
        yield Scene(world, server)


def test_a_forged_token(scene: Scene) -> None:
    invented = JoinToken(b"i" * 16, b"s" * 32, scene.world.fleet, bytes(32), "")
    scene.refused(enroll_request(invented, scene.key), 401, action="")


def test_a_known_token_id_with_a_guessed_secret(scene: Scene) -> None:
    token = scene.world.token()
    for secret in (bytes(32), token.secret[:-1] + bytes([token.secret[-1] ^ 1])):
        scene.refused(enroll_request(token._replace(secret=secret), scene.key), 401)


def test_an_expired_token(scene: Scene) -> None:
    token = scene.world.token(ttl_s=1)
    scene.world.clock.now_ms += 1000
    scene.refused(enroll_request(token, scene.key), 403)


def test_a_token_that_is_used_up(scene: Scene) -> None:
    token = scene.world.token(uses=1)
    assert scene.server.enroll(enroll_request(token, scene.key)).status == 200
    reply = scene.server.enroll(enroll_request(token, scene.world.new_key()))
    assert reply.status == 403
    assert len(scene.world.enrollment.devices(scene.world.fleet)) == 1


def test_a_token_of_another_fleet_leads_there_and_nowhere_else(scene: Scene) -> None:
    """Whatever fleet the text of the token names: the cloud goes by what it has stored, and the device sees the lie."""
    other = scene.world.enrollment.create_fleet("other").fleet
    token = scene.world.enrollment.create_token(other)
    altered = parse_token(token._replace(fleet=scene.world.fleet).encode())
    reply = scene.server.enroll(enroll_request(altered, scene.key))
    assert isinstance(reply.message, Enrolled)
    assert reply.message.fleet == other != altered.fleet
    assert scene.world.enrollment.devices(scene.world.fleet) == []


def test_the_key_of_another_fleet_s_member(scene: Scene) -> None:
    other = scene.world.enrollment.create_fleet("other").fleet
    token = scene.world.enrollment.create_token(other)
    assert scene.server.enroll(enroll_request(token, scene.key)).status == 200
    scene.refused(enroll_request(scene.world.token(), scene.key), 403)


@pytest.mark.parametrize("signing", SMALL_ORDER, ids=lambda point: point[:4].hex() + point[-1:].hex())
def test_a_key_of_small_order(scene: Scene, signing: bytes) -> None:
    """With such a key one signature verifies for many messages: its owner could later deny, or anybody forge."""
    token = scene.world.token()
    forged = signing + bytes(32)  # R = the key, S = 0: what verifies under sloppy rules
    request = Enroll(token.id, token.secret, signing, scene.key.public.exchange, "weak", forged)
    scene.refused(request, 400)


@pytest.mark.parametrize("exchange", [bytes(32), (1).to_bytes(32, "little"), (P - 1).to_bytes(32, "little")])
def test_an_exchange_key_of_small_order(scene: Scene, exchange: bytes) -> None:
    """The fleet's key would be wrapped under a secret that everybody can compute."""
    token, key = scene.world.token(), scene.key
    proof = key.sign(enroll_proof(token.id, key.public.signing, exchange, "weak"))
    scene.refused(Enroll(token.id, token.secret, key.public.signing, exchange, "weak", proof), 400)


@pytest.mark.parametrize(
    "change",
    [
        lambda request, world: msgspec.structs.replace(request, proof=bytes(64)),
        lambda request, world: msgspec.structs.replace(request, name="renamed on the way"),
        lambda request, world: msgspec.structs.replace(request, exchange=world.new_key().public.exchange),
        lambda request, world: msgspec.structs.replace(request, signing=world.new_key().public.signing),
    ],
)
def test_somebody_else_s_key_or_an_altered_request(scene: Scene, change: Callable[[Enroll, World], Enroll]) -> None:
    scene.refused(change(enroll_request(scene.world.token(), scene.key), scene.world), 401)


def test_a_proof_that_was_seen_with_another_token(scene: Scene) -> None:
    first, second = scene.world.token(), scene.world.token()
    proof = enroll_request(first, scene.key).proof
    request = msgspec.structs.replace(enroll_request(second, scene.key), proof=proof)
    scene.refused(request, 401)


def test_a_revoked_key_does_not_come_back(scene: Scene) -> None:
    token = scene.world.token(uses=5)
    assert scene.server.enroll(enroll_request(token, scene.key)).status == 200
    scene.world.enrollment.revoke(scene.world.fleet, scene.key.device_id)
    for again in (token, scene.world.token()):
        assert scene.server.enroll(enroll_request(again, scene.key)).status == 403
    [row] = scene.world.enrollment.devices(scene.world.fleet)
    assert row.revoked_ms


def test_a_false_cloud(scene: Scene) -> None:
    """Whoever answers in the cloud's place has other keys than the token's fingerprint names."""
    token = scene.world.token()
    reply = scene.server.enroll(enroll_request(token, scene.key))
    assert isinstance(reply.message, Enrolled)
    token.vouches_for(PublicIdentity(reply.message.cloud_signing, reply.message.cloud_exchange))
    impostor = DeviceKey.generate(scene.world.random).public
    with pytest.raises(Exception, match="not the one that made the join token"):
        token.vouches_for(impostor)


def test_anything_but_an_enrollment_at_the_open_door(scene: Scene) -> None:
    reply = scene.server.send("POST", ENROLL, [("Content-Type", CONTENT_TYPE)], encode(Push(b"segment")))
    assert reply.status == 400
    reply = scene.server.send("POST", ENROLL, [("Content-Type", CONTENT_TYPE)], b"\xdd\xff\xff\xff\xff")
    assert reply.status == 400
