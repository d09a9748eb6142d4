"""The HTTP side put together, and the server that listens."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mailsender.observe.supervision import Keep, Loop, once
from mailsender.web import connections
from mailsender.web.blobs import BlobHandlers
from mailsender.web.handlers import READ_SHARE, Handlers
from mailsender.web.middleware import authenticate, bound, guard, problems
from mailsender.web.operations import Operations
from mailsender.web.pages import Pages
from mailsender.web.suppression_handlers import SuppressionHandlers

KEEP_ALIVE: Final = 75.0
"""Seconds until a connection is closed that idles after its last answer."""

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is read and dropped, so that the caller sees the answer."""

BACKLOG: Final = 1024
"""Connections that the system holds until they are taken. When they are more, callers who have begun to send
are reset; with aiohttp's own 128 a thousand callers at once were enough for that."""

READ_AHEAD: Final = 16 * 1024
"""Bytes of a body at which no more of it is read until its turn; aiohttp stops at twice the number, and one
read of the event loop, 256 KB at most, comes on top. With aiohttp's own number each of those who wait would
hold three quarters of a megabyte."""

MAX_HEADERS: Final = 64
MAX_LINE: Final = 8190
"""Bytes of the request line and of one header."""

MOST: Final = 512
"""Connections at once where nothing else is said: twice as many as requests that may be under way."""

MAX_BLOB: Final = 25 * 1024 * 1024
"""Bytes of the largest file where nothing else is said."""

STUCK: Final = 60.0
"""Seconds in which a request, or the reading of its answer, has to get further where nothing else is said."""

SCRAPERS: Final = 16
"""Connections at once on the port of the metrics."""

ANSWERING: Final = 0.5
"""Seconds of a request's time that are kept for the answer where its caller waits for what becomes of a
letter."""

MAX_WAITING: Final = 64
"""Callers who wait at once for what becomes of a letter, or an eighth of the connections: a quarter of the
requests that may be under way. Others need the rest."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that requests under way have to end when the server closes."""


def make_app(
    operations: Operations,
    *,
    api_key: str,
    max_bytes: int,
    timeout: float,
    most: int = MOST,
    allowed_hosts: Sequence[str] = (),
    max_blob: int = MAX_BLOB,
) -> web.Application:
    """The application.

    Args:
        operations: the service.
        api_key: what callers send as `X-API-KEY`; empty lets everybody in.
        max_bytes: bytes of the largest body.
        timeout: seconds that a request may take.
        most: connections at once; no more than half of them may have a request under way.
        allowed_hosts: names in a `Host` header that are taken for ours where there is no key.
        max_blob: bytes of the largest file that is put.
    """
    handlers = Handlers(
        operations,
        max_bytes=max_bytes,
        read_timeout=timeout * READ_SHARE,
        longest_wait=timeout - ANSWERING,
        most_waiting=min(MAX_WAITING, most // 8),
    )
    app = web.Application(
        client_max_size=max_bytes,
        middlewares=[
            problems(),
            authenticate(api_key) if api_key else guard(allowed_hosts),
            bound(timeout, most // 2),
        ],
    )
    blobs = BlobHandlers(operations, max_bytes=max_blob, stall=timeout)
    suppressions = SuppressionHandlers(operations, handlers.body, stall=timeout)
    routes = [*handlers.routes(), *blobs.routes(), *suppressions.routes(), *Pages().routes()]
    app.add_routes(routes)
    app.on_response_prepare.append(_headers)
    return app


def make_metrics_app(
    operations: Operations, *, timeout: float, allowed_hosts: Sequence[str] = ()
) -> web.Application:
    """The application of a port with nothing but `/metrics`, which wants no key; see `make_app`."""
    handlers = Handlers(operations, max_bytes=0, read_timeout=timeout)
    app = web.Application(middlewares=[problems(), guard(allowed_hosts), bound(timeout, SCRAPERS)])
    app.router.add_get("/metrics", handlers.metrics)
    app.on_response_prepare.append(_headers)
    return app


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    # The name without versions of libraries; answers are for the asker, now, and no place for scripts.
    response.headers["Server"] = "mailsender"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A listening server. `port` is the real one, also when a free one was asked for."""

    host: str
    port: int
    runner: web.AppRunner
    sockets: tuple[socket.socket, ...]
    tasks: tuple[asyncio.Task[None], ...]

    async def close(self) -> None:
        """Listen no more, let requests under way end for `CLOSE_TIMEOUT` seconds, cut the rest."""
        for task in self.tasks[1:]:
            task.cancel()
        await asyncio.wait(self.tasks[1:])
        connections.close(self.sockets)
        await self.runner.cleanup()
        self.tasks[0].cancel()
        await asyncio.wait(self.tasks)


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    most: int = MOST,
    stuck: float = STUCK,
    keep: Keep = once,
) -> Server:
    """Listen on `host` and `port`; 0 takes a free port.

    Args:
        app: see `make_app`.
        host: a name or an address; each of a name's addresses is listened on.
        port: the port.
        most: connections at once.
        stuck: seconds after which a request, or the reading of its answer, that gets no further is cut.
        keep: how the loops are run that let callers in.

    Raises:
        OSError: the address cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT)
    await runner.setup()
    try:
        sockets = await connections.listeners(host, port, BACKLOG)
    except OSError:
        await runner.cleanup()
        raise
    manager = runner.server
    assert manager is not None  # noqa: S101  for the type checker: `setup` made it
    crowd = connections.Crowd(most)
    make = partial(
        connections.Connection,
        manager,
        crowd,
        stuck=stuck,
        access_log=None,
        logger=_protocol_logger(),
        keepalive_timeout=KEEP_ALIVE,
        lingering_time=LINGER,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        read_bufsize=READ_AHEAD,
        # Else a stranger's megabyte of gzip is unpacked before anybody asked for his key: 1.7 s of the loop.
        auto_decompress=False,
    )
    loops: list[Loop] = [crowd.look, *(partial(connections.accept, each, crowd, make) for each in sockets)]
    never = asyncio.Event()
    tasks = [asyncio.create_task(keep("http", loop, never, "nobody reaches the service")) for loop in loops]
    return Server(
        host=host,
        port=sockets[0].getsockname()[1],
        runner=runner,
        sockets=tuple(sockets),
        tasks=tuple(tasks),
    )


def _protocol_logger() -> logging.Logger:
    """For aiohttp's own use: without a traceback for every stranger who speaks no HTTP, or hangs up."""
    logger = logging.getLogger("mailsender.web.protocol")
    if _not_a_strangers not in logger.filters:
        logger.addFilter(_not_a_strangers)
    return logger


def _not_a_strangers(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)
