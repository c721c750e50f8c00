"""Attachments' bodies over HTTP, a sealed part at a time: ``/v1/bodies`` with signed requests (docs/PROTOCOL.md).

Blocking and without a loop: a read that has to fetch may come from any thread. Every request has a bound in time and
size; every one may be repeated. What always holds: nothing that arrives is believed here; who asked opens it.
"""

from __future__ import annotations

import errno
import http.client
import os
import ssl
import threading
from contextlib import suppress
from socket import SHUT_RDWR, socket
from typing import Any
from urllib.parse import urlsplit

from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from edge.link.transport import CONNECT_S_MAX, NONCE_HEADER, REQUEST_S_MAX, check_url
from sync.bodies import PART_SEALED_BYTES_MAX
from sync.errors import AgentDBError, Malformed, ProtocolError, StaleNonce, Unreachable
from sync.keys import DeviceKey
from sync.limits import BODY_NAMES_MAX, MESSAGE_BYTES_MAX
from sync.messages import Answer, BodiesFound, BodyKept, Failure, FindBodies, decode, encode

BODIES_PATH = "/v1/bodies"
ANSWER_BYTES_MAX = max(PART_SEALED_BYTES_MAX, MESSAGE_BYTES_MAX)
_BYTES = "application/octet-stream"
_NONCE_TRIES_MAX = 3


class BodyClient:
    """One connection to the control plane at ``url``, made when it is needed. Only ``abort`` is for any thread."""

    def __init__(self, url: str, key: DeviceKey, nonces: Nonces, *, allow_plain_http: bool = False) -> None:
        parts = urlsplit(check_url(url, allow_plain_http=allow_plain_http))
        self._url, self._prefix = url, parts.path
        self._key = key
        self._nonces = nonces
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S_MAX)
        self._used = False
        self._aborted = False

    def place(self) -> bytes:
        """The id of where bodies are kept. Raises as ``find``."""
        answer = self._ask("POST", BODIES_PATH, encode(FindBodies([])))
        if not isinstance(answer, BodiesFound):
            raise ProtocolError("the server did not say where it keeps bodies")
        return answer.place

    def find(self, names: list[bytes]) -> list[list[int]]:
        """The numbers of each body's parts that are there. Raises SyncError and its kinds, DataError."""
        found: list[list[int]] = []
        for at in range(0, len(names), BODY_NAMES_MAX):
            some = names[at : at + BODY_NAMES_MAX]
            answer = self._ask("POST", BODIES_PATH, encode(FindBodies(some)))
            if not isinstance(answer, BodiesFound) or len(answer.parts) != len(some):
                raise ProtocolError("the server did not say which bodies it has")
            found += answer.parts
        return found

    def put(self, name: bytes, number: int, sealed: bytes) -> bool:
        """False if there was such a part already. It is durable there when this returns. Raises as ``find``."""
        answer = self._ask("PUT", f"{BODIES_PATH}/{name.hex()}/{number}", sealed)
        if not isinstance(answer, BodyKept):
            raise ProtocolError(f"the server answered a part of a body with {type(answer).__name__}")
        return answer.created

    def get(self, name: bytes, number: int) -> bytes:
        """The sealed part. Raises NotFound, and as ``find``."""
        answer = self._ask("GET", f"{BODIES_PATH}/{name.hex()}/{number}", b"")
        if not isinstance(answer, bytes):
            raise ProtocolError(f"the server sent {type(answer).__name__} instead of a part of a body")
        return answer

    def abort(self) -> None:
        """From any thread: what is under way fails with Unreachable, and so does what comes after it."""
        self._aborted = True
        self._hang_up()

    def _hang_up(self) -> None:
        used = self._connection.sock
        if used is not None:
            with suppress(OSError):
                socket.shutdown(used, SHUT_RDWR)  # a socket's own, also of TLS: it wakes who waits for it

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes) -> Answer | bytes:
        tries = _NONCE_TRIES_MAX
        while True:
            answer, used = self._send(method, path, body)
            if not isinstance(answer, Failure):
                return answer
            tries -= 1
            if answer.code != StaleNonce.code or not tries or not self._nonces.skip(used):
                raise answer.error()

    def _send(self, method: str, path: str, body: bytes) -> tuple[Answer | bytes, int]:
        headers = sign_request(self._key, self._nonces.next(), method, path, body)
        while True:
            fresh = not self._used
            try:
                return self._exchange(method, path, body, headers)
            except ssl.SSLCertVerificationError as error:
                raise ProtocolError(f"{self._url} has no valid certificate: {error.verify_message}") from error
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                self._used = False
                lost = isinstance(error, (ConnectionError, http.client.CannotSendRequest))  # or RemoteDisconnected
                if not fresh and lost and not self._aborted:
                    headers = sign_request(self._key, self._nonces.next(), method, path, body)
                    continue  # the server had closed a connection that nobody used
                raise Unreachable(
                    f"no answer from {self._url}: {_reason(error)}", hint="check the network and the server"
                ) from error

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[Answer | bytes, int]:
        if self._aborted:
            raise ConnectionAbortedError("the link was stopped")
        connection = self._connection
        if connection.sock is None:
            connection.connect()
            made: Any = connection.sock
            made.settimeout(REQUEST_S_MAX)
        # A socket's own timeout is for each read: who sends a byte now and then would hold us for ever.
        alarm = threading.Timer(REQUEST_S_MAX, self._hang_up)
        alarm.daemon = True
        alarm.start()
        try:
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            data = response.read(ANSWER_BYTES_MAX + 1)
        finally:
            alarm.cancel()
        if len(data) > ANSWER_BYTES_MAX:
            raise ProtocolError(f"the server sent more than {ANSWER_BYTES_MAX} bytes")
        if not response.isclosed():
            raise ConnectionResetError(errno.ECONNRESET, "the answer was cut off")
        self._used = True
        kind = response.headers.get_content_type()
        if kind == CONTENT_TYPE:
            used = response.headers.get(NONCE_HEADER, "")
            return _answer(data), int(used) if used.isdecimal() and len(used) < 20 else 0
        if response.status == http.client.OK and kind == _BYTES:
            return data, 0
        if response.status >= 500:
            raise Unreachable(f"{self._url} answered with status {response.status}", hint="the server has a problem")
        raise ProtocolError(f"{self._url} answered with status {response.status}", hint="is this an AgentDB server?")


def _answer(data: bytes) -> Answer:
    try:
        return decode(data)  # type: ignore[return-value]  # who asked refuses what is not an answer
    except (Malformed, AgentDBError) as error:
        raise ProtocolError(f"the server's answer cannot be read: {error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
