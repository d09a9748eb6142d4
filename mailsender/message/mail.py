"""What a letter's further keys mean for its message. Pure.

A letter keeps them as JSON under the names of the in-topic, so that what is stored is what was published.
They are read when it comes in, to find what is wrong with them, and when it is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from mimetypes import MimeTypes
from types import MappingProxyType
from typing import Any, Final, TypeVar
from unicodedata import normalize

from mailsender.message.headers import MAX_FURTHER, Further, Head, Mailbox, Unsubscribe, parse_mailbox
from mailsender.message.parts import (
    MAX_ATTACHMENTS,
    Attachment,
    BadPart,
    Base64,
    Calendar,
    Content,
    method_of,
)
from mailsender.message.values import BadKey, checked, members, of_type, says, string
from mailsender.model.address import Address, parse_address
from mailsender.model.blobs import is_ref
from mailsender.model.terms import Terms
from mailsender.model.text import storable
from mailsender.templates.template import Limits, TemplateError, normal_language, parse_reference
from mailsender.templates.variables import bounded

T = TypeVar("T")

_TYPES: Final = MimeTypes()  # those that Python knows itself: the machine's may be others on each

_SHOWN: Final = ("application/", "audio/", "font/", "image/", "video/")

_NOBODY: Final = Mailbox("", Address("", "", ""))
"""Whose headers are made only to see whether they can be."""

NO_CONTENTS: Final[Mapping[str, Base64]] = MappingProxyType({})
"""Those of a letter without attachments."""

MAX_SHOWN: Final = 1000
"""Mailboxes in To, Cc or ReplyTo: with names of usual length the header stays below what Postfix keeps."""


CODE: Final = re.compile(r"(?=\D*\d)[0-9A-Za-z]{4,32}", re.ASCII)
"""What a confirmation code looks like, a team's own included: letters and digits, one digit at least."""


class UnknownKey(BadKey):
    """A stored letter has a key that a later version of the service wrote."""


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Mail:
    """The further keys of one letter, checked. What is empty, or None, was not given.

    `author` is From, of which `author_name` changes the name alone. `personal`: each recipient gets a
    message of its own, which shows its address, and its name where `names` has one, and by which it leaves
    the list as `unsubscribe_of` says. `attachments` name their contents. `suppression` says that it goes to
    those, too, who are on the suppression list.

    `template`, `lang` and `variables` are what it is rendered from. That of a personal letter is done when
    it is sent, from what is kept under `pin`, with the `variables_of` each recipient's address.
    """

    author: Mailbox | None = None
    author_name: str | None = None
    sender: Mailbox | None = None
    reply_to: tuple[Mailbox, ...] = ()
    reverse_path: str = ""
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    personal: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    text: str | None = None
    attachments: tuple[Attachment, ...] = ()
    calendar: Calendar | None = None
    further: tuple[Further, ...] = ()
    unsubscribe: Unsubscribe | None = None
    unsubscribe_of: Mapping[str, Unsubscribe] = field(default_factory=lambda: MappingProxyType({}))
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    auto_submitted: str = ""
    importance: str = ""
    template: str = ""
    lang: str = ""
    pin: str = ""
    variables: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    variables_of: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    notifications: Terms | None = None
    require_tls: bool = False
    suppression: str = ""

    @property
    def terms(self) -> Terms | None:
        """What it asks of a relay beside delivery; None: nothing."""
        if not self.require_tls:
            return self.notifications
        return replace(self.notifications or Terms(), require_tls=True)

    @property
    def senders(self) -> tuple[tuple[str, Address], ...]:
        """The addresses that it sends in the name of, each with the key that names it."""
        found = [("From", self.author), ("Sender", self.sender)]
        named = [(key, each.address) for key, each in found if each is not None]
        if self.reverse_path:
            named.append(("ReversePath", parse_address(self.reverse_path)))
        return tuple(named)

    @property
    def shown(self) -> tuple[str, ...]:
        """The addresses in To and Cc, which get the message, too."""
        return tuple(each.address.text for each in (*self.to, *self.cc))

    def code(self, person: str = "") -> str:
        """The confirmation code that its template shows `person`: the variable `code`, if it looks like one.

        What is shorter, or has no digit, is none: it would be found in any text.
        """
        own = self.variables_of.get(person, self.variables)
        told = own.get("code", self.variables.get("code"))
        text = str(told) if isinstance(told, str | int) else ""
        return text if CODE.fullmatch(text) else ""

    @property
    def refs(self) -> tuple[str, ...]:
        """The blobs that its attachments name, one for each."""
        return tuple([each.ref for each in self.attachments])

    def author_of(self, default: Mailbox) -> Mailbox:
        """Who From names, where `default` is the service's own sender."""
        author = self.author or default
        return author if self.author_name is None else replace(author, name=self.author_name)

    def head(self, subject: str, default: Mailbox, person: str = "") -> Head:
        """The headers; those of a personal letter show `person`, the address of its one recipient.

        Raises:
            BadHeader: they cannot be made.
        """
        to = (Mailbox(self.names.get(person, ""), parse_address(person)),) if self.personal else self.to
        return Head(
            author=self.author_of(default),
            subject=subject,
            sender=self.sender,
            reply_to=self.reply_to,
            to=to,
            cc=() if self.personal else self.cc,
            in_reply_to=self.in_reply_to,
            references=self.references,
            auto_submitted=self.auto_submitted,
            importance=self.importance,
            unsubscribe=self.unsubscribe_of.get(person, self.unsubscribe),
            further=self.further,
        )

    def content(self, body: str, text: str | None, contents: Mapping[str, Base64] = NO_CONTENTS) -> Content:
        """What the message shows, where `body` is the letter's HTML. What is empty beside the other is none.

        `contents` are those of its attachments, by their `Ref`s.

        Raises:
            BadBody: a text is no Unicode text.
            BadPart: there are too many attachments, or two of one content ID, or a content is not there.
        """
        html = body if body or not text else None
        attachments = tuple([_filled(each, contents) for each in self.attachments])
        return Content(html=html, text=text or None, calendar=self.calendar, attachments=attachments)


