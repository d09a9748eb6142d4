"""Where a relay is, in the spellings that people use, the way there, and the name that we give ourselves."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any, NamedTuple, TypeAlias

from mailsender.model.address import BadAddress, parse_address


class Host(NamedTuple):
    """A relay's host: `lookup` is what is looked up, `name` what its certificate is made out to."""

    lookup: str
    name: str

    @classmethod
    def of(cls, text: str) -> Host:
        """Read a name or an address; an address may stand in brackets, as in mail (RFC 5321 §4.1.3) and URLs.

        A dot at the end of a name keeps the system from trying search domains, and is no part of the name
        that TLS knows (RFC 6066 §3).
        """
        if text.startswith("[") and text.endswith("]"):
            inside = text[1:-1]
            address = inside[5:] if inside[:5].lower() == "ipv6:" else inside
            if _is_address(address):
                return cls(address, address.partition("%")[0])
        return cls(text, text.partition("%")[0] if _is_address(text) else text.removesuffix("."))

    def with_port(self, port: int) -> str:
        """``host:port``, for people."""
        return f"[{self.name}]:{port}" if ":" in self.name else f"{self.name}:{port}"


_Found: TypeAlias = list[Any]


class Lookups:
    """One look-up of a relay's name at a time, however many sessions want it.

    The system's resolver cannot be called off, and there are few threads for it: sessions that each asked
    again while it hangs would leave none to others.
    """

    def __init__(self) -> None:
        self._under_way: asyncio.Future[_Found] | None = None

    async def addresses(self, host: str, port: int) -> _Found:
        """What `host` stands for; who waits no longer leaves the look-up to the next.

        Raises:
            OSError: there is no such name.
            ValueError: it is none.
        """
        if self._under_way is None or self._under_way.done():
            loop = asyncio.get_running_loop()
            self._under_way = asyncio.ensure_future(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            self._under_way.add_done_callback(_noticed)
        under_way = self._under_way
        await asyncio.wait({under_way})
        return under_way.result()


def _noticed(done: asyncio.Future[_Found]) -> None:
    """An error that nobody waits for any more is no event."""
    if not done.cancelled():
        done.exception()


async def dial(lookups: Lookups, host: str, port: int, seconds: float) -> socket.socket:
    """A connection to the first address of `host` that takes one.

    Each address gets its share of what is left of `seconds`: a name of which one address leads nowhere is
    common, with IPv6 above all.

    Raises:
        OSError: no address takes one, there is none, or nobody answered in time.
        ValueError: `host` is no name.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            found = await lookups.addresses(host, port)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "the resolver did not answer in time") from None
    failed: OSError = OSError("there is no address")
    for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            async with asyncio.timeout((deadline - loop.time()) / left):
                await loop.sock_connect(connection, address)
        except OSError as error:  # TimeoutError is one
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failed


def own_name(connection: socket.socket) -> str:
    """What to say in EHLO: this machine's name where it is a whole one, else the address of our end.

    RFC 5321 §4.1.4 wants one or the other. A bare ``vm``, or what a container is called, is refused by relays
    that hold to it.
    """
    try:
        name = parse_address(f"postmaster@{socket.gethostname()}").domain
    except BadAddress:
        name = ""
    return name if is_whole(name) else address_literal(connection.getsockname()[0])


def is_whole(name: str) -> bool:
    """Whether `name` may be one that means this machine alone: with its domain, or an address literal."""
    if name.startswith("["):
        return True
    labels = name.lower().removesuffix(".").split(".")
    return len(labels) > 1 and labels[-1] not in {"localdomain", "localhost"} and not labels[-1].isdigit()


def address_literal(address: str) -> str:
    """`address` as mail writes it (RFC 5321 §4.1.3)."""
    address = address.partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def is_host(text: str) -> bool:
    """Whether `text` can be a relay's host: a name, or an address as `Host.of` reads it."""
    host = Host.of(text)
    if _is_address(host.lookup):
        return True
    try:
        name = parse_address(f"a@{host.name}").domain
    except BadAddress:
        return False
    return not name.rpartition(".")[2].isdigit() or _is_short_address(name)


def _is_short_address(text: str) -> bool:
    """Whether the system takes `text` for an IPv4 address that leaves out parts, as in ``127.1``."""
    try:
        socket.inet_aton(text)
    except OSError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
