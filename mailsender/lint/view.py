"""What a mailbox provider sees of one message, whatever it was made of: a letter, or a finished message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from mailsender.lint.page import Page, read_html
from mailsender.model.address import domain_of

MANY: Final = 50
"""Recipients from which on a letter counts as bulk: what somebody waits for goes to one person, or a team."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a header: the name that is shown, which may be empty, and the address."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        """What follows the last @, as it goes onto the wire."""
        return domain_of(self.address)


@dataclass(frozen=True, slots=True)
class Attached:
    """A file that goes along; `content_id` is what HTML names it by, which may be empty."""

    name: str
    content_type: str
    content_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What only a finished message has: it was written by another program, and may be written wrongly.

    `names` are those of its headers in lower case, in order. `faults` are what its parser stumbled over.
    `dates` and `message_ids` are the values of these headers. `date` is read from the first; None where that
    is none.
    """

    names: Sequence[str] = ()
    dates: Sequence[str] = ()
    message_ids: Sequence[str] = ()
    date: datetime | None = None
    longest_line: int = 0
    bare_ends: int = 0
    nul: bool = False
    eight_bit_header: bool = False
    faults: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)  # no slots: the page is kept beside them
class View:
    """One message. None is what is not known.

    `refused` says why the service would refuse the letter, `unseen` what could not be looked at. `authors`
    are those in From, `return_domain` is the reverse-path's. `signers` are the domains that sign it, `signed`
    the headers that a signature covers, by their names in lower case. `unsubscribe` and `one_click` are the
    values of List-Unsubscribe and List-Unsubscribe-Post. `body_known` is false where subject and body are
    still to be made. `bulk` says why it counts as bulk, and is empty where it does not. `now` is the time to
    judge by.
    """

    now: datetime
    refused: str = ""
    unseen: str = ""
    authors: Sequence[Person] | None = None
    to: Sequence[Person] = ()
    cc: Sequence[Person] = ()
    subject: str | None = None
    return_domain: str | None = None
    signers: Sequence[str] | None = None
    signed: frozenset[str] | None = None
    unsubscribe: str = ""
    one_click: str = ""
    html: str | None = None
    text: str | None = None
    body_known: bool = True
    attachments: Sequence[Attached] = ()
    bulk: str = ""
    raw: Raw | None = None

    @cached_property
    def page(self) -> Page:
        """What its HTML shows."""
        return read_html(self.html or "")

    @cached_property
    def words(self) -> str:
        """All that a reader reads but for the subject: a line for each block of HTML, then the plain text."""
        return f"{self.page.text}\n{self.text or ''}"


_LISTS: Final = ("list-id", "list-unsubscribe", "list-post", "list-help", "list-owner", "list-archive")


def bulk_because(headers: Mapping[str, str], recipients: int, wanted: bool | None) -> str:
    """Why a message to so many counts as bulk; empty where it does not.

    Args:
        headers: its headers by their names in lower case.
        recipients: how many it goes to.
        wanted: whether somebody said that it is, or is not: then nothing else counts.
    """
    if wanted is not None:
        return "was said" if wanted else ""
    precedence = headers.get("precedence", "").strip().lower()
    if precedence in {"bulk", "list", "junk"}:
        return f"its Precedence says ({precedence})"
    if any(name in headers for name in _LISTS):
        return "its List- headers say"
    return f"its {recipients} recipients say" if recipients >= MANY else ""
