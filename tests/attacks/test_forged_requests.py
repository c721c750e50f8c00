"""Attack: requests that are not signed, not signed in this way, not by who they say, or for another request.

Expected: 401 (400 where the request is no request of ours), and nothing reaches the control plane; afterwards
the device whose requests were abused goes on as if nothing had happened.
"""

from __future__ import annotations

import hmac
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from http_message_signatures import HTTPMessageSigner
from http_message_signatures.algorithms import ED25519

from edge.link.signing import CONTENT_TYPE, sign_request
from sync.keys import DeviceKey
from sync.messages import Push, encode
from tests.cloud.identity_world import World, enroll_request
from tests.cloud.server_world import SYNC, CountingPlane, LiveServer, Reply, hello, live, pull

BODY = encode(Push(b"segment"))
FULL = ("@method", "@path", "content-digest", "content-type")
Fields = dict[str, str]


class Scene:
    """A fleet with one member, and everything that was handled."""

    def __init__(self, world: World, plane: CountingPlane, server: LiveServer) -> None:
        self.world, self.plane, self.server = world, plane, server
        self.key = world.joined()

    def signed(self, nonce: int = 10, key: DeviceKey | None = None, body: bytes = BODY, path: str = SYNC) -> Fields:
        return sign_request(key or self.key, nonce, "POST", path, body)

    def send(self, fields: Fields, body: bytes = BODY, method: str = "POST", path: str = SYNC) -> Reply:
        return self.server.send(method, path, fields.items(), body)

    def refused(self, reply: Reply, status: int = 401) -> None:
        """Nothing happened, and the device itself is still welcome."""
        assert reply.status == status, reply
        assert self.plane.handled == []
        assert self.send(self.signed(1000)).status == 200


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with live(tmp_path) as (world, plane, server):
        yield Scene(world, plane, server)


def test_unsigned(scene: Scene) -> None:
    scene.refused(scene.send({"Content-Type": CONTENT_TYPE}))


@pytest.mark.parametrize("name", ["Content-Digest", "Signature-Input", "Signature"])
def test_a_field_is_missing(scene: Scene, name: str) -> None:
    fields = scene.signed()
    del fields[name]
    scene.refused(scene.send(fields))


def test_altered_body(scene: Scene) -> None:
    fields = scene.signed()
    for index in range(len(BODY)):
        altered = bytearray(BODY)
        altered[index] ^= 1
        assert scene.send(fields, bytes(altered)).status == 401
    assert scene.send(fields, BODY + b"\0").status == 401
    scene.refused(scene.send(fields, b""))


def test_altered_body_with_a_digest_to_match(scene: Scene) -> None:
    other = encode(Push(b"another"))
    fields = scene.signed()
    fields["Content-Digest"] = f"sha-256=:{b64encode(sha256(other).digest()).decode()}:"
    scene.refused(scene.send(fields, other))


def test_altered_path(scene: Scene) -> None:
    scene.refused(scene.send(scene.signed(path="/v1/other")))


@pytest.mark.parametrize(
    "path", ["/v1/sync?x=1", "/v1/%73ync", "//v1/sync", "/v1/./sync", "/v1/sync/", "http://h/v1/sync"]
)
def test_a_path_that_only_some_programs_read_as_ours(scene: Scene, path: str) -> None:
    reply = scene.send(scene.signed(), path=path)
    assert reply.status in (400, 404)
    scene.refused(reply, reply.status)


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE", "PATCH"])
def test_another_method(scene: Scene, method: str) -> None:
    scene.refused(scene.send(scene.signed(), method=method), 405)


