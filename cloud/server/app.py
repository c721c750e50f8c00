"""The HTTP interface (docs/PROTOCOL.md, "HTTP")::

    POST /v1/enroll   Enroll → Enrolled; not signed: a join token and a proof are in the message
    POST /v1/sync     Hello, Push, Pull, PullBaseline, FetchRecords, FetchControl, Report → their answers;
                      signed (``cloud.identity.auth``)
    …    /v1/bodies   attachments' bytes in sealed parts (``cloud.server.bodies``); signed
    GET  /v1/targets  what devices run (``cloud.server.targets``); signed
    GET  /v1/packs    ranges of models' packs (``cloud.server.models``); signed
    GET  /v1/health   JSON, for load balancers and scripts; says nothing that a stranger may not know

Bodies are ``sync.messages`` in msgpack. An error is a ``Failure`` message with a matching status. What went wrong
inside is logged here with its traceback and answered as code "internal" without details.

What always holds: a stranger's request is refused before its body is read, except for an enrollment's few KiB; no
body is held that is larger than a message may be; no more than ``DEVICE_REQUESTS_MAX`` requests of a device,
``REQUESTS_MAX`` of all devices and ``ENROLLMENTS_MAX`` enrollments are under way, and an enrollment is only once its
body is here, so strangers cannot keep devices out (nor by connections: ``cloud.server.connections``); a nonce is used
up before its request has an effect; the loop never waits for the disk: writes go through one thread (the store has one
writing connection), reads through a few others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

from aiohttp import web

from cloud.config import ServerConfig
from cloud.identity.auth import Authenticator, Claimed
from cloud.ports import Caller, Store
from cloud.server.bodies import BodyRoutes
from cloud.server.connections import Connections, room_for
from cloud.server.jobs import Jobs
from cloud.server.models import PackRoutes, Packs
from cloud.server.polls import Polls
from cloud.server.requests import check_head, respond, too_large
from cloud.server.targets import TargetRoutes
from cloud.server.watching import watch
from cloud.storage.bodies import Bodies
from sync.errors import (
    AgentDBError,
    BrokenChain,
    DataError,
    InputError,
    Malformed,
    NotFound,
    Refused,
    StaleNonce,
    StorageError,
    TooLarge,
    Unauthenticated,
    Unreachable,
)
from sync.limits import MESSAGE_BYTES_MAX
from sync.messages import (
    Answer,
    AnyMessage,
    Enroll,
    Failure,
    FetchControl,
    FetchRecords,
    Hello,
    Pull,
    PullBaseline,
    PullPage,
    Push,
    Report,
    decode,
)
from sync.ports import Clock

NONCE_HEADER = "Replay-Nonce"
logger = logging.getLogger(__name__)

ENROLL_PATH, SYNC_PATH, HEALTH_PATH = "/v1/enroll", "/v1/sync", "/v1/health"
ENROLL_BYTES_MAX = 8 << 10
ENROLL_BODY_S_MAX = 5.0
ENROLLMENTS_MAX = 16
DEVICE_REQUESTS_MAX = 8
REQUESTS_MAX = 512
READERS = 4
RETRY_AFTER_MS = 1000
# Above this a body is hashed and decoded on another thread: a MiB takes as long as the rest of the request.
_INLINE_BYTES_MAX = 64 << 10

T = TypeVar("T")

_STATUS: tuple[tuple[type[AgentDBError], int], ...] = (
    (Unauthenticated, 401),
    (Refused, 403),
    (NotFound, 404),
    (BrokenChain, 409),
    (TooLarge, 413),
    (InputError, 400),
    (DataError, 400),
    (Unreachable, 503),
)


class Plane(Protocol):
    """What the server needs of the control plane: blocking, safe to call from several threads."""

    def handle(self, message: AnyMessage, caller: Caller | None) -> Answer: ...

    def on_head(self, fleet: bytes, callback: Callable[[], None]) -> object:
        """Call back, on any thread, whenever this fleet's feed has moved on."""
        ...


class Overloaded(Unreachable):
    """This device has too many requests under way."""


