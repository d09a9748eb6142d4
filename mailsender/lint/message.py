"""A finished message (RFC 5322, as an .eml file), as mailbox providers will see it.

It comes from strangers, so what its parser does is bounded first: the library's takes time by the number of
lines times the depth of parts, and forgets nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.policy import compat32
from email.utils import getaddresses, parsedate_to_datetime
from typing import Any, Final

from mailsender.lint.letters import Surroundings
from mailsender.lint.page import MAX_HTML
from mailsender.lint.view import Attached, Person, Raw, View, bulk_because
from mailsender.model.address import domain_of

MAX_MESSAGE: Final = 40 * 1024 * 1024
"""Octets of the largest message that is looked at: the most that providers take, 25 MB, in base64."""

MAX_STEPS: Final = 4_000_000
"""Lines, times the levels of parts that may lie in each other: so often the parser looks whether a line ends
one. In base64 `MAX_MESSAGE` has 700,000 lines; one with text, HTML, images and files has three levels."""

MAX_DEEP: Final = 50
"""Parts with parts of their own, or attached messages: each may lie in the one before it."""

MAX_PARTS: Final = 5_000
"""Lines that may divide parts."""

MAX_PARAMETERS: Final = 100
"""Semicolons in a header that says what a part is (Content-Type and its like): for each of them the parser
copies all that is left. 900,000 took it three minutes."""

MAX_VALUE: Final = 100_000
"""Characters of a header's value that are read: Postfix keeps no more."""

MAX_HEADERS: Final = 1_000

