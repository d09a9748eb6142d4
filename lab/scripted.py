"""A relay that does what a test's script says, command by command, and keeps every octet it got.

A script maps a verb (``MAIL``), a whole command (``RCPT TO:<b@c.d>``), or one of the moments `GREETING`,
`BODY` (after 354, before the message is read) and `DOT` to what happens then. That is one answer, or a
list of answers for the first, the second … time; after them the relay behaves well. An answer is a reply
without its CRLF, or one of the coroutine functions below.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

GREETING, BODY, DOT = "greeting", "body", "dot"

ALSO_OFFERED: list[str] = []
"""What every relay offers beside its own offers; see the fixture `pipelined`."""

OFFERS = ("SIZE 100000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN")

GOOD = {
    GREETING: "220 relay.example.test ESMTP",
    "HELO": "250 relay.example.test",
    "MAIL": "250 2.1.0 Ok",
    "RCPT": "250 2.1.5 Ok",
    "DATA": "354 End data with <CR><LF>.<CR><LF>",
    DOT: "250 2.0.0 Ok: queued as 42",
    "RSET": "250 2.0.0 Ok",
    "NOOP": "250 2.0.0 Ok",
    "STARTTLS": "220 2.0.0 Go ahead",
}


class Peer:
    """One connection: what it said, and how to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.raw = bytearray()
        self.over = asyncio.Event()
        self.trace: Callable[[str, bytes], None] | None = None

    async def line(self) -> bytes:
        """The next line with its end, empty at the end of the connection."""
        line = await self.reader.readline()
        self.raw += line
        if self.trace:
            self.trace("C:", line)
        return line

    async def say(self, text: str | bytes) -> None:
        """A reply; CRLF is added to text, octets go as they are."""
        said = text if isinstance(text, bytes) else text.encode() + b"\r\n"
        if self.trace:
            self.trace("S:", said)
        self.writer.write(said)
        await self.writer.drain()


Act = Callable[[Peer], Awaitable[None]]
Answer = str | bytes | Act
Script = Mapping[str, Answer | Sequence[Answer]]


async def stall(peer: Peer) -> None:
    """Say nothing until the relay is closed."""
    await peer.over.wait()


