"""What TXT records share that say how a domain's mail is to be judged: text, and lists of tags.

Everybody's DNS is a stranger's word: it is bounded, and what is repeated of it is short and printable.
"""

from __future__ import annotations

import re
from typing import Final

from mailsender.model.text import one_line

MAX_RECORD: Final = 4096
"""Octets of the longest record that is read. One with an RSA key of 4096 bits has 740."""

_SHOWN: Final = 60
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WHITE = " \t\r\n"


class BadRecord(ValueError):  # noqa: N818  reads better where it is caught
    """A record does not follow its grammar; the message is a sentence without its subject, the record."""


def text_of(record: bytes) -> str:
    """The text of a record whose strings were joined.

    Raises:
        BadRecord: it is too long, or not all of it is ASCII.
    """
    if len(record) > MAX_RECORD:
        raise BadRecord(f"has {len(record)} octets, and no more than {MAX_RECORD} are read")
    if not record.isascii():
        raise BadRecord("holds characters beyond ASCII")
    return record.decode()


def quoted(text: str) -> str:
    """`text` in quotes, cut short, for a sentence."""
    return f'"{one_line(text[:_SHOWN])}{"…" if len(text) > _SHOWN else ""}"'


def read_tags(text: str) -> dict[str, str]:
    """The tags of a list, in its order, white space around names and values left out (RFC 6376 §3.2).

    Raises:
        BadRecord: it is no list of tags, or has one twice.
    """
    parts = text.split(";")
    if not parts[-1].strip(_WHITE):
        parts.pop()
    tags: dict[str, str] = {}
    for part in parts:
        name, equals, value = (each.strip(_WHITE) for each in part.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise BadRecord(f"has {quoted(part)} where a tag should be, as p=…{_marks(text)}")
        if name in tags:
            raise BadRecord(f"has its tag {quoted(name)} twice")
        tags[name] = value
    return tags


def _marks(text: str) -> str:
    """A hint that a zone file's way of writing went into the record itself."""
    found = '"' in text or "\\" in text
    return ' (and holds " or \\, which belong to a zone file and not into its records)' if found else ""