def _filled(attachment: Attachment, contents: Mapping[str, Base64]) -> Attachment:
    content = contents.get(attachment.ref)
    if content is None:
        raise BadPart(f"the attachment {attachment.ref} is not at hand")
    return replace(attachment, content=content)


def read(keys: Mapping[str, Any]) -> Mail:
    """The mail that the further keys of a letter describe; they are JSON values under their documented names.

    Of attachments that bring their content, `mailsender.message.attachments` makes those that name it before.

    Raises:
        UnknownKey: see there.
        BadKey: one of them holds something else than it may; so do those that are `further`.
    """
    found: dict[str, Any] = {}
    wrong: list[BadKey] = []
    for key, value in keys.items():
        if key not in _TABLE:
            raise UnknownKey(key, "is not known to this version of the service")
        if says(key, value):
            name, make = _TABLE[key]
            try:
                found[name] = make(key, value)
            except BadKey as error:
                wrong.append(error)
    mail = Mail(**found)
    if wrong := wrong or list(_clashes(keys, mail)):  # what is not read stands beside nothing
        raise BadKey.of(wrong)
    return mail


def _clashes(keys: Mapping[str, Any], mail: Mail) -> Iterator[BadKey]:
    """The keys that may not stand beside others, or not without them."""
    if mail.personal and (mail.to or mail.cc):
        yield BadKey(
            "Personal", "goes with Addresses alone: each of them stands in the To of its own message"
        )
    if mail.unsubscribe_of and not mail.personal:
        yield BadKey("Addresses", "have a ListUnsubscribe, which goes with Personal; that is not set")
    if mail.template and mail.text is not None:
        yield BadKey("TextBody", "comes from the template; leave it out, or Template")
    if not mail.template:
        for key in ("Variables", "Lang"):
            if says(key, keys.get(key)):
                yield BadKey(key, "goes with Template, which is missing")
        if mail.variables_of:
            yield BadKey("Addresses", "have Variables, which go with Template; that is missing")
    elif mail.variables_of and not mail.personal:
        yield BadKey("Addresses", "have Variables, which go with Personal; that is not set")


# --- each key ------------------------------------------------------------------------------------


def _mailbox(key: str, value: object) -> Mailbox:
    text = string(key, value)
    return checked(key, lambda: parse_mailbox(text))


def _mailboxes(key: str, value: object) -> tuple[Mailbox, ...]:
    several = of_type(key, value, list, "an array of strings")
    if len(several) > MAX_SHOWN:
        raise BadKey(key, f"holds {len(several)} addresses; {MAX_SHOWN} are allowed")
    return tuple(_mailbox(f"{key}[{place}]", each) for place, each in enumerate(several))


def _one_or_several(key: str, value: object) -> tuple[Mailbox, ...]:
    return _mailboxes(key, value) if isinstance(value, list) else (_mailbox(key, value),)


