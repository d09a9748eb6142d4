"""Connections of strangers, bounded: how many, how long a head may take, how large it may grow.

aiohttp bounds a line, the number of headers and the time for which a connection idles. It takes every
connection that comes, though, and waits for the end of a head as long as for its beginning.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import monotonic
from typing import Any, Final

import structlog
from aiohttp import web

from mailsender.aio import pause
from mailsender.web.problems import ProblemError

log = structlog.get_logger()

HEAD_TIMEOUT: Final = 10.0
"""Seconds from the first byte of a head to its last, and from the connection to its first head."""

MAX_HEAD: Final = 32 * 1024
"""Bytes of a head that is not complete."""

SLICE: Final = 16 * 1024
"""Bytes that are handed to the parser at once; as many may come on top."""

GRACE: Final = 1.0
"""Seconds for which one who says nothing is left alone although others wait to be let in."""

LOOK: Final = 1.0
"""Seconds between two looks for connections that take too long."""

QUIET: Final = 60.0
"""Seconds between two lines about a crowd."""

SEND_BUFFER: Final = 64 * 1024
"""Bytes of an answer that the system keeps for a caller who has yet to read them; Linux doubles it."""

FEWEST: Final = 16
"""Connections that there may always be: probes and an operator have to get in."""

_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def affordable(wanted: int, reserve: int) -> int:
    """How many connections of `wanted` there may be, so that `reserve` files can still be opened."""
    try:
        import resource  # noqa: PLC0415  there is none on Windows
    except ImportError:
        return wanted
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else max(FEWEST, min(wanted, limit - reserve))


class Connection(web.RequestHandler):
    """One caller's connection; `crowd` has the others. `stuck` is in seconds, see `Crowd`."""

    __slots__ = ("_crowd", "_head", "_head_since", "_payload", "_request_seen", "_stuck", "moved_at")

    def __init__(self, server: web.Server, crowd: Crowd, *, stuck: float, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._crowd = crowd
        self._stuck = stuck
        self._head = 0
        self._head_since: float | None = monotonic()
        self._payload: Any = None
        self._request_seen = 0
        self.moved_at = monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._crowd.enter(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._crowd.leave(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See `web.RequestHandler`; what is no HTTP reaches no application that could answer it.

        The library would repeat what was sent, and in another form than all other errors have.
        """
        answer: web.StreamResponse = super().handle_error(request, status, exc, message)
        if status == HTTPStatus.BAD_REQUEST:
            detail = "This is no request that can be read, or its first line or a header of it is too long."
            answer = ProblemError(status, detail).response()
            answer.force_close()
        answer.headers["Server"] = "mailsender"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        # In slices, for what comes in one with the end of a request is not measured.
        for start in range(0, len(data) or 1, SLICE):
            self._take(data[start : start + SLICE])

    def _take(self, data: bytes) -> None:
        """Hand on what came; measure what belongs to a head that is not complete."""
        before, self.moved_at = self._request_count, monotonic()
        of_a_body = self._payload is not None and not self._payload.is_eof()
        super().data_received(data)
        if self._request_count != before:
            self._payload = self._messages[-1][1] if self._messages else None
            self._head, self._head_since = 0, None
        elif not of_a_body:
            self._head += len(data)
            if self._head_since is None:
                self._head_since = self.moved_at
            if self._head > MAX_HEAD:
                self._refuse(b"431 Request Header Fields Too Large")

    @property
    def idle(self) -> bool:
        """Whether nothing was asked that is not answered."""
        return not (self._request_in_progress or self._messages)

    def look(self, now: float) -> None:
        """End it when its head takes too long, or an answer that nobody reads."""
        if self.idle:
            if self._head_since is not None and now - self._head_since > HEAD_TIMEOUT:
                self._refuse(b"408 Request Timeout" if self._head else b"")
            return
        seen = id(self._current_request)
        if seen != self._request_seen:
            self._request_seen, self.moved_at = seen, now
        elif now - self.moved_at > self._stuck and self.transport is not None:
            reset(self.transport)

    def _refuse(self, status: bytes) -> None:
        if status and self.transport is not None:
            self.transport.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
        self.force_close()


class Crowd:
    """All connections, at most `most`. Where one more wants in, who has idled longest has to go.

    A request that gets no further for `stuck` seconds, and an answer that is not read for as long, are cut.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._inside: set[Connection] = set()
        self._left = asyncio.Event()
        self._told_at = float("-inf")

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, connection: Connection) -> None:
        """One more."""
        self._inside.add(connection)

    def leave(self, connection: Connection) -> None:
        """One less."""
        self._inside.discard(connection)
        self._left.set()

    async def room(self) -> None:
        """Wait until there is room for one more, and make some."""
        while len(self._inside) >= self.most:
            now = monotonic()
            if now - self._told_at > QUIET:
                self._told_at = now
                log.warning(
                    "http_crowded",
                    connections=len(self._inside),
                    action="who has idled longest is sent away for each that comes",
                    advice="close connections that are not used, or raise HTTP_MAX_CONNECTIONS",
                )
            self._left.clear()
            longest = min((each for each in self._inside if each.idle), key=_moved_at, default=None)
            left = GRACE if longest is None else GRACE - (now - longest.moved_at)
            if longest is not None and left <= 0:
                longest.force_close()
            await pause(self._left, max(0.01, left))

    async def look(self) -> None:
        """Look after the connections, for ever."""
        while True:
            await asyncio.sleep(LOOK)
            now = monotonic()
            for connection in list(self._inside):
                connection.look(now)


def reset(transport: asyncio.Transport) -> None:
    """Cut a connection so that the system, too, forgets what its caller did not read."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def went_on(request: web.BaseRequest) -> None:
    """Say that a piece of a long answer was taken: who reads the rest is not stuck.

    Only for an answer that is bounded otherwise: who reads a byte now and then would never be cut.
    """
    if isinstance(request.protocol, Connection):
        request.protocol.moved_at = monotonic()


def _moved_at(connection: Connection) -> float:
    return connection.moved_at


async def listeners(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Sockets that listen at all addresses of `host`, at one port; 0 takes a free one.

    Raises:
        OSError: one of the addresses cannot be had.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            # Those whom it accepts inherit it. By itself the system takes megabytes for who does not read.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(backlog)
            port = listener.getsockname()[1]
    except OSError:
        close(sockets)
        raise
    return sockets


def close(sockets: Iterable[socket.socket]) -> None:
    """Close them all."""
    for each in sockets:
        each.close()


async def accept(listener: socket.socket, crowd: Crowd, make: Callable[[], asyncio.Protocol]) -> None:
    """Let in who comes to `listener` while there is room, for ever; `make` makes a protocol for each."""
    loop = asyncio.get_running_loop()
    told = False
    while True:
        await crowd.room()
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno not in _OUT_OF:  # the caller was gone before he was let in
                continue
            if not told:
                log.warning("http_out_of_descriptors", error=error.strerror, action="tried again")
                told = True
            await asyncio.sleep(LOOK)
            continue
        told = False
        try:
            await loop.connect_accepted_socket(make, connection)
        except OSError:
            connection.close()
