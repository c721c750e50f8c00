"""Keys: who signs, who reads.

* ``DeviceKey``: the identity of a device (and of the cloud's service): Ed25519 to sign, X25519 to be sent secrets.
* ``PublicIdentity``: its public half, as the roster holds it. The device id is SHA-256(Ed25519 public key)[:12].
* ``EpochKey``/``KeyRing``: the fleet's 32-byte content keys, one an epoch. New segments use the newest; older ones stay
  readable.
* ``wrap``/``unwrap``: HPKE (RFC 9180, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM) of an epoch key to one
  recipient. ``cryptography``'s HPKE takes no AAD, so fleet, epoch and recipient are bound through ``info``.

Randomness for keys is passed in; only HPKE's ephemeral key and the ciphers' salts come from the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sync.errors import BadSignature, DecryptionFailed, Malformed
from sync.ports import RandomSource
from sync.stamps import DEVICE_BYTES

KEY_ID_BYTES = 8
EPOCH_KEY_BYTES = 32
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(32)))  # any key: with small order each shared secret is zero
_P = 2**255 - 19
_D = -121665 * pow(121666, _P - 2, _P) % _P


class PublicIdentity(NamedTuple):
    """32 + 32 bytes. Build it with ``checked`` when the bytes come from outside."""

    signing: bytes
    exchange: bytes

    @staticmethod
    def checked(signing: bytes, exchange: bytes) -> PublicIdentity:
        """Raises Malformed for wrong lengths and for points of small order.

        With an Ed25519 key of small order forged signatures verify; with an X25519 key of small order nothing can be
        wrapped.
        """
        if len(signing) != 32 or len(exchange) != 32:
            raise Malformed("public keys are 32 bytes each")
        if _is_weak_point(signing):
            raise Malformed(
                "this Ed25519 public key has small order or is not canonical", hint="create a new device key"
            )
        try:
            _PROBE.exchange(X25519PublicKey.from_public_bytes(exchange))
        except ValueError as error:
            raise Malformed("this X25519 public key has small order", hint="create a new device key") from error
        return PublicIdentity(signing, exchange)

    @property
    def device(self) -> bytes:
        return sha256(self.signing).digest()[:DEVICE_BYTES]

    @property
    def key_id(self) -> bytes:
        return sha256(self.signing).digest()[:KEY_ID_BYTES]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises BadSignature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise BadSignature("the signature does not match the key") from error


class DeviceKey:
    """The private half. ``to_bytes`` is 64 bytes: the Ed25519 seed, then the X25519 scalar; keep it in a 0600 file."""

    def __init__(self, signing: Ed25519PrivateKey, exchange: X25519PrivateKey) -> None:
        self.signing = signing
        self.exchange = exchange
        self.public = PublicIdentity(
            signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
            exchange.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
        )

    @staticmethod
    def generate(random: RandomSource) -> DeviceKey:
        return DeviceKey.from_bytes(random.token(64))

    @staticmethod
    def from_bytes(data: bytes) -> DeviceKey:
        """Raises Malformed."""
        if len(data) != 64:
            raise Malformed("a device key is 64 bytes")
        return DeviceKey(
            Ed25519PrivateKey.from_private_bytes(data[:32]), X25519PrivateKey.from_private_bytes(data[32:])
        )

    def to_bytes(self) -> bytes:
        parts = (
            key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()) for key in (self.signing, self.exchange)
        )
        return b"".join(parts)

    @property
    def device_id(self) -> bytes:
        return self.public.device

    @property
    def key_id(self) -> bytes:
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        return self.signing.sign(message)


class KeyRing:
    """Epoch → key. ``current`` is the newest epoch."""

    def __init__(self, keys: Mapping[int, bytes] | None = None) -> None:
        self._keys: dict[int, bytes] = {}
        for epoch, key in (keys or {}).items():
            self.add(epoch, key)

    def add(self, epoch: int, key: bytes) -> None:
        if len(key) != EPOCH_KEY_BYTES or not 0 < epoch < 1 << 32:
            raise Malformed("an epoch key is 32 bytes and its epoch a positive u32")
        self._keys[epoch] = key

    @property
    def current(self) -> int:
        """Raises DecryptionFailed if there is no key yet."""
        if not self._keys:
            raise DecryptionFailed(
                "no fleet key yet", hint="enroll this device, or sync once to receive the fleet's key"
            )
        return max(self._keys)

    def key(self, epoch: int) -> bytes:
        """Raises DecryptionFailed for an epoch whose key we were never given."""
        try:
            return self._keys[epoch]
        except KeyError:
            raise DecryptionFailed(f"no key for epoch {epoch}", hint="sync to receive the fleet's newer keys") from None

    def epochs(self) -> tuple[int, ...]:
        return tuple(sorted(self._keys))

    def __contains__(self, epoch: object) -> bool:
        return epoch in self._keys

    def items(self) -> list[tuple[int, bytes]]:
        return sorted(self._keys.items())


def wrap(epoch_key: bytes, recipient: PublicIdentity, fleet: bytes, epoch: int) -> bytes:
    """The epoch key, sealed to one recipient."""
    public = X25519PublicKey.from_public_bytes(recipient.exchange)
    return _SUITE.encrypt(epoch_key, public, _wrap_info(recipient, fleet, epoch))


def unwrap(wrapped: bytes, key: DeviceKey, fleet: bytes, epoch: int) -> bytes:
    """Raises DecryptionFailed if it was not wrapped to this key for this fleet and epoch."""
    try:
        epoch_key = _SUITE.decrypt(wrapped, key.exchange, _wrap_info(key.public, fleet, epoch))
    except Exception as error:  # the library raises its own InvalidTag, ValueError or an internal error by cause
        raise DecryptionFailed(f"the fleet key of epoch {epoch} was not wrapped to this device") from error
    if len(epoch_key) != EPOCH_KEY_BYTES:
        raise DecryptionFailed("the wrapped key has a wrong length")
    return epoch_key


def _wrap_info(recipient: PublicIdentity, fleet: bytes, epoch: int) -> bytes:
    return b"agentdb.wrap.v1" + fleet + epoch.to_bytes(4, "big") + recipient.signing + recipient.exchange


def _is_weak_point(encoded: bytes) -> bool:
    """Whether the encoding is not canonical, not on the curve, or 8·P is the identity (RFC 8032 §5.1.3 decoding)."""
    number = int.from_bytes(encoded, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= _P:
        return True
    numerator, denominator = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x_squared = numerator * pow(denominator, _P - 2, _P) % _P
    x = pow(x_squared, (_P + 3) // 8, _P)
    if x * x % _P != x_squared:
        x = x * pow(2, (_P - 1) // 4, _P) % _P
    if x * x % _P != x_squared or (x == 0 and sign):
        return True
    for _ in range(3):  # doubling on -x² + y² = 1 + d·x²·y²
        product = _D * x * x * y * y % _P
        x, y = (
            2 * x * y * pow(1 + product, _P - 2, _P) % _P,
            (y * y + x * x) * pow(1 - product, _P - 2, _P) % _P,
        )
    return x == 0 and y == 1