_LF = re.compile(rb"(?<!\r)\n")
_CR = re.compile(rb"\r(?!\n)")
_DEEP = re.compile(rb"content-type:\s*(?:multipart|message)/", re.IGNORECASE)
_CONTENT = re.compile(
    rb"(?:^|[\r\n])content-(?:type|disposition|transfer-encoding):((?:[^\r\n]|(?:\r\n?|\n)[ \t])*+)",
    re.IGNORECASE,
)
_TAG = re.compile(r"(?:^|;)\s*(d|h)\s*=\s*([^;]*)")
_BROKEN: Final = (MessageError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the library's readers of headers raise on odd input, by experience."""


class NotAMessage(Exception):  # noqa: N818  an answer about the input, not a mistake of the program
    """What was given is no message that can be looked at; the text says why."""


def view_of_message(data: bytes, known: Surroundings) -> View:
    """A finished message.

    Raises:
        NotAMessage: it is none, or too large, or too deep.
    """
    _bound(data)
    try:
        message = message_from_bytes(data, policy=compat32)
        headers = [(name.lower(), _unfolded(value)) for name, value in message.raw_items()]
    except _BROKEN:
        raise NotAMessage("it is neither a batch in JSON nor a message that can be read") from None
    if not headers:
        raise NotAMessage("it is neither a batch in JSON nor a message: it begins with no header")
    return _view(data, message, headers[:MAX_HEADERS], known)


def _bound(data: bytes) -> None:
    if len(data) > MAX_MESSAGE:
        raise NotAMessage(f"it has {len(data)} octets; {MAX_MESSAGE} are looked at")
    deep = sum(1 for _ in _DEEP.finditer(data))
    if deep > MAX_DEEP or data.count(b"\n--") > MAX_PARTS:
        raise NotAMessage(f"it has more than {MAX_DEEP} parts that have parts, or {MAX_PARTS} parts")
    if (data.count(b"\n") + data.count(b"\r")) * (1 + deep) > 2 * MAX_STEPS:
        raise NotAMessage("it has more lines than are looked at")
    contents = (each[1] for each in _CONTENT.finditer(data))
    if any(each.count(b";") > MAX_PARAMETERS for each in contents):
        raise NotAMessage(f"a header that says what a part is has more than {MAX_PARAMETERS} parameters")


def _view(data: bytes, message: Message, headers: Sequence[tuple[str, str]], known: Surroundings) -> View:
    first: dict[str, str] = {}
    for name, value in headers:
        first.setdefault(name, value)
    html, text, attachments = _content(message)
    to, cc = _people(headers, "to"), _people(headers, "cc")
    domains, covered = _signatures(headers)
    return View(
        now=known.now,
        authors=_people(headers, "from"),
        to=to,
        cc=cc,
        subject=_decoded(first.get("subject", "")),
        return_domain=_return_domain(first),
        signers=domains,
        signed=covered if domains else None,
        unsubscribe=first.get("list-unsubscribe", ""),
        one_click=first.get("list-unsubscribe-post", ""),
        html=html,
        text=text if text is None else text[:MAX_HTML],
        attachments=attachments,
        bulk=bulk_because(first, len(to) + len(cc), known.bulk),
        raw=_raw(data, message, headers),
        unseen=f"of its text the first {MAX_HTML // 1024} KB were looked at"
        if len(text or "") > MAX_HTML
        else "",
    )


# --- headers -------------------------------------------------------------------------------------


def _unfolded(value: Any) -> str:
    return re.sub(r"[\r\n]+(?=[ \t])", "", str(value))[:MAX_VALUE]


def _decoded(value: str) -> str:
    try:
        return str(make_header(decode_header(value)))
    except _BROKEN:
        return value


def _people(headers: Sequence[tuple[str, str]], name: str) -> tuple[Person, ...]:
    """The mailboxes in the headers of a name; an empty group, as undisclosed recipients, has none."""
    values = [value for each, value in headers if each == name]
    try:
        found = getaddresses(values)
    except _BROKEN:
        return ()
    return tuple(Person(_decoded(name), address) for name, address in found if address)


def _return_domain(first: dict[str, str]) -> str | None:
    """The domain of Return-Path, which the last relay writes: None before that, or where it is empty."""
    path = first.get("return-path", "").strip().strip("<>")
    return domain_of(path) if "@" in path else None


def _signatures(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The domains that signed, and the headers that at least one signature covers (RFC 6376 §3.5)."""
    domains: list[str] = []
    covered: set[str] = set()
    for name, value in headers:
        if name == "dkim-signature":
            tags = dict(_TAG.findall(value))
            domains.append(tags.get("d", "").strip().lower())
            covered |= {each.strip().lower() for each in tags.get("h", "").split(":")}
    return tuple(each for each in domains if each), frozenset(covered)


# --- the body ------------------------------------------------------------------------------------


def _content(message: Message) -> tuple[str | None, str | None, tuple[Attached, ...]]:
    """The first HTML and the first plain text that are shown, and the files."""
    html = text = None
    files: list[Attached] = []
    for part in _leaves(message):
        kind, name = part.get_content_type(), _file_name(part)
        attached = name or part.get_content_disposition() == "attachment"
        if not attached and kind == "text/html" and html is None:
            html = _text(part)
        elif not attached and kind == "text/plain" and text is None:
            text = _text(part)
        elif attached or not kind.startswith("text/"):
            named = str(part.get("Content-ID", ""))[:MAX_VALUE].strip().removeprefix("<").removesuffix(">")
            files.append(Attached(name, kind, named))
    return html, text, tuple(files)


def _leaves(message: Message) -> Iterator[Message]:
    """The parts that have no parts; a message that is attached is one of them, whatever is in it."""
    ahead = [message]
    while ahead:
        part = ahead.pop()
        inner = part.get_payload()
        attached = part is not message and part.get_content_maintype() == "message"
        if isinstance(inner, list) and not attached:
            ahead += [each for each in reversed(inner) if isinstance(each, Message)]
        else:
            yield part


def _file_name(part: Message) -> str:
    try:
        return _decoded(part.get_filename() or "")
    except _BROKEN:
        return ""


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        return raw.decode(part.get_content_charset() or "utf-8", "replace")
    except _BROKEN:
        return raw.decode("utf-8", "replace")


# --- how it is written ---------------------------------------------------------------------------


def _raw(data: bytes, message: Message, headers: Sequence[tuple[str, str]]) -> Raw:
    dates = [value for name, value in headers if name == "date"]
    head = data.partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    lone_cr, lone_lf = len(_CR.findall(data)), len(_LF.findall(data))
    crlf = data.count(b"\r\n")
    return Raw(
        names=[name for name, _ in headers],
        dates=dates,
        message_ids=[value for name, value in headers if name == "message-id"],
        date=_date(dates[0]) if dates else None,
        longest_line=max(map(len, data.replace(b"\r", b"\n").split(b"\n"))),
        bare_ends=lone_cr + (lone_lf if crlf else 0),  # a file may have LF throughout
        nul=b"\0" in data,
        eight_bit_header=not head.isascii(),
        faults=list(_defects(message)),
    )


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except (*_BROKEN, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


_WORDS: Final = {
    "NoBoundaryInMultipartDefect": "parts without a boundary",
    "StartBoundaryNotFoundDefect": "a boundary that never begins",
    "CloseBoundaryNotFoundDefect": "parts that do not end",
    "MissingHeaderBodySeparatorDefect": "a line among the headers that is none",
    "FirstHeaderLineIsContinuationDefect": "a first header that begins with a space",
    "MultipartInvariantViolationDefect": "a multipart that has no parts",
    "InvalidMultipartContentTransferEncodingDefect": "a multipart in base64 or quoted-printable",
    "InvalidBase64CharactersDefect": "base64 with other characters",
    "InvalidBase64PaddingDefect": "base64 that ends in the middle",
    "InvalidBase64LengthDefect": "base64 that ends in the middle",
}
"""The parser's defects in words."""


def _defects(message: Message) -> Iterator[str]:
    """What the parser stumbled over, in the message itself and in what it shows."""
    for part in {id(each): each for each in (message, *_leaves(message))}.values():
        for defect in part.defects:
            yield _WORDS.get(type(defect).__name__, "something that its parser does not know")
