"""SMTP replies out of a stream of bytes (RFC 5321 §4.2), and what class of answer each one is.

What a reply means for a recipient depends on the command that it answers, so that is for the dialogue
to say; this module knows no commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

from mailsender.model.text import one_line

MAX_LINE = 4096
"""Octets of the longest line. RFC 5321 §4.5.3.1.5 allows 512; relays in the wild write longer ones."""

MAX_LINES = 128
"""Lines of the longest reply; the EHLO of a large relay has about twenty."""

MAX_EMPTY = 8
"""Empty lines between two replies that are passed over: no reply has any, but some relays write them."""

MAX_KNOWN = 256
"""Replies that are kept to be recognised: a relay says the same few things thousands of times.

A letter's four are read in 3 µs so, and else in 54.
"""

MAX_KNOWN_LINE = 128
"""Octets of the longest of them, so that they take no more than some kilobytes a session."""

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_NOTHING = {b"", b"\r"}  # of a line that is not complete: it may be an empty one
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")


class ReplyError(ValueError):
    """What the relay sent is no SMTP reply, or one beyond all measure; the session cannot go on."""


class Kind(IntEnum):
    """The class of a reply, its first digit (RFC 5321 §4.2.1)."""

    COMPLETED = 2
    INTERMEDIATE = 3  # go on: the command wants more
    TRANSIENT = 4  # not now; the same command may succeed later
    PERMANENT = 5  # no; it is of no use to repeat the command


_KINDS = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    `kind` is its class, `enhanced` the enhanced status code (RFC 3463), None where there is none or where it
    contradicts the reply's code; `text` one line without it, free of control characters, at most `MAX_TEXT`
    long.
    """

    code: int
    enhanced: str | None
    text: str
    kind: Kind = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """The reply's class is looked at several times."""
        object.__setattr__(self, "kind", _KINDS[self.code // 100])

    @classmethod
    def of(cls, code: int, lines: list[str]) -> Self:
        """The reply with `code` whose lines say `lines`."""
        found = _ENHANCED.match(lines[0])
        # RFC 2034 §4: the class of the two codes has to be the same.
        enhanced = found[1] if found and found[1][0] == str(code)[0] else None
        if enhanced:
            lines = [line.removeprefix(enhanced) for line in lines]
        return cls(code=code, enhanced=enhanced, text=one_line(" ".join(lines)))

    def masked(self, secret: str) -> Reply:
        """The same reply with asterisks for `secret`, also where spaces or dashes stand within it."""
        spread = r"[ \t-]{0,3}".join(map(re.escape, secret))
        text = re.sub(spread, "*" * len(secret), self.text, flags=re.IGNORECASE)
        return Reply(self.code, self.enhanced, text)

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))


class ReplyParser:
    """Gathers replies from bytes as they come, in whatever pieces."""

    __slots__ = ("_buffer", "_code", "_empty", "_known", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._empty = 0
        self._known: dict[bytes, Reply] = {}
        self._code = 0
        self._lines: list[str] = []

    @property
    def midway(self) -> bool:
        """Whether a reply has begun and is not complete."""
        return bool(self._lines) or self._buffer not in _NOTHING

    def feed(self, data: bytes) -> Iterator[Reply]:
        """The replies that `data` completes, in order; iterate to the end before the next call.

        Lines may end with a bare LF; a reply of one line may be its code alone (RFC 5321 §4.2). Some empty
        lines between two replies are passed over.

        Raises:
            ReplyError: the stream is not SMTP, or a line or a reply is too long. It comes after the
                replies that were complete before the fault; the parser is of no further use.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            alone = not self._lines
            reply = self._known.get(line) if alone else None
            if reply is None:
                reply = self._take(line.removesuffix(b"\r"))
                if reply is None:
                    continue
                if alone and len(line) <= MAX_KNOWN_LINE:
                    self._keep(line, reply)
            self._empty = 0
            yield reply
        if len(self._buffer) > MAX_LINE:
            raise ReplyError(f"the relay sent a line of more than {MAX_LINE} octets")

    def _keep(self, line: bytes, reply: Reply) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[line] = reply

    def _take(self, line: bytes) -> Reply | None:
        if len(line) > MAX_LINE:
            raise ReplyError(f"the relay sent a line of more than {MAX_LINE} octets")
        found = _LINE.fullmatch(line)
        if not found:
            if not line and not self._lines:
                self._pass_over()
                return None
            sample = one_line(line[:60].decode("utf-8", "replace"))
            raise ReplyError(f"the relay sent what is no SMTP reply: {sample!r}")
        code = int(found[1])
        if self._lines and code != self._code:
            raise ReplyError(f"the relay mixed the codes {self._code} and {code} in one reply")
        self._code = code
        self._lines.append((found[3] or b"").decode("utf-8", "replace"))
        if found[2] == b"-":
            if len(self._lines) >= MAX_LINES:
                raise ReplyError(f"the relay sent a reply of more than {MAX_LINES} lines")
            return None
        lines, self._lines = self._lines, []
        return Reply.of(code, lines)

    def _pass_over(self) -> None:
        """Count an empty line."""
        self._empty += 1
        if self._empty > MAX_EMPTY:
            raise ReplyError(f"the relay sent more than {MAX_EMPTY} empty lines")
