"""The headers of a message as values, each checked where it is made, so that what exists can be written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

from mailsender.message.compose import BadHeader, _unstructured, _written
from mailsender.message.fields import MAX_WORD, Field, field, mailbox, text_field, words_field
from mailsender.model.address import Address, BadAddress, parse_address
from mailsender.model.text import header_fault

MAX_NAME = 256
"""Characters of a display name: mail programs show no more."""

MAX_FIELD = 100_000
"""Octets of a header with its name: Postfix drops what is beyond 102,400 (`header_size_limit`)."""

MAX_FURTHER = 50
"""Further headers of a message: providers' own, and there are few."""

MAX_VALUE = 8_000
"""Characters of a further header's value: even encoded it is below `MAX_FIELD`."""

MAX_IDS = 100
"""Message-IDs in References: of `MAX_WORD` octets each they stay below `MAX_FIELD`."""

AUTO_SUBMITTED = frozenset({"auto-generated", "auto-replied", "auto-notified", "no"})
"""What Auto-Submitted may say (RFC 3834 §5, RFC 5436 §2.7.1)."""

IMPORTANCES = frozenset({"high", "normal", "low"})
"""What Importance may say (RFC 2156 §5.3.4). X-Priority says it, too, to some programs, and costs points with
SpamAssassin where no X-Mailer stands beside it: a publisher may set it among its further headers."""

OWN_KEYS = {
    "from": "From",
    "sender": "Sender",
    "reply-to": "ReplyTo",
    "to": "To",
    "cc": "Cc",
    "subject": "Subject",
    "in-reply-to": "InReplyTo",
    "references": "References",
    "list-unsubscribe": "ListUnsubscribe",
    "list-unsubscribe-post": "ListUnsubscribe",
    "auto-submitted": "AutoSubmitted",
    "importance": "Importance",
}
"""Headers that are made of a key of the letter, by their names in lower case."""

REFUSED = frozenset(
    {
        # The envelope alone says who gets a message, and these would add somebody: with old programs, with
        # those that fetch mail out of a mailbox of several people, or at SendGrid and SparkPost, each of
        # which takes recipients out of a header.
        *("bcc", "x-bcc", "apparently-to", "envelope-to", "x-envelope-to", "x-original-to", "x-rcpt-to"),
        *("x-gm-original-to", "x-smtpapi", "x-msys-api"),
        # Made here, or by those who carry the message.
        *("date", "message-id", "received", "return-path", "delivered-to", "dkim-signature"),
        *("authentication-results", "received-spf"),
        # Relays act upon them: errors go to whom the first names, DSN to whom the second does, and the third
        # takes from all letters of a domain the TLS that its receivers ask for (RFC 8689 §5).
        *("errors-to", "return-receipt-to", "tls-required"),
    }
)
"""Headers that a publisher cannot set, by their names in lower case."""

REFUSED_BEGINNINGS = (
    # How the message is encoded, or who resent and sealed it.
    *("mime-", "content-", "resent-", "arc-"),
    # What a provider does with it: whether it goes out at all, when, with which sender, template, copies and
    # signature. Amazon SES, Mailgun, Postmark, Mandrill, Mailjet, Brevo, MailerQ, SMTPeter, PowerMTA,
    # GreenArrow, Exchange.
    *("x-ses-", "x-mailgun-", "x-pm-", "x-mc-", "x-mailjet-", "x-mj-", "x-mailin-", "x-sib-", "x-mq-"),
    *("x-smtpeter-", "x-virtual-mta", "x-greenarrow-", "x-ms-exchange-"),
)
"""How the names of more of them begin; `LABELS` begin so and are taken all the same."""

LABELS = frozenset(
    {
        *("x-ses-configuration-set", "x-ses-message-tags", "x-mailgun-tag", "x-mailgun-variables"),
        *("x-pm-tag", "x-mc-tags", "x-mc-metadata", "x-mailjet-campaign", "x-mj-customid"),
        *("x-mj-eventpayload", "x-mailin-custom", "x-mailin-tag"),
    }
)
"""Headers by which providers' statistics and events tell messages apart: they change nothing of whether, when
and to whom one goes. Beside them there is `LABELS_BEGINNING`."""

LABELS_BEGINNING = "x-pm-metadata-"

REPEATABLE = frozenset({"comments", "keywords"})
"""Headers that may come again (RFC 5322 §3.6), beside those whose names begin with X-."""

