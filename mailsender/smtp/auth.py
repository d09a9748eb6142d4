"""The login (RFC 4954) in the forms that relays want, tried in order until one works.

Relays disagree about everything but the credentials: some take PLAIN in one line only, some in two; LOGIN was
never a standard, and some want to ask for the name, some pass over a name that came with the command and ask
for it all the same; some offer a mechanism and refuse it. What a relay asks decides what it is told: a
password never answers a question for the name.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog
from aiosmtplib import SMTPAuthenticationError, SMTPResponse, SMTPServerDisconnected

from mailsender.model.clock import Clock

log = structlog.get_logger()

Say = Callable[[bytes], Awaitable[SMTPResponse]]
"""Says a line and waits for the reply to it."""

_SUCCESS: Final = 235
_ASKS: Final = 334
_NO_SUCH_MECHANISM: Final = frozenset({504, 534})
"""The mechanism is unknown, or too weak for this account (RFC 4954 §4, §6); another one may do."""

_ABOUT_THE_FORM: Final = frozenset({500, 501, 502}) | _NO_SUCH_MECHANISM
"""Replies that say nothing about the credentials. All others of 5xx may, once a password was told."""

FIRST_PAUSE, LAST_PAUSE = 10.0, 600.0
"""Seconds between two logins that are refused, of whatever session; doubled each time.