def _reverse_path(key: str, value: object) -> str:
    text = string(key, value)
    return checked(key, lambda: parse_address(text).text)


def _name(key: str, value: object) -> str:
    text = string(key, value)
    checked(key, lambda: replace(_NOBODY, name=text))
    return text


def _beside(key: str, value: object, make: Callable[[object], T]) -> Mapping[str, T]:
    """What stands beside addresses; an error says beside which."""
    made: dict[str, T] = {}
    for address, each in of_type(key, value, dict, "an object").items():
        try:
            made[address] = make(each)
        except BadKey as error:
            error.beside = address
            raise
    return MappingProxyType(made)


def _names(key: str, value: object) -> Mapping[str, str]:
    return _beside(key, value, partial(_name, key))


def _truth(key: str, value: object) -> bool:
    return of_type(key, value, bool, "true or false")


def _text(key: str, value: object) -> str:
    text = string(key, value)
    checked(key, lambda: Content(text=text))
    return text


def _attachments(key: str, value: object) -> tuple[Attachment, ...]:
    several = of_type(key, value, list, "an array of objects")
    if len(several) > MAX_ATTACHMENTS:
        raise BadKey(key, f"holds {len(several)} attachments; {MAX_ATTACHMENTS} are allowed")
    made = tuple(_attachment(f"{key}[{place}]", each) for place, each in enumerate(several))
    checked(key, lambda: Content(html="", attachments=made))
    return made


def _attachment(key: str, value: object) -> Attachment:
    found = members(key, value, "Name", "ContentType", "Content", "Ref", "Inline", "ContentID")
    ref = string(f"{key}.Ref", found.get("Ref", ""))
    if not ref:
        raise BadKey(key, "needs its Content, or the Ref of a blob")
    if not is_ref(ref):
        raise BadKey(f"{key}.Ref", "is none: it reads sha256: and 64 hex digits in lower case")
    # As systems other than Apple's have names, and show them.
    name = normalize("NFC", string(f"{key}.Name", found.get("Name", "")))
    media_type = string(f"{key}.ContentType", found.get("ContentType", _type_of(name)))
    inline = _truth(f"{key}.Inline", found.get("Inline", False))
    content_id = string(f"{key}.ContentID", found.get("ContentID", ""))
    if content_id.startswith("<") and content_id.endswith(">"):
        content_id = content_id[1:-1] or "<>"  # as the header has it
    return checked(
        key,
        lambda: Attachment(name=name, content_type=media_type, inline=inline, content_id=content_id, ref=ref),
    )


def _type_of(name: str) -> str:
    """The media type that the ending of a file's name tells; that of a text tells no charset, so it is none.

    Mail programs show no PDF that is an octet-stream.
    """
    guessed, packed = _TYPES.guess_type(name)
    return guessed if guessed and not packed and guessed.startswith(_SHOWN) else "application/octet-stream"


def _calendar(key: str, value: object) -> Calendar:
    found = members(key, value, "Text", "Method")
    text = string(f"{key}.Text", found.get("Text", ""))
    method = string(f"{key}.Method", found.get("Method", "")).upper() or method_of(text)
    calendar = checked(key, lambda: Calendar(text, method))
    checked(key, lambda: Content(calendar=calendar))
    return calendar


def _further(key: str, value: object) -> tuple[Further, ...]:
    found = of_type(key, value, dict, "an object of strings")
    count = sum([len(each) if isinstance(each, list) else 1 for each in found.values()])
    if max(count, len(found)) > MAX_FURTHER:
        raise BadKey(key, f"holds {max(count, len(found))} headers; {MAX_FURTHER} are allowed")
    pairs = []
    for name, several in found.items():
        checked(key, partial(Further, name, ""))  # from here on the name may be told
        values = several if isinstance(several, list) else [several]
        pairs += [(name, string(f"{key}.{name}", each)) for each in values]
    made = checked(key, lambda: tuple(Further(name, text) for name, text in pairs))
    checked(key, lambda: Head(author=_NOBODY, further=made))
    return made


def _unsubscribe(key: str, value: object) -> Unsubscribe:
    found = members(key, value, "URL", "Mail")
    url = string(f"{key}.URL", found.get("URL", ""))
    mail = string(f"{key}.Mail", found.get("Mail", ""))
    if mail.casefold().startswith("mailto:") or "?" in mail.partition("@")[2]:
        raise BadKey(f"{key}.Mail", "must be the address alone, without mailto: and what follows a ?")
    address = checked(f"{key}.Mail", lambda: parse_address(mail)) if mail else None
    return checked(key, lambda: Unsubscribe(url, address))


