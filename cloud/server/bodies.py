"""The routes of attachments' bodies (docs/PROTOCOL.md, "Bodies"), signed as all others::

    POST /v1/bodies                  FindBodies → BodiesFound
    PUT  /v1/bodies/{name}/{number}  a sealed part → BodyKept
    GET  /v1/bodies/{name}/{number}  → the sealed part, as application/octet-stream

What always holds: of a device's request no more is held than one part; the object store is asked on threads of its
own, and no more than ``UNDER_WAY_MAX`` requests wait for it, so a slow one holds up no sync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web

from cloud.server.requests import Signed, respond, send_bytes
from cloud.storage.bodies import Bodies
from sync.bodies import PART_SEALED_BYTES_MAX
from sync.errors import Malformed, Refused, Unreachable
from sync.limits import BODY_NAMES_MAX
from sync.messages import BodiesFound, BodyKept, FindBodies, decode

BODIES_PATH = "/v1/bodies"
PART_ROUTE = BODIES_PATH + "/{name:[0-9a-f]{64}}/{number:0|[1-9][0-9]{0,3}}"
WORKERS = 8
UNDER_WAY_MAX = 256  # half of all requests that the server takes
_FIND_BYTES_MAX = 64 * BODY_NAMES_MAX

T = TypeVar("T")


class BodyRoutes:
    """Without ``bodies`` every request is refused: a control plane that keeps none."""

    def __init__(self, bodies: Bodies | None, signed: Signed) -> None:
        self._bodies = bodies
        self._signed = signed
        self._workers = ThreadPoolExecutor(WORKERS, "bodies")
        self._under_way = 0

    def add_to(self, app: web.Application) -> None:
        app.router.add_post(BODIES_PATH, self._find)
        app.router.add_put(PART_ROUTE, self._put)
        app.router.add_get(PART_ROUTE, self._get, allow_head=False)

    def close(self) -> None:
        """Wait for what the threads have begun."""
        self._workers.shutdown()

    async def _find(self, request: web.Request) -> web.Response:
        async with self._signed(request, BODIES_PATH, _FIND_BYTES_MAX) as (caller, data):
            message = decode(data)
            if not isinstance(message, FindBodies):
                raise Malformed("only FindBodies is taken here")
            bodies, names = self._kept(), message.names
            found = await self._do(lambda: [bodies.held(caller.fleet, name) for name in names])
            return respond(BodiesFound(found, await self._do(lambda: bodies.place(caller.fleet))))

    async def _put(self, request: web.Request) -> web.Response:
        name, number, path = _place(request)
        async with self._signed(request, path, PART_SEALED_BYTES_MAX) as (caller, sealed):
            bodies = self._kept()
            return respond(BodyKept(await self._do(lambda: bodies.put(caller.fleet, name, number, sealed))))

    async def _get(self, request: web.Request) -> web.Response:
        name, number, path = _place(request)
        async with self._signed(request, path, 0) as (caller, _):
            bodies = self._kept()
            sealed = await self._do(lambda: bodies.get(caller.fleet, name, number))
            return send_bytes(sealed)

    def _kept(self) -> Bodies:
        if self._bodies is None:
            raise Refused("this control plane keeps no attachments", hint="ask whoever runs the fleet")
        return self._bodies

    async def _do(self, work: Callable[[], T]) -> T:
        if self._under_way >= UNDER_WAY_MAX:
            raise Unreachable("too many parts of attachments are under way", hint="try again in a moment")
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work)
        finally:
            self._under_way -= 1


def _place(request: web.Request) -> tuple[bytes, int, str]:
    name, number = request.match_info["name"], request.match_info["number"]
    return bytes.fromhex(name), int(number), f"{BODIES_PATH}/{name}/{number}"
