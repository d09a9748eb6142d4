"""Blobs: contents of attachments, each under its hash, and which of them a letter names. Pure.

A letter's further keys (`Letter.mail`) name contents and never hold them: what came inline is replaced by its
`Ref` before the letter is anything. So the same file makes the same letter, however it was published.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final

PREFIX: Final = "sha256:"
"""What a `Ref` begins with: 64 hex digits in lower case follow."""

TEXTS: Final = ("TextBody", "Attachments", "Calendar", "Variables", "VariablesOf", "UnsubscribeOf")
"""Further keys with what a reader sees: they go with the body, where that goes before its letter."""

_REF = re.compile(r"sha256:[0-9a-f]{64}")
_ATTACHMENTS = '"Attachments":'


@dataclass(frozen=True, slots=True)
class Blob:
    """A content that is stored: its `Ref`, its bytes in number, and until when it is kept at least.

    It is kept for longer while a letter names it.
    """

    ref: str
    size: int
    kept_until: datetime


def ref_of(content: bytes) -> str:
    """The `Ref` of a content."""
    return PREFIX + sha256(content).hexdigest()


def is_ref(text: str) -> bool:
    """Whether `text` is a `Ref`."""
    return _REF.fullmatch(text) is not None


def named_in(mail: str) -> tuple[str, ...]:
    """The `Ref`s that a letter's further keys name, in order, one for each attachment."""
    if _ATTACHMENTS not in mail:
        return ()
    attachments = json.loads(mail).get("Attachments") or ()
    return tuple([each["Ref"] for each in attachments])


def without_texts(mail: str) -> str:
    """A letter's further keys without those of `TEXTS`; empty where nothing is left."""
    if not mail:
        return ""
    left = {name: value for name, value in json.loads(mail).items() if name not in TEXTS}
    return json.dumps(left, ensure_ascii=False, separators=(",", ":"), sort_keys=True) if left else ""
