"""A DNS server of TXT records on loopback, over UDP and TCP, that can also be slow, silent or broken."""

from __future__ import annotations

import contextlib
import errno
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.TXT import TXT

from mailsender.dev.process import LOOPBACK, free_port

SERVFAIL: Final = "SERVFAIL"
REFUSED: Final = "REFUSED"
SILENT: Final = "silent"
"""Says nothing."""
LATE: Final = "late:"
"""Says nothing the first time that it is asked; behind the colon is the record that it says then."""
EMPTY: Final = "empty"
"""The name is there and has no TXT record."""
MUTE: Final = "mute:"
"""As that, but whatever is too long for a datagram cannot be had by TCP."""
ALIAS: Final = "alias:"
"""Another name for what stands behind the colon."""

TRIES: Final = 20

Zone = Mapping[str, str | Sequence[str | Sequence[str]]]
"""Names to what becomes of a question for them: one of the words above, a text, or several records, each a
text or the strings that make it up. A text is cut into strings of 255 octets. Any other name is NXDOMAIN."""


class DnsServer:
    """The server, with threads of its own; a context manager. `asked` counts questions by name."""

    def __init__(self, zone: Zone) -> None:
        self.zone = dict(zone)
        self.asked: Counter[str] = Counter()
        self.by_tcp: Counter[str] = Counter()
        self.host, self.port = LOOPBACK, 0
        self.errors: list[BaseException] = []
        self._servers: list[socketserver.BaseServer] = []
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """As `mailsender check --dns` takes it."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        outer = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, where = self.request
                if answer := outer.answer(data, tcp=False):
                    where.sendto(answer, self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                (length,) = struct.unpack("!H", self.rfile.read(2))
                if answer := outer.answer(self.rfile.read(length), tcp=True):
                    self.wfile.write(struct.pack("!H", len(answer)) + answer)

        self._servers = self._bound(Datagram, Stream)
        for server in self._servers:
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def _bound(
        self, datagram: type[socketserver.BaseRequestHandler], stream: type[socketserver.BaseRequestHandler]
    ) -> list[socketserver.BaseServer]:
        """Both servers on one port; another port where somebody took it for one of the two meanwhile."""
        for left in reversed(range(TRIES)):
            place = (self.host, free_port())
            with contextlib.ExitStack() as opened:
                try:
                    by_udp = opened.enter_context(socketserver.ThreadingUDPServer(place, datagram))
                    by_tcp = opened.enter_context(socketserver.ThreadingTCPServer(place, stream))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE or not left:
                        raise
                    continue
                opened.pop_all()
                self.port = place[1]
                return [by_udp, by_tcp]
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join(5)
        assert not self.errors, self.errors

    def answer(self, data: bytes, *, tcp: bool) -> bytes:
        """What to say to a question; nothing where nothing is said."""
        try:
            return self._answer(data, tcp=tcp)
        except Exception as error:
            self.errors.append(error)
            raise

    def _answer(self, data: bytes, *, tcp: bool) -> bytes:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked[name] += 1
        self.by_tcp[name] += tcp
        response = dns.message.make_response(question)
        response.flags |= dns.flags.RA
        found: Any = self.zone.get(name)
        while isinstance(found, str) and found.startswith(ALIAS):
            target = found.removeprefix(ALIAS)
            response.answer.append(
                dns.rrset.from_text(f"{name}.", 60, dns.rdataclass.IN, dns.rdatatype.CNAME, f"{target}.")
            )
            name, found = target, self.zone.get(target)
        if found == SILENT or (isinstance(found, str) and found.startswith(MUTE) and tcp):
            return b""
        if isinstance(found, str) and found.startswith(LATE):
            if self.asked[name] == 1:
                return b""
            found = found.removeprefix(LATE)
        if isinstance(found, str):
            found = found.removeprefix(MUTE)
        if found is None or found in (SERVFAIL, REFUSED):
            response.set_rcode(dns.rcode.from_text(found or "NXDOMAIN"))
        elif found != EMPTY:
            response.answer.append(_records(name, [found] if isinstance(found, str) else found))
        return _fitted(response, question, tcp=tcp)


def _records(name: str, texts: Sequence[str | Sequence[str]]) -> dns.rrset.RRset:
    records = dns.rrset.RRset(dns.name.from_text(f"{name}."), dns.rdataclass.IN, dns.rdatatype.TXT)
    for text in texts:
        strings = [each.encode() for each in ([text] if isinstance(text, str) else text)]
        cut = [each[at : at + 255] for each in strings for at in range(0, len(each) or 1, 255)]
        records.add(TXT(dns.rdataclass.IN, dns.rdatatype.TXT, cut), ttl=60)
    return records


def _fitted(response: dns.message.Message, question: dns.message.Message, *, tcp: bool) -> bytes:
    """The answer, cut to nothing but a sign of that where a datagram cannot hold it (RFC 2181 §9)."""
    octets = response.to_wire(max_size=65535)
    if tcp or len(octets) <= max(512, question.payload):
        return octets
    response.flags |= dns.flags.TC
    response.answer.clear()
    return response.to_wire()
