"""The letter that all of them send: 1.5 KB of HTML to two recipients, the same size for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BODY_BYTES = 1536
"""Octets of the body in UTF-8."""

RECIPIENTS = 2

SENDER = "sender@example.test"

_LINE = "<p>Мир и труд, и письмо из нескольких строк для всех читателей сразу.</p>\n"


def body_of(size: int) -> str:
    """HTML of exactly `size` octets in UTF-8, in short lines, mostly beyond ASCII."""
    whole, rest = divmod(size, len(_LINE.encode()))
    return _LINE * whole + "-" * max(0, rest - 1) + "\n" * min(1, rest)


BODY = body_of(BODY_BYTES)


def letter(number: int, *, recipients: int = RECIPIENTS, body: str = BODY) -> dict[str, Any]:
    """One letter, as a producer puts it into a batch or a task."""
    return {
        "Subject": f"Letter number {number:08d}",
        "Body": body,
        "Addresses": [f"reader{number:08d}.{each}@example.test" for each in range(recipients)],
        "Token": f"{number:08d}",
    }


def batches(letters: int, size: int, **shape: Any) -> Iterator[list[dict[str, Any]]]:
    """`letters` letters in batches of `size`; the last one may be shorter."""
    for start in range(0, letters, size):
        yield [letter(number, **shape) for number in range(start, min(start + size, letters))]


_MESSAGE = (
    b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
    b"From: Sender\r\n <sender@example.test>\r\n"
    b"To: undisclosed-recipients:;\r\n"
    b"Subject: %b\r\n"
    b"Message-ID: <%b0000000000000000@example.test>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/html; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n%b"
)


def message(each: dict[str, Any]) -> bytes:
    """The bytes that a peer sends for a letter: the headers that mailsender writes, at the least cost.

    The peers get this for nothing: no check of addresses, no encoding of headers, no date.
    """
    text = each["Body"].replace("\n", "\r\n").encode()
    return _MESSAGE % (each["Subject"].encode(), each["Token"].encode(), text)
