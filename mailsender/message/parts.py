"""What a message holds, as values, and the tree of parts that mail programs expect.

Every value is checked where it is made, so that what exists can be sent: how it is written is for
`mailsender.message.mime`. Nothing here knows a relay, and nothing is encoded but an attachment's content,
which is so once for all messages that carry it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from mailsender.message.compose import BadBody
from mailsender.model.text import header_fault, storable

MAX_ATTACHMENTS = 100
"""Attachments of a message: more than a person opens, and every reader on the way has to parse each."""

MAX_NAME = 255
"""Characters of an attachment's name: file systems keep no longer one."""

MAX_TYPE = 255
"""Characters of a content type with its parameters: two names of 127 and a slash (RFC 6838 §4.2)."""

METHODS = frozenset({"PUBLISH", "REQUEST", "REPLY", "ADD", "CANCEL", "REFRESH", "COUNTER", "DECLINECOUNTER"})
"""What a calendar part may ask for (RFC 5546 §1.4)."""

_LINE = 57
"""Octets that make a line of 76 characters, the longest of base64 (RFC 2045 §6.8)."""

_BLOCK = _LINE * 8192
"""Octets that are encoded at a time: whole lines, some 460 KB."""

_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$&'*+/=?^_`{|}~.@-]{1,200}")
_RESTRICTED = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838 §4.2
_PARAMETER = re.compile(rf';[ \t]*({_RESTRICTED})=(?:"([ !#-\[\]-~]*)"|([!#-\'*+.0-9A-Z^-~-]+))[ \t]*')
_TYPE = re.compile(rf"({_RESTRICTED}/{_RESTRICTED})[ \t]*((?:{_PARAMETER.pattern})*)")
_METHOD = re.compile(r"(?:\A|[\r\n])METHOD:([^\r\n]*)", re.IGNORECASE)


class BadPart(ValueError):  # noqa: N818  reads better where it is caught
    """A part of a message cannot be sent as it is; the message says which rule it breaks."""


@dataclass(frozen=True, slots=True)
class Base64:
    """A content in base64, made once and shared by all messages that hold it.

    `pieces` are of whole lines of 76 characters, each ended by CRLF; only the last line may be shorter.
    """

    pieces: tuple[bytes, ...]

    @classmethod
    def of(cls, blocks: Iterable[bytes]) -> Base64:
        """That of a content which comes in blocks of any length."""
        encoder = Base64Encoder()
        for block in blocks:
            encoder.feed(block)
        return encoder.end()

    @property
    def size(self) -> int:
        """Octets that it takes in a message."""
        return sum(map(len, self.pieces))


class Base64Encoder:
    """Makes a `Base64` of blocks as a store reads them, one after the other."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._pieces: list[bytes] = []

    def feed(self, block: bytes) -> None:
        """The next block, of any length."""
        rest = self._rest
        rest += block
        while len(rest) >= _BLOCK:
            self._pieces.append(_encoded(rest[:_BLOCK]))
            del rest[:_BLOCK]

    def end(self) -> Base64:
        """All of it; nothing is fed after that."""
        if self._rest:
            self._pieces.append(_encoded(self._rest))
        return Base64(tuple(self._pieces))


def encoded_size(size: int) -> int:
    """The `Base64.size` of a content of `size` octets."""
    return 4 * -(-size // 3) + 2 * -(-size // _LINE)


def _encoded(raw: bytearray) -> bytes:
    coded = b64encode(raw)
    return b"\r\n".join([coded[i : i + 76] for i in range(0, len(coded), 76)]) + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that goes with a message.

    `name` may be empty. `content_type` is a media type that may have parameters. `content` may be put in
    later, and then `ref` names it. An `inline` one is shown where the HTML names it by ``cid:`` and its
    `content_id`, here without angle brackets (RFC 2392).

    Raises:
        BadPart: it has a name, a type or an ID that cannot stand in a header, or a type that is no file's.
    """

    name: str
    content_type: str
    content: Base64 = Base64(())
    inline: bool = False
    content_id: str = ""
    ref: str = ""

    def __post_init__(self) -> None:
        if fault := header_fault(self.name):
            raise BadPart(f"an attachment's name {fault}")
        if len(self.name) > MAX_NAME:
            raise BadPart(f"an attachment's name has {len(self.name)} characters; {MAX_NAME} are allowed")
        media_type(self.content_type)
        if self.content_id and not _CONTENT_ID.fullmatch(self.content_id):
            raise BadPart(
                "an attachment's ContentID has at most 200 letters, digits and signs that need no quoting"
            )


