"""Start, and stop in order: bind, answer, and on SIGTERM or SIGINT let what is under way end.

Stopping: no new connections; long polls are answered at once; requests under way have ``shutdown_timeout_s``; the jobs
that want it run a last time (the archive gets what came in since); the threads end. The caller closes the store.

Plain HTTP is bound to loopback only, unless the configuration says otherwise in words (``cloud.config`` checks it).
The port file and the line ``listening on http://HOST:PORT`` come after the socket is open, so a script that waits for
either can connect.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from cloud.config import ServerConfig
from cloud.server.app import Service
from cloud.server.jobs import Jobs
from sync.errors import InvalidConfig

logger = logging.getLogger(__name__)

# A connection on which no further request head comes for so long is closed. Longer than a long poll's pause. For the
# first one ``connections.HEAD_S_MAX`` holds.
IDLE_S_MAX = 75.0
# After an answer that came before the whole body did: how long to read on so that the answer is not lost to a reset.
LINGER_S_MAX = 2.0


class _OursOnly(logging.Filter):
    """What is no HTTP is answered with 400, who hangs up gets none; a traceback for each would let strangers fill the
    log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | ConnectionError))


_http_log = logging.getLogger("cloud.server.http")
_http_log.addFilter(_OursOnly())
HEAD_LINE_BYTES_MAX = 2048
HEAD_FIELDS_MAX = 64


@asynccontextmanager
async def running(service: Service, jobs: Jobs, config: ServerConfig) -> AsyncIterator[str]:
    """Serves inside the block; its URL. Raises InvalidConfig if the address cannot be bound or TLS files are bad."""
    runner = web.AppRunner(
        service.app(),
        handle_signals=False,
        access_log=logging.getLogger("cloud.access") if config.access_log else None,
        logger=_http_log,
        keepalive_timeout=IDLE_S_MAX,
        lingering_time=LINGER_S_MAX,
        auto_decompress=False,
        max_line_size=HEAD_LINE_BYTES_MAX,
        max_field_size=HEAD_LINE_BYTES_MAX,
        max_headers=HEAD_FIELDS_MAX,
        shutdown_timeout=config.shutdown_timeout_s,
    )
    await runner.setup()
    assert runner.server is not None
    listening: asyncio.Server | None = None
    try:
        context = tls_context(config)
        listening = await _listen(service.connections.door(runner.server, context), config)
        jobs.start()
        port = listening.sockets[0].getsockname()[1]
        yield f"{'https' if context else 'http'}://{_bracketed(config.host)}:{port}"
    finally:
        if listening is not None:
            listening.close()
        service.connections.close()
        await runner.cleanup()
        await jobs.finish()
        await asyncio.get_running_loop().run_in_executor(None, service.close)


async def _listen(door: Callable[[], asyncio.Protocol], config: ServerConfig) -> asyncio.Server:
    """Raises InvalidConfig if the address cannot be bound."""
    try:
        return await asyncio.get_running_loop().create_server(
            door, config.host, config.port, backlog=512, reuse_address=True
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidConfig(
            f"cannot listen on {config.host}:{config.port}: {reason}",
            hint="choose another [server] host or port, or stop what listens there",
        ) from error


async def serve(
    service: Service,
    jobs: Jobs,
    config: ServerConfig,
    *,
    port_file: Path | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running(service, jobs, config) as url:
            if port_file is not None:
                _write_port(port_file, url)
            announce(f"listening on {url}")
            await stop.wait()
            logger.info("stopping")
    finally:
        if port_file is not None:
            _remove(port_file)


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """None without TLS. Raises InvalidConfig."""
    if not config.tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(config.tls_certificate_file, config.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidConfig(
            f"[server] tls_certificate_file or tls_key_file: {error}",
            hint="both are PEM files, the key without a password",
        ) from error
    return context


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _write_port(path: Path, url: str) -> None:
    """Whole or not at all: a script may be watching for it."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(url.rpartition(":")[2] + "\n")
    beside.rename(path)
