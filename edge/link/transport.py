"""Transports: one message to the cloud, one answer back. The session decides what; this decides how.

``HttpTransport`` speaks HTTP/1.1 through aiohttp: ``POST /v1/sync`` with the request signed (``edge.link.signing``),
``POST /v1/enroll`` unsigned. Every request has a bound in time and size. There are no retries in here but of a request
that the cloud refused unread, because of its nonce: a failure is told to the session, which makes a new handshake
after a backoff, so nothing is ever repeated blindly.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from edge.link.signing import CONTENT_TYPE, Nonces, sign_request
from sync.errors import AgentDBError, InvalidConfig, ProtocolError, StaleNonce, Unreachable
from sync.keys import DeviceKey
from sync.limits import MESSAGE_BYTES_MAX
from sync.messages import Answer, Enroll, Enrolled, Failure, Message, Pull, decode, encode

SYNC_PATH, ENROLL_PATH = "/v1/sync", "/v1/enroll"
CONNECT_S_MAX = 10.0
REQUEST_S_MAX = 60.0
NONCE_HEADER = "Replay-Nonce"
# A copy and its original that are both running push each other on.
NONCE_TRIES_MAX = 3


class NoAnswer(Unreachable):
    """``sent``: there was a connection, so the request may have gone; ``received`` bytes of an answer had come."""

    sent = True
    received = 0


class Transport(Protocol):
    async def exchange(self, message: Message) -> Answer:
        """The cloud's answer. Raises Unreachable, ProtocolError, Malformed, TooLarge."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """``url`` is the control plane's; plain HTTP only to this machine, unless ``allow_plain_http``."""

    def __init__(self, url: str, key: DeviceKey, nonces: Nonces, *, allow_plain_http: bool = False) -> None:
        self._base = check_url(url, allow_plain_http=allow_plain_http)
        self._key = key
        self._nonces = nonces
        self._client: aiohttp.ClientSession | None = None

    async def exchange(self, message: Message) -> Answer:
        body = encode(message)
        wait_s = message.wait_ms / 1000 if isinstance(message, Pull) else 0.0
        tries = NONCE_TRIES_MAX
        while True:
            headers = sign_request(self._key, self._nonces.next(), "POST", SYNC_PATH, body)
            url = self._base + SYNC_PATH
            answer, used = await _post(self._session(), url, body, headers, REQUEST_S_MAX + wait_s)
            stale = isinstance(answer, Failure) and answer.code == StaleNonce.code
            tries -= 1
            if not stale or not tries or not self._nonces.skip(used):
                return answer

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = _client()
        return self._client


async def enroll(url: str, request: Enroll, *, allow_plain_http: bool = False) -> Enrolled:
    """Send the request once. Raises what the cloud refused it with, Unreachable or ProtocolError."""
    base = check_url(url, allow_plain_http=allow_plain_http)
    async with _client() as client:
        answer, _ = await _post(
            client, base + ENROLL_PATH, encode(request), {"Content-Type": CONTENT_TYPE}, REQUEST_S_MAX
        )
    if isinstance(answer, Failure):
        raise answer.error()
    if not isinstance(answer, Enrolled):
        raise ProtocolError(f"the server answered an enrollment with {type(answer).__name__}")
    return answer


def check_url(url: str, *, allow_plain_http: bool) -> str:
    """The URL without a trailing slash. Raises InvalidConfig."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise InvalidConfig(f"not a server's URL: {url!r}", hint="https://host[:port]")
    if parts.scheme == "http" and not allow_plain_http and not _is_loopback(parts.hostname):
        raise InvalidConfig(
            f"plain HTTP to {parts.hostname} would show and lose your requests",
            hint="use https://, or set [sync] allow_plain_http = true if the network itself is trusted",
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        auto_decompress=False, timeout=aiohttp.ClientTimeout(connect=CONNECT_S_MAX), cookie_jar=aiohttp.DummyCookieJar()
    )


async def _post(
    client: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], total_s: float
) -> tuple[Answer, int]:
    """The answer, and the largest nonce of this device's that the server has seen, 0 if it does not say."""
    timeout = aiohttp.ClientTimeout(total=total_s, connect=CONNECT_S_MAX)
    parts: list[bytes] = []
    try:
        async with client.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as response:
            data = await _read(response, parts)
            status, content_type = response.status, response.content_type
            used = response.headers.get(NONCE_HEADER)
    except ssl.SSLCertVerificationError as error:
        raise ProtocolError(f"{url} has no valid certificate: {error.verify_message}") from error
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
        failed = NoAnswer(f"no answer from {url}: {_reason(error)}", hint="check the network and the server")
        failed.sent = not isinstance(error, aiohttp.ClientConnectorError)
        failed.received = sum(map(len, parts))
        raise failed from error
    if content_type == CONTENT_TYPE:
        return answer_of(data), used_nonce(used)
    if status >= 500:
        raise Unreachable(f"{url} answered with status {status}", hint="the server or a proxy before it has a problem")
    raise ProtocolError(f"{url} answered with status {status} and {content_type}", hint="is this an AgentDB server?")


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):  # its own words speak of TLS where there is none
        cause = error.os_error
        return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else str(cause.strerror or cause)
    return str(error) or type(error).__name__


async def _read(response: aiohttp.ClientResponse, parts: list[bytes]) -> bytes:
    """The whole body, never more than one message may have; ``parts`` has what came, however it ends."""
    size = 0
    async for part in response.content.iter_chunked(1 << 16):
        size += len(part)
        if size > MESSAGE_BYTES_MAX:
            raise ProtocolError(f"the server sent more than {MESSAGE_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


def answer_of(data: bytes) -> Answer:
    """Raises ProtocolError."""
    try:
        answer = decode(data)
    except AgentDBError as error:
        raise ProtocolError(f"the server's answer cannot be read: {error}") from error
    return answer  # type: ignore[return-value]  # whoever asked refuses what is not an answer


def used_nonce(header: str | None) -> int:
    """The largest nonce of this device's that the server says it has seen; 0 if it does not say."""
    return int(header) if header is not None and header.isdecimal() and len(header) < 20 else 0
