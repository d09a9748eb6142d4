"""Which text may be stored, and which may become the value of a mail header."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from typing import Final
from unicodedata import name

_HEADER_BREAKERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")

_as_utf8 = ctypes.pythonapi.PyUnicode_AsUTF8AndSize
_as_utf8.argtypes = (ctypes.py_object, ctypes.POINTER(ctypes.c_ssize_t))
_as_utf8.restype = ctypes.c_void_p

_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view.restype = ctypes.py_object
_TO_READ = 0x100  # PyBUF_READ

LONG: Final = 1024 * 1024
"""Characters or octets from which on a text is not copied whole where pieces will do: a buffer as large as
this comes from the system each time (`mailsender.app`), and its fresh pages cost more than the copy."""

PIECE: Final = 16 * 1024
"""Octets of a long text that are worked on at a time: they stay in the processor's cache."""

REPLACEMENT = "\ufffd"
"""What stands for a character that cannot be kept (U+FFFD)."""

MAX_TEXT = 500
"""Characters of a reply that are kept for people: they are stored and reported with each recipient."""


def header_fault(text: str) -> str | None:
    """Why `text` cannot be the value of a header, or None when it can.

    Control characters end a header line or are cut by relays (RFC 5322 §2.2), U+2028 and U+2029 are line
    ends to some libraries, and half of a surrogate pair is no text at all.
    """
    if text.isprintable():  # as nearly all are; nothing of what follows is
        return None
    found = _HEADER_BREAKERS.search(text)
    if found is None:
        return None
    char = found.group()
    if char in "\r\n":
        return "holds a line break"
    if 0xD800 <= ord(char) <= 0xDFFF:
        return "holds half of a surrogate pair"
    if char in "\u2028\u2029":
        return f"holds a {name(char).lower()} (U+{ord(char):04X})"
    return f"holds the control character U+{ord(char):04X}"


def octets(text: str) -> int:
    """How many octets `text` takes in UTF-8.

    CPython keeps the encoded form beside a text that is asked for it in this way. So a body that goes into
    the queue, into a message and into a report is encoded once, and copied after that.

    Raises:
        UnicodeEncodeError: it holds a lone surrogate, which cannot be written in UTF-8.
    """
    if text.isascii():
        return len(text)
    size = ctypes.c_ssize_t()
    _as_utf8(text, ctypes.byref(size))
    return size.value


def utf8_pieces(text: str) -> Iterator[bytes]:
    """`text` in UTF-8, `PIECE` octets at a time; each ends where a line does (LF), but for longer lines.

    What CPython keeps beside a text is read in its place: a body of 5 MB becomes a message in 8 ms instead of
    19, which three buffers of its size take.

    Raises:
        UnicodeEncodeError: it holds a lone surrogate.
    """
    size = ctypes.c_ssize_t()
    octets_of = _view(_as_utf8(text, ctypes.byref(size)), size.value, _TO_READ)
    at = 0
    while at < size.value:
        piece = bytes(octets_of[at : at + PIECE])
        if at + PIECE < size.value:
            piece = piece[: piece.rfind(b"\n") + 1] or piece
        at += len(piece)
        yield piece


def storable(text: str) -> bool:
    """Whether `text` can be written as UTF-8: it holds no lone surrogate."""
    try:
        octets(text)
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """`text` with U+FFFD in place of every lone surrogate."""
    return _SURROGATES.sub(REPLACEMENT, text)


def one_line(text: str) -> str:
    """`text` as one short line: what cannot be printed becomes a space, runs of spaces one.

    A reply is the word of a stranger, and goes to logs, terminals and reports.
    """
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT])
    line = " ".join(printable.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"


def counted(number: int, noun: str) -> str:
    """So many of what a regular noun names: ``1 letter``, ``2 letters``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
