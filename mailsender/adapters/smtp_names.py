"""Where a relay is, in the spellings that people use, the way there, and the name that we give ourselves."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import NamedTuple

from mailsender.address import BadAddress, parse_address


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


async def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to the first address of `host` that takes one.

    Each address gets its share of what is left of `seconds`: a name of which one address leads nowhere is
    common, with IPv6 above all.

    Raises:
        OSError: no address takes one, there is none, or nobody answered in time.
        ValueError: `host` is no name.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with asyncio.timeout_at(deadline):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
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


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
