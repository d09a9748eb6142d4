"""The login (RFC 4954) in the forms that relays want, tried in order until one works.

Relays disagree about everything but the credentials: some take PLAIN in one line only, some in two; LOGIN was
never a standard, and some want to ask for the name, some pass over a name that came with the command and ask
for it all the same; some offer a mechanism and refuse it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
from aiosmtplib import SMTPAuthenticationError, SMTPResponse, SMTPServerDisconnected

from mailsender.model.clock import Clock
from mailsender.smtp.mechanisms import FORMS, SUCCESS, Form, Login, Say, attempt
from mailsender.smtp.tokens import Tokens

log = structlog.get_logger()

_NO_SUCH_MECHANISM: Final = frozenset({504, 534})
"""The mechanism is unknown, or too weak for this account (RFC 4954 §4, §6); another one may do."""

_ABOUT_THE_FORM: Final = frozenset({500, 501, 502}) | _NO_SUCH_MECHANISM
"""Replies that say nothing about the credentials. All others of 5xx may, once the proof was told."""

_TRANSITION: Final = 432, "4.7.12"
"""The account cannot log in by this mechanism before it has by PLAIN (RFC 4954 §6)."""

FIRST_PAUSE, LAST_PAUSE = 10.0, 600.0
"""Seconds between two logins that are refused, of whatever session; doubled each time.

Each session would come again by itself, and relays lock an account, or an address, after some wrong logins.
"""


class Repeated(SMTPAuthenticationError):  # noqa: N818  an answer
    """What the relay said to an earlier login; it has not been asked again."""


@dataclass(slots=True)
class LoginMemory:
    """What is known of a relay's logins; shared by all sessions with it.

    `order` begins with what worked last, or with what was not tried yet. `further_spent` says that a password
    that was refused has been tried in a second form already: each try counts towards the lock of the account.
    `turn` lets one session at a time log in, as long as that is not known to work. `refused_proof` is the
    password or token of the last `refusal`: another one need not wait. `relay` is its name for the log.
    """

    relay: str = ""
    order: list[Form] = field(default_factory=lambda: list(FORMS))
    worked: Form | None = None
    further_spent: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    refusal: SMTPAuthenticationError | None = None
    refused_proof: str = field(default="", repr=False)
    again: float = 0.0  # monotonic seconds
    pause: float = 0.0

    def check(self, proof: str, now: float) -> None:
        """Raise the relay's last refusal as long as it is too early for another login by the same proof.

        Raises:
            Repeated: the same as last time.
        """
        if self.refusal is not None and now < self.again and proof == self.refused_proof:
            raise Repeated(self.refusal.code, self.refusal.message)

    def refused(self, refusal: SMTPAuthenticationError, proof: str, now: float) -> None:
        """Log in no more by this proof for a while, which is longer each time."""
        self.refused_proof = proof
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
    say: Say,
    *,
    offered: Collection[str],
    login: Login,
    memory: LoginMemory,
    clock: Clock,
    tokens: Tokens | None = None,
) -> None:
    """Log in, in whatever form the relay takes of the mechanisms in `offered` (upper case).

    Where `tokens` has another one than the relay refuses, that is tried, too, once.

    Raises:
        SMTPAuthenticationError: it takes none, or another session has heard so just now; with the reply that
            says most about why.
        RelayAway: the relay does not prove who it is.
        SMTPException: the connection was lost, or an answer took too long.
    """
    known = memory.worked is not None and memory.refusal is None
    async with contextlib.nullcontext() if known else memory.turn:
        memory.check(login.proof, clock.monotonic())
        refusal = await _refusal(say, offered, login, memory)
        if refusal is not None and refusal.code >= 500 and tokens is not None:
            token = await tokens.another_than(login.proof)
            if token is not None:
                login = replace(login, proof=token)
                refusal = await _refusal(say, offered, login, memory)
        if refusal is not None:
            memory.refused(refusal, login.proof, clock.monotonic())
            raise refusal


class LoginRefused(SMTPAuthenticationError):  # noqa: N818  an answer
    """The relay has judged the credentials, or said that it cannot now; not only the form of the login."""


async def _refusal(
    say: Say, offered: Collection[str], login: Login, memory: LoginMemory
) -> LoginRefused | None:
    """What the relay says to this login; None: we are in. Raises what is no judgement."""
    try:
        await _try_forms(say, offered, login, memory)
    except LoginRefused as error:
        return error
    return None


async def _try_forms(say: Say, offered: Collection[str], login: Login, memory: LoginMemory) -> None:
    refusals = _Refusals()
    useless: set[str] = set()
    for form in memory.forms(offered):
        if form.mechanism in useless:
            continue
        trying = attempt(say, form, login)
        try:
            reply = await trying.run()
        except SMTPServerDisconnected:
            refusals.raise_if_any()  # that it closed after it refused says less than what it refused
            memory.failed(form)
            raise
        if reply.code == SUCCESS:
            _note(form, offered, memory)
            return
        other_first = _wants_other_first(reply)
        judged = trying.proof_told and reply.code not in _ABOUT_THE_FORM and not other_first
        not_now = reply.code < 500 and not other_first
        refusals.add(reply, telling=judged or not_now)
        if not_now or (judged and form == memory.worked):
            break
        if reply.code in _NO_SUCH_MECHANISM or other_first:
            useless.add(form.mechanism)
            memory.failed(*memory.forms({form.mechanism}))
        else:
            memory.failed(form)
        if judged and not memory.may_try_further():
            break
    refusals.raise_if_any()


def _wants_other_first(reply: SMTPResponse) -> bool:
    code, enhanced = _TRANSITION
    return reply.code == code and str(reply.message).startswith(enhanced)


def _note(form: Form, offered: Collection[str], memory: LoginMemory) -> None:
    usual = next(each for each in FORMS if each.mechanism in offered)
    if form not in {usual, memory.worked}:
        log.info(
            "relay_login_form",
            relay=memory.relay,
            form=str(form),
            action="the relay refused the usual form; this one is kept",
        )
    memory.found(form)


class _Refusals:
    """What a relay said to each form."""

    def __init__(self) -> None:
        self._first: SMTPResponse | None = None
        self._telling: SMTPResponse | None = None

    def add(self, reply: SMTPResponse, *, telling: bool) -> None:
        """Keep it; what it says of credentials, or that it cannot now (`telling`), outweighs the rest."""
        self._first = self._first or reply
        if telling:
            self._telling = self._telling or reply

    def raise_if_any(self) -> None:
        """Raise the one that says most."""
        if self._telling is not None:
            raise LoginRefused(self._telling.code, self._telling.message)
        if self._first is not None:
            raise SMTPAuthenticationError(self._first.code, self._first.message)
