"""Who sent this request? RFC 9421 signatures over Ed25519, and nonces that count once (the device's side is
``edge.link.signing``).

A request is accepted if and only if all of this holds, checked in this order and before anything changes:

1. Content-Type, Content-Digest, Signature-Input and Signature are there once each. A field that is sent twice is read
   differently by different programs, so it is refused, not merged.
2. Signature-Input has the one shape that we speak: exactly method, path, digest and type; keyid, alg, nonce and tag;
   no more, no fewer, one signature. Everything that RFC 9421 leaves open is closed here.
3. The keyid is in the roster and its Ed25519 key verifies the signature over method, path, digest and type.
4. The device is not revoked.
5. The body has the digest (``Claimed.check_body``). The signature covers the digest, not the body, so that 1 to 4
   refuse a stranger before his body is read.
6. The nonce was not used before (``Claimed.consume``, in a transaction).

**Nonces.** A device may have a push and a long poll under way at once, so its requests may arrive out of order. As
with the anti-replay window of RFC 6479 the largest nonce is kept, and a bit for each of the ``WINDOW`` up to it; what
is older is refused. Both live in one integer, ``largest << WINDOW | bits``, that grows with every nonce (a new bit, or
a larger upper part), and the store takes no smaller one: two workers cannot both accept one nonce. A power cut may
forget the last few (``Store.writing(durable=False)``): what could then be repeated is idempotent by protocol, and a
disk sync for every long poll would be a high price for that.

A store that was restored or copied has old nonces. Its request is refused, and told the largest nonce that was used
(header ``Replay-Nonce``, as in RFC 8555 §6.5): who could sign it may know. It goes on from there, and its handshake
then says what else it has missed.

Enrollment is not signed this way: it carries a join token and a proof of its own (``cloud.identity.enrollment``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    ContentDigest,
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    MappingKeyResolver,
)
from http_message_signatures.algorithms import ED25519

from cloud.ports import Caller, Store, Transaction
from cloud.rows import DeviceRow
from sync.errors import StaleNonce, Unauthenticated
from sync.limits import NONCE_MAX

CONTENT_TYPE = "application/vnd.agentdb+msgpack"
TAG = "agentdb"
WINDOW = 16  # NONCE_MAX << WINDOW still fits a signed integer of 64 bits

_FIELDS = ("content-type", "content-digest", "signature-input", "signature")
_FIELD_CHARACTERS_MAX = 512
_BITS = (1 << WINDOW) - 1
_SIGNATURE_INPUT = re.compile(
    r"[a-z][a-z0-9_-]{0,31}"
    r'=\("@method" "@path" "content-digest" "content-type"\)'
    r';keyid="(?P<device>[0-9a-f]{24})";alg="ed25519";nonce="(?P<nonce>[1-9][0-9]{0,14})";tag="agentdb"'
)
_DIGEST = re.compile(r"sha-256=:[A-Za-z0-9+/]{43}=:")
_HINT = "sign it as docs/PROTOCOL.md says"


class Headers(Protocol):
    """Of aiohttp's kind: every field line, in order, names as they came."""

    def items(self) -> Iterable[tuple[str, str]]: ...


class Claimed(NamedTuple):
    """A request whose headers hold. It is not the caller's yet: check its body, then consume its nonce."""

    caller: Caller
    nonce: int
    digest: str

    def check_body(self, body: bytes) -> None:
        """Raises Unauthenticated if this is not the body that was signed."""
        try:
            ContentDigest.verify(self.digest, body)
        except HTTPMessageSignaturesException as error:
            raise Unauthenticated("the body is not the one that was signed", hint=_HINT) from error

    def consume(self, tx: Transaction) -> None:
        """Use the nonce. Raises StaleNonce if it was used before, or is too old to tell."""
        held = tx.nonce(self.caller.device)
        state = accept_nonce(held, self.nonce)
        if state is None or not tx.advance_nonce(self.caller.device, state):
            error = StaleNonce(
                f"nonce {self.nonce} was used before, or is more than {WINDOW} behind",
                hint="use a larger one than the answer's Replay-Nonce; a store that is a copy, or was restored, does",
            )
            error.largest = held >> WINDOW
            raise error


