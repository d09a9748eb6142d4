"""Whether a request comes from a page that somebody's browser shows, and not from a program that means it.

Only where no key is asked for: a page elsewhere cannot show one. Browsers send such a page's POST without
asking anybody when it is plain text or a form, and take an answer for the page's own when its name was
made to point here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

OWN_NETWORK: Final = (
    *("localhost", "local", "internal", "svc", "svc.cluster.local", "home.arpa", "lan", "test"),
)
"""Ends of names that nobody has in the public DNS (RFC 6761, 6762 and 8375, and what Kubernetes uses)."""

ANY: Final = "*"

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::\d*)?")


def cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of another origin sends this (Fetch Metadata; RFC 6454 §7.3)."""
    if headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("Origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()
    except ValueError:
        return True


def foreign(host: str, allowed: Iterable[str]) -> bool:
    """Whether the name in a `Host` header may be one that somebody else made point here.

    Addresses and names without a dot are nobody else's; `allowed` are further names, `ANY` all of them.
    """
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return True
    name = found[1].strip("[]").rstrip(".").lower()
    if "." not in name or _is_address(name) or name == socket.gethostname().lower():
        return False
    if any(name.endswith("." + each) for each in OWN_NETWORK):
        return False
    return not any(each in {ANY, name} for each in allowed)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
