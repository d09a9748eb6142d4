"""A connection as octets in and replies out; nothing is interpreted here."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import cast

_ESTABLISHED = 1  # linux/tcp_states.h: neither side has ended it


class Gone(Exception):  # noqa: N818  a state of the world
    """The connection is over."""


class Wire(asyncio.Protocol):
    """One connection. `begin` is called when it stands."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._transport: asyncio.Transport | None = None
        self._fresh = asyncio.Event()
        self._over = asyncio.Event()
        self._out: list[bytes] = []
        self.buffer = bytearray()

    # --- in --------------------------------------------------------------------------------------

    @property
    def more_waits(self) -> bool:
        """Whether octets have come that nobody has read."""
        return bool(self.buffer)

    async def line(self) -> bytes | None:
        """The next line without its CRLF, and only CRLF ends one; None at the end of the connection."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            await self.flush()
            if self._over.is_set() and not self.buffer:
                return None
            await self.more()
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return line

    async def more(self) -> None:
        """Wait for octets that were not there before."""
        before = len(self.buffer)
        while len(self.buffer) == before:
            if self._over.is_set():
                raise Gone
            self._fresh.clear()
            await self._fresh.wait()

    # --- out -------------------------------------------------------------------------------------

    def say(self, reply: str) -> None:
        """Queue a reply; replies to one group of commands go out together (RFC 2920 §3.2)."""
        self._out.append(reply.encode() + b"\r\n")

    def write(self, octets: bytes) -> None:
        """Queue nothing and add nothing: octets go out as they are, at once."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(octets)

    async def flush(self) -> None:
        """Hand what is queued to the kernel."""
        if self._out:
            self.write(b"".join(self._out))
            self._out.clear()

    # --- the connection --------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the other side may still say something that it has not said yet.

        The kernel is asked: the end may have come with octets before it that are read only now.
        """
        transport = self._there()
        if self._over.is_set() or transport.is_closing():
            return False
        raw = transport.get_extra_info("socket")
        return bool(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED)

    @property
    def host(self) -> str:
        """The address of ours that it came to."""
        return str(self._there().get_extra_info("sockname")[0])

    async def end(self) -> None:
        """Wait until the other side has ended it, whatever is still to be read."""
        await self._over.wait()

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Begin TLS; what came in clear text behind the command is thrown away (RFC 3207 §4.2)."""
        self.buffer.clear()
        loop = asyncio.get_running_loop()
        changed = await loop.start_tls(
            self._there(), self, context, server_side=True, ssl_handshake_timeout=20
        )
        self._transport = cast("asyncio.Transport", changed)

    def half_close(self) -> None:
        """End our direction only."""
        if self._there().can_write_eof():
            self._there().write_eof()

    def reset(self) -> None:
        """End it with RST."""
        raw = self._there().get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._there().abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _there(self) -> asyncio.Transport:
        if self._transport is None:
            raise Gone
        return self._transport

    # --- called by the transport -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        first = self._transport is None
        self._transport = cast("asyncio.Transport", transport)
        if first:
            self._begin()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._fresh.set()

    def eof_received(self) -> bool:
        self._over.set()
        self._fresh.set()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self._over.set()
        self._fresh.set()