def test_a_byte_of_the_signature_is_changed(scene: Scene) -> None:
    fields = scene.signed()
    good = fields["Signature"]
    for index in range(len("agentdb=:"), len(good) - len("==:"), 7):
        fields["Signature"] = good[:index] + ("A" if good[index] != "A" else "B") + good[index + 1 :]
        assert scene.send(fields).status == 401
    fields["Signature"] = f"agentdb=:{b64encode(bytes(64)).decode()}:"
    scene.refused(scene.send(fields))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('nonce="10"', 'nonce="11"'),
        lambda text: text.replace('nonce="10"', 'nonce="010"'),
        lambda text: text.replace('nonce="10"', 'nonce="-10"'),
        lambda text: text.replace(';nonce="10"', ""),
        lambda text: text.replace('tag="agentdb"', 'tag="other"'),
        lambda text: text.replace(';tag="agentdb"', ""),
        lambda text: text.replace('alg="ed25519"', 'alg="hmac-sha256"'),
        lambda text: text.replace(';alg="ed25519"', ""),
        lambda text: re.sub(r'keyid="\w+"', 'keyid="' + 24 * "0" + '"', text),
        lambda text: re.sub(r'keyid="(\w+)"', lambda found: f'keyid="{found[1].upper()}"', text),
        lambda text: re.sub(r';keyid="\w+"', "", text),
        lambda text: text + ";created=1700000000",
        lambda text: text + ';expires=99999999999;x="y"',
        lambda text: text.replace('"content-digest" ', ""),
        lambda text: text.replace('"@method" "@path" ', ""),
        lambda text: text.replace('"@path"', '"@path";req'),
        lambda text: text.replace('("@method"', '("@method" "@authority"'),
        lambda text: text.replace('"content-digest"', '"content-digest";key="sha-256"'),
        lambda text: text + ", " + text.replace("agentdb=(", "other=("),
        lambda text: text + ", " + text,
        lambda text: "agentdb=()",
        lambda text: text.replace("agentdb=(", "a" * 1500 + "=("),
    ],
)
def test_altered_parameters(scene: Scene, change: Callable[[str], str]) -> None:
    fields = scene.signed()
    fields["Signature-Input"] = change(fields["Signature-Input"])
    scene.refused(scene.send(fields))


@pytest.mark.parametrize(
    ("covered", "tag", "created"),
    [
        (("@method", "@path"), "agentdb", False),
        (("@method", "@path", "content-type"), "agentdb", False),
        (("content-digest", "content-type"), "agentdb", False),
        (FULL, "another", False),
        (FULL, "agentdb", True),
    ],
)
def test_a_valid_signature_of_another_shape(scene: Scene, covered: tuple[str, ...], tag: str, created: bool) -> None:
    """The device's own key has signed this, truly: but less than what must be signed, or for something else."""
    fields = _signed_by_the_library(scene.key, covered, tag, created=created)
    scene.refused(scene.send(fields))


def test_the_shape_above_is_accepted_when_it_is_right(scene: Scene) -> None:
    assert scene.send(_signed_by_the_library(scene.key, FULL, "agentdb", created=False)).status == 200


@pytest.mark.parametrize("algorithm", ["hmac-sha256", "ed25519"])
def test_the_public_key_as_a_shared_secret(scene: Scene, algorithm: str) -> None:
    """Algorithm confusion: an HMAC whose secret is the public key that everybody knows."""
    base, fields = _prepared(scene.key, FULL, "agentdb", created=False)
    for name, value in fields.items():
        fields[name] = value.replace("ed25519", algorithm)
    mac = hmac.digest(scene.key.public.signing, base.replace(b"ed25519", algorithm.encode()), "sha256")
    for signature in (mac, mac + mac):
        fields["Signature"] = f"library=:{b64encode(signature).decode()}:"
        assert scene.send(fields).status == 401
    scene.refused(scene.send(fields))


def test_another_device_s_key(scene: Scene) -> None:
    """A member signs in the name of another member; a stranger signs in his own."""
    member, stranger = scene.world.joined(), scene.world.new_key()
    fields = scene.signed(key=member)
    fields["Signature-Input"] = fields["Signature-Input"].replace(member.device_id.hex(), scene.key.device_id.hex())
    assert scene.send(fields).status == 401
    scene.refused(scene.send(scene.signed(key=stranger)))


