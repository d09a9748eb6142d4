"""How a token is told to a relay: XOAUTH2 (Google's) and OAUTHBEARER (RFC 7628). Pure."""

from __future__ import annotations

import json
from typing import Final

from mailsender.model.text import one_line

MAX_TOKEN: Final = 8192
"""Characters of an access token. In base64, with the user, it has to fit the 12,288 octets of a line of AUTH
(RFC 4954 §4)."""

_A: Final = "\x01"


def is_token(text: str) -> bool:
    """Whether `text` can be an access token: one word of printable ASCII (RFC 6750 §2.1), not too long."""
    return 0 < len(text) <= MAX_TOKEN and text.isascii() and text.isprintable() and " " not in text


def xoauth2(user: str, token: str) -> str:
    """What is said for XOAUTH2 (developers.google.com/workspace/gmail/imap/xoauth2-protocol)."""
    return f"user={user}{_A}auth=Bearer {token}{_A}{_A}"


def oauthbearer(user: str, token: str, host: str, port: int) -> str:
    """What is said for OAUTHBEARER (RFC 7628 §3.1); the name is written as RFC 5801 §4 has it."""
    name = user.replace("=", "=3D").replace(",", "=2C")
    return f"n,a={name},{_A}host={host}{_A}port={port}{_A}auth=Bearer {token}{_A}{_A}"


def complaint(challenge: bytes) -> str:
    """What a relay found wrong with a token, in a short line: both tell it as JSON (RFC 7628 §3.2.2)."""
    try:
        told = json.loads(challenge)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    words = [f"{name} {told[name]}" for name in ("status", "scope") if isinstance(told.get(name), str)]
    return one_line(", ".join(words))
