"""A batch of letters, as mailbox providers will see each of them."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from mailsender.intake.batch import NotABatch, decode, read_letter
from mailsender.intake.schema import Limits, Senders
from mailsender.lint.page import MAX_HTML
from mailsender.lint.view import Attached, Person, View, bulk_because
from mailsender.message.headers import Mailbox, Unsubscribe
from mailsender.message.mail import Mail, read
from mailsender.model.address import Address, domain_of
from mailsender.model.letter import Letter, Origin, Status

_NOWHERE: Final = Origin(topic="", partition=0, offset=0, index=0, timestamp=0)


class _Anybody(Senders):
    """Senders of whom nobody here knows who is allowed: each of them."""

    def allow(self, address: Address) -> bool:  # noqa: ARG002  as said
        return True


_LIMITS: Final = Limits(senders=_Anybody())


def nearest(domains: Collection[str], domain: str) -> tuple[str, ...]:
    """The one of `domains` that is `domain`, or else the nearest above it: as keys are chosen that sign."""
    while domain and domain not in domains:
        domain = domain.partition(".")[2]
    return (domain,) if domain else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known of the service that will send: what is not known is None, and nothing is said about it.

    `sender` is From where a letter has none. `signing` tells which domains sign for a sender of a domain.
    `text_of` makes the text part of HTML that has none beside it; without it nobody does. `bulk` says whether
    all messages are bulk; None leaves it to what they say themselves. `limits` are those of letters.
    """

    now: datetime
    sender: Mailbox | None = None
    signing: Callable[[str], Sequence[str]] | None = None
    text_of: Callable[[str], str | None] | None = None
    bulk: bool | None = None
    limits: Limits = _LIMITS


def elements_of(data: bytes, limits: Limits) -> list[dict[str, Any]]:
    """The elements of a batch, or the one that stands where a batch would.

    Raises:
        NotABatch: it is neither, with the reason.
    """
    bare = data.removeprefix(BOM_UTF8).strip()
    elements = decode(b"[%b]" % bare if bare.startswith(b"{") else bare, limits)
    if not elements:
        raise NotABatch("the array is empty: there is nothing to send")
    return elements


def view_of_element(element: Mapping[str, Any], known: Surroundings) -> View:
    """One element of a batch; of one that would be refused, only why: what it meant is not known."""
    letter = read_letter(element, _NOWHERE, None, known.limits, now=known.now)
    if letter.status is Status.ERROR:
        return View(now=known.now, refused=letter.reason, body_known=False)
    keys = json.loads(letter.mail) if letter.mail else {}
    view = view_of_letter(letter, read(keys), known)
    if "Template" in keys:
        unseen = "subject and body are made of a template, which is not filled in here"
        return replace(view, subject=None, html=None, text=None, body_known=False, unseen=unseen)
    return view


def view_of_letter(letter: Letter, mail: Mail, known: Surroundings) -> View:
    """A letter that the service takes, with what its further keys say."""
    author = mail.author or known.sender
    authors = None if author is None else (_person(mail.author_of(author)),)
    recipients = tuple(Person(mail.names.get(each, ""), each) for each in letter.everybody)
    return _clipped(
        View(
            now=known.now,
            authors=authors,
            to=recipients[:1] if mail.personal else tuple(map(_person, mail.to)),
            cc=tuple(map(_person, mail.cc)),
            subject=letter.subject,
            return_domain=_return_domain(mail, known),
            signers=known.signing(authors[0].domain) if authors and known.signing else None,
            unsubscribe=_list_unsubscribe(mail.unsubscribe),
            one_click="List-Unsubscribe=One-Click" if mail.unsubscribe and mail.unsubscribe.one_click else "",
            html=letter.body if letter.body or mail.text is None else None,
            text=mail.text or (known.text_of(letter.body) if known.text_of else None),
            attachments=tuple(
                Attached(each.name, each.content_type, each.content_id) for each in mail.attachments
            ),
            bulk=bulk_because(_told(mail), len(recipients), known.bulk),
        )
    )


def _person(mailbox: Mailbox) -> Person:
    return Person(mailbox.name, f"{mailbox.address.local}@{mailbox.address.domain}")


def _told(mail: Mail) -> dict[str, str]:
    """The headers of its own by which a letter may say that it is bulk."""
    values = {each.name.lower(): each.value for each in mail.further}
    if mail.unsubscribe is not None:
        values["list-unsubscribe"] = ""
    return values


def _return_domain(mail: Mail, known: Surroundings) -> str | None:
    if mail.reverse_path:
        return domain_of(mail.reverse_path)
    return known.sender.address.domain if known.sender is not None else None


def _list_unsubscribe(unsubscribe: Unsubscribe | None) -> str:
    if unsubscribe is None:
        return ""
    ways = [f"<{unsubscribe.url}>"] if unsubscribe.url else []
    if unsubscribe.mail is not None:
        ways.append(f"<mailto:{unsubscribe.mail.text}>")
    return ", ".join(ways)


def _clipped(view: View) -> View:
    """The same with no more text than is looked at."""
    text = view.text
    if text is None or len(text) <= MAX_HTML:
        return view
    unseen = f"of its text the first {MAX_HTML // 1024} KB were looked at"
    return replace(view, text=text[:MAX_HTML], unseen=view.unseen or unseen)
