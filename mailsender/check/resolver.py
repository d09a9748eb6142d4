"""TXT records out of DNS, by dnspython: each name is asked for once, within a time that is bounded."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final, cast

import dns.exception
from dns.asyncresolver import Resolver
from dns.rdtypes.ANY.TXT import TXT
from dns.resolver import NXDOMAIN, LifetimeTimeout, NoNameservers, NoResolverConfiguration

PORT: Final = 53

PATIENCE: Final = 5.0
"""Seconds that one answer may take, as with the C library's resolver."""

TRIES: Final = 3
"""Times that a name is asked for within them: a datagram may get lost."""

ALL: Final = 20.0
"""Seconds that all answers may take."""

AT_ONCE: Final = 16
"""Questions that are on their way at a time."""

_DATAGRAM: Final = 1232
"""Octets of an answer that a datagram may have: what passes nearly everywhere in one piece (RFC 9715)."""


class Silent(Exception):  # noqa: N818  an answer, not a mistake
    """DNS does not answer for a name: nobody knows whether there is such a record. The message says why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"DNS does not answer for {name}: {why}")
        self.why = why


def server_of(text: str) -> tuple[str, int]:
    """The address and the port of a DNS server that is written as ``address`` or ``address:port``.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or (text.count(":") > 1 and not host.endswith("]")):
        host, port = text, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        address = ""
    if not (address and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text} is no DNS server; an IP address is needed, or one with :PORT behind it")
    return address, int(port)


class Dns:
    """Asks the machine's own DNS servers, or the one at `server`."""

    def __init__(
        self, server: tuple[str, int] | None = None, *, patience: float = PATIENCE, all_: float = ALL
    ) -> None:
        self._server = server
        self._patience = patience
        self._until = asyncio.get_running_loop().time() + all_
        self._resolver: Resolver | None = None
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[str, asyncio.Task[list[bytes]]] = {}

    async def txt(self, name: str) -> list[bytes]:
        """The TXT records of `name`, the strings of each joined; none where there is no such record.

        Raises:
            Silent: nobody knows.
        """
        task = self._asked.get(name)
        if task is None:
            task = self._asked[name] = asyncio.create_task(self._ask(name))
        return await task

    async def _ask(self, name: str) -> list[bytes]:
        async with self._room:
            left = self._until - asyncio.get_running_loop().time()
            if left <= 0:
                raise Silent(name, "other answers took too long")
            try:
                answer = await self._made().resolve(
                    f"{name.rstrip('.')}.",
                    "TXT",
                    raise_on_no_answer=False,
                    lifetime=min(self._patience, left),
                    search=False,
                )
            except NXDOMAIN:
                return []
            except dns.exception.DNSException as error:
                raise Silent(name, _why(error)) from error
        return [b"".join(cast("TXT", record).strings) for record in answer.rrset or ()]

    def _made(self) -> Resolver:
        """The resolver, made when it is first needed: a machine may know no DNS server."""
        if self._resolver is None:
            resolver = Resolver(configure=self._server is None)
            if self._server is not None:
                resolver.nameservers, resolver.port = [self._server[0]], self._server[1]
            resolver.timeout = self._patience / TRIES
            resolver.use_edns(0, 0, _DATAGRAM)
            self._resolver = resolver
        return self._resolver


def _why(error: dns.exception.DNSException) -> str:
    """A reason in few words; the library's have the question and each server's answer in them."""
    if isinstance(error, LifetimeTimeout):
        return "there was no answer in time"
    if isinstance(error, NoResolverConfiguration):
        return "this machine names no DNS server"
    if isinstance(error, NoNameservers) and (errors := error.kwargs.get("errors")):
        cause = errors[-1][3]  # the text of a response's code, or what was raised
        if isinstance(cause, EOFError):
            return "the server closed the connection"
        if isinstance(cause, str):
            return f"the server said {cause}"
        return str(getattr(cause, "strerror", None) or type(cause).__name__)
    return type(error).__name__
