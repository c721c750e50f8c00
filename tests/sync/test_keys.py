"""Keys: who signs, who reads, and that a wrapped key is bound to fleet, epoch and recipient."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import BadSignature, DecryptionFailed, Malformed
from sync.keys import DeviceKey, KeyRing, PublicIdentity, unwrap, wrap
from tests.sync.sealing import DEVICE, FLEET, OTHER

EPOCH_KEY = bytes(range(32))


class Dice:
    """A source of randomness that says the same each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self) -> float:
        return self._random.random()


def test_a_key_is_made_of_the_randomness_that_is_passed_in() -> None:
    assert DeviceKey.generate(Dice(1)).public == DeviceKey.generate(Dice(1)).public
    assert DeviceKey.generate(Dice(1)).public != DeviceKey.generate(Dice(2)).public


@given(st.binary(min_size=64, max_size=64))
def test_a_key_file_comes_back(data: bytes) -> None:
    key = DeviceKey.from_bytes(data)
    assert key.to_bytes() == data
    assert DeviceKey.from_bytes(key.to_bytes()).public == key.public
    assert PublicIdentity.checked(*key.public) == key.public


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_key_file_of_a_wrong_length(length: int) -> None:
    with pytest.raises(Malformed):
        DeviceKey.from_bytes(bytes(length))


def test_ids_are_hashes_of_the_signing_key() -> None:
    digest = hashlib.sha256(DEVICE.public.signing).digest()
    assert DEVICE.device_id == DEVICE.public.device == digest[:12]
    assert DEVICE.key_id == DEVICE.public.key_id == digest[:8]


@given(st.binary(max_size=100), st.integers(0, 511))
def test_signatures(message: bytes, bit: int) -> None:
    signature = DEVICE.sign(message)
    DEVICE.public.verify(signature, message)
    forged = bytearray(signature)
    forged[bit // 8] ^= 1 << bit % 8
    for wrong, text, signer in (
        (bytes(forged), message, DEVICE),
        (signature, message + b"\0", DEVICE),
        (signature, message, OTHER),
        (signature[:-1], message, DEVICE),
        (b"", message, DEVICE),
    ):
        with pytest.raises(BadSignature):
            signer.public.verify(wrong, text)


def test_a_public_key_of_a_wrong_length_verifies_nothing() -> None:
    with pytest.raises(BadSignature):
        PublicIdentity(b"short", bytes(32)).verify(bytes(64), b"")


def test_a_wrapped_key_is_for_one_recipient_fleet_and_epoch() -> None:
    wrapped = wrap(EPOCH_KEY, DEVICE.public, FLEET, 7)
    assert unwrap(wrapped, DEVICE, FLEET, 7) == EPOCH_KEY
    assert wrap(EPOCH_KEY, DEVICE.public, FLEET, 7) != wrapped
    half = DeviceKey(OTHER.signing, DEVICE.exchange)  # somebody who registers another's exchange key as his own
    for key, fleet, epoch in ((OTHER, FLEET, 7), (DEVICE, bytes(16), 7), (DEVICE, FLEET, 8), (half, FLEET, 7)):
        with pytest.raises(DecryptionFailed):
            unwrap(wrapped, key, fleet, epoch)


def test_every_byte_of_a_wrapped_key_altered_and_every_truncation() -> None:
    wrapped = wrap(EPOCH_KEY, DEVICE.public, FLEET, 7)
    for index in range(len(wrapped)):
        for changed in (wrapped[:index] + bytes([wrapped[index] ^ 1]) + wrapped[index + 1 :], wrapped[:index]):
            with pytest.raises(DecryptionFailed):
                unwrap(changed, DEVICE, FLEET, 7)
    with pytest.raises(DecryptionFailed):
        unwrap(wrapped + b"\0", DEVICE, FLEET, 7)


def test_a_wrapped_key_of_a_wrong_length() -> None:
    with pytest.raises(DecryptionFailed, match="length"):
        unwrap(wrap(b"short", DEVICE.public, FLEET, 7), DEVICE, FLEET, 7)


def test_the_ring() -> None:
    ring = KeyRing({3: b"3" * 32})
    ring.add(1, b"1" * 32)
    assert (ring.current, ring.epochs(), ring.key(1)) == (3, (1, 3), b"1" * 32)
    assert (3 in ring, 2 in ring, "3" in ring) == (True, False, False)
    assert ring.items() == [(1, b"1" * 32), (3, b"3" * 32)]
    with pytest.raises(DecryptionFailed):
        ring.key(2)
    with pytest.raises(DecryptionFailed):
        _ = KeyRing().current


@pytest.mark.parametrize(
    ("epoch", "key"), [(0, bytes(32)), (-1, bytes(32)), (1 << 32, bytes(32)), (1, bytes(31)), (1, b"")]
)
def test_what_is_no_epoch_key(epoch: int, key: bytes) -> None:
    with pytest.raises(Malformed):
        KeyRing({epoch: key})