Each session would come again by itself, and relays lock an account, or an address, after some wrong logins.
"""


class Form(NamedTuple):
    """A mechanism, with what it tells first in the command itself or only when it is asked."""

    mechanism: str
    at_once: bool

    def __str__(self) -> str:
        usual = self in FORMS[:2]
        return self.mechanism if usual else f"{self.mechanism}{' at once' if self.at_once else ' on request'}"


FORMS: Final = (Form("PLAIN", True), Form("LOGIN", False), Form("PLAIN", False), Form("LOGIN", True))
"""What the standards want of either mechanism, then what some relays want instead."""

MECHANISMS: Final = frozenset(form.mechanism for form in FORMS)


@dataclass(slots=True)
class LoginMemory:
    """What is known of a relay's logins; shared by all sessions with it.

    `order` begins with what worked last, or with what was not tried yet. `further_spent` says that a password
    that was refused has been tried in a second form already: each try counts towards the lock of the account.
    `turn` lets one session at a time log in, as long as that is not known to work.
    """

    order: list[Form] = field(default_factory=lambda: list(FORMS))
    worked: Form | None = None
    further_spent: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    refusal: SMTPAuthenticationError | None = None
    again: float = 0.0  # monotonic seconds
    pause: float = 0.0

    def check(self, now: float) -> None:
        """Raise the relay's last refusal as long as it is too early for another login.

        Raises:
            SMTPAuthenticationError: the same as last time.
        """
        if self.refusal is not None and now < self.again:
            raise SMTPAuthenticationError(self.refusal.code, self.refusal.message)

    def refused(self, refusal: SMTPAuthenticationError, now: float) -> None:
        """Log in no more for a while, which is longer each time."""
        if self.refusal is None or now >= self.again:  # else others were on their way beside this one
            self.pause = min(LAST_PAUSE, self.pause * 2) if self.pause else FIRST_PAUSE
            self.refusal, self.again = refusal, now + self.pause

    def forms(self, offered: Collection[str]) -> list[Form]:
        """Those of the mechanisms in `offered`, the likeliest first."""
        return [form for form in self.order if form.mechanism in offered]

    def found(self, form: Form) -> None:
        """Begin with this one from now on."""
        self.order.remove(form)
        self.order.insert(0, form)
        self.worked, self.further_spent = form, False
        self.refusal, self.pause = None, 0.0

    def failed(self, *forms: Form) -> None:
        """Try the others first."""
        self.order = [form for form in self.order if form not in forms] + list(forms)

    def may_try_further(self) -> bool:
        """Whether a password that was refused in one form may be tried in another; true once."""
        spent, self.further_spent = self.further_spent, True
        return not spent


async def log_in(
    say: Say, *, offered: Collection[str], user: str, password: str, memory: LoginMemory, clock: Clock
) -> None:
    """Log in, in whatever form the relay takes of the mechanisms in `offered` (upper case).

    Raises:
        SMTPAuthenticationError: it takes none, or another session has heard so just now; with the reply that
            says most about why.
        SMTPException: the connection was lost, or an answer took too long.
    """
    known = memory.worked is not None and memory.refusal is None
    async with contextlib.nullcontext() if known else memory.turn:
        memory.check(clock.monotonic())
        try:
            await _try_forms(say, offered, user, password, memory)
        except LoginRefused as error:
            memory.refused(error, clock.monotonic())
            raise


class LoginRefused(SMTPAuthenticationError):  # noqa: N818  an answer
    """The relay has judged the credentials, or said that it cannot now; not only the form of the login."""


async def _try_forms(
    say: Say, offered: Collection[str], user: str, password: str, memory: LoginMemory
) -> None:
    refusals = _Refusals()
    useless: set[str] = set()
    for form in memory.forms(offered):
        if form.mechanism in useless:
            continue
        attempt = _Attempt(say, form, user, password)
        try:
            reply = await attempt.run()
        except SMTPServerDisconnected:
            refusals.raise_if_any()  # that it closed after it refused says less than what it refused
            memory.failed(form)
            raise
        if reply.code == _SUCCESS:
            _note(form, offered, memory)
            return
        judged = attempt.password_told and reply.code not in _ABOUT_THE_FORM
        refusals.add(reply, judged=judged)
        if reply.code < 500 or (judged and form == memory.worked):
            break
        if reply.code in _NO_SUCH_MECHANISM:
            useless.add(form.mechanism)
            memory.failed(*memory.forms({form.mechanism}))
        else:
            memory.failed(form)
        if judged and not memory.may_try_further():
            break
    refusals.raise_if_any()


def _note(form: Form, offered: Collection[str], memory: LoginMemory) -> None:
    usual = next(each for each in FORMS if each.mechanism in offered)
    if form not in {usual, memory.worked}:
        log.info(
            "relay_login_form", form=str(form), action="the relay refused the usual form; this one is kept"
        )
    memory.found(form)


class _Refusals:
    """What a relay said to each form."""

    def __init__(self) -> None:
        self._first: SMTPResponse | None = None
        self._telling: SMTPResponse | None = None

    def add(self, reply: SMTPResponse, *, judged: bool) -> None:
        """Keep it; what it says of credentials (`judged`), or that it cannot tell now, outweighs the rest."""
        self._first = self._first or reply
        if judged or reply.code < 500:
            self._telling = self._telling or reply

    def raise_if_any(self) -> None:
        """Raise the one that says most."""
        if self._telling is not None:
            raise LoginRefused(self._telling.code, self._telling.message)
        if self._first is not None:
            raise SMTPAuthenticationError(self._first.code, self._first.message)


class _Attempt:
    """One form of login; `password_told` says whether the relay has heard the password."""

    def __init__(self, say: Say, form: Form, user: str, password: str) -> None:
        self._say = say
        self._form = form
        self._user = user
        self._password = password
        self.password_told = False

    async def run(self) -> SMTPResponse:
        """The reply that ends it. Raises what `Say` raises."""
        reply = await (self._plain() if self._form.mechanism == "PLAIN" else self._login())
        # RFC 4954 §4: a lone asterisk gives the login up.
        return await self._say(b"*") if reply.code == _ASKS else reply

    async def _plain(self) -> SMTPResponse:
        token = f"\0{self._user}\0{self._password}"
        if self._form.at_once:
            self.password_told = True
            reply = await self._say(b"AUTH PLAIN " + _coded(token))
        else:
            reply = await self._say(b"AUTH PLAIN")
        if _question(reply) != _ANYTHING:
            return reply
        self.password_told = True
        return await self._say(_coded(token))

    async def _login(self) -> SMTPResponse:
        name = _coded(self._user)
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
        self.password_told = True
        return await self._say(_coded(self._password))


_NOTHING, _NAME, _PASSWORD, _ANYTHING = "nothing", "name", "password", "anything"


def _question(reply: SMTPResponse) -> str:
    """What a reply asks for. The draft of LOGIN says to pass over the words, so many write others."""
    if reply.code != _ASKS:
        return _NOTHING
    try:
        words = base64.b64decode(reply.message).decode("utf-8", "replace").lower()
    except (binascii.Error, ValueError):
        return _ANYTHING
    if "pass" in words:
        return _PASSWORD
    return _NAME if any(word in words for word in ("user", "name", "login")) else _ANYTHING


def _coded(text: str) -> bytes:
    return base64.b64encode(text.encode())
