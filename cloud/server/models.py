"""The route of models' packs (docs/PROTOCOL.md, "Packs"), signed as all others::

    GET /v1/packs/{id}/{offset}-{length}  → the bytes, as application/octet-stream

The range is in the path, so it is signed. What always holds: a device gets only packs that the manifest of a model
assigned to it names, and no pack that is not told from one that is not there; no more than ``UNDER_WAY_MAX`` ranges of
4 MiB are in memory, each until it was sent or ``SEND_S_MAX`` is over; the object store is asked on threads of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from cloud.ports import Caller, ObjectStore
from cloud.server.requests import BYTES, SEND_S_MAX, SERVER, Signed
from cloud.storage.archive.names import Names
from sync.chunks import PACK_BYTES_MAX, RANGE_BYTES_MAX
from sync.errors import InvalidValue, NotFound, Refused, Unreachable

PACKS_PATH = "/v1/packs"
_ROUTE = PACKS_PATH + "/{pack:[0-9a-f]{64}}/{offset:0|[1-9][0-9]{0,8}}-{length:[1-9][0-9]{0,8}}"
WORKERS = 8
UNDER_WAY_MAX = 64

Assigned = Callable[[bytes, bytes], Container[str]]


class Packs:
    """``assigned(fleet, device)`` gives the ids, in hex, of the packs that a device may have; it may block."""

    def __init__(self, objects: Callable[[], ObjectStore], assigned: Assigned) -> None:
        self._objects = objects
        self._assigned = assigned

    def get(self, caller: Caller, pack: str, offset: int, length: int) -> bytes:
        """Raises NotFound, InvalidValue, and as an object store."""
        if length > RANGE_BYTES_MAX or offset + length > PACK_BYTES_MAX:
            raise InvalidValue(f"a range has at most {RANGE_BYTES_MAX} bytes, within {PACK_BYTES_MAX}")
        if pack not in self._assigned(caller.fleet, caller.device):
            raise NotFound("no pack of a model that is assigned to this device", hint="fetch the assignment again")
        return self._objects().get_range(Names(caller.fleet).pack(bytes.fromhex(pack)), offset, length)


class PackRoutes:
    """``signed`` as of ``cloud.server.requests``. Without ``packs`` every request is refused."""

    def __init__(self, packs: Packs | None, signed: Signed) -> None:
        self._packs = packs
        self._signed = signed
        self._workers = ThreadPoolExecutor(WORKERS, "packs")
        self._under_way = 0

    def add_to(self, app: web.Application) -> None:
        app.router.add_get(_ROUTE, self._get, allow_head=False)

    def close(self) -> None:
        """Wait for what the threads have begun."""
        self._workers.shutdown()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        pack, offset, length = (request.match_info[name] for name in ("pack", "offset", "length"))
        async with self._signed(request, f"{PACKS_PATH}/{pack}/{offset}-{length}", 0) as (caller, _):
            packs = self._packs
            if packs is None:
                raise Refused("this control plane keeps no models", hint="ask whoever runs the fleet")
            if self._under_way >= UNDER_WAY_MAX:
                raise Unreachable("too many devices fetch models", hint="try again in a moment")
            self._under_way += 1
            try:
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(self._workers, packs.get, caller, pack, int(offset), int(length))
                return await _send(request, data)
            finally:
                self._under_way -= 1


async def _send(request: web.Request, data: bytes) -> web.StreamResponse:
    """All of it, before the slot is given up."""
    response = web.StreamResponse(headers={"Content-Type": BYTES, "Server": SERVER})
    response.content_length = len(data)
    try:
        async with asyncio.timeout(SEND_S_MAX):
            await response.prepare(request)
            await response.write(data)
            await response.write_eof()
    except TimeoutError:
        response.force_close()
        if request.transport is not None:
            request.transport.abort()
    return response