async def freeze(peer: Peer) -> None:
    """Say nothing and read nothing."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a TCP one
    await peer.over.wait()


async def drop(peer: Peer) -> None:
    """Close the connection."""
    peer.writer.close()


async def reset(peer: Peer) -> None:
    """Close the connection rudely, with RST."""
    raw: socket.socket = peer.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


def pieces(*parts: bytes) -> Act:
    """Octets in several packets."""

    async def act(peer: Peer) -> None:
        for part in parts:
            await peer.say(part)
            await asyncio.sleep(0.005)

    return act


def then(first: str | bytes, *acts: Act) -> Act:
    """A reply, then something else at once."""

    async def act(peer: Peer) -> None:
        await peer.say(first)
        for following in acts:
            await following(peer)

    return act


class ScriptedRelay:
    """The relay, on a free port of loopback; an asynchronous context manager.

    `tls` makes STARTTLS work, and with `implicit` TLS begins at once. `offers` are the lines of EHLO, to
    which STARTTLS is added where it makes sense.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        offers: Sequence[str] = OFFERS,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        receive_buffer: int = 0,
        port: int = 0,
    ) -> None:
        self._script = dict(script or {})
        self._uses: dict[str, int] = {}
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._offers = offers
        self._tls = tls
        self._implicit = implicit
        self._receive_buffer = receive_buffer
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self.trace: Callable[[str, bytes], None] | None = None
        self.host = "127.0.0.1"
        self.port = port

    @property
    def commands(self) -> list[str]:
        """All commands of all connections, in order, each without its line end."""
        return [command for peer in self.peers for command in peer.commands]

    @property
    def messages(self) -> list[bytes]:
        """All messages that were ended by a dot, as they came."""
        return [message for peer in self.peers for message in peer.messages]

    @property
    def raw(self) -> bytes:
        """Every octet of all connections."""
        return b"".join(peer.raw for peer in self.peers)

    async def reached(self, moment: str) -> None:
        """Wait until a verb was heard, or a moment has come, for the first time."""
        async with asyncio.timeout(5):
            await self._reached[moment].wait()

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family)
        # asyncio does so for connections of listeners of its own. Without it a transaction's replies, each
        # written by itself, wait 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._server = await asyncio.start_server(
            self._connected, sock=listener, limit=2**26, ssl=self._tls if self._implicit else None
        )
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for peer in self.peers:
            peer.over.set()
            with suppress(AttributeError):  # as Python 3.11.2 says under TLS of one that is closed already
                peer.writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await self._server.wait_closed()
        assert not self.errors, self.errors

    def behave(self, peer: Peer, moment: str) -> Answer | None:
        """What to do where the script says nothing; None: what a good one does. For those with a memory."""
        return None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        peer.trace = self.trace
        self.peers.append(peer)
        try:
            await self._answer(peer, GREETING)
            while line := await peer.line():
                await self._obey(peer, line)
        except (ConnectionError, ssl.SSLError):
            pass  # the other side went, which many a test is about
        except AssertionError as error:
            self.errors.append(error)
        finally:
            peer.over.set()
            writer.close()

    async def _obey(self, peer: Peer, line: bytes) -> None:
        command = line.decode().removesuffix("\r\n")
        peer.commands.append(command)
        verb = command.partition(" ")[0].upper()
        if verb == "EHLO" and verb not in self._script:
            await self._say_offers(peer)
        elif verb == "AUTH" and verb not in self._script:
            await self._authenticate(peer, command)
        elif verb == "QUIT" and verb not in self._script:
            await peer.say("221 2.0.0 Bye")
            peer.writer.close()
        else:
            reply = await self._answer(peer, command if command in self._script else verb)
            if verb == "DATA" and reply.startswith("354"):
                await self._message(peer)
            if verb == "STARTTLS" and self._tls and reply.startswith("220"):
                await peer.writer.start_tls(self._tls)

    async def _say_offers(self, peer: Peer) -> None:
        secure = peer.writer.get_extra_info("sslcontext") is not None
        starttls = ["STARTTLS"] if self._tls and not self._implicit and not secure else []
        lines = ["relay.example.test", *starttls, *self._offers, *ALSO_OFFERED]
        for line in lines[:-1]:
            await peer.say(f"250-{line}")
        await peer.say(f"250 {lines[-1]}")

    async def _authenticate(self, peer: Peer, command: str) -> None:
        for question in {"AUTH PLAIN": [""], "AUTH LOGIN": ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"]}.get(command, []):
            await peer.say(f"334 {question}")
            peer.commands.append((await peer.line()).decode().removesuffix("\r\n"))
        await peer.say("235 2.7.0 Authentication successful")

    async def _message(self, peer: Peer) -> None:
        await self._answer(peer, BODY, default="")
        lines = []
        while (line := await peer.line()) not in {b".\r\n", b""}:
            lines.append(line)
        if line:
            peer.messages.append(b"".join(lines))
            await self._answer(peer, DOT)

    async def _answer(self, peer: Peer, moment: str, default: str = "500 5.5.2 What?") -> str:
        """Do what the script says for this moment; returns the first line said, if any."""
        self._reached[moment].set()
        scripted = self._script.get(moment, ())
        answers = [scripted] if isinstance(scripted, str | bytes) or callable(scripted) else list(scripted)
        use = self._uses.get(moment, 0)
        self._uses[moment] = use + 1
        always = not isinstance(scripted, list | tuple)
        if answers and (always or use < len(answers)):
            answer = answers[0 if always else use]
        else:
            answer = self.behave(peer, moment) or GOOD.get(moment.partition(" ")[0], default)
        if callable(answer):
            await answer(peer)
            return ""
        if answer:
            await peer.say(answer)
        return answer if isinstance(answer, str) else answer.decode()