# Of what RFC 5322 §3.6.8 allows only what every reader takes for the same name: for some `Mime_Version` is
# `Mime-Version`. No longer than leaves room for an encoded-word behind it on its line.
_NAME = re.compile(r"[A-Za-z0-9-]{1,50}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_FIRST_OF_SEVERAL = re.compile(r"[^\s<>,;@]@[^\s<>,;@]+>? *[,;]")
_ID = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>")
_OTHERS_ID = re.compile(r"<[!-;=?-~]+@[!-;=?-~]+>")  # that of another program: Outlook writes a second @
_NOBODY = field("To", b"undisclosed-recipients:;")
_URL = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986 §2, and nothing that ends or divides a header's URL


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Somebody's address with the name that is shown, which may be empty.

    Raises:
        BadHeader: the name cannot stand in a header.
    """

    name: str
    address: Address

    def __post_init__(self) -> None:
        if fault := header_fault(self.name):
            raise BadHeader(f"the name {fault}")
        if len(self.name) > MAX_NAME:
            raise BadHeader(f"the name has {len(self.name)} characters; {MAX_NAME} are allowed")


def parse_mailbox(text: str) -> Mailbox:
    """The mailbox that is written as an address, or as ``Name <address>`` with the name in quotes or without.

    A name that begins with an address and a comma is taken for the first of several mailboxes, unless it is
    in quotes: all but the last would get no answer, and nobody would notice.

    Raises:
        BadAddress: what stands for the address is none, or there are several.
        BadHeader: the name cannot stand in a header.
    """
    if not text.endswith(">"):
        return Mailbox("", parse_address(text))
    name, _, address = text[:-1].rpartition("<")
    name = name.strip(" ")
    if quoted := _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _FIRST_OF_SEVERAL.search(name):
        raise BadAddress("one address is needed, not a list")
    return Mailbox(name, parse_address(address))


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """How to leave a list: by a URL, by a mail to an address, or both (RFC 2369 §3.2).

    Raises:
        BadHeader: there is neither, or `url` is no absolute http or https URL in ASCII.
    """

    url: str = ""
    mail: Address | None = None

    def __post_init__(self) -> None:
        if not self.url and self.mail is None:
            raise BadHeader("the unsubscription has neither a URL nor an address")
        if self.url and not _is_url(self.url):
            raise BadHeader(
                f"the unsubscription's URL is no http or https URL in ASCII of at most {MAX_WORD} characters"
            )

    @property
    def one_click(self) -> bool:
        """Whether a mail program may unsubscribe by itself: by https alone (RFC 8058 §3.1)."""
        return self.url[:8].lower() == "https://"


def _is_url(text: str) -> bool:
    if len(text) > MAX_WORD or not _URL.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


@dataclass(frozen=True, slots=True)
class Further:
    """A header of the publisher's own. Spaces around its value mean nothing and go.

    Raises:
        BadHeader: its name is none, or one that is made here, or its value cannot stand in a header.
    """

    name: str
    value: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BadHeader("a header's name has letters, digits and hyphens, and at most 50 of them")
        name = self.name.lower()
        if name in OWN_KEYS:
            raise BadHeader(f"the header {self.name} has a key of its own, {OWN_KEYS[name]}")
        if _is_refused(name):
            raise BadHeader(f"the header {self.name} cannot be set by a letter")
        if fault := header_fault(self.value):
            raise BadHeader(f"the header {self.name} {fault}")
        if len(self.value) > MAX_VALUE:
            raise BadHeader(
                f"the header {self.name} has {len(self.value)} characters; {MAX_VALUE} are allowed"
            )


def _is_refused(name: str) -> bool:
    """Whether a publisher cannot set the header of this name in lower case."""
    if name in LABELS or name.startswith(LABELS_BEGINNING):
        return False
    return name in REFUSED or name.startswith(REFUSED_BEGINNINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The headers of a letter's message, the same at every attempt: all but Date, Message-ID and MIME's own.

    `author` is From. Where `to` is empty nobody is shown; who gets the message is for the envelope to say.

    Raises:
        BadHeader: a value is none of those that its header may have, or there are too many.
    """

    author: Mailbox
    subject: str = ""
    sender: Mailbox | None = None
    reply_to: tuple[Mailbox, ...] = ()
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    auto_submitted: str = ""
    importance: str = ""
    unsubscribe: Unsubscribe | None = None
    further: tuple[Further, ...] = ()

    def __post_init__(self) -> None:
        if fault := header_fault(self.subject):
            raise BadHeader(f"the subject {fault}")
        _check_lengths(self)
        _check_ids("In-Reply-To", self.in_reply_to)
        _check_ids("References", self.references)
        _check_word("Auto-Submitted", self.auto_submitted, AUTO_SUBMITTED)
        _check_word("Importance", self.importance, IMPORTANCES)
        _check_further(self.further)

    @property
    def needs_smtputf8(self) -> bool:
        """Whether a shown address can be written in UTF-8 only, which takes SMTPUTF8 (RFC 6531, RFC 6532)."""
        people = (self.author, *self.reply_to, *self.to, *self.cc)
        return any(each.address.needs_smtputf8 for each in people) or (
            self.sender is not None and self.sender.address.needs_smtputf8
        )

    def fields(self, date: datetime, message_id: str) -> list[Field]:
        """The headers as they are written; `date` is aware, `message_id` in angle brackets.

        Raises:
            BadHeader: `message_id` is none.
        """
        _check_ids("Message-ID", (message_id,))
        fields = [field("Date", _written(date)), _people_field("From", (self.author,))]
        if self.sender is not None and self.sender != self.author:  # RFC 5322 §3.6.2: not twice the same
            fields.append(_people_field("Sender", (self.sender,)))
        if self.reply_to:
            fields.append(_people_field("Reply-To", self.reply_to))
        fields.append(_people_field("To", self.to) if self.to else _NOBODY)
        if self.cc:
            fields.append(_people_field("Cc", self.cc))
        subject = _unstructured(self.subject, used=len("Subject:"))
        fields.append(Field("Subject", b"Subject:%b\r\n" % subject))
        fields.append(field("Message-ID", message_id.encode()))
        return fields + self._rarer_fields()

    def _rarer_fields(self) -> list[Field]:
        fields = []
        if self.in_reply_to:
            fields.append(words_field("In-Reply-To", self.in_reply_to))
        if self.references:
            fields.append(words_field("References", self.references))
        if self.auto_submitted:
            fields.append(words_field("Auto-Submitted", [self.auto_submitted]))
        if self.importance:
            fields.append(words_field("Importance", [self.importance]))
        if self.unsubscribe is not None:
            fields += _unsubscribe_fields(self.unsubscribe)
        return fields + [text_field(each.name, each.value) for each in self.further]


def _people_field(name: str, people: Sequence[Mailbox]) -> Field:
    """A header of mailboxes, each on a line of its own."""
    written, used = [], len(name) + 2
    for each in people:
        written.append(mailbox(each.name, each.address.wire, used=used))
        used = 1
    return field(name, b",\r\n ".join(written))


def _unsubscribe_fields(unsubscribe: Unsubscribe) -> list[Field]:
    ways = [f"<{unsubscribe.url}>"] if unsubscribe.url else []
    if unsubscribe.mail is not None:
        local = quote(unsubscribe.mail.local, safe="!$'*+")  # RFC 6068 §2
        ways.append(f"<mailto:{local}@{unsubscribe.mail.domain}>")
    fields = [words_field("List-Unsubscribe", ways, ",")]
    if unsubscribe.one_click:
        fields.append(field("List-Unsubscribe-Post", b"List-Unsubscribe=One-Click"))
    return fields


# --- checks --------------------------------------------------------------------------------------


def _check_lengths(head: Head) -> None:
    if len(head.subject) > MAX_VALUE:
        raise BadHeader(f"the subject has {len(head.subject)} characters; {MAX_VALUE} are allowed")
    for name, people in (("Reply-To", head.reply_to), ("To", head.to), ("Cc", head.cc)):
        # The largest mailbox takes some 2,000 octets, so that the header of a few need not be made twice.
        if len(people) > MAX_FIELD // 2500 and (size := len(_people_field(name, people).raw)) > MAX_FIELD:
            raise BadHeader(f"the header {name} would have {size} octets; {MAX_FIELD} are allowed")


def _check_ids(name: str, ids: tuple[str, ...]) -> None:
    if len(ids) > MAX_IDS:
        raise BadHeader(f"the header {name} has {len(ids)} Message-IDs; {MAX_IDS} are allowed")
    form = _ID if name == "Message-ID" else _OTHERS_ID
    for each in ids:
        if len(each) > MAX_WORD or not form.fullmatch(each):
            raise BadHeader(f"the header {name} has a Message-ID that is not of the form <left@right>")


def _check_word(name: str, word: str, words: Iterable[str]) -> None:
    if word and word not in words:
        raise BadHeader(f"the header {name} can only be {', '.join(sorted(words))}")


def _check_further(further: tuple[Further, ...]) -> None:
    if len(further) > MAX_FURTHER:
        raise BadHeader(f"it has {len(further)} further headers; {MAX_FURTHER} are allowed")
    seen: set[str] = set()
    for each in further:
        name = each.name.lower()
        if name in seen and name not in REPEATABLE and not name.startswith("x-"):
            raise BadHeader(f"the header {each.name} is there twice")
        seen.add(name)
