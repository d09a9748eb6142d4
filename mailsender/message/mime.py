"""A message as octets: its parts encoded for a session, its headers apart from its body.

The headers are apart so that a signature can be made of both and put before them. A body is a list of pieces
that are never joined here: a file of 2 MB in 10,000 messages is the same piece in all of them.

Each piece begins a line and ends with the CRLF of one, so that dots can be doubled (RFC 5321 §4.5.2) piece by
piece; those of an attachment hold none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b

from mailsender.message.compose import _armour as armour
from mailsender.message.compose import _encode_body as encode_body
from mailsender.message.fields import Field, field, parameter, parameter_for_old_readers
from mailsender.message.headers import Head
from mailsender.message.parts import Attachment, Content, Multipart, Part, Text, media_type
from mailsender.model.text import LONG

_MARK = b"--=_"
"""How each delimiter of parts begins. No line of quoted-printable does, as it has no ``=_``, and none of
base64, which has no hyphen. A text with such a line is put into one of them."""


class NeedsSmtputf8(ValueError):  # noqa: N818  reads better where it is caught
    """A shown address has characters beyond ASCII before its @, and the session offers no SMTPUTF8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message for one session: headers in order, and the pieces of its body.

    `eight_bit` says whether there are octets beyond ASCII (``BODY=8BITMIME``, RFC 6152), `smtputf8` whether
    there are some in the headers (RFC 6531 §3.4).
    """

    fields: tuple[Field, ...]
    body: tuple[bytes, ...]
    eight_bit: bool
    smtputf8: bool

    @property
    def size(self) -> int:
        """Octets of the whole, before dots are doubled: what SIZE means (RFC 1870 §5)."""
        return sum([len(each.raw) for each in self.fields]) + 2 + sum(map(len, self.body))

    def pieces(self) -> list[bytes]:
        """The whole: headers with the empty line that ends them, then the body."""
        return [b"".join([each.raw for each in self.fields]) + b"\r\n", *self.body]

    def octets(self) -> bytes | tuple[bytes, ...]:
        """The whole as a session takes it: joined, or where it is long in pieces, which others may share."""
        pieces = self.pieces()
        return b"".join(pieces) if self.size < LONG else tuple(pieces)

    def led_by(self, first: Field) -> Message:
        """The same message with one more header, such as a signature, before all others."""
        return replace(self, fields=(first, *self.fields))


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A part: its headers as they are written, its body in pieces, whether it has octets beyond ASCII."""

    fields: tuple[Field, ...]
    body: tuple[bytes, ...]
    eight_bit: bool = False


def compose(
    head: Head,
    content: Content,
    *,
    date: datetime,
    message_id: str,
    eight_bit: bool,
    smtputf8: bool = False,
) -> Message:
    """The message of `head` and `content`: CRLF line ends, the last line ended too, no line over 998 octets.

    `eight_bit` and `smtputf8` say what the session offers; each is used only where it is needed. `date` is an
    aware datetime. The same arguments make the same octets.

    Raises:
        NeedsSmtputf8: see there.
        BadHeader: `message_id` is none.
    """
    utf8 = head.needs_smtputf8
    if utf8 and not smtputf8:
        raise NeedsSmtputf8("a shown address needs SMTPUTF8, which the relay lacks")
    fields = head.fields(date, message_id)
    whole = _encode(content.tree(), "", message_id, eight_bit=eight_bit)
    fields += [field("MIME-Version", b"1.0"), *whole.fields]
    return Message(fields=tuple(fields), body=whole.body, eight_bit=whole.eight_bit or utf8, smtputf8=utf8)


def _encode(part: Part, place: str, message_id: str, *, eight_bit: bool) -> _Encoded:
    """`part` for the session; `place` says where it stands in the tree, and is empty for the whole."""
    if isinstance(part, Text):
        return _encode_text(part, eight_bit=eight_bit, delimited=bool(place))
    if isinstance(part, Attachment):
        return _encode_attachment(part)
    parts = [
        _encode(each, f"{place}{number}.", message_id, eight_bit=eight_bit)
        for number, each in enumerate(part.parts, 1)
    ]
    return _encode_multipart(part, parts, _boundary(place, message_id))


def _encode_text(part: Text, *, eight_bit: bool, delimited: bool) -> _Encoded:
    encoding, body = encode_body(part.text, eight_bit=eight_bit)
    if delimited and encoding in {b"7bit", b"8bit"} and _has_mark(body):
        encoding, body = armour(body)
    method = f"; method={part.method}" if part.method else ""
    fields = (
        field("Content-Type", f"text/{part.subtype}; charset=utf-8{method}".encode()),
        field("Content-Transfer-Encoding", encoding),
    )
    return _Encoded(fields, (body,) if body else (), encoding == b"8bit")


def _has_mark(body: bytes) -> bool:
    return body.startswith(_MARK) or b"\n" + _MARK in body


def _encode_attachment(part: Attachment) -> _Encoded:
    kind, parameters = media_type(part.content_type)
    typed, disposed = kind.encode(), b"inline" if part.inline else b"attachment"
    for name, value in parameters:
        typed += parameter(name, value)
    if part.name:
        typed += parameter_for_old_readers("name", part.name)
        disposed += parameter("filename", part.name)
    fields = [
        field("Content-Type", typed),
        field("Content-Transfer-Encoding", b"base64"),
        field("Content-Disposition", disposed),
    ]
    if part.content_id:
        fields.append(field("Content-ID", b"<%b>" % part.content_id.encode()))
    return _Encoded(tuple(fields), part.content.pieces)


def _encode_multipart(part: Multipart, parts: Sequence[_Encoded], boundary: bytes) -> _Encoded:
    """The parts between delimiters (RFC 2046 §5.1.1). The CRLF before a delimiter belongs to it."""
    eight_bit = any(each.eight_bit for each in parts)
    kind = b"multipart/" + part.subtype.encode()
    if part.subtype == "related":  # RFC 2387 §3.1: the type of its first part is to be named
        kind += b'; type="%b"' % (
            b"multipart/alternative" if isinstance(part.parts[0], Multipart) else b"text/html"
        )
    fields = (
        field("Content-Type", b'%b;\r\n boundary="%b"' % (kind, boundary)),
        # RFC 2045 §6.4: 8bit where any part is, and never an encoding.
        field("Content-Transfer-Encoding", b"8bit" if eight_bit else b"7bit"),
    )
    body: list[bytes] = []
    for each in parts:
        head = b"".join([line.raw for line in each.fields])
        body.append(b"%b--%b\r\n%b\r\n" % (b"\r\n" if body else b"", boundary, head))
        body += each.body
    body.append(b"\r\n--%b--\r\n" % boundary)
    return _Encoded(fields, tuple(body), eight_bit)


def _boundary(place: str, message_id: str) -> bytes:
    """A boundary: the same at every attempt, another at each place and in each message.

    All are of one length, so that none begins as another does; see `_MARK` for why no part can hold one.
    """
    return b"=_" + blake2b(f"{place} {message_id}".encode(), digest_size=16).hexdigest().encode()
