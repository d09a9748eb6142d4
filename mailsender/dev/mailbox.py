"""What the mail catcher keeps: the newest messages, within bounds."""

from __future__ import annotations

import email.parser
import email.policy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cached_property
from typing import Any

MAX_BYTES = 64 * 1024 * 1024
MAX_MESSAGES = 100_000

_HEADERS = email.parser.BytesHeaderParser(policy=email.policy.default)
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
        """The summary, the headers as decoded, the body, and the message as text."""
        message = _WHOLE.parsebytes(self.raw)
        return {
            **self.summary,
            "headers": [[name, _text(value)] for name, value in message.items()],
            "html": self.body(),
            "raw": self.raw.decode("utf-8", "replace"),
        }

    def body(self) -> str:
        """The decoded HTML body; a text body where there is no other, else nothing."""
        part = _WHOLE.parsebytes(self.raw).get_body(("html", "plain"))
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
