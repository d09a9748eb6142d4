"""An SMTP server that notes when each letter began and arrived; in a process of its own, on uvloop.

    python -m benchmarks.stamping_sink PORT FILE

FILE gets a line a letter: when MAIL came and when the final dot did, in seconds since 1970, and the first
recipient. It offers PIPELINING and 8BITMIME and takes everything.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import uvloop

HOST = "127.0.0.1"
_EHLO = b"250-sink.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
_END = b"\r\n.\r\n"


class _Session(asyncio.Protocol):
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._got = b""
        self._in_message = False
        self._mail_at = 0.0
        self._recipient = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # it is a TCP one
        self._transport.write(b"220 sink.example.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._got += data
        replies = b"".join(self._replies(time.time()))
        if replies:
            self._transport.write(replies)

    def _replies(self, now: float) -> Iterator[bytes]:
        """What to say to all that is complete; a message without any line does not occur here."""
        while True:
            end = _END if self._in_message else b"\r\n"
            part, found, rest = self._got.partition(end)
            if not found:
                return
            self._got = rest
            if self._in_message:
                self._in_message = False
                self._out.write(f"{self._mail_at:.6f} {now:.6f} {self._recipient}\n")
                yield b"250 2.0.0 Ok\r\n"
            else:
                yield self._answer(part, now)

    def _answer(self, line: bytes, now: float) -> bytes:
        verb = line[:4].upper()
        if verb == b"EHLO":
            return _EHLO
        if verb == b"DATA":
            self._in_message = True
            return b"354 Go on\r\n"
        if verb == b"MAIL":
            self._mail_at, self._recipient = now, ""
        elif verb == b"RCPT" and not self._recipient:
            self._recipient = line.partition(b"<")[2].partition(b">")[0].decode()
        elif verb == b"QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"


async def _serve(port: int, file: Path) -> None:
    with file.open("w", buffering=1) as out:
        server = await asyncio.get_running_loop().create_server(lambda: _Session(out), HOST, port)
        await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Arrival:
    """One letter as it came; seconds since 1970."""

    mail_at: float
    arrived_at: float
    recipient: str


class StampingSink:
    """The server's process, from outside."""

    def __init__(self, port: int, file: Path) -> None:
        self.port = port
        self._file = file

    def arrivals(self) -> list[Arrival]:
        """All letters so far, in the order of arrival."""
        lines = self._file.read_text().splitlines(keepends=True)
        words = (line.split() for line in lines if line.endswith("\n"))
        return [Arrival(float(mail), float(dot), recipient) for mail, dot, recipient in words]


@contextmanager
def stamping_sink(directory: Path) -> Iterator[StampingSink]:
    """Start it; ended when the block is left."""
    from benchmarks.parts import a_port, python
    from mailsender.dev.process import listens

    port, file = a_port(), directory / "arrivals"
    with python("stamping-sink", directory, "-m", "benchmarks.stamping_sink", port, file) as child:
        child.until(lambda: listens(port), 20)
        yield StampingSink(port, file)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
