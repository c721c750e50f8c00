"""Join tokens: what a person carries from the control plane to a new device, as one line of text.

``agentdb1.`` + base64url(msgpack [token id 16, secret 32, fleet 16, fingerprint 32, url]), of a fleet with signed
targets (ADR 23) ``agentdb2.``, with one item more: SHA-256 of its first root.

The fingerprint is SHA-256 over the cloud's two public keys. A device that joins compares it with the
identity that the answer claims: whoever stands between them cannot put a cloud of his own in its place.

The secret lets its holder join: treat the text as a password. Who made it, how often it may be used and
until when, is the cloud's business (``cloud.identity.enrollment``); here is only its form.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from typing import Annotated, NamedTuple

import msgspec

from sync.errors import BadSignature, InvalidValue
from sync.keys import PublicIdentity
from sync.messages import Hash32, Id16, Key32

PREFIX = "agentdb1."
ROOTED_PREFIX = "agentdb2."
TEXT_CHARACTERS_MAX = 4096
_HINT = "copy the whole line that `agentdb-cloud token` printed"

_Url = Annotated[str, msgspec.Meta(max_length=2048)]


class JoinToken(NamedTuple):
    """``url`` is where the control plane listens, or "" if the device is told otherwise. ``root``: SHA-256 of the
    fleet's first root, b"" if it had none.
    """

    id: bytes
    secret: bytes
    fleet: bytes
    fingerprint: bytes
    url: str
    root: bytes = b""

    def encode(self) -> str:
        packed = msgspec.msgpack.encode(tuple(self) if self.root else tuple(self)[:-1])
        return (ROOTED_PREFIX if self.root else PREFIX) + urlsafe_b64encode(packed).rstrip(b"=").decode()

    def __repr__(self) -> str:
        """Without the secret: tokens end up in logs."""
        return f"JoinToken(id={self.id.hex()}, fleet={self.fleet.hex()}, url={self.url!r})"

    def vouches_for(self, cloud: PublicIdentity) -> None:
        """Raises BadSignature if ``cloud`` is not the one that the token was made by."""
        if not hmac.compare_digest(fingerprint(cloud), self.fingerprint):
            raise BadSignature(
                "the control plane that answered is not the one that made the join token",
                hint="check the address; if it is right, something on the way pretends to be it",
            )


_decoder = msgspec.msgpack.Decoder(tuple[Id16, Key32, Id16, Key32, _Url])
_rooted_decoder = msgspec.msgpack.Decoder(tuple[Id16, Key32, Id16, Key32, _Url, Hash32])


def parse_token(text: str) -> JoinToken:
    """Raises InvalidValue: a person gave it."""
    if not isinstance(text, str):
        raise InvalidValue(f"a join token is a string, not {type(text).__name__}", hint=_HINT)
    text = text.strip()
    if not text.startswith((PREFIX, ROOTED_PREFIX)) or len(text) > TEXT_CHARACTERS_MAX:
        raise InvalidValue(f"a join token begins with {PREFIX!r} or {ROOTED_PREFIX!r}", hint=_HINT)
    body = text[len(PREFIX) :]
    decoder = _rooted_decoder if text.startswith(ROOTED_PREFIX) else _decoder
    try:
        packed = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        token = JoinToken(*decoder.decode(packed))
    except (Base64Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidValue("this join token is damaged", hint=_HINT) from error
    if token.encode() != text:  # the decoder skips characters outside its alphabet
        raise InvalidValue("this join token is damaged", hint=_HINT)
    return token


def fingerprint(cloud: PublicIdentity) -> bytes:
    """SHA-256(signing ‖ exchange): the cloud, in 32 bytes."""
    return sha256(cloud.signing + cloud.exchange).digest()
