"""Domains and URLs, as far as they can be judged without DNS."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_REGISTRIES = frozenset(
    {
        "ac",
        "co",
        "com",
        "edu",
        "go",
        "gob",
        "gov",
        "gouv",
        "ltd",
        "mil",
        "ne",
        "net",
        "nom",
        "or",
        "org",
        "plc",
    }
)
"""Second labels below which countries register domains, as in co.uk."""

_NUMBERS = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")


def organization(domain: str) -> str:
    """The domain that an organization registered, of which `domain` is a part: its last two labels, or three.

    DMARC finds it in DNS (RFC 9989 §4.10). Here a public suffix is known by its form only, so two domains may
    be taken for one organization's that are not, as a.github.io and b.github.io. The other way round that
    happens only below a name that looks like ``co.uk`` and is no public suffix.
    """
    labels = domain.lower().rstrip(".").split(".")
    below_registry = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRIES
    return ".".join(labels[-3 if below_registry else -2 :])


def aligned(one: str, other: str) -> bool:
    """Whether two domains are one organization's: relaxed alignment (RFC 9989 §4.4)."""
    return organization(one) == organization(other)


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL; None where it cannot be taken apart."""
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018  it is read only when it is asked for
    except ValueError:
        return None
    return parts


def host_of(url: str) -> str:
    """The host of an http or https URL in lower case; empty where it has none."""
    parts = split_url(url)
    if parts is None or parts.scheme not in {"http", "https"}:
        return ""
    return (parts.hostname or "").rstrip(".")


def is_numeric(host: str) -> bool:
    """Whether a host is an IP address, in any of the forms that browsers take for one."""
    if _NUMBERS.fullmatch(host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
