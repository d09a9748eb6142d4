"""The mechanisms of AUTH (RFC 4954), each as one dialogue with a relay.

What a relay asks decides what it is told: a password never answers a question for the name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aiosmtplib import SMTPResponse

from mailsender.model.letter import Phase
from mailsender.smtp.bearer import complaint, oauthbearer, xoauth2
from mailsender.smtp.port import RelayAway
from mailsender.smtp.scram import BadServer, Scram

Say = Callable[[bytes], Awaitable[SMTPResponse]]
"""Says a line and waits for the reply to it."""

SUCCESS: Final = 235
_ASKS: Final = 334


class Form(NamedTuple):
    """A mechanism, with what it tells first in the command itself or only when it is asked."""

    mechanism: str
    at_once: bool

    def __str__(self) -> str:
        usual = next(form for form in FORMS if form.mechanism == self.mechanism)
        return self.mechanism if self == usual else f"{self.mechanism}{_WHEN[self.at_once]}"


_WHEN: Final = {True: " at once", False: " on request"}

FORMS: Final = (
    Form("SCRAM-SHA-256", True),
    Form("PLAIN", True),
    Form("LOGIN", False),
    Form("PLAIN", False),
    Form("LOGIN", True),
    Form("SCRAM-SHA-256", False),
    # A token makes a command longer than RFC 5321 §4.5.3.1.4 has it; so it is told when it is asked for.
    Form("XOAUTH2", False),
    Form("OAUTHBEARER", False),
    Form("XOAUTH2", True),
    Form("OAUTHBEARER", True),
)
"""What the standards want of each mechanism, then what some relays want instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who logs in, and by what: a password or a token. Where to is a part of what OAUTHBEARER tells."""

    user: str
    proof: str = field(repr=False)
    host: str = ""
    port: int = 0


class Attempt:
    """One form of login; `proof_told` says whether the relay has heard what it can judge the proof by."""

    def __init__(self, say: Say, form: Form, login: Login) -> None:
        self._say = say
        self._form = form
        self._login = login
        self.proof_told = False

    async def run(self) -> SMTPResponse:
        """The reply that ends it.

        Raises:
            RelayAway: by SCRAM: the relay let us in, and does not know the password.
            SMTPException: as `Say` raises it.
        """
        reply = await self._dialogue()
        # RFC 4954 §4: a lone asterisk gives the login up.
        return await self._say(b"*") if reply.code == _ASKS else reply

    async def _dialogue(self) -> SMTPResponse:
        raise NotImplementedError

    async def _opened(self, first: str) -> SMTPResponse:
        """The reply to `first`, told in the command, or when it is asked for; some pass over the former."""
        command = f"AUTH {self._form.mechanism}".encode()
        if self._form.at_once:
            self.proof_told = True
            reply = await self._say(b"%b %b" % (command, _coded(first)))
            if reply.code != _ASKS or _challenge(reply):
                return reply
        else:
            reply = await self._say(command)
            if _question(reply) != _ANYTHING:
                return reply
        self.proof_told = True
        return await self._say(_coded(first))


class _Plain(Attempt):
    """RFC 4616."""

    async def _dialogue(self) -> SMTPResponse:
        token = f"\0{self._login.user}\0{self._login.proof}"
        if self._form.at_once:
            self.proof_told = True
            reply = await self._say(b"AUTH PLAIN " + _coded(token))
        else:
            reply = await self._say(b"AUTH PLAIN")
        if _question(reply) != _ANYTHING:
            return reply
        self.proof_told = True
        return await self._say(_coded(token))


class _Login(Attempt):
    """It was never a standard (draft-murchison-sasl-login)."""

    async def _dialogue(self) -> SMTPResponse:
        name = _coded(self._login.user)
        if self._form.at_once:
            reply = await self._say(b"AUTH LOGIN " + name)
            wants_name, wants_password = {_NAME}, {_PASSWORD}
        else:
            reply = await self._say(b"AUTH LOGIN")
            wants_name, wants_password = {_NAME, _ANYTHING}, {_PASSWORD, _ANYTHING}
        if _question(reply) in wants_name:
            reply = await self._say(name)
        elif not self._form.at_once:
            return reply
        if _question(reply) not in wants_password:
            return reply
        self.proof_told = True
        return await self._say(_coded(self._login.proof))


class _Scram(Attempt):
    """RFC 7677. What ends it comes as one more challenge (RFC 4954 §4)."""

    async def _dialogue(self) -> SMTPResponse:
        scram = Scram(self._login.user, self._login.proof, secrets.token_urlsafe(24))
        reply = await self._opened(scram.first().decode())
        if reply.code != _ASKS:
            return reply
        try:
            final = await asyncio.to_thread(scram.final, _challenge(reply))
        except BadServer as error:
            reply = await self._say(b"*")
            return SMTPResponse(reply.code, f"{reply.message} ({error})")
        reply = await self._say(base64.b64encode(final))
        proven = False
        if reply.code == _ASKS:
            proven = scram.proves(_challenge(reply))
            reply = await self._say(b"")
        if reply.code == SUCCESS and not proven:
            raise RelayAway(
                "the relay let us in by SCRAM-SHA-256 without a proof that it knows the password (RFC 5802"
                " §3): somebody may stand in its place; with SMTP_AUTH=plain it is told the password",
                phase=Phase.AUTH,
                permanent=True,
            )
        return reply


class _Bearer(Attempt):
    """XOAUTH2 and OAUTHBEARER. A refusal begins with a challenge that says why, which wants one more line."""

    async def _dialogue(self) -> SMTPResponse:
        login = self._login
        if self._form.mechanism == "XOAUTH2":
            first, last = xoauth2(login.user, login.proof), b""
        else:
            first, last = oauthbearer(login.user, login.proof, login.host, login.port), _coded("\x01")
        reply = await self._opened(first)
        if reply.code != _ASKS or not self.proof_told:
            return reply
        why = complaint(_challenge(reply))
        reply = await self._say(last)
        return SMTPResponse(reply.code, f"{reply.message} ({why})") if why else reply


_ATTEMPTS: Final[dict[str, type[Attempt]]] = {
    "SCRAM-SHA-256": _Scram,
    "PLAIN": _Plain,
    "LOGIN": _Login,
    "XOAUTH2": _Bearer,
    "OAUTHBEARER": _Bearer,
}


def attempt(say: Say, form: Form, login: Login) -> Attempt:
    """A login in this form, not yet begun."""
    return _ATTEMPTS[form.mechanism](say, form, login)


_NOTHING, _NAME, _PASSWORD, _ANYTHING = "nothing", "name", "password", "anything"


def _question(reply: SMTPResponse) -> str:
    """What a reply asks for. The draft of LOGIN says to pass over the words, so many write others."""
    if reply.code != _ASKS:
        return _NOTHING
    words = _challenge(reply).decode("utf-8", "replace").lower()
    if "pass" in words:
        return _PASSWORD
    return _NAME if any(word in words for word in ("user", "name", "login")) else _ANYTHING


def _challenge(reply: SMTPResponse) -> bytes:
    """What a reply of 334 holds; empty where that is nothing, or no base64."""
    try:
        return base64.b64decode(reply.message)
    except (binascii.Error, ValueError):
        return b""


def _coded(text: str) -> bytes:
    return base64.b64encode(text.encode())