class Authenticator:
    """Checks signed requests against the roster. Reads the store, never writes it; thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, method: str, path: str, headers: Headers) -> Claimed:
        """Steps 1 to 4. ``path`` is the request target as it was sent. Raises Unauthenticated."""
        fields = _single_fields(headers)
        shape = _SIGNATURE_INPUT.fullmatch(fields["signature-input"])
        if shape is None or not _DIGEST.fullmatch(fields["content-digest"]):
            raise Unauthenticated("the request is not signed in the way that is accepted here", hint=_HINT)
        if fields["content-type"] != CONTENT_TYPE:
            raise Unauthenticated(f"the content type must be {CONTENT_TYPE}", hint=_HINT)
        nonce, device = int(shape["nonce"]), bytes.fromhex(shape["device"])
        if nonce > NONCE_MAX:
            raise Unauthenticated(f"a nonce is at most {NONCE_MAX}", hint=_HINT)
        with self._store.reading() as view:
            row = view.device(device)
        if row is None:
            raise Unauthenticated(f"no device {device.hex()} is enrolled here", hint="enroll it with a join token")
        _verify(_Request(method, f"http://cloud{path}", fields), shape["device"], row.signing)
        _check_standing(row)
        return Claimed(Caller(row.fleet, device, row.identity), nonce, fields["content-digest"])

    def check_standing(self, caller: Caller) -> None:
        """Of one whose request has waited: it may have been revoked meanwhile. Raises Unauthenticated."""
        with self._store.reading() as view:
            row = view.device(caller.device)
        if row is not None:
            _check_standing(row)


def accept_nonce(state: int, nonce: int) -> int | None:
    """The window after this nonce: ``largest << WINDOW | bits``, where bit i says that ``largest - i`` was used.

    None if the nonce was used or lies behind the window. What is returned is larger than ``state``.
    """
    largest, bits = state >> WINDOW, state & _BITS
    ahead = nonce - largest
    if ahead > 0:
        return nonce << WINDOW | (bits << ahead & _BITS if ahead < WINDOW else 0) | 1
    bit = 1 << -ahead
    if bit > _BITS or bits & bit:
        return None
    return state | bit


class _Request(NamedTuple):
    """What the library wants of a request; the authority is not covered."""

    method: str
    url: str
    headers: dict[str, str]


def _single_fields(headers: Headers) -> dict[str, str]:
    """The four fields, each once. Raises Unauthenticated."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower in _FIELDS:
            if lower in found:
                raise Unauthenticated(f"{name} is there twice", hint=_HINT)
            if len(value) > _FIELD_CHARACTERS_MAX or not value.isascii():
                raise Unauthenticated(f"{name} is too long or not ASCII", hint=_HINT)
            found[lower] = value
    for name in _FIELDS:
        if name not in found:
            raise Unauthenticated(f"the request is not signed: {name} is missing", hint=_HINT)
    return found


def _check_standing(row: DeviceRow) -> None:
    if row.revoked_ms:
        raise Unauthenticated(f"device {row.device.hex()} was revoked", hint="ask whoever runs the fleet")


def _verify(request: _Request, key_id: str, signing: bytes) -> None:
    try:
        keys = MappingKeyResolver(public_keys={key_id: Ed25519PublicKey.from_public_bytes(signing)}, private_keys={})
        verifier = HTTPMessageVerifier(signature_algorithm=ED25519, key_resolver=keys)
        verifier.require_created = False  # the nonce stands for it; clocks of devices are wrong
        verifier.verify(request, max_age=None, expect_tag=TAG)
    except (HTTPMessageSignaturesException, ValueError) as error:
        raise Unauthenticated("the signature does not match the request", hint=_HINT) from error
