"""Signed requests over HTTP, one after the other (docs/PROTOCOL.md §8): what fetches things beside the session.

Blocking and without a loop, on any thread. Every request has a bound in time and size; every one may be repeated. What
always holds: nothing that arrives is believed here; who asked verifies it.
"""

from __future__ import annotations

import errno
import http.client
import os
import ssl
import threading
from contextlib import closing, suppress
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from edge.link.slices import Slices
from edge.link.transport import (
    CONNECT_S_MAX,
    NONCE_HEADER,
    NONCE_TRIES_MAX,
    REQUEST_S_MAX,
    answer_of,
    check_url,
    used_nonce,
)
from sync.bodies import PART_SEALED_BYTES_MAX
from sync.errors import ProtocolError, StaleNonce, Unreachable
from sync.keys import DeviceKey
from sync.lanes import CONTROL
from sync.limits import MESSAGE_BYTES_MAX, TARGET_BYTES_MAX
from sync.messages import Answer, Failure

if TYPE_CHECKING:
    from edge.link.gate import Gate

ANSWER_BYTES_MAX = max(PART_SEALED_BYTES_MAX, MESSAGE_BYTES_MAX, TARGET_BYTES_MAX)
BYTES = "application/octet-stream"
TARGETS_PATH = "/v1/targets"
_MESSAGE_BYTES = 4_096  # of an answer that is no part


class SignedClient:
    """One connection to the control plane at ``url``, made when it is needed. Only ``abort`` is for any thread. What
    the ``gate`` does not let through for long raises Deferred.
    """

    lane = CONTROL
    part_bytes = 64 << 10  # what an answer of bytes is taken for before it is there

    def __init__(
        self, url: str, key: DeviceKey, nonces: Nonces, *, allow_plain_http: bool = False, gate: Gate | None = None
    ) -> None:
        parts = urlsplit(check_url(url, allow_plain_http=allow_plain_http))
        self._url, self._prefix = url, parts.path
        self._key = key
        self._nonces = nonces
        self._gate = gate
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=CONNECT_S_MAX)
        self._used = False
        self._aborted = False

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

    def ask(self, method: str, path: str, body: bytes = b"") -> Answer | bytes:
        """A message, or bytes. Raises SyncError and its kinds, DataError, what the server refused it with."""
        tries = NONCE_TRIES_MAX
        while True:
            answer, used = self._send(method, path, body)
            if not isinstance(answer, Failure):
                return answer
            tries -= 1
            if answer.code != StaleNonce.code or not tries or not self._nonces.skip(used):
                raise answer.error()

    def target(self, sha256: str) -> bytes:
        """A document that is named by its digest, in hex. Raises NotFound, SyncError and its kinds, DataError; whoever
        asked compares the digest.
        """
        answer = self.ask("GET", f"{TARGETS_PATH}/{sha256}")
        if not isinstance(answer, bytes):
            raise ProtocolError(f"the server sent {type(answer).__name__} instead of a target")
        return answer

    def _send(self, method: str, path: str, body: bytes) -> tuple[Answer | bytes, int]:
        answer_bytes = self.part_bytes if method == "GET" else _MESSAGE_BYTES
        with Slices.of(self._gate, self.lane, len(body), answer_bytes, lambda: self._aborted) as slices:
            return self._repeat(method, path, body, slices)

    def _repeat(self, method: str, path: str, body: bytes, slices: Slices | None) -> tuple[Answer | bytes, int]:
        headers = sign_request(self._key, self._nonces.next(), method, path, body)
        while True:
            fresh = not self._used
            try:
                return self._exchange(method, path, body, headers, slices)
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
                    f"no answer from {self._url}: {reason_of(error)}", hint="check the network and the server"
                ) from error

    def _connect(self, timeout_s: float) -> bool:
        """Whether a connection had to be made. ``timeout_s``: of each read and write. Raises OSError."""
        made = self._connection.sock is None and not self._aborted
        if made:
            self._connection.connect()
            connected: Any = self._connection.sock
            connected.settimeout(timeout_s)
        if self._aborted:  # ``abort`` finds no connection that is just being made
            raise ConnectionAbortedError("the link was stopped")
        return made

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str], slices: Slices | None
    ) -> tuple[Answer | bytes, int]:
        connection = self._connection
        if self._connect(REQUEST_S_MAX) and slices is not None:
            slices.connecting()
        # A socket's own timeout is for each read: who sends a byte now and then would hold us for ever.
        alarm = threading.Timer(REQUEST_S_MAX, self._hang_up)
        alarm.daemon = True
        alarm.start()
        try:
            if slices is None:
                connection.request(method, self._prefix + path, body, headers)
                response = connection.getresponse()
                data = response.read(ANSWER_BYTES_MAX + 1)
            else:
                sized = {**headers, "Content-Length": str(len(body))}
                with closing(slices.sending(body)) as sending:  # at once, whatever holds on to the failure
                    connection.request(method, self._prefix + path, sending, sized)
                response = connection.getresponse()
                length = response.length
                data = slices.receiving(response.read, ANSWER_BYTES_MAX + 1)
                if length is not None and len(data) < min(length, ANSWER_BYTES_MAX):
                    raise ConnectionResetError(errno.ECONNRESET, "the answer was cut off")
        finally:
            alarm.cancel()
        if len(data) > ANSWER_BYTES_MAX:
            raise ProtocolError(f"the server sent more than {ANSWER_BYTES_MAX} bytes")
        if not response.isclosed():
            raise ConnectionResetError(errno.ECONNRESET, "the answer was cut off")
        self._used = True
        kind = response.headers.get_content_type()
        if kind == CONTENT_TYPE:
            return answer_of(data), used_nonce(response.headers.get(NONCE_HEADER))
        if response.status == http.client.OK and kind == BYTES:
            return data, 0
        if response.status >= 500:
            raise Unreachable(f"{self._url} answered with status {response.status}", hint="the server has a problem")
        raise ProtocolError(f"{self._url} answered with status {response.status}", hint="is this an AgentDB server?")


def reason_of(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
