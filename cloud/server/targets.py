"""The route of targets (docs/PROTOCOL.md, "What a device runs"), signed as all others::

GET /v1/targets/{sha256}  → the bytes, as application/octet-stream
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from aiohttp import web

from cloud.ports import Store
from cloud.server.requests import Signed, send_bytes
from sync.errors import NotFound

TARGETS_PATH = "/v1/targets"
_ROUTE = TARGETS_PATH + "/{sha256:[0-9a-f]{64}}"


class TargetRoutes:
    """``signed`` as of ``cloud.server.requests``; the store is read on one of the ``readers``."""

    def __init__(self, store: Store, readers: Executor, signed: Signed) -> None:
        self._store = store
        self._readers = readers
        self._signed = signed

    def add_to(self, app: web.Application) -> None:
        app.router.add_get(_ROUTE, self._get, allow_head=False)

    async def _get(self, request: web.Request) -> web.Response:
        digest = request.match_info["sha256"]
        async with self._signed(request, f"{TARGETS_PATH}/{digest}", 0) as (caller, _):
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._readers, self._read, caller.fleet, bytes.fromhex(digest))
            return send_bytes(data)

    def _read(self, fleet: bytes, sha256: bytes) -> bytes:
        with self._store.reading() as view:
            row = view.target(fleet, sha256)
        if row is None:
            raise NotFound("this fleet has no target of that digest", hint="fetch the assignment again")
        return row.data
