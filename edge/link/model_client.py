"""Packs of models' chunks over HTTP, ``GET /v1/packs/{id}/{offset}-{length}``, signed, read as they come.

Blocking, with one connection. What always holds: exactly the bytes that were asked for are read, an answer that has
more or fewer is none; each part that is waited for has a bound in time, so that a server that sends a byte now and
then holds nobody; nothing that arrives is believed here.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING

from edge.link.signed_client import BYTES, SignedClient, reason_of
from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from edge.link.slices import Slices
from edge.link.transport import NONCE_HEADER, REQUEST_S_MAX, answer_of, used_nonce
from sync.chunks import RANGE_BYTES_MAX
from sync.errors import AgentDBError, InvalidValue, ProtocolError, StaleNonce, Unreachable
from sync.keys import DeviceKey
from sync.lanes import BULK
from sync.messages import Failure

if TYPE_CHECKING:
    from edge.link.gate import Gate

PACKS_PATH = "/v1/packs"
FAILURE_BYTES_MAX = 64 << 10
_TRIES_MAX = 3  # of a request that was not read: its nonce was used before, or the connection was closed meanwhile


class ModelClient(SignedClient):
    """Of the control plane at ``url``. ``part_s_max``: for a chunk, or an answer's head."""

    def __init__(
        self,
        url: str,
        key: DeviceKey,
        nonces: Nonces,
        *,
        allow_plain_http: bool = False,
        part_s_max: float = REQUEST_S_MAX,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(url, key, nonces, allow_plain_http=allow_plain_http, gate=gate)
        self._part_s_max = part_s_max

    @contextmanager
    def read(self, pack: str, offset: int, length: int) -> Iterator[PackStream]:
        """Raises Unreachable, ProtocolError, Deferred (the link's budget), and what the cloud refused it with
        (NotFound: not assigned, or gone).
        """
        if not 0 < length <= RANGE_BYTES_MAX:
            raise InvalidValue(f"a range of a pack has 1 to {RANGE_BYTES_MAX} bytes, not {length}")
        with Slices.of(self._gate, BULK, 0, length, lambda: self._aborted) as slices:
            if slices is not None and self._connection.sock is None:
                slices.connecting()
            response = self._begin(f"{PACKS_PATH}/{pack}/{offset}-{length}")
            stream = PackStream(self, response, length, slices)
            try:
                if response.length != length:
                    raise ProtocolError(f"{self._url} sent another range than was asked for")
                yield stream
            finally:
                if stream.left or not response.isclosed():
                    self._connection.close()

    def _begin(self, path: str) -> HTTPResponse:
        """The head of an answer that has bytes."""
        tries = _TRIES_MAX
        while True:
            tries -= 1
            fresh = self._connection.sock is None
            headers = sign_request(self._key, self._nonces.next(), "GET", path, b"")
            try:
                with self.guarded():
                    self._connect(self._part_s_max)
                    self._connection.request("GET", self._prefix + path, headers=headers)
                    response = self._connection.getresponse()
                    kind = response.headers.get_content_type()
                    if response.status == http.client.OK and kind == BYTES:
                        return response
                    failure = _failure(response, self._url)
            except Unreachable:
                if fresh or not tries or self._aborted:
                    raise
                continue  # the server had closed a connection that nobody used
            used = used_nonce(response.headers.get(NONCE_HEADER))
            if failure.code != StaleNonce.code or not tries or not self._nonces.skip(used):
                raise failure.error()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """What fails or takes too long in here is Unreachable, and ends the connection."""
        # A socket's own timeout is for each read: who sends a byte now and then would hold us for ever.
        alarm = threading.Timer(self._part_s_max, self._hang_up)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise ProtocolError(f"{self._url} has no valid certificate: {error.verify_message}") from error
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            raise Unreachable(
                f"no answer from {self._url}: {reason_of(error)}", hint="check the network and the server"
            ) from error
        except AgentDBError:
            self._connection.close()
            raise
        finally:
            alarm.cancel()


class PackStream:
    """A range as it arrives. ``left``: bytes that were not read yet."""

    def __init__(self, client: ModelClient, response: HTTPResponse, length: int, slices: Slices | None = None) -> None:
        self._client = client
        self._read = response.readinto if slices is None else partial(slices.into, response.readinto)
        self.left = length

    def read_into(self, buffer: memoryview) -> None:
        """Fill all of it. Raises Unreachable if it was cut, or took too long."""
        at = 0
        with self._client.guarded():
            while at < len(buffer):
                read = self._read(buffer[at:])
                if not read:
                    raise ConnectionResetError(0, "the answer was cut off")
                at += read
        self.left -= at


def _failure(response: HTTPResponse, url: str) -> Failure:
    """What a server answers that does not send bytes. Raises ProtocolError, Unreachable."""
    data = response.read(FAILURE_BYTES_MAX)
    if response.headers.get_content_type() == CONTENT_TYPE and response.isclosed():
        message = answer_of(data)
        if isinstance(message, Failure):
            return message
    if response.status >= 500:
        raise Unreachable(f"{url} answered with status {response.status}", hint="the server has a problem")
    raise ProtocolError(f"{url} answered with status {response.status}", hint="is this an AgentDB server?")
