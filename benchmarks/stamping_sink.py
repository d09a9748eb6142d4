"""An SMTP server that notes when each letter began and arrived; in a process of its own, on uvloop.

    python -m benchmarks.stamping_sink FILE PORT [TLS_PORT CERTIFICATE KEY]

FILE gets a line a letter: when MAIL came and when the final dot did, in seconds since 1970, and the first
recipient. It offers PIPELINING and 8BITMIME and takes everything. With a certificate it offers STARTTLS at
PORT, and speaks TLS from the start at TLS_PORT: one process, so that ways in can be compared.

One process is enough: it takes some times what one sender sends, and a second one would take its core from
the stores. How much it takes is measured, see `benchmarks.tls`. A TLS terminator before smtp-sink would be a
program more, and a hop more that letters in clear do not take.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import uvloop

if TYPE_CHECKING:  # the server's own process has no use for them
    from benchmarks.parts import Way
    from lab.parts import Certificates
    from mailsender.dev.process import Child

HOST = "127.0.0.1"
_OFFERS = b"250-sink.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
_END = b"\r\n.\r\n"


class _Session(asyncio.Protocol):
    """One session; with `tls` it offers STARTTLS (RFC 3207)."""

    def __init__(self, out: TextIO, tls: ssl.SSLContext | None = None) -> None:
        self._out = out
        self._tls = tls
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
            return _OFFERS + (b"250-STARTTLS\r\n" if self._tls else b"") + b"250 ENHANCEDSTATUSCODES\r\n"
        if verb == b"DATA":
            self._in_message = True
            return b"354 Go on\r\n"
        if verb == b"MAIL":
            self._mail_at, self._recipient = now, ""
        elif verb == b"RCPT" and not self._recipient:
            self._recipient = line.partition(b"<")[2].partition(b">")[0].decode()
        elif verb == b"STAR" and self._tls:
            self._transport.pause_reading()  # what comes next belongs to TLS
            self._got = b""
            self._securing = asyncio.get_running_loop().create_task(self._secure(self._tls))
            return b"220 2.0.0 Go ahead\r\n"
        elif verb == b"QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 2.0.0 Bye\r\n"
        return b"250 2.0.0 Ok\r\n"

    async def _secure(self, tls: ssl.SSLContext) -> None:
        """Go on under TLS. uvloop hands over the new transport before the first data that comes by it."""
        made = await asyncio.get_running_loop().start_tls(self._transport, self, tls, server_side=True)
        assert made is not None, "the client left in the handshake"
        self._transport, self._tls = made, None


async def _serve(file: Path, port: int, tls_port: int, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    with file.open("w", buffering=1) as out:
        servers = [await loop.create_server(lambda: _Session(out, tls), HOST, port)]
        if tls:
            servers.append(await loop.create_server(lambda: _Session(out), HOST, tls_port, ssl=tls))
        await asyncio.gather(*(each.serve_forever() for each in servers))


@dataclass(frozen=True, slots=True)
class Arrival:
    """One letter as it came; seconds since 1970."""

    mail_at: float
    arrived_at: float
    recipient: str


@dataclass(frozen=True, slots=True)
class StampingSink:
    """The server's process, from outside; `ports` by what `SMTP_TLS` is there."""

    child: Child
    file: Path
    ports: Mapping[str, int]
    ca: str = ""

    def way(self, tls: str = "none") -> Way:
        """The way in under that TLS."""
        from benchmarks.parts import Way

        return Way(self, self.ports[tls], tls, "" if tls == "none" else self.ca)

    def arrivals(self) -> list[Arrival]:
        """All letters so far, in the order of arrival."""
        lines = self.file.read_text().splitlines(keepends=True)
        words = (line.split() for line in lines if line.endswith("\n"))
        return [Arrival(float(mail), float(dot), recipient) for mail, dot, recipient in words]

    def received(self) -> int:
        """How many letters it took since it was started."""
        return self.file.read_bytes().count(b"\n")


@contextmanager
def stamping_sink(directory: Path, certificates: Certificates | None = None) -> Iterator[StampingSink]:
    """Start it, with TLS where there are certificates; ended when the block is left."""
    from benchmarks.parts import a_port, python
    from mailsender.dev.process import listens

    file, ports, ca = directory / "arrivals", {"none": a_port()}, ""
    words: list[object] = ["-m", "benchmarks.stamping_sink", file, ports["none"]]
    if certificates:
        ports |= {"starttls": ports["none"], "implicit": a_port()}
        words += [ports["implicit"], certificates.cert, certificates.key]
        ca = str(certificates.ca)
    with python("stamping-sink", directory, *words) as child:
        child.until(lambda: all(map(listens, ports.values())), 20)
        yield StampingSink(child, file, ports, ca)


def _main(file: str, port: str, tls_port: str = "0", certificate: str = "", key: str = "") -> None:
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
    uvloop.run(_serve(Path(file), int(port), int(tls_port), tls))


if __name__ == "__main__":
    _main(*sys.argv[1:])
