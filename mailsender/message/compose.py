"""A letter as the bytes of a message (RFC 5322, MIME), ready for the wire but for dot-stuffing.

Bytes are put together by hand: the standard library's `email` takes a hundred times as long, folds
with a bare LF, and lets control characters into headers. What is written here is read back with that
library in the tests.

No recipient's address is ever part of a message; who gets it is for the envelope to say.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import b2a_qp
from collections.abc import Iterator
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO

from mailsender.model.address import parse_address
from mailsender.model.letter import Letter
from mailsender.model.text import LONG, header_fault, utf8_pieces

MAX_LINE = 998
"""Octets of the longest line of a message, its CRLF not counted (RFC 5322 §2.1.1)."""

ENCODED_LINE = 76
"""Characters of the longest line that holds an encoded-word (RFC 2047 §2)."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3}")
_SHORT_ID = 64
_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,255}>")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_WORD_OPEN, _WORD_CLOSE = b"=?utf-8?B?", b"?="
_MESSAGE = (
    b"Date: %b%b%b\r\nMessage-ID: %b\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n%b"
)


class BadHeader(ValueError):  # noqa: N818  reads better where it is caught
    """A text cannot stand in a header; the message says why."""


class BadBody(ValueError):  # noqa: N818  as above
    """A body is no text that could be sent; the message says why."""


