"""What a letter with further keys takes beyond a plain one: what its messages are made of, and its own terms.

It is not compiled: no plain letter comes here.
"""

from __future__ import annotations

from datetime import datetime

from mailsender.blobs.cache import BlobCache, Taken
from mailsender.message.mail import Mail, UnknownKey
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.sending.attempt import refused
from mailsender.sending.errand import Errand
from mailsender.sending.reply_rules import When
from mailsender.sending.tools import Compose

UNREAD = 30.0
"""Seconds after which a letter is tried again whose attachments, or template, could not be read."""


def mail_of(errand: Errand, composer: Compose) -> Mail | None:
    """What its further keys say, held while it is on its way; None where only a later version can read it.

    Then it is put off: while replicas are updated one of those takes it.

    Raises:
        ValueError: nobody could make a message of them.
    """
    try:
        errand.mail = composer.mail(errand.letter)
    except UnknownKey as error:
        _put_off(errand, f"it cannot be read here: {error}")
    return errand.mail


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
    """What it carries; None where that cannot be read now: it is put off, and no attempt is counted.

    It lets go of its session where it has to wait for room: those who have that wait for one between two
    transactions, and a session is worth more to them.
    """
    try:
        return await blobs.take(mail.refs, errand.give_back)
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


def known_of(mail: Mail, service: str) -> tuple[When, ...]:
    """What is so of a letter that says more in MAIL than others do, or is from others than `service`."""
    known: list[When] = []
    others = [key for key, each in mail.senders if service not in {each.wire, each.text}]
    if "ReversePath" in others:
        known.append(When.OWN_PATH)
    if "ReversePath" in others or mail.terms is not None:
        known.append(When.OWN)
    if mail.require_tls:
        known.append(When.TLS)
    if others:
        known.append(When.OWN_SENDER)
    return tuple(known)
