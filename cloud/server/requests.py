"""What all routes have in common: what a request's head may be, and answers.

What always holds: an answer is in memory until it was sent, or ``SEND_S_MAX`` is over: then its connection ends. Who
asks and does not read (sixteen connections of four MiB, for a device) has them for so long and no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from aiohttp import abc as web_abc
from aiohttp import web

from cloud.identity.auth import CONTENT_TYPE
from cloud.ports import Caller
from sync.errors import Malformed, TooLarge
from sync.messages import Message, encode

Signed = Callable[[web.Request, str, int], AbstractAsyncContextManager[tuple[Caller, bytes]]]
"""Admits a request to a path with so many bytes at most, and yields who sent it, and its body."""
SERVER = "agentdb"  # not which versions run here
BYTES = "application/octet-stream"
SEND_S_MAX = 120.0  # devices give up a request after half of it


def check_head(request: web.Request, path: str, most: int) -> None:
    """What can be refused by the head alone. The path is compared as it was sent: encoded, absolute or with a query it
    would not be what was signed.
    """
    if request.raw_path != path:
        raise Malformed(f"the request target must be {path}")
    if "Content-Encoding" in request.headers:
        raise Malformed("bodies are not encoded; segments are compressed already")
    if request.headers.getall("Content-Type", []) != [CONTENT_TYPE]:
        raise Malformed(f"the content type must be {CONTENT_TYPE}")
    if request.content_length is not None and request.content_length > most:
        raise too_large(most)


def too_large(most: int) -> TooLarge:
    return TooLarge(f"a body of more than {most} bytes")


class Timely(web.Response):
    """An answer that is sent in time, or ends its connection."""

    async def prepare(self, request: web.BaseRequest) -> web_abc.AbstractStreamWriter | None:
        self._to = request.transport
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        try:
            async with asyncio.timeout(SEND_S_MAX):
                await super().write_eof(data)
        except TimeoutError as error:
            if self._to is not None:
                self._to.abort()
            raise ConnectionResetError("whoever asked does not read the answer") from error


def send_bytes(data: bytes) -> web.Response:
    return Timely(body=data, headers={"Content-Type": BYTES, "Server": SERVER})


def respond(message: Message, status: int = 200) -> web.Response:
    headers = {"Content-Type": CONTENT_TYPE, "Server": SERVER}
    response = Timely(body=encode(message), status=status, headers=headers)
    if status in (408, 413):
        response.force_close()  # its body may still be on the way
    return response
