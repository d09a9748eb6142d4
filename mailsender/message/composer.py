"""The message of a letter: in the plain form, which nearly all have, or with what its further keys say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from mailsender.message.compose import Composer
from mailsender.message.headers import Mailbox
from mailsender.message.mail import NO_CONTENTS, Mail, read
from mailsender.message.mime import compose
from mailsender.message.parts import Base64
from mailsender.model.address import parse_address
from mailsender.model.letter import Letter


class LetterComposer(Composer):
    """A `Composer` for letters of either kind; `display` and `address` are the service's own sender."""

    __slots__ = ("_last", "_sender")

    def __init__(self, display: str, address: str) -> None:
        super().__init__(display, address)
        self._sender = Mailbox(display, parse_address(address))
        self._last = ("", Mail())

    def compose(  # type: ignore[override]  a long message stays in pieces
        self,
        letter: Letter,
        *,
        eight_bit: bool,
        date: datetime,
        smtputf8: bool = False,
        person: str = "",
        contents: Mapping[str, Base64] = NO_CONTENTS,
    ) -> bytes | tuple[bytes, ...]:
        """See `Composer.compose`; what is long may come in pieces, whose whole is the message.

        `person` is the one recipient of a personal letter's message, `contents` are those of its
        attachments by their `Ref`s.

        Raises:
            ValueError: the message cannot be made, as by a header that is none, with the reason.
        """
        if not letter.mail:
            return super().compose(letter, eight_bit=eight_bit, date=date)
        mail = self.mail(letter)
        made = compose(
            mail.head(letter.subject, self._sender, person),
            mail.content(letter.body, contents),
            date=date,
            message_id=self._message_id(letter, person),
            eight_bit=eight_bit,
            smtputf8=smtputf8,
        )
        return made.octets()

    def mail(self, letter: Letter) -> Mail:
        """What the further keys of a letter say.

        Raises:
            ValueError: they say nothing that a message could be made of.
        """
        text, mail = self._last  # the parts and attempts of a letter share the work
        if text is not letter.mail:
            mail = read(json.loads(letter.mail)) if letter.mail else Mail()
            self._last = letter.mail, mail
        return mail

    def message_id(self, letter: Letter) -> str:
        """See `Composer.message_id`; its domain is that of the letter's own sender."""
        made = super().message_id(letter)
        if not letter.mail or letter.message_id == made:
            return made
        author = self.mail(letter).author
        return made if author is None else f"{made.partition('@')[0]}@{author.address.domain}>"

    def _message_id(self, letter: Letter, person: str) -> str:
        """That of one message: each of a personal letter has its own."""
        whole = self.message_id(letter)
        if not person:
            return whole
        left, _, right = whole.partition("@")
        return f"{left}.{letter.everybody.index(person)}@{right}"
