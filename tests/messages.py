"""Messages of all kinds, and what was meant by each: for readers of others to be held against."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mailsender.message.headers import (
    AUTO_SUBMITTED,
    IMPORTANCES,
    Further,
    Head,
    Mailbox,
    Unsubscribe,
)
from mailsender.message.mime import Message, compose
from mailsender.message.parts import METHODS, Attachment, Base64, Calendar, Content, Multipart, Part, Text
from mailsender.model.address import parse_address
from mailsender.model.text import header_fault

DATE = datetime(2026, 3, 1, 9, 8, 7, tzinfo=UTC)
MESSAGE_ID = "<6b03f03e1c3fe5165a363fce@example.org>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meant:
    """A message as its publisher means it, and what the session offers."""

    head: Head
    content: Content
    eight_bit: bool
    smtputf8: bool

    def composed(self) -> Message:
        return compose(
            self.head,
            self.content,
            date=DATE,
            message_id=MESSAGE_ID,
            eight_bit=self.eight_bit,
            smtputf8=self.smtputf8,
        )

    def as_json(self) -> dict[str, Any]:
        """What a reader should find. Texts have CRLF line ends, and files are told by their digest."""
        head = self.head
        return {
            "date": DATE.isoformat(),
            "message_id": MESSAGE_ID,
            "subject": head.subject,
            "from": person(head.author),
            "sender": person(head.sender) if head.sender not in {None, head.author} else None,
            "reply_to": [person(each) for each in head.reply_to],
            "to": [person(each) for each in head.to],
            "cc": [person(each) for each in head.cc],
            "in_reply_to": list(head.in_reply_to),
            "references": list(head.references),
            "auto_submitted": head.auto_submitted,
            "importance": head.importance,
            "unsubscribe": head.unsubscribe.url if head.unsubscribe else None,
            "headers": [[each.name, each.value.strip(" ")] for each in head.further],
            "parts": tree(self.content.tree()),
        }


def dump(meant: Meant, folder: Path, name: str) -> None:
    """Write `name`.eml, the octets, and `name`.json, what was meant by them."""
    (folder / f"{name}.eml").write_bytes(b"".join(meant.composed().pieces()))
    (folder / f"{name}.json").write_text(json.dumps(meant.as_json(), ensure_ascii=False), "utf-8")


def person(mailbox: Mailbox | None) -> dict[str, str] | None:
    return {"name": mailbox.name, "address": mailbox.address.wire} if mailbox else None


def tree(part: Part) -> dict[str, Any]:
    if isinstance(part, Multipart):
        return {"type": f"multipart/{part.subtype}", "parts": [tree(each) for each in part.parts]}
    if isinstance(part, Text):
        return {"type": f"text/{part.subtype}", "text": as_sent(part.text), "method": part.method}
    content = b64decode(b"".join(part.content.pieces))
    return {
        "type": part.content_type.partition(";")[0].strip().lower(),
        "name": part.name,
        "inline": part.inline,
        "content_id": part.content_id,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def as_sent(text: str) -> str:
    """What a reader is to get: CRLF line ends, the last line ended."""
    text = re.sub(r"\r\n?|\n", "\r\n", text)
    return text if not text or text.endswith("\r\n") else text + "\r\n"


# --- of all kinds --------------------------------------------------------------------------------

ANY = st.text(max_size=80)
VALID = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
AWKWARD = st.sampled_from(
    [
        "",
        "Ann",
        "Ann, Sales (x) <b@c.d>",
        'quote " backslash \\',
        "two  spaces",
        "Анна Петрова",
        "=?utf-8?Q?x?=",
        "a;b=c*d'e%f",
        "😀" * 40,
        "Ж" * 90,
        "long ascii " * 12 + "end",
        "e\u0301",
    ]
)
HEADER = AWKWARD | VALID.filter(lambda text: header_fault(text) is None)
BODY = (
    VALID
    | st.text(st.sampled_from("aя.\r\n\0 =\t-_"), max_size=2000)
    | st.sampled_from(
        [
            "",
            "x" * 5000,
            ".\r\n..\n.",
            "--=_\n",
            "a\n--=_ not ours\n",
            "Ж" * 500,
            "From me\n",
            "a \n b\t",
            "Жизнь\n--=_",
        ]
    )
)
ADDRESS = st.sampled_from(
    [
        "ann@example.org",
        "a..b@docomo.example",
        "x@почта.рф",
        "o'brien+tag@sub.example.org",
        "a" * 64 + "@" + "b" * 60 + ".example",
    ]
).map(parse_address)
MAILBOX = st.builds(Mailbox, HEADER.filter(lambda text: len(text) <= 256), ADDRESS)
ID = st.from_regex(r"<[a-zA-Z0-9.%$=+-]{1,200}@[a-z0-9.-]{1,60}>", fullmatch=True)
URL = st.from_regex(r"https?://[a-z]{1,20}\.example/[a-zA-Z0-9?=&,;%/-]{0,300}", fullmatch=True)
NAMES = ["Comments", "Keywords", "Organization", "List-Id", "Feedback-ID", "X-Campaign", "x-campaign"]


@st.composite
def further(draw: st.DrawFn) -> tuple[Further, ...]:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    values = HEADER | URL | st.just('{"category": ["a",  "b"]}')
    return tuple(Further(name, draw(values)) for name in names)


HEAD = st.builds(
    Head,
    author=MAILBOX,
    subject=HEADER,
    sender=st.none() | MAILBOX,
    reply_to=st.lists(MAILBOX, max_size=2).map(tuple),
    to=st.lists(MAILBOX, max_size=4).map(tuple),
    cc=st.lists(MAILBOX, max_size=3).map(tuple),
    in_reply_to=st.lists(ID, max_size=1).map(tuple),
    references=st.lists(ID, max_size=6).map(tuple),
    auto_submitted=st.sampled_from(["", *sorted(AUTO_SUBMITTED)]),
    importance=st.sampled_from(["", *sorted(IMPORTANCES)]),
    unsubscribe=st.none()
    | st.builds(Unsubscribe, url=URL, mail=st.none() | ADDRESS)
    | st.builds(Unsubscribe, mail=ADDRESS),
    further=further(),
)
CALENDAR = st.builds(
    lambda method, more: Calendar(
        f"BEGIN:VCALENDAR\r\nMETHOD:{method}\r\nX-MORE:{more}\nEND:VCALENDAR", method
    ),
    st.sampled_from(sorted(METHODS)),
    BODY,
)
TYPES = ["application/pdf", "image/png", "text/csv; charset=utf-8", 'TEXT/x-odd; a="b c"; d=e']


@st.composite
def attachments(draw: st.DrawFn) -> tuple[Attachment, ...]:
    made = []
    for number in range(draw(st.integers(0, 3))):
        blocks = draw(st.lists(st.binary(max_size=300), max_size=3))
        made.append(
            Attachment(
                name=draw(HEADER.filter(lambda text: len(text) <= 255)),
                content_type=draw(st.sampled_from(TYPES)),
                content=Base64.of(blocks),
                inline=draw(st.booleans()),
                content_id=draw(st.sampled_from(["", f"image{number}@example.org"])),
            )
        )
    return tuple(made)


CONTENT = st.builds(
    Content,
    html=st.none() | BODY,
    text=st.none() | BODY,
    calendar=st.none() | CALENDAR,
    attachments=attachments(),
)
MEANT = st.builds(
    Meant,
    head=HEAD,
    content=CONTENT,
    eight_bit=st.booleans(),
    smtputf8=st.booleans(),
)
