"""Addresses and domains as routes and relays name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mailsender.model.address import BadAddress, parse_address


def named_in(patterns: Iterable[str], address: str) -> bool:
    """Whether an address is one of these: a whole address, a domain, or ``*.domain`` for all below it.

    Domains are compared without regard to case and in A-labels (RFC 5890 §2.3.2.1), local parts as they are
    (RFC 5321 §2.4).
    """
    try:
        local, domain = _split(address)
    except BadAddress:
        return False
    for pattern in patterns:
        if pattern.startswith("*."):
            if domain.endswith(pattern[1:].lower()):
                return True
        elif "@" in pattern:
            try:
                if _split(pattern) == (local, domain):
                    return True
            except BadAddress:
                continue
        elif domain == pattern.lower():
            return True
    return False


def _split(text: str) -> tuple[str, str]:
    address = parse_address(text)
    return address.local, address.domain