def media_type(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A media type in lower case, and its parameters by name and value (RFC 2045 §5.1).

    Raises:
        BadPart: it is none, or none that an attachment can have. A ``multipart`` or ``message`` has parts or
            headers of its own, which readers look into, and may not be in base64 (RFC 2045 §6.4).
    """
    found = _TYPE.fullmatch(text) if len(text) <= MAX_TYPE else None
    if not found:
        raise BadPart("an attachment's ContentType is no media type such as application/pdf")
    kind = found[1].lower()
    if kind.startswith(("multipart/", "message/")):
        raise BadPart(
            f"an attachment's ContentType cannot be {kind.partition('/')[0]}/…; a message that is attached"
            " is application/octet-stream"
        )
    parameters = tuple((name.lower(), quoted or bare) for name, quoted, bare in _PARAMETER.findall(found[2]))
    names = [name for name, _ in parameters]
    if len(set(names)) < len(names) or not {"name", "boundary"}.isdisjoint(names):
        raise BadPart(
            "an attachment's ContentType has a parameter twice, or a name or boundary, which are made here"
        )
    return kind, parameters


def method_of(text: str) -> str:
    """The METHOD of an iCalendar text in upper case; empty where it has none."""
    found = _METHOD.search(text)
    return found[1].strip().upper() if found else ""


@dataclass(frozen=True, slots=True)
class Calendar:
    """An iCalendar object that a mail program is to act upon (RFC 6047).

    Raises:
        BadPart: `method` is none of RFC 5546, or not the METHOD in `text` as RFC 5545 §8.1 wants it. Programs
            then show a file, and offer nothing.
    """

    text: str
    method: str

    def __post_init__(self) -> None:
        written = method_of(self.text)
        known = ", ".join(sorted(METHODS))
        if not written:
            raise BadPart("the calendar's text has no line METHOD:, which says what is to be done with it")
        if written not in METHODS:
            raise BadPart(f"the calendar's text has a METHOD that is none of {known}")
        if self.method not in METHODS:
            raise BadPart(f"the calendar's method is none of {known}")
        if written != self.method:
            raise BadPart(f"the calendar's text has METHOD:{written}, and not {self.method}")


@dataclass(frozen=True, slots=True)
class Text:
    """A part of text: `subtype` is ``plain``, ``html`` or ``calendar``, which alone has a `method`."""

    subtype: str
    text: str
    method: str = ""


@dataclass(frozen=True, slots=True)
class Multipart:
    """Parts that belong together: ``mixed``, ``related`` or ``alternative`` ones, as `subtype` says."""

    subtype: str
    parts: tuple[Part, ...]


Part = Text | Attachment | Multipart


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All that a message shows: the same words as text, HTML and calendar entry, and the files with them.

    None is a form that it does not have. With no form at all it is empty HTML, as a letter without a body is.

    Raises:
        BadBody: a text holds half of a surrogate pair.
        BadPart: there are too many attachments, or two of one content ID.
    """

    html: str | None = None
    text: str | None = None
    calendar: Calendar | None = None
    attachments: tuple[Attachment, ...] = ()

    def __post_init__(self) -> None:
        for form in self._forms():
            if not storable(form.text):
                raise BadBody(f"the {form.subtype} body holds a lone surrogate, which is no Unicode text")
        if len(self.attachments) > MAX_ATTACHMENTS:
            raise BadPart(f"it has {len(self.attachments)} attachments; {MAX_ATTACHMENTS} are allowed")
        ids = [each.content_id for each in self.attachments if each.content_id]
        if len(set(ids)) < len(ids):
            raise BadPart("two attachments have the same ContentID")

    def tree(self) -> Part:
        """mixed(related(alternative(text, html, calendar), inline …), attachments …), no level of one part.

        Of alternatives the last is the best (RFC 2046 §5.1.4). Where no HTML could show it an inline
        attachment is one like the others.
        """
        shown: list[Attachment] = []
        beside: list[Attachment] = []
        for each in self.attachments:
            related = each.inline and each.content_id and self.html is not None
            (shown if related else beside).append(each)
        body = _joined("alternative", self._forms())
        return _joined("mixed", [_joined("related", [body, *shown]), *beside])

    def _forms(self) -> list[Text]:
        forms = []
        if self.text is not None:
            forms.append(Text("plain", self.text))
        if self.html is not None:
            forms.append(Text("html", self.html))
        if self.calendar is not None:
            forms.append(Text("calendar", self.calendar.text, self.calendar.method))
        return forms or [Text("html", "")]


def _joined(subtype: str, parts: Iterable[Part]) -> Part:
    each = tuple(parts)
    return each[0] if len(each) == 1 else Multipart(subtype, each)