class Composer:
    """Makes messages from one sender.

    `display` is the name shown in ``From`` and may be empty; `address` is the sender's address, whose
    domain also ends each Message-ID.

    Raises:
        BadHeader: `display` cannot stand in a header.
        BadAddress: `address` is none.
    """

    __slots__ = ("_after_date", "_domain")

    def __init__(self, display: str, address: str) -> None:
        sender = parse_address(address)
        self._domain = sender.domain
        mailbox = _mailbox(display, sender.wire)
        self._after_date = b"\r\nFrom: %b\r\nTo: undisclosed-recipients:;\r\nSubject:" % mailbox

    def compose(self, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        """The message of `letter`: CRLF line ends, the last line ended too, no line over 998 octets.

        `eight_bit` says whether the relay takes 8-bit bodies (RFC 6152); `date` is an aware datetime.

        Raises:
            BadHeader: the subject cannot stand in a header.
            BadBody: the body is no valid Unicode.
        """
        text = letter.body
        headers = (
            _written(date),
            self._after_date,
            _unstructured(letter.subject, used=len("Subject:")),
            self.message_id(letter).encode(),
        )
        ascii_ = text.isascii()
        if len(text) >= LONG and (ascii_ or eight_bit):
            message = _with_long_body(_MESSAGE % (*headers, b"7bit" if ascii_ else b"8bit", b""), text)
            if message:
                return message
        return _MESSAGE % (*headers, *_encode_body(text, eight_bit=eight_bit))

    def message_id(self, letter: Letter) -> str:
        """The Message-ID of a letter, in angle brackets: that of its first attempt, if there was one.

        An ID that another program made up may hold anything, an address included: such a one is
        replaced by its hash. So a stored Message-ID counts only where it begins as it would now.
        """
        each = letter.id
        if not ((each.isalnum() and each.isascii() and len(each) <= _SHORT_ID) or _ID.fullmatch(each)):
            each = "x." + blake2b(each.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        stored = letter.message_id
        if stored and stored.startswith(f"<{each}@") and _DOMAIN.fullmatch(stored, len(each) + 2):
            return stored
        return f"<{each}@{self._domain}>"


@lru_cache(maxsize=4)  # letters of the same second share the work
def _written(date: datetime) -> bytes:
    """`date` as a header has it."""
    return format_datetime(date.replace(microsecond=0)).encode()


# --- headers -------------------------------------------------------------------------------------


def _unstructured(text: str, *, used: int) -> bytes:
    """`text` with its leading space, folded; `used` characters stand before it on the first line."""
    fault = header_fault(text)
    if fault:
        raise BadHeader(f"the subject {fault}")
    if text.isascii() and "=?" not in text:
        plain = _fold(text, used=used)
        if plain is not None:
            return plain
    return b" " + b"\r\n ".join(_encoded_words(text, used=used + 1))


def _fold(text: str, *, used: int) -> bytes | None:
    """`text` with line breaks before some of its spaces, None where that would change how it reads."""
    if 0 < len(text) < ENCODED_LINE - used and "  " not in text and text[0] != " " != text[-1]:
        return b" " + text.encode()
    words = text.split(" ")
    if not all(words) or max(map(len, words)) >= ENCODED_LINE:
        return b"" if not text else None
    parts: list[str] = []
    for word in words:
        if used + 1 + len(word) > ENCODED_LINE:
            parts.append("\r\n")
            used = 0
        parts += (" ", word)
        used += 1 + len(word)
    return "".join(parts).encode()


def _encoded_words(text: str, *, used: int) -> Iterator[bytes]:
    """`text` as encoded-words, split between characters (RFC 2047 §5), each to stand on its own line."""
    raw = text.encode()
    start = 0
    while start < len(raw):
        room = ENCODED_LINE - used - len(_WORD_OPEN) - len(_WORD_CLOSE)
        end = min(len(raw), start + room // 4 * 3)
        while end < len(raw) and raw[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        yield _WORD_OPEN + b64encode(raw[start:end]) + _WORD_CLOSE
        start, used = end, 1  # the space that continues a folded header


def _mailbox(display: str, address: str) -> bytes:
    """The value of ``From`` (RFC 5322 §3.4)."""
    fault = header_fault(display)
    if fault:
        raise BadHeader(f"the sender's name {fault}")
    if not display:
        return address.encode()
    short = display.isascii() and "=?" not in display and len(display) <= 60
    if short and _ATOMS.fullmatch(display):
        name = display.encode()
    elif short:
        name = b'"%b"' % re.sub(r'(["\\])', r"\\\1", display).encode()
    else:
        name = b"\r\n ".join(_encoded_words(display, used=len("From: ")))
    return b"%b\r\n <%b>" % (name, address.encode())


# --- the body ------------------------------------------------------------------------------------

_HALF = "the body holds a lone surrogate, which is no Unicode text"


def _encode_body(text: str, *, eight_bit: bool) -> tuple[bytes, bytes]:
    """The Content-Transfer-Encoding and the body in it; what is not empty ends with CRLF."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise BadBody(_HALF) from None
    raw = _with_ends(raw)
    if b"\0" not in raw and _lines_fit(raw):
        if raw.isascii():
            return b"7bit", raw
        if eight_bit:
            return b"8bit", raw
    return _armour(raw)


def _with_ends(raw: bytes) -> bytes:
    """`raw` with CRLF at the end of each line, the last one, too."""
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    raw = raw.replace(b"\n", b"\r\n")
    if raw and not raw.endswith(b"\r\n"):
        raw += b"\r\n"
    return raw


def _with_long_body(head: bytes, text: str) -> bytes:
    """`head` and `text` behind it as `_encode_body` has it; nothing where it has to be armoured."""
    message, ended = BytesIO(), True
    message.write(head)
    try:
        for each in utf8_pieces(text):
            raw = _with_ends(each)
            if not ended or b"\0" in raw or not _lines_fit(raw):
                return b""
            ended = each.endswith(b"\n")  # else it is the last one, or a part of a line that is too long
            message.write(raw)
    except UnicodeEncodeError:
        raise BadBody(_HALF) from None
    return message.getvalue()


def _lines_fit(raw: bytes) -> bool:
    """Whether no line is too long: from the last line end within reach to the last one within its reach."""
    start = 0
    while len(raw) - start > MAX_LINE + 2:
        end = raw.rfind(b"\r\n", start, start + MAX_LINE + 2)
        if end < 0:
            return False
        start = end + 2
    return True


def _armour(raw: bytes) -> tuple[bytes, bytes]:
    """`raw` in quoted-printable or base64 (RFC 2045 §6), whichever is shorter."""
    lines = -(-len(raw) // 57)  # 57 octets make 76 characters
    base64_size = 4 * -(-len(raw) // 3) + 2 * lines
    beyond_ascii = len(raw) - len(raw.decode())  # of these each octet takes two characters more
    if len(raw) + 2 * beyond_ascii < base64_size:
        quoted = b2a_qp(raw, quotetabs=False, istext=True)
        if len(quoted) <= base64_size:
            return b"quoted-printable", quoted
    coded = b64encode(raw)
    return b"base64", b"\r\n".join(coded[i : i + 76] for i in range(0, len(coded), 76)) + b"\r\n"