def test_replay(scene: Scene) -> None:
    fields = scene.signed(10)
    assert scene.send(fields).status == 200
    for _ in range(3):
        assert scene.send(fields).status == 401
    assert len(scene.plane.handled) == 1


def test_replay_of_what_is_older_than_the_window(scene: Scene) -> None:
    """A request that was held back until the window had passed is refused, though its nonce was never seen."""
    held_back = scene.signed(10)
    assert scene.send(scene.signed(500)).status == 200
    assert scene.send(held_back).status == 401
    assert len(scene.plane.handled) == 1


def test_replay_against_a_restarted_server(tmp_path: Path) -> None:
    with live(tmp_path) as (world, plane, server):
        key = world.joined()
        fields = sign_request(key, 10, "POST", SYNC, BODY)
        assert server.send("POST", SYNC, fields.items(), BODY).status == 200
        server.stop()
        with LiveServer(world, plane) as again:
            assert again.send("POST", SYNC, fields.items(), BODY).status == 401
            assert again.post(key, 11, Push(b"segment")).status == 200


def test_a_refused_request_does_not_use_up_its_nonce(scene: Scene) -> None:
    """An attacker who alters a request on its way must not be able to lock the original out."""
    fields = scene.signed(10)
    assert scene.send(fields, b"altered").status == 401
    assert scene.send(fields).status == 200


def test_a_revoked_device(scene: Scene) -> None:
    lost = scene.world.joined("lost")
    assert scene.server.post(lost, 1, hello(scene.world.fleet, lost.device_id)).status == 200
    scene.plane.handled.clear()
    scene.world.enrollment.revoke(scene.world.fleet, lost.device_id)
    scene.refused(scene.server.post(lost, 2, hello(scene.world.fleet, lost.device_id)))


def test_a_device_that_is_revoked_while_it_waits(scene: Scene) -> None:
    """Its request was accepted when it was a member; what comes then is not for it any more."""
    replies: list[Reply] = []
    waits = pull(scene.key.device_id, wait_ms=20_000)
    thread = threading.Thread(target=lambda: replies.append(scene.server.post(scene.key, 1, waits)))
    thread.start()
    until = time.monotonic() + 10
    while not scene.server.service.polls.waiting and time.monotonic() < until:
        time.sleep(0.01)
    scene.world.enrollment.revoke(scene.world.fleet, scene.key.device_id)
    scene.plane.advance(scene.world.fleet)
    thread.join(10)
    assert [(reply.status, reply.code) for reply in replies] == [(401, "unauthenticated")]


def test_an_enrollment_through_the_signed_door(scene: Scene) -> None:
    request = enroll_request(scene.world.token(), scene.world.new_key())
    scene.refused(scene.server.post(scene.key, 5, request), 400)


class _Message:
    method, url = "POST", f"http://any{SYNC}"

    def __init__(self, headers: Fields) -> None:
        self.headers = dict(headers)


def _prepared(key: DeviceKey, covered: tuple[str, ...], tag: str, *, created: bool) -> tuple[bytes, Fields]:
    """What the library would sign, and the fields without the signature."""
    digest = f"sha-256=:{b64encode(sha256(BODY).digest()).decode()}:"
    message = _Message({"Content-Type": CONTENT_TYPE, "Content-Digest": digest})
    signer = HTTPMessageSigner(signature_algorithm=ED25519)
    prepared = signer.prepare(
        message,
        key_id=key.device_id.hex(),
        created=datetime.fromtimestamp(0, UTC),
        nonce="10",
        tag=tag,
        covered_component_ids=covered,
        use_existing_digest=True,
    )
    base, params = prepared.signature_base, prepared.signature_params
    if not created:
        base, params = base.replace(b"created=0;", b""), params.replace("created=0;", "")
    return base, {**message.headers, "Signature-Input": f"library={params}"}


def _signed_by_the_library(key: DeviceKey, covered: tuple[str, ...], tag: str, *, created: bool) -> Fields:
    base, fields = _prepared(key, covered, tag, created=created)
    return {**fields, "Signature": f"library=:{b64encode(key.sign(base)).decode()}:"}
