"""The pipelined client's own process.

    python -m benchmarks.peers.pipelined_client PORT LETTERS SESSIONS [none|starttls|implicit CA]

One write carries a message, its final dot, and the next letter's MAIL, RCPT, RCPT and DATA (RFC 2920 §3.1:
DATA ends a group), so a letter costs one round trip of a session. TLS is begun off the clock.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterator

import uvloop

from benchmarks.letters import SENDER, letter, message
from benchmarks.peers.clocked import Clock

HOST = "127.0.0.1"
_EHLO = b"EHLO client.example.test\r\n"


def _envelope(number: int) -> bytes:
    return (
        b"MAIL FROM:<%b>\r\n"
        b"RCPT TO:<reader%08d.0@example.test>\r\n"
        b"RCPT TO:<reader%08d.1@example.test>\r\n"
        b"DATA\r\n"
    ) % (SENDER.encode(), number, number)


class Session(asyncio.Protocol):
    """One session: greets, waits for `go`, sends its share, quits."""

    def __init__(self, share: Iterator[int], text: bytes) -> None:
        self._share = share
        self._text = text + b".\r\n"
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._answered = self._loop.create_future()  # by the greeting
        self.done = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is a TCP one

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if line[3:4] != b"-":
                self._reply(line)

    def _reply(self, line: bytes) -> None:
        if line.startswith(b"354"):
            self._next(self._text)
        elif not line.startswith(b"2"):
            self._fail(RuntimeError(line.decode()))
            self._transport.close()
        elif not self._answered.done():
            self._answered.set_result(None)

    async def greet(self, starttls: ssl.SSLContext | None = None) -> None:
        """What comes before the first letter."""
        await self._answered
        await self._ask(_EHLO)
        if starttls:
            await self._ask(b"STARTTLS\r\n")
            made = await self._loop.start_tls(self._transport, self, starttls, server_hostname=HOST)
            assert made is not None, "the server left in the handshake"
            self._transport = made
            await self._ask(_EHLO)

    async def _ask(self, command: bytes) -> None:
        self._answered = self._loop.create_future()
        self._transport.write(command)
        await self._answered

    def go(self) -> None:
        self._next(b"")

    def _next(self, before: bytes) -> None:
        number = next(self._share, None)
        self._transport.write(before + (b"QUIT\r\n" if number is None else _envelope(number)))

    def _fail(self, error: Exception) -> None:
        for waited in (self._answered, self.done):
            if not waited.done():
                waited.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        if error or not self._answered.done():
            self._fail(error or ConnectionResetError("the server left"))
        elif not self.done.done():
            self.done.set_result(None)


async def _main(port: int, letters: int, sessions: int, mode: str = "none", ca: str = "") -> None:
    text = message(letter(0))
    tls = ssl.create_default_context(cafile=ca) if ca else None
    at_once = {"ssl": tls, "server_hostname": HOST} if mode == "implicit" else {}
    opened = []
    for first in range(sessions):
        share = iter(range(first, letters, sessions))
        connecting = asyncio.get_running_loop().create_connection(
            lambda share=share: Session(share, text), HOST, port, **at_once
        )
        opened.append((await connecting)[1])
    await asyncio.gather(*(each.greet(tls if mode == "starttls" else None) for each in opened))
    clock = Clock()
    for each in opened:
        each.go()
    await asyncio.gather(*(each.done for each in opened))
    clock.report(letters)


if __name__ == "__main__":
    uvloop.run(_main(*map(int, sys.argv[1:4]), *sys.argv[4:]))
