"""Signed requests: their exact bytes, as RFC 9421 says them, and nonces that outlive us."""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256

import pytest

from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from sync.errors import BadSignature, DiskFull, InvalidValue
from sync.keys import DeviceKey

KEY = DeviceKey.from_bytes(bytes(range(64)))


def test_the_signature_is_over_the_base_that_the_rfc_says() -> None:
    body = b"hello"
    headers = sign_request(KEY, 41, "POST", "/v1/sync", body)

    digest = f"sha-256=:{b64encode(sha256(body).digest()).decode()}:"
    params = (
        '("@method" "@path" "content-digest" "content-type")'
        f';keyid="{KEY.device_id.hex()}";alg="ed25519";nonce="41";tag="agentdb"'
    )
    base = (
        f'"@method": POST\n"@path": /v1/sync\n"content-digest": {digest}\n'
        f'"content-type": {CONTENT_TYPE}\n"@signature-params": {params}'
    )
    assert headers["Content-Type"] == CONTENT_TYPE
    assert headers["Content-Digest"] == digest
    assert headers["Signature-Input"] == f"agentdb={params}"
    label, _, value = headers["Signature"].partition("=")
    assert label == "agentdb"
    signature = b64decode(value.strip(":"))
    KEY.public.verify(signature, base.encode())
    with pytest.raises(BadSignature):
        KEY.public.verify(signature, base.replace("41", "42").encode())


def test_an_empty_body_has_a_digest_too() -> None:
    assert "Content-Digest" in sign_request(KEY, 1, "POST", "/v1/sync", b"")


@pytest.mark.parametrize("nonce", [0, -1, 1 << 63])
def test_a_nonce_out_of_range(nonce: int) -> None:
    with pytest.raises(InvalidValue):
        sign_request(KEY, nonce, "POST", "/v1/sync", b"")


@pytest.mark.parametrize("path", ["v1/sync", "/v1/sync?x=1", "/v1/sync#x"])
def test_a_path_that_cannot_be_signed(path: str) -> None:
    with pytest.raises(InvalidValue):
        sign_request(KEY, 1, "POST", path, b"")


def test_nonces_are_reserved_before_they_are_used_and_never_come_back() -> None:
    kept: list[int] = []
    nonces = Nonces(0, kept.append, block=3)
    used = [nonces.next() for _ in range(4)]
    assert used == [1, 2, 3, 4]
    assert kept == [3, 6]

    after_a_crash = Nonces(kept[-1], kept.append, block=3)
    assert after_a_crash.next() == 7
    assert kept == [3, 6, 9]


def test_a_reservation_that_fails_uses_nothing() -> None:
    def full(_: int) -> None:
        raise DiskFull("no space")

    nonces = Nonces(5, full)
    for _ in range(2):
        with pytest.raises(DiskFull):
            nonces.next()
