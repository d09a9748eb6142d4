"""The HTTP side put together, and the server that listens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mailsender.web.handlers import READ_SHARE, Handlers
from mailsender.web.middleware import authenticate, bound, problems
from mailsender.web.operations import Operations
from mailsender.web.pages import Pages

KEEP_ALIVE: Final = 75.0
"""Seconds until an idle connection is closed, also one whose first request never becomes complete."""

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

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that requests under way have to end when the server closes."""


def make_app(operations: Operations, *, api_key: str, max_bytes: int, timeout: float) -> web.Application:
    """The application.

    Args:
        operations: the service.
        api_key: what callers send as `X-API-KEY`; empty lets everybody in.
        max_bytes: bytes of the largest body.
        timeout: seconds that a request may take.
    """
    handlers = Handlers(operations, max_bytes=max_bytes, read_timeout=timeout * READ_SHARE)
    app = web.Application(
        client_max_size=max_bytes,
        middlewares=[problems(), authenticate(api_key), bound(timeout)],
    )
    app.add_routes([*handlers.routes(), *Pages().routes()])
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

    async def close(self) -> None:
        """Listen no more, let requests under way end for `CLOSE_TIMEOUT` seconds, cut the rest."""
        await self.runner.cleanup()


async def serve(app: web.Application, host: str, port: int) -> Server:
    """Listen on `host` and `port`; 0 takes a free port.

    Raises:
        OSError: the address cannot be had.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_protocol_logger(),
        handle_signals=False,
        keepalive_timeout=KEEP_ALIVE,
        lingering_time=LINGER,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        shutdown_timeout=CLOSE_TIMEOUT,
        read_bufsize=READ_AHEAD,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG)
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    return Server(host=host, port=site.port, runner=runner)


def _protocol_logger() -> logging.Logger:
    """For aiohttp's own use: without a traceback for every stranger who speaks no HTTP."""
    logger = logging.getLogger("mailsender.web.protocol")
    if _not_malformed not in logger.filters:
        logger.addFilter(_not_malformed)
    return logger


def _not_malformed(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)
