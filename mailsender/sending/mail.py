"""What a letter with further keys takes beyond a plain one: what its messages are made of, and its own terms.

It is not compiled: no plain letter comes here.
"""

from __future__ import annotations

from datetime import datetime

from mailsender.blobs.cache import BlobCache, Taken
from mailsender.message.mail import Mail
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.sending.attempt import refused
from mailsender.sending.errand import Errand
from mailsender.sending.reply_rules import When
from mailsender.sending.tools import Compose

UNREAD = 30.0
"""Seconds after which a letter is tried again whose attachments, or template, could not be read."""


async def have_filling(errand: Errand, composer: Compose) -> bool:
    """Have at hand what a personal letter is made of; False where it ends, or is put off, without it."""
    try:
        errand.filling = await composer.filling(errand.letter)
    except Unavailable as error:
        _put_off(errand, f"its template cannot be read now: {error}")
        return False
    except ValueError as error:  # what others got of it before they have
        errand.results = refused(errand.left, error)
        return False
    return True


async def take_contents(errand: Errand, mail: Mail, blobs: BlobCache) -> Taken | None:
    """What it carries; None where that cannot be read now: it is put off, and no attempt is counted."""
    try:
        return await blobs.take(mail.refs)
    except Unavailable as error:
        _put_off(errand, f"its attachments cannot be read now: {error}")
        return None


def _put_off(errand: Errand, text: str) -> None:
    unread = Result(verdict=Verdict.DEFERRED, phase=Phase.DATA, text=text)
    errand.results = dict.fromkeys(errand.left, unread)
    errand.idle = set(errand.left)
    errand.pause = UNREAD


def message_of(
    errand: Errand, mail: Mail, part: tuple[str, ...], composer: Compose, date: datetime
) -> bytes | tuple[bytes, ...]:
    """The message of a letter with further keys to `part` of its recipients, for the errand's session.

    Raises:
        ValueError: it cannot be made.
    """
    return composer.compose(
        errand.letter,
        eight_bit=errand.session.supports_8bit,
        smtputf8=errand.session.supports_smtputf8,
        date=date,
        person=part[0] if mail.personal else "",
        contents=errand.contents,
        filling=errand.filling,
    )


def known_of(mail: Mail) -> tuple[When, ...]:
    """What is so of a letter that says more in MAIL than others do."""
    known: list[When] = []
    if mail.reverse_path:
        known.append(When.OWN_PATH)
    if mail.reverse_path or mail.terms is not None:
        known.append(When.OWN)
    if mail.require_tls:
        known.append(When.TLS)
    return tuple(known)