class Service:
    """Requests in, answers out. ``app()`` is what aiohttp runs; ``close`` once no request is under way."""

    def __init__(
        self,
        plane: Plane,
        store: Store,
        jobs: Jobs,
        config: ServerConfig,
        clock: Clock,
        bodies: Bodies | None = None,
        packs: Packs | None = None,
    ) -> None:
        self._plane = plane
        self._store = store
        self._jobs = jobs
        self._config = config
        self._clock = clock
        self._authenticator = Authenticator(store)
        self._writer = ThreadPoolExecutor(1, "writer")
        self._readers = ThreadPoolExecutor(READERS, "reader")
        self._bodies = BodyRoutes(bodies, self._signed)
        self._targets = TargetRoutes(store, self._readers, self._signed)
        self._packs = PackRoutes(packs, self._signed)
        self._under_way: Counter[bytes] = Counter()
        self._total = 0
        self._enrollments = 0
        self.connections = Connections(room_for(config.polls_max + 2 * REQUESTS_MAX))
        self.polls = Polls(plane.on_head, most=config.polls_max)

    @property
    def under_way(self) -> int:
        """Requests of devices that have begun and not ended, waiting polls included."""
        return self._total

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._errors], client_max_size=MESSAGE_BYTES_MAX)
        app.router.add_post(ENROLL_PATH, self._enroll)
        app.router.add_post(SYNC_PATH, self._sync)
        app.router.add_get(HEALTH_PATH, self._health)
        self._bodies.add_to(app)
        self._targets.add_to(app)
        app.cleanup_ctx.append(self._watching)
        self._packs.add_to(app)
        app.on_shutdown.append(self._release)
        return app

    def close(self) -> None:
        """Wait for what the threads have begun."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._bodies.close()
        self._packs.close()

    # -- routes ---------------------------------------------------------------------------------------------------

    async def _enroll(self, request: web.Request) -> web.Response:
        check_head(request, ENROLL_PATH, ENROLL_BYTES_MAX)
        body = await self._body(request, ENROLL_BYTES_MAX, min(ENROLL_BODY_S_MAX, self._config.body_timeout_s))
        message = decode(body)
        if not isinstance(message, Enroll):
            raise Malformed("only Enroll is taken here")
        if self._enrollments >= ENROLLMENTS_MAX:
            raise Unreachable("too many devices want to join at once", hint="try again in a moment")
        self._enrollments += 1
        try:
            return respond(await self._in(self._writer, self._plane.handle, message, None))
        finally:
            self._enrollments -= 1

    async def _sync(self, request: web.Request) -> web.Response:
        check_head(request, SYNC_PATH, MESSAGE_BYTES_MAX)
        claimed = await self._in(
            self._readers, self._authenticator.claim, request.method, request.raw_path, request.headers
        )
        with self._slot(claimed.caller.device):
            body = await self._body(request, MESSAGE_BYTES_MAX, self._config.body_timeout_s)
            if len(body) > _INLINE_BYTES_MAX:
                message = await self._in(self._readers, _open, claimed, body)
            else:
                message = _open(claimed, body)
            return respond(await self._carry_out(claimed, message, request.protocol))

    async def _health(self, _: web.Request) -> web.Response:
        failing = self._jobs.failing
        return web.json_response(
            {"status": "degraded" if failing else "ok", "failing": failing, "time_ms": self._clock.wall_ms()}
        )

    @asynccontextmanager
    async def _signed(self, request: web.Request, path: str, most: int) -> AsyncIterator[tuple[Caller, bytes]]:
        """Who sent a request to ``path``, and its body of at most ``most`` bytes; its nonce is used up."""
        check_head(request, path, most)
        claimed = await self._in(
            self._readers, self._authenticator.claim, request.method, request.raw_path, request.headers
        )
        with self._slot(claimed.caller.device):
            body = await self._body(request, most, self._config.body_timeout_s)
            await self._in(self._readers, claimed.check_body, body)
            await self._in(self._writer, self._consume, claimed)
            self.connections.known(request.protocol, claimed.caller.device)
            yield claimed.caller, body

    # -- requests -------------------------------------------------------------------------------------------------

    async def _carry_out(self, claimed: Claimed, message: AnyMessage, on: asyncio.BaseProtocol) -> Answer:
        """The connection is the device's once its nonce is used: anybody may have a head that it signed."""
        if isinstance(message, Push | Hello | FetchControl | Report):
            answer: Answer = await self._in(self._writer, self._consume_and_handle, claimed, message)
            self.connections.known(on, claimed.caller.device)
            return answer
        if isinstance(message, PullBaseline | Pull | FetchRecords):
            await self._in(self._writer, self._consume, claimed)
            self.connections.known(on, claimed.caller.device)
            if isinstance(message, Pull):
                return await self._pull(claimed, message)
            return await self._in(self._readers, self._plane.handle, message, claimed.caller)
        raise Malformed(f"{type(message).__name__} is not a request that is taken here")

    async def _pull(self, claimed: Claimed, message: Pull) -> Answer:
        """A page at once if there is one; else when there is one, or an empty one when the wait is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + message.wait_ms / 1000
        with self.polls.waiter(claimed.caller.fleet, claimed.caller.device) as moved:
            while True:
                answer: Answer = await self._in(self._readers, self._plane.handle, message, claimed.caller)
                nothing = isinstance(answer, PullPage) and _says_nothing(answer, message)
                if not nothing or moved is None or not message.wait_ms or loop.time() >= until:
                    return answer
                try:
                    async with asyncio.timeout_at(until):
                        await moved.wait()
                except TimeoutError:
                    return answer
                if self.polls.closed or not self.polls.current(claimed.caller.fleet, claimed.caller.device, moved):
                    return answer
                moved.clear()
                await self._in(self._readers, self._authenticator.check_standing, claimed.caller)

    def _consume(self, claimed: Claimed) -> None:
        with self._store.writing(durable=False) as tx:
            claimed.consume(tx)

    def _consume_and_handle(self, claimed: Claimed, message: AnyMessage) -> Answer:
        self._consume(claimed)
        return self._plane.handle(message, claimed.caller)

    async def _body(self, request: web.Request, most: int, timeout_s: float) -> bytes:
        """Raises TooLarge as soon as it is, HTTPRequestTimeout if it does not come in time, and ConnectionError if the
        connection ends before the body does.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > most:
                        raise too_large(most)
        except TimeoutError as error:
            raise web.HTTPRequestTimeout from error
        except RuntimeError as error:  # what aiohttp says if the connection was lost before the first read
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("hung up before the body") from error
            raise
        return bytes(body)

    @contextmanager
    def _slot(self, device: bytes) -> Iterator[None]:
        """One of the device's requests under way. Raises Unreachable."""
        if self._total - self.polls.waiting >= REQUESTS_MAX:
            raise Unreachable("the control plane has too much to do")
        if self._under_way[device] >= DEVICE_REQUESTS_MAX:
            raise Overloaded("this device has too many requests under way")
        self._total += 1
        self._under_way[device] += 1
        try:
            yield
        finally:
            self._total -= 1
            self._under_way[device] -= 1
            if not self._under_way[device]:
                del self._under_way[device]

    async def _in(self, executor: Executor, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *args)

    async def _watching(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(watch(self._store, self.polls, self._readers))
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _release(self, _: web.Application) -> None:
        self.polls.close()

    # -- errors ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.connections.spoke(request.protocol)
        try:
            return await handler(request)
        except Overloaded as error:
            return respond(Failure.of(error, RETRY_AFTER_MS), 429)
        except StorageError as error:
            logger.exception("%s %s: storage", request.method, request.path)
            reason = "the control plane's storage is not available"
            return respond(Failure(error.code, reason, "", retryable=True), 503 if error.retryable else 500)
        except AgentDBError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 400)
            response = respond(Failure.of(error, RETRY_AFTER_MS if status == 503 else 0), status)
            if isinstance(error, StaleNonce):
                response.headers[NONCE_HEADER] = str(error.largest)
            return response
        except web.HTTPException as error:
            failure = Failure("not-found" if error.status == 404 else "protocol", error.reason, "", retryable=False)
            return respond(failure, error.status)
        except ConnectionError:
            raise
        except Exception:  # whatever it is, the device gets an answer and we get a traceback
            logger.exception("%s %s failed", request.method, request.path)
            return respond(Failure("internal", "the control plane failed", "", retryable=True), 500)


def _says_nothing(page: PullPage, asked: Pull) -> bool:
    return not page.segments and page.cursor == asked.cursor and page.assignment <= asked.assignment


def _open(claimed: Claimed, body: bytes) -> AnyMessage:
    claimed.check_body(body)
    return decode(body)
