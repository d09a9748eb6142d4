"""How a header is written: folding, encoded-words, display names, parameters.

Lines have at most 78 characters where a value can be folded at all; one that cannot, such as a URL, is a line
of its own (RFC 5322 §2.1.1). Values are taken as they come: what may stand in a header was checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

from mailsender.message.compose import _ATOMS as ATOMS
from mailsender.message.compose import ENCODED_LINE, _encoded_words

MAX_WORD = 900
"""Characters of a word that is never folded: with its header's name it fits on a line, and that has 998."""

_SHORT_NAME = 60
_PLAIN = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
_SINGLE_SPACE = re.compile(r"(?<! ) (?! )")
_IN_PARAMETER = "!#$&+^`{|}"  # RFC 2231 §7, beside letters, digits and _.-~


class Field(NamedTuple):
    """A header: its name, and all of it as it is written, the CRLF that ends it included."""

    name: str
    raw: bytes


def field(name: str, value: bytes) -> Field:
    """The header of a value that is folded already."""
    return Field(name, b"%b: %b\r\n" % (name.encode(), value))


def words_field(name: str, words: Iterable[str], divider: str = "") -> Field:
    """A header of ASCII words, any of which may begin a line; all but the last are followed by `divider`."""
    lines, rest = [f"{name}:"], list(words)
    for number, word in enumerate(rest, 1):
        token = f" {word}{divider if number < len(rest) else ''}"
        if number > 1 and len(lines[-1]) + len(token) > ENCODED_LINE:
            lines.append(token)
        else:
            lines[-1] += token
    return Field(name, ("\r\n".join(lines) + "\r\n").encode("ascii"))


def text_field(name: str, text: str) -> Field:
    """A header of free text (RFC 5322 §2.2.1), in encoded-words (RFC 2047) only as far as it is not ASCII.

    A long word stays whole: such a header is for programs, and few of those read encoded-words. For the same
    reason words in ASCII before and behind the others stay as they are: what a List-Id has in angle brackets
    may not be encoded (RFC 2919 §3).
    """
    text = text.strip(" ")
    words = _SINGLE_SPACE.split(text) if text else []
    odd = [place for place, word in enumerate(words) if not _stays(word)]
    if odd:
        start, end = odd[0], odd[-1] + 1
        used = 1 if start else len(name) + 2
        words[start:end] = [each.decode() for each in _encoded_words(" ".join(words[start:end]), used=used)]
    return words_field(name, words)


def _stays(word: str) -> bool:
    return word.isascii() and "=?" not in word and len(word) <= MAX_WORD


def mailbox(name: str, address: str, *, used: int) -> bytes:
    """An address behind the name that is shown (RFC 5322 §3.4); `used` characters stand before both."""
    if not name:
        return address.encode()
    short = name.isascii() and "=?" not in name and len(name) <= _SHORT_NAME
    if short and ATOMS.fullmatch(name):
        phrase = name.encode()
    elif short:
        phrase = b'"%b"' % re.sub(r'(["\\])', r"\\\1", name).encode()
    else:
        phrase = b"\r\n ".join(_encoded_words(name, used=used))
    return b"%b\r\n <%b>" % (phrase, address.encode())


def parameter(name: str, value: str) -> bytes:
    """A parameter of Content-Type or Content-Disposition on a line of its own, with the semicolon before it.

    What is not plain ASCII goes by RFC 2231, in several where it is long, none of which splits a character.
    A long one in ASCII stays whole: Outlook reads no continuations.
    """
    if _is_plain(value):
        return f';\r\n {name}="{value}"'.encode()
    pieces, room = ["utf-8''"], ENCODED_LINE - len(f" {name}*99*=;")
    for char in value:
        coded = quote(char, safe=_IN_PARAMETER)
        if len(pieces[-1]) + len(coded) > room:
            pieces.append("")
        pieces[-1] += coded
    if len(pieces) == 1:
        return f";\r\n {name}*={pieces[0]}".encode()
    return "".join([f";\r\n {name}*{number}*={piece}" for number, piece in enumerate(pieces)]).encode()


def parameter_for_old_readers(name: str, value: str) -> bytes:
    """A parameter as `parameter` writes it, but in quoted encoded-words where that would use RFC 2231.

    RFC 2047 §5 forbids it, and older versions of Outlook find no other name of a file: Thunderbird and others
    write it in Content-Type, beside the right one in Content-Disposition. A plain ``filename`` beside
    ``filename*`` would be worse: of the two Python's `email` takes the plain one.
    """
    if _is_plain(value):
        return parameter(name, value)
    words = b"\r\n ".join(_encoded_words(value, used=len(f' {name}="')))
    return b';\r\n %b="%b"' % (name.encode(), words)


def _is_plain(value: str) -> bool:
    """Whether all readers take `value` in quotes for the same text."""
    return _PLAIN.fullmatch(value) is not None and "=?" not in value
