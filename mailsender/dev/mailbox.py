"""What the mail catcher keeps: the newest messages, within bounds."""

from __future__ import annotations

import email.parser
import email.policy
import re
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage, MIMEPart
from functools import cached_property
from typing import Any

MAX_BYTES = 64 * 1024 * 1024
MAX_MESSAGES = 100_000

_HEADERS = email.parser.BytesHeaderParser(policy=email.policy.default)
_CID = re.compile(r"cid:([^\"'\s)>]{1,200})")
_NAMES = {"text/calendar": "invite.ics"}
"""What mail programs call a part that has no name."""
_WHOLE = email.parser.BytesParser(EmailMessage, policy=email.policy.default)


@dataclass(frozen=True)
class Caught:
    """One message as SMTP brought it; times are seconds since the epoch."""

    id: int
    mail_at: float
    accepted_at: float
    mail_from: str
    rcpt_tos: tuple[str, ...]
    raw: bytes

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All but the message itself, with its decoded subject."""
        headers = _HEADERS.parsebytes(self.raw)
        return {
            "id": self.id,
            "mail_at": self.mail_at,
            "accepted_at": self.accepted_at,
            "mail_from": self.mail_from,
            "rcpt_tos": list(self.rcpt_tos),
            "size": len(self.raw),
            "subject": _text(headers.get("Subject", "")),
            "message_id": _text(headers.get("Message-ID", "")).strip(),
        }

    def in_full(self) -> dict[str, Any]:
        """The summary, the headers as decoded, the body, a text body, the files, and the message as text."""
        message = _WHOLE.parsebytes(self.raw)
        return {
            **self.summary,
            "headers": [[name, _text(value)] for name, value in message.items()],
            "html": self.body(),
            "text": self.text(),
            "files": [each.described() for each in self.files()],
            "raw": self.raw.decode("utf-8", "replace"),
        }

    def body(self) -> str:
        """The decoded HTML body; a text body where there is no other, else nothing."""
        return _content(_WHOLE.parsebytes(self.raw).get_body(("html", "plain")))

    def shown(self) -> str:
        """The body with the images in it that it names, so that nothing has to be fetched."""
        named = [each for each in self.files() if each.content_id and each.is_image]
        images = {each.content_id: each.as_url() for each in named}
        return _CID.sub(lambda found: images.get(found[1], found[0]), self.body())

    def text(self) -> str:
        """The decoded text body, which may be empty."""
        return _content(_WHOLE.parsebytes(self.raw).get_body(("plain",)))

    def files(self) -> list[File]:
        """All that goes with the body, in order: attachments, inline images, invitations."""
        message = _WHOLE.parsebytes(self.raw)
        bodies = [message.get_body((kind,)) for kind in ("html", "plain")]
        leaves = (part for part in message.walk() if not part.is_multipart())
        return [_file(part) for part in leaves if not any(part is body for body in bodies)]


@dataclass(frozen=True)
class File:
    """A part of a message beside its bodies."""

    name: str
    media_type: str
    inline: bool
    content_id: str
    content: bytes

    @property
    def is_image(self) -> bool:
        """Whether a body may show it: nothing else is loaded."""
        return self.media_type.startswith("image/")

    def as_url(self) -> str:
        """It, as a URL that holds it (RFC 2397)."""
        return f"data:{self.media_type};base64,{b64encode(self.content).decode()}"

    def described(self) -> dict[str, Any]:
        """All but the content."""
        return {
            "name": self.name,
            "type": self.media_type,
            "inline": self.inline,
            "content_id": self.content_id,
            "size": len(self.content),
        }


def _file(part: MIMEPart) -> File:
    raw = part.get_payload(decode=True)
    return File(
        name=_text(part.get_filename() or _NAMES.get(part.get_content_type(), "")),
        media_type=part.get_content_type(),
        inline=part.get_content_disposition() == "inline",
        content_id=_text(part.get("Content-ID", "")).strip().strip("<>"),
        content=raw if isinstance(raw, bytes) else b"",
    )


def _content(part: MIMEPart | None) -> str:
    if part is None:
        return ""
    try:
        return _text(part.get_content())
    except (LookupError, ValueError):  # a charset that nobody knows, a transfer encoding gone wrong
        return _text(part.get_payload())


def _text(value: object) -> str:
    """What JSON can carry: no lone surrogates, which stand for bytes that were no text."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


class Mailbox:
    """The newest messages; beyond either bound the oldest is dropped and counted."""

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self.received = 0
        self.dropped = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[int, Caught] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(
        self, *, mail_at: float, accepted_at: float, mail_from: str, rcpt_tos: list[str], raw: bytes
    ) -> Caught:
        """Keep a message; its id is one more than the last one's."""
        self.received += 1
        caught = Caught(self.received, mail_at, accepted_at, mail_from, tuple(rcpt_tos), raw)
        self._kept[caught.id] = caught
        self._bytes += len(raw)
        while len(self._kept) > self._max_messages or (self._bytes > self._max_bytes and len(self._kept) > 1):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.raw)
            self.dropped += 1
        return caught

    def get(self, number: int) -> Caught | None:
        """The message of this id, if it is still kept."""
        return self._kept.get(number)

    def since(self, number: int) -> Iterator[Caught]:
        """The messages after this id, newest last, as they are now."""
        newer: list[Caught] = []
        for caught in reversed(self._kept.values()):
            if caught.id <= number:
                break
            newer.append(caught)
        return reversed(newer)

    def clear(self) -> None:
        """Forget all messages; ids go on."""
        self._kept.clear()
        self._bytes = 0
