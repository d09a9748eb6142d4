"""The message of a letter: in the plain form, which nearly all have, or with what its further keys say."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from mailsender.message.compose import Composer
from mailsender.message.headers import MAX_VALUE, Mailbox
from mailsender.message.mail import NO_CONTENTS, Mail, read
from mailsender.message.mime import NeedsSmtputf8, compose
from mailsender.message.parts import Base64
from mailsender.model.address import parse_address
from mailsender.model.letter import Letter, Recipient
from mailsender.templates.compiled import Rendered

KEPT: Final = 32
"""Mails that are kept once they are read: those of the letters that are on their way over some sessions."""

KEPT_CHARACTERS: Final = 4 * 1024 * 1024
"""Characters of JSON of all of them together; the last one is kept, however large. Beside them are those that
somebody holds, as a sender does that of the letter that it sends: to read one of 10,000 recipients with
variables takes 0.4 s, and each of them has a message of its own."""


class OnePersonsFault(ValueError):  # noqa: N818  reads better where it is caught
    """The message to one recipient of a personal letter cannot be made; those to others may be."""


class Filling(Protocol):
    """What a personal letter is rendered with for each recipient; see `mailsender.templates.pins`."""

    def letter(self, subject: str, *layers: Mapping[str, Any]) -> Rendered:
        """The words for a recipient. Raises ValueError where there are none."""
        ...


class Fillings(Protocol):
    """Where fillings come from."""

    async def filling(self, digest: str, lang: str) -> Filling:
        """What was pinned under `digest`.

        Raises:
            ValueError: it is not there, or nothing can be made of it.
            Unavailable: its store does not answer.
        """
        ...


class LetterComposer:
    """A `Composer` for letters of either kind; `display` and `address` are the service's own sender.

    Without `fillings` no personal letter with a template can be sent. `text_of` makes a text part of HTML
    that has none beside it, or None where it has no words.
    """

    __slots__ = ("_fillings", "_held", "_mails", "_places", "_plain", "_sender", "_size", "_text_of")

    def __init__(
        self,
        display: str,
        address: str,
        fillings: Fillings | None = None,
        *,
        text_of: Callable[[str], str | None] | None = None,
    ) -> None:
        self._plain = Composer(display, address)
        self._sender = Mailbox(display, parse_address(address))
        self._fillings = fillings
        self._text_of = text_of
        self._mails: OrderedDict[str, Mail] = OrderedDict()
        self._held: WeakValueDictionary[str, Mail] = WeakValueDictionary()
        self._places: OrderedDict[str, tuple[tuple[Recipient, ...], dict[str, int]]] = OrderedDict()
        self._size = 0

    async def filling(self, letter: Letter) -> Filling | None:
        """What the messages of a personal letter are rendered with, None where it has no template.

        Raises:
            ValueError: it has one that is not there, or that nothing can be made of.
            Unavailable: the store of templates does not answer.
        """
        mail = self.mail(letter)
        if not mail.pin:
            return None
        if self._fillings is None:
            raise ValueError("there are no templates here")
        return await self._fillings.filling(mail.pin, mail.lang)

    def compose(
        self,
        letter: Letter,
        *,
        eight_bit: bool,
        date: datetime,
        smtputf8: bool = False,
        person: str = "",
        contents: Mapping[str, Base64] = NO_CONTENTS,
        filling: Filling | None = None,
    ) -> bytes | tuple[bytes, ...]:
        """See `Composer.compose`; what is long may come in pieces, whose whole is the message.

        `person` is the one recipient of a personal letter's message, `contents` are those of its
        attachments by their `Ref`s, `filling` is what its words are made of.

        Raises:
            OnePersonsFault: the words for `person` cannot be made of `filling`, or not sent, or the session
                cannot be shown that address.
            ValueError: the message cannot be made, as by a header that is none, with the reason.
        """
        if not letter.mail and not self._gets_text(letter):
            return self._plain.compose(letter, eight_bit=eight_bit, date=date)
        mail = self.mail(letter)
        words = Rendered(letter.subject, letter.body, mail.text)
        try:
            if filling is not None:
                words = filling.letter(letter.subject, mail.variables, mail.variables_of.get(person, {}))
            text = words.text
            if not text and words.html and self._text_of is not None:
                text = self._text_of(words.html)
            made = compose(
                mail.head(words.subject or "", self._sender, person),
                mail.content(words.html or "", text, contents),
                date=date,
                message_id=self._message_id(letter, person),
                eight_bit=eight_bit,
                # As the plain form does, which asks for nothing: only SMTP_FROM is shown there.
                smtputf8=smtputf8 or not letter.mail,
            )
        except ValueError as error:
            his_own = filling is not None or (person and isinstance(error, NeedsSmtputf8))
            if not his_own:
                raise
            raise OnePersonsFault(str(error)) from error
        return made.octets()

    def _gets_text(self, letter: Letter) -> bool:
        """Whether a letter without further keys is given a text part.

        One whose subject is longer than is allowed beside them goes as it would without that setting.
        """
        if self._text_of is None or len(letter.subject) > MAX_VALUE:
            return False
        return bool(self._text_of(letter.body))

    def mail(self, letter: Letter) -> Mail:
        """What the further keys of a letter say.

        Raises:
            ValueError: they say nothing that a message could be made of.
        """
        text = letter.mail
        mail = self._mails.get(text) or self._held.get(text)  # parts and attempts of a letter share the work
        if mail is None:
            mail = self._mails[text] = self._held[text] = read(json.loads(text)) if text else Mail()
            self._size += len(text)
            while len(self._mails) > 1 and (self._size > KEPT_CHARACTERS or len(self._mails) > KEPT):
                self._size -= len(self._mails.popitem(last=False)[0])
        return mail

    def message_id(self, letter: Letter) -> str:
        """See `Composer.message_id`; its domain is that of the letter's own sender, if that can be read."""
        made = self._plain.message_id(letter)
        if not letter.mail or letter.message_id == made:
            return made
        try:
            author = self.mail(letter).author
        except ValueError:
            return made
        return made if author is None else f"{made.partition('@')[0]}@{author.address.domain}>"

    def _message_id(self, letter: Letter, person: str) -> str:
        """That of one message: each of a personal letter has its own."""
        whole = self.message_id(letter)
        if not person:
            return whole
        left, _, right = whole.partition("@")
        return f"{left}.{self._place(letter, person)}@{right}"

    def _place(self, letter: Letter, person: str) -> int:
        """The place of a recipient among all, which for one of thousands is not looked for each time."""
        known = self._places.get(letter.id)
        if known is None or known[0] is not letter.recipients:
            known = letter.recipients, {each: place for place, each in enumerate(letter.everybody)}
            self._places[letter.id] = known
            while len(self._places) > KEPT:
                self._places.popitem(last=False)
        return known[1][person]
