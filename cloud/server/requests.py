"""What all routes have in common: what a request's head may be, and messages as answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from cloud.identity.auth import CONTENT_TYPE
from cloud.ports import Caller
from sync.errors import Malformed, TooLarge
from sync.messages import Message, encode

Signed = Callable[[web.Request, str, int], AbstractAsyncContextManager[tuple[Caller, bytes]]]
"""Admits a request to a path with so many bytes at most, and yields who sent it, and its body."""
SERVER = "agentdb"  # not which versions run here


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


def respond(message: Message, status: int = 200) -> web.Response:
    headers = {"Content-Type": CONTENT_TYPE, "Server": SERVER}
    response = web.Response(body=encode(message), status=status, headers=headers)
    if status in (408, 413):
        response.force_close()  # its body may still be on the way
    return response
