"""The pipelined client's own process.

    python -m benchmarks.peers.pipelined_client PORT LETTERS SESSIONS

One write carries a message, its final dot, and the next letter's MAIL, RCPT, RCPT and DATA (RFC 2920 §3.1:
DATA ends a group), so a letter costs one round trip of a session.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import uvloop

from benchmarks.letters import SENDER, letter, message
from benchmarks.peers.clocked import Clock

HOST = "127.0.0.1"


def _envelope(number: int) -> bytes:
    return (
        b"MAIL FROM:<%b>\r\n"
        b"RCPT TO:<reader%08d.0@example.test>\r\n"
        b"RCPT TO:<reader%08d.1@example.test>\r\n"
        b"DATA\r\n"
    ) % (SENDER.encode(), number, number)


class Session(asyncio.Protocol):
    """One session: greets, waits for `go`, sends its share, quits."""

    def __init__(self, share: Iterator[int], text: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self._share = share
        self._text = text + b".\r\n"
        self._rest = b""
        self._transport: asyncio.Transport
        self.greeted = loop.create_future()
        self.done = loop.create_future()

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
        elif line.startswith(b"220"):
            self._transport.write(b"EHLO client.example.test\r\n")
        elif not line.startswith(b"2"):
            self.done.set_exception(RuntimeError(line.decode()))
            self._transport.close()
        elif not self.greeted.done():
            self.greeted.set_result(None)

    def go(self) -> None:
        self._next(b"")

    def _next(self, before: bytes) -> None:
        number = next(self._share, None)
        self._transport.write(before + (b"QUIT\r\n" if number is None else _envelope(number)))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)


async def _main(port: int, letters: int, sessions: int) -> None:
    loop = asyncio.get_running_loop()
    text = message(letter(0))
    opened = []
    for first in range(sessions):
        share = iter(range(first, letters, sessions))
        made = await loop.create_connection(lambda share=share: Session(share, text, loop), HOST, port)
        opened.append(made[1])
    await asyncio.gather(*(each.greeted for each in opened))
    clock = Clock()
    for each in opened:
        each.go()
    await asyncio.gather(*(each.done for each in opened))
    clock.report(letters)


if __name__ == "__main__":
    uvloop.run(_main(*map(int, sys.argv[1:4])))
