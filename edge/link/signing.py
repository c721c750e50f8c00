"""Signed requests, the device's side: RFC 9421 HTTP message signatures over Ed25519.

One shape and no other, so that the cloud (``cloud.identity.auth``) has nothing to be lenient about:

* covered: ``@method``, ``@path``, ``content-digest`` (SHA-256 of the body, RFC 9530), ``content-type``.
  Not ``@authority``: proxies change it, and the path and the body say all that the cloud acts on;
* ``keyid`` is the device id in hex, ``alg`` is ed25519, ``tag`` is agentdb;
* ``nonce`` is a decimal integer that the device never uses twice and that grows: it replaces ``created``,
  because clocks of devices are wrong. Who calls sees to that; ``Nonces`` does it with one durable write in
  a thousand requests.

Nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Lock

from http_message_signatures import HTTPMessageSigner
from http_message_signatures.algorithms import ED25519

from sync.errors import InvalidValue
from sync.keys import DeviceKey
from sync.limits import NONCE_MAX

CONTENT_TYPE = "application/vnd.agentdb+msgpack"
TAG = "agentdb"
LABEL = "agentdb"
COVERED = ("@method", "@path", "content-digest", "content-type")
NONCE_BLOCK = 1000

# The library always writes `created`. It is given one moment, the same for all, which is then taken out of
# what it prepared; `apply` rebuilds the signature base from the headers and attaches nothing that differs.
_EPOCH = datetime.fromtimestamp(0, UTC)
_CREATED = "created=0;"

_signer = HTTPMessageSigner(signature_algorithm=ED25519)


@dataclass
class _Message:
    """What the library wants of a request. The authority is not covered; its URL must only be absolute."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


def sign_request(key: DeviceKey, nonce: int, method: str, path: str, body: bytes) -> dict[str, str]:
    """The headers to send with ``body``: Content-Type, Content-Digest, Signature-Input, Signature.

    ``path`` is what stands in the request line, without a query. Raises InvalidValue for a nonce outside
    1 … 2**47 - 1 or a path with a query.
    """
    if not 0 < nonce <= NONCE_MAX:
        raise InvalidValue(f"a nonce is between 1 and 2**47 - 1, not {nonce}")
    if not path.startswith("/") or "?" in path or "#" in path:
        raise InvalidValue(f"a signed path is absolute and has no query: {path!r}")
    message = _Message(method, f"http://device{path}", {"Content-Type": CONTENT_TYPE})
    prepared = _signer.prepare(
        message,
        key_id=key.device_id.hex(),
        created=_EPOCH,
        nonce=str(nonce),
        label=LABEL,
        tag=TAG,
        covered_component_ids=COVERED,
        body=body,
    )
    prepared = replace(
        prepared,
        signature_params=prepared.signature_params.replace(_CREATED, "", 1),
        signature_base=prepared.signature_base.replace(_CREATED.encode(), b"", 1),
    )
    _signer.apply(message, prepared, key.sign(prepared.signature_base))
    return message.headers


class Nonces:
    """Increasing nonces that survive a crash: a block is reserved durably before its first number is used.

    After a restart the rest of the block is skipped; the cloud accepts any jump ahead. A store that was restored or
    copied has old ones: the cloud then says which was used last, and ``skip`` goes on from there. Thread-safe.

    ``reserved`` is the number last given to ``reserve`` in an earlier life (0 for a new device); ``reserve``
    must have made its argument durable when it returns.
    """

    def __init__(self, reserved: int, reserve: Callable[[int], None], block: int = NONCE_BLOCK) -> None:
        self._last = reserved
        self._reserved = reserved
        self._reserve = reserve
        self._block = block
        self._lock = Lock()

    def skip(self, used: int) -> bool:
        """Go on after ``used``, which somebody with the same key has used. False, and nothing done, if no honest
        server would say so: whoever could make a device use up its nonces would silence it for good.
        """
        if not 0 < used <= NONCE_MAX // 2:
            return False
        with self._lock:
            self._last = max(self._last, used)
        return True

    def next(self) -> int:
        with self._lock:
            if self._last >= self._reserved:
                self._reserve(self._last + self._block)
                self._reserved = self._last + self._block
            self._last += 1
            return self._last