def _unsubscribe_of(key: str, value: object) -> Mapping[str, Unsubscribe]:
    return _beside(key, value, partial(_unsubscribe, "Addresses.ListUnsubscribe"))


def _ids(key: str, value: object) -> tuple[str, ...]:
    several: Sequence[object] = value if isinstance(value, list) else [value]
    ids = tuple(word for each in several for word in string(key, each).split())
    named: dict[str, Any] = {"in_reply_to" if key == "InReplyTo" else "references": ids}
    checked(key, lambda: Head(author=_NOBODY, **named))
    return ids


def _auto_submitted(key: str, value: object) -> str:
    word = string(key, value).lower()
    checked(key, lambda: Head(author=_NOBODY, auto_submitted=word))
    return word


def _importance(key: str, value: object) -> str:
    word = string(key, value).lower()
    checked(key, lambda: Head(author=_NOBODY, importance=word))
    return word


def _suppression(key: str, value: object) -> str:
    word = string(key, value).lower()
    if word != "ignore":
        raise BadKey(key, 'must be "ignore"')
    return word


def _template(key: str, value: object) -> str:
    text = string(key, value)
    try:
        parse_reference(text)
    except TemplateError:
        raise BadKey(
            key, "is no name of a template, or name@version, of letters, digits, '-' and '_'"
        ) from None
    return text


def _lang(key: str, value: object) -> str:
    tag = normal_language(string(key, value))
    if not tag:
        raise BadKey(key, "is no language tag such as ru or pt-BR")
    return tag


def _variables(key: str, value: object) -> Mapping[str, Any]:
    found = of_type(key, value, dict, "an object")
    try:
        bounded(found, limits=_LIMITS)
    except TemplateError as error:
        raise BadKey(key, f"cannot be taken: {error}") from None
    try:
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadKey(key, "holds a number that JSON cannot carry on") from None
    if not storable(text):
        raise BadKey(key, "holds half of a surrogate pair")
    return MappingProxyType(found)


def _variables_of(key: str, value: object) -> Mapping[str, Mapping[str, Any]]:
    return _beside(key, value, partial(_variables, "Addresses.Variables"))


_LIMITS: Final = Limits()


def _notifications(key: str, value: object) -> Terms:
    found = members(key, value, "Notify", "Ret", "EnvID")
    notify = of_type(f"{key}.Notify", found.get("Notify", []), list, "an array of strings")
    words = tuple(string(f"{key}.Notify[{place}]", each) for place, each in enumerate(notify))
    ret = string(f"{key}.Ret", found.get("Ret", ""))
    envid = string(f"{key}.EnvID", found.get("EnvID", ""))
    return checked(key, lambda: Terms(notify=words, ret=ret, envid=envid))


_TABLE: Final[dict[str, tuple[str, Callable[[str, object], Any]]]] = {
    "From": ("author", _mailbox),
    "FromName": ("author_name", _name),
    "Sender": ("sender", _mailbox),
    "ReplyTo": ("reply_to", _one_or_several),
    "ReversePath": ("reverse_path", _reverse_path),
    "To": ("to", _mailboxes),
    "Cc": ("cc", _mailboxes),
    "Personal": ("personal", _truth),
    "Names": ("names", _names),
    "TextBody": ("text", _text),
    "Attachments": ("attachments", _attachments),
    "Calendar": ("calendar", _calendar),
    "Headers": ("further", _further),
    "ListUnsubscribe": ("unsubscribe", _unsubscribe),
    "UnsubscribeOf": ("unsubscribe_of", _unsubscribe_of),
    "InReplyTo": ("in_reply_to", _ids),
    "References": ("references", _ids),
    "AutoSubmitted": ("auto_submitted", _auto_submitted),
    "Importance": ("importance", _importance),
    "Template": ("template", _template),
    "Lang": ("lang", _lang),
    "Variables": ("variables", _variables),
    "VariablesOf": ("variables_of", _variables_of),
    "Pin": ("pin", string),
    "DSN": ("notifications", _notifications),
    "RequireTLS": ("require_tls", _truth),
    "Suppression": ("suppression", _suppression),
}

KEYS: Final = tuple(_TABLE)
"""The keys that are read here. `Names`, `VariablesOf` and `UnsubscribeOf`, what stands beside addresses, are
made of objects in `Addresses`, and `Pin` when a letter is taken in: nobody can publish them."""
