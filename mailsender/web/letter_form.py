"""A letter as a form (RFC 7578): a part `letter` of JSON, and files that become its attachments.

The parts are read as they come, so that a file can be handed on before it is there as a whole.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import unquote

from multipart import MultipartError, PushMultipartParser, parse_options_header

from mailsender.message.parts import MAX_ATTACHMENTS

LETTER: Final = "letter"
"""The name of the part that is the letter; those of files mean nothing."""

FORM: Final = "multipart/form-data"

_AS_IT_IS: Final = frozenset({"", "7bit", "8bit", "binary"})

_EXTENDED: Final = re.compile(
    r";[ \t]*filename\*[ \t]*=[ \t]*utf-8'[a-z0-9-]*'([a-z0-9!#$&+.^_`|~%-]+)[ \t]*(?:;|\Z)", re.IGNORECASE
)
"""A file's name by RFC 8187 §3.2."""

Attach = Callable[[str, str, AsyncIterator[bytes]], Awaitable[Mapping[str, Any]]]
"""Takes a file: its name, media type and content, which it need not read. Returns its `Attachments` entry."""


class BadForm(Exception):  # noqa: N818  an answer to the caller, not a mistake of ours
    """A body is no form, or no letter with files; the message says why, without quoting it."""


def boundary_of(content_type: str) -> str | None:
    """What separates the parts of a form; None where a `Content-Type` is no form's.

    Raises:
        BadForm: it is a form's, and says no boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != FORM:
        return None
    boundary = str(options.get("boundary", ""))
    if not 0 < len(boundary) <= 70 or not boundary.isascii():  # RFC 2046 §5.1.1
        raise BadForm("its Content-Type says no boundary of 1 to 70 characters")
    return boundary


async def read_form(
    boundary: str, body: AsyncIterator[bytes], attach: Attach
) -> tuple[bytes, tuple[Mapping[str, Any], ...]]:
    """The letter's JSON, and the entries of its files in their order; `body` comes in pieces of any length.

    Raises:
        BadForm: it is broken, lacks the letter, or has parts that mean nothing.
    """
    parser = PushMultipartParser(boundary, max_segment_count=MAX_ATTACHMENTS + 1)
    letter: bytes | None = None
    files: list[Mapping[str, Any]] = []
    try:
        async with aclosing(_events(parser, body)) as events:
            async for part in events:
                _check(part)
                content = _content(events)
                if part.name == LETTER:
                    if letter is not None:
                        raise BadForm(f"the part `{LETTER}` is there twice")
                    letter = b"".join([piece async for piece in content])
                else:
                    name = _filename(part).rpartition("/")[2]  # RFC 7578 §4.2: it may come with a path
                    first = await anext(content, b"")
                    if name or first:  # else it is the field of a form in which no file was chosen
                        media_type = part.header("Content-Type") or "application/octet-stream"
                        files.append(await attach(name, media_type, _chained(first, content)))
                        async for _ in content:
                            pass
    except MultipartError as error:
        error.__traceback__ = None  # its parser holds it, and it the frames in which the body is
        raise BadForm(str(error.args[0] if error.args else error).lower()) from None
    if letter is None:
        raise BadForm(f"the part `{LETTER}` is missing, which holds the letter as JSON")
    return letter, tuple(files)


async def _events(parser: Any, body: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """What the parser finds: for each part its head, then pieces of its content, then None."""
    async for piece in body:
        for event in parser.parse(piece):
            yield event
    parser.close()


async def _content(events: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The content of the part whose head came last; the next head comes after all of it."""
    async for event in events:
        if event is None:
            return
        yield event


async def _chained(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in others:
        yield piece


def _filename(part: Any) -> Any:
    """The name of a file; None where the part is none.

    RFC 7578 §4.2 forbids ``filename*`` (RFC 8187), but some clients write it, alone or beside a ``filename``
    in which other letters are replaced.
    """
    found = _EXTENDED.search(part.header("Content-Disposition"))
    try:
        return unquote(found[1], errors="strict") if found else part.filename
    except UnicodeDecodeError:
        return part.filename


def _check(part: Any) -> None:
    """Refuse a part that is neither the letter nor a file, or not sent as it is (RFC 7578 §4.7)."""
    if part.name != LETTER and _filename(part) is None:
        raise BadForm(f"a part is neither called `{LETTER}` nor a file with a name")
    if (part.header("Content-Transfer-Encoding") or "").strip().lower() not in _AS_IT_IS:
        raise BadForm("a part has a Content-Transfer-Encoding; files are taken as they are")
