"""Relays that behave as real ones are reported to. By in_flight:

    python -m lab.relay_zoo --list
    python -m lab.relay_zoo exchange                    says host:port, then shows the dialogue
    python -m lab.relay_zoo exchange initial=535 --port 2525

All but the `postfix-…` ones (`lab.restricted_postfix`, which start a real one, as root) are scripted: they know
the order of commands, transactions and logins as a relay does, and differ in one habit each. `taken` holds the
messages that one took responsibility for, `asked` what was answered to each of its questions at the login.

| what the other side does | classes |
| --- | --- |
| takes so many recipients a transaction, and says 452 or 552 to the rest | `TooManyRecipients`, `Gmail`, `PostfixRecipientLimit` |
| takes SCRAM-SHA-256 or tokens, and refuses them in the words of Google or of Microsoft | `ScramOffered`, `TokensWanted` |
| takes so many messages a session, and then says 452, 451 or 530 without closing it | `SessionLimit`, `Stalwart` |
| wants AUTH LOGIN without the name, or PLAIN without its argument, or refuses PLAIN as a mechanism | `Exchange`, `PlainOnRequest`, `PlainRefused`, `Stalwart` |
| wants a whole name, or an address, in EHLO, and says so at RCPT | `HeloCritic`, `PostfixHelo` |
| finds fault with the account: not the owner of the sender's address, quota used up, not verified | `SenderNotOwned`, `PostfixSenderLogin`, `Gmail`, `Ses`, `Microsoft365` |
| greylists, limits messages a minute, refuses each fresh session at MAIL, answers 421 now and then | `Greylister`, `RateLimit`, `FreshSessionRefused`, `EverySecond`, `PostfixRate`, `PostfixPostscreen` |
| offers PIPELINING, and something on the way drops the rest of a packet, or what follows the dot | `BrokenFirewall` |
| says 250 to the dot when nobody waits any more | `LateReply` |
| refuses everybody | `RefusesEverybody` |
| takes TCP and never greets | `NeverGreets` |
| does not know the recipient's domain | `PostfixUnknownDomain` |
| keeps all limits that a provider publishes, over any time (`lab.providers`) | `SesLimits`, `GoogleLimits`, `MicrosoftLimits` |
"""  # noqa: E501  a table

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import inspect
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lab.sasl import REFUSED, ScramServer, bearer
from lab.scripted import (
    DOT,
    GREETING,
    OFFERS,
    Answer,
    Peer,
    ScriptedRelay,
    stall,
    then,
)

USER, PASSWORD = "robot@example.org", "s3cret-of-the-zoo"
"""The account that relays of the zoo know."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message for which a relay took responsibility."""

    sender: str
    recipients: tuple[str, ...]
    message: bytes


@dataclass(slots=True)
class Visit:
    """What a relay remembers of one connection."""

    peer: Peer
    number: int
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    mails: int = 0  # MAIL commands that were taken
    taken: int = 0
    user: str = ""

    def end_transaction(self) -> None:
        self.sender = None
        self.recipients = []


class Aborted(Exception):  # noqa: N818  a state of the dialogue
    """The client gave the login up with a lone asterisk."""


class ZooRelay(ScriptedRelay):
    """A good relay that keeps the order of commands; the others differ from it."""

    NAME: ClassVar[str] = "good"
    MECHANISMS: ClassVar[tuple[str, ...]] = ("PLAIN", "LOGIN")
    PROMPTS: ClassVar[tuple[str, str]] = ("Username:", "Password:")

    def __init__(
        self, *, offers: Sequence[str] | None = None, needs_login: bool = False, **options: Any
    ) -> None:
        super().__init__(offers=offers if offers is not None else self.usual_offers(), **options)
        self._needs_login = needs_login
        self._visits: dict[Peer, Visit] = {}
        self.taken: list[Taken] = []
        self.asked: list[tuple[str, str]] = []
        self.logins = 0
        self.accounts = {USER: PASSWORD}

    def usual_offers(self) -> list[str]:
        """The lines of EHLO."""
        others = [offer for offer in OFFERS if not offer.startswith("AUTH")]
        return ["PIPELINING", *others, f"AUTH {' '.join(self.MECHANISMS)}"]

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        """What it does its own way; None: what a good relay does."""
        return None

    # --- the order of commands -------------------------------------------------------------------

    def visit(self, peer: Peer) -> Visit:
        """What is remembered of this connection."""
        return self._visits.setdefault(peer, Visit(peer, len(self._visits)))

    def behave(self, peer: Peer, moment: str) -> Answer | None:
        visit = self.visit(peer)
        command = peer.commands[-1] if peer.commands else ""
        disorder = self._disorder(visit, moment)
        return disorder or self.reply(visit, moment, command)

    def _disorder(self, visit: Visit, moment: str) -> str | None:
        if moment == "MAIL" and visit.sender is not None:
            return "503 5.5.1 Error: nested MAIL command"
        if moment == "MAIL" and self._needs_login and not visit.user:
            return "530 5.7.0 Authentication required"
        if moment == "RCPT" and visit.sender is None:
            return "503 5.5.1 Error: need MAIL command"
        if moment == "DATA" and visit.sender is None:
            return "503 5.5.1 Error: need RCPT command"
        if moment == "DATA" and not visit.recipients:
            return "554 5.5.1 Error: no valid recipients"
        return None

    async def _answer(self, peer: Peer, moment: str, default: str = "500 5.5.2 What?") -> str:
        said = await super()._answer(peer, moment, default)
        visit, good = self.visit(peer), said.startswith(("250", "354"))
        if moment == "MAIL" and good:
            visit.sender = path_of(peer.commands[-1])
            visit.mails += 1
        elif moment == "RCPT" and good:
            visit.recipients.append(path_of(peer.commands[-1]))
        elif moment == DOT and good:
            self.take(peer)
        if moment in {"EHLO", "HELO", "RSET", DOT}:
            visit.end_transaction()
        return said

    async def _say_offers(self, peer: Peer) -> None:
        self.visit(peer).end_transaction()
        await super()._say_offers(peer)

    def take(self, peer: Peer) -> None:
        """Take responsibility for the message that has just come."""
        visit = self.visit(peer)
        visit.taken += 1
        self.taken.append(Taken(visit.sender or "", tuple(visit.recipients), peer.messages[-1]))

    # --- the login -------------------------------------------------------------------------------

    def judge_mechanism(self, mechanism: str) -> str:
        """The refusal of a mechanism; empty when it may go on."""
        return "" if mechanism in self.MECHANISMS else "504 5.5.4 Unrecognized authentication type"

    def judge_initial(self, mechanism: str, initial: str) -> str | None:
        """What is said to an argument of AUTH: empty when it counts, None when it is passed over."""
        return ""

    async def _authenticate(self, peer: Peer, command: str) -> None:
        _, _, words = command.partition(" ")
        mechanism, _, initial = words.partition(" ")
        mechanism = mechanism.upper()
        refusal: str | None = self.judge_mechanism(mechanism)
        if not refusal and initial:
            refusal = self.judge_initial(mechanism, initial)
            if refusal is None:
                refusal, initial = "", ""
        if refusal:
            await peer.say(refusal)
            return
        try:
            user, password = await self._credentials(peer, mechanism, initial)
        except Aborted:
            await peer.say("501 5.7.0 Authentication aborted")
            return
        except ValueError:
            await peer.say("501 5.5.2 Cannot decode the response")
            return
        if self.accounts.get(user) == password:
            self.logins += 1
            self.visit(peer).user = user
            await peer.say("235 2.7.0 Authentication successful")
        else:
            await peer.say("535 5.7.8 Error: authentication failed")

    async def _credentials(self, peer: Peer, mechanism: str, initial: str) -> tuple[str, str]:
        if mechanism == "PLAIN":
            said = _decoded(initial) if initial else await self._ask(peer, "")
            _, user, password = said.split("\0")
            return user, password
        user = _decoded(initial) if initial else await self._ask(peer, self.PROMPTS[0])
        return user, await self._ask(peer, self.PROMPTS[1])

    async def _ask(self, peer: Peer, prompt: str) -> str:
        await peer.say(f"334 {base64.b64encode(prompt.encode()).decode()}")
        line = (await peer.line()).decode().rstrip("\r\n")
        peer.commands.append(line)
        if line == "*":
            raise Aborted
        said = _decoded(line)
        self.asked.append((prompt, said))
        return said


def path_of(command: str) -> str:
    return command[command.index("<") + 1 : command.rindex(">")]


def _decoded(text: str) -> str:
    try:
        return base64.b64decode("" if text == "=" else text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None


# --- logins ----------------------------------------------------------------------------------------


class Exchange(ZooRelay):
    """AUTH LOGIN that wants to ask for the name itself, as Microsoft's [MS-XLOGIN] has it.

    An initial response is refused with 535 (reported for a relay that offers LOGIN alone: go-simple-mail 117)
    or with 501 (cosullivan/SmtpServer 141), or it is passed over and the name is asked for all the same
    (OpenSMTPD 422, smtp4dev 17, MailKit 216: clients that go on by rote send the password there).
    `initial` says which: ``501``, ``535`` or ``ignored``. After `per_session` messages it says
    ``421 4.4.2 Message submission rate …`` (listmonk 164).
    """

    NAME = "exchange"
    MECHANISMS = ("LOGIN",)

    def __init__(self, *, initial: str = "501", per_session: int = 0, **options: Any) -> None:
        super().__init__(**{"needs_login": True, **options})
        self._initial = initial
        self._per_session = int(per_session)

    def judge_initial(self, mechanism: str, initial: str) -> str | None:
        return {
            "501": "501 5.5.4 Syntax error in parameters or arguments",
            "535": "535 5.7.3 Authentication unsuccessful",
            "ignored": None,
        }[self._initial]

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment == "MAIL" and self._per_session and visit.mails >= self._per_session:
            text = "421 4.4.2 Message submission rate for this client has exceeded the configured limit"
            return then(text, _close)
        return None


class PlainOnRequest(ZooRelay):
    """AUTH PLAIN that takes no initial response: it says 501, or 334 and waits for it to be said again.

    Reported for servers that know the form of two lines alone, with `initial` ``501`` or ``ignored``; others
    know that of one line alone (eventmachine 49).
    """

    NAME = "plain-on-request"
    MECHANISMS = ("PLAIN",)

    def __init__(self, *, initial: str = "501", **options: Any) -> None:
        super().__init__(**{"needs_login": True, **options})
        self._initial = initial

    def judge_initial(self, mechanism: str, initial: str) -> str | None:
        return "501 5.5.4 Syntax: AUTH mechanism" if self._initial == "501" else None


class PlainRefused(ZooRelay):
    """PLAIN is offered and refused as a mechanism, while LOGIN works.

    ``504 PLAIN authentication is not permitted`` (MailEnable: enough_mail 53), ``504 Unknown mechanism``
    (basecamp/once 12), ``534 5.7.9``, ``553 5.3.0 Auth failure`` (Naver: simplesmtp 7), and Dovecot behind
    Postfix ``535 5.7.8 … Invalid authentication mechanism`` (dma 50, dokuwiki-plugin-smtp 65). `refusal` says
    which.
    """

    NAME = "plain-refused"

    def __init__(
        self, *, refusal: str = "504 5.5.4 PLAIN authentication is not permitted", **options: Any
    ) -> None:
        super().__init__(**{"needs_login": True, **options})
        self._refusal = refusal

    def judge_mechanism(self, mechanism: str) -> str:
        return self._refusal if mechanism == "PLAIN" else super().judge_mechanism(mechanism)


class Stalwart(ZooRelay):
    """Asks ``User Name\\0`` and ``Password\\0``, as the draft of LOGIN has it (authelia 6503, stalwart 400).

    With `per_session` it says, at DATA, ``452 4.4.5 Maximum number of messages per session exceeded`` from
    the next message on, and leaves the session open (stalwart 1384).
    """

    NAME = "stalwart"
    MECHANISMS = ("LOGIN", "XOAUTH2")
    PROMPTS = ("User Name\0", "Password\0")

    def __init__(self, *, per_session: int = 10, **options: Any) -> None:
        super().__init__(**{"needs_login": True, **options})
        self._per_session = int(per_session)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment == "DATA" and visit.taken >= self._per_session:
            return "452 4.4.5 Maximum number of messages per session exceeded."
        return None


class ScramOffered(ZooRelay):
    """SCRAM-SHA-256 beside PLAIN and LOGIN, as Dovecot, Stalwart and mox offer it.

    What proves that the relay knows the password comes in one more 334 (RFC 4954 §4, snappymail 1575).
    `proof` is ``right``, ``wrong`` or ``none``. With `refusal` it says that to the mechanism, as of an
    account whose password it keeps in another form (``432 4.7.12``, RFC 4954 §6).
    """

    NAME = "scram"
    MECHANISMS = ("SCRAM-SHA-256", "PLAIN", "LOGIN")

    def __init__(
        self, *, proof: str = "right", rounds: int = 4096, refusal: str = "", **options: Any
    ) -> None:
        super().__init__(**{"needs_login": True, **options})
        self._proof, self._rounds, self._refusal = proof, int(rounds), refusal

    def judge_mechanism(self, mechanism: str) -> str:
        return self._refusal if mechanism == "SCRAM-SHA-256" else super().judge_mechanism(mechanism)

    async def _credentials(self, peer: Peer, mechanism: str, initial: str) -> tuple[str, str]:
        if mechanism != "SCRAM-SHA-256":
            return await super()._credentials(peer, mechanism, initial)
        scram = ScramServer(USER, self.accounts.get(USER, "nobody knows"), rounds=self._rounds)
        first = _decoded(initial) if initial else await self._ask(peer, "")
        outcome = scram.outcome(await self._ask(peer, scram.challenge(first)))
        if outcome is None:
            return USER, "not proved"
        if self._proof != "none":
            await self._ask(peer, outcome if self._proof == "right" else "v=AAAA")
        return USER, self.accounts[USER]


class TokensWanted(ZooRelay):
    """Takes the access tokens in `tokens`, for `USER`, and nothing else.

    One that it does not know gets a challenge that says why, as Google has it and RFC 7628 wants it, and 535
    after one more line; with `words` ``microsoft`` 535 at once. `mechanisms` are separated by commas.
    """

    NAME = "tokens"

    def __init__(
        self, *, mechanisms: str = "XOAUTH2,OAUTHBEARER", words: str = "google", **options: Any
    ) -> None:
        self.mechanisms = tuple(mechanisms.split(","))
        super().__init__(**{"needs_login": True, **options})
        self._words = words
        self.tokens = {"good-token"}
        self.heard: list[str] = []

    def usual_offers(self) -> list[str]:
        return [*super().usual_offers()[:-1], f"AUTH {' '.join(self.mechanisms)}"]

    def judge_mechanism(self, mechanism: str) -> str:
        return "" if mechanism in self.mechanisms else "504 5.7.4 Unrecognized authentication type"

    async def _credentials(self, peer: Peer, mechanism: str, initial: str) -> tuple[str, str]:
        said = _decoded(initial) if initial else await self._ask(peer, "")
        user, token = bearer(mechanism, said)
        self.heard.append(token)
        if token in self.tokens:
            return user, self.accounts.get(user, "")
        if self._words == "google":
            last = await self._ask(peer, REFUSED)
            assert last == ("" if mechanism == "XOAUTH2" else "\x01")
        return user, "no such token"


# --- limits ----------------------------------------------------------------------------------------


class SessionLimit(ZooRelay):
    """From the n-th message of a session on it says `text` at MAIL or DATA, and leaves the session open.

    ``452 4.4.5`` (stalwart 1384), ``451 4.7.0`` and ``530`` of providers that limit what one connection may
    carry (SendGrid: 100, nodemailer 475; simple-java-mail 348).
    """

    NAME = "session-limit"

    def __init__(
        self,
        *,
        per_session: int = 10,
        stage: str = "MAIL",
        text: str = "452 4.4.5 Too many messages in this session",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._per_session, self._stage, self._text = int(per_session), stage.upper(), text

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return self._text if moment == self._stage and visit.taken >= self._per_session else None


class TooManyRecipients(ZooRelay):
    """Takes `limit` recipients in a transaction and says `text` to the rest (RFC 5321 §4.5.3.1.10).

    ``452 4.5.3`` of Postfix, Google and Microsoft, ``552`` of old, ``552 5.5.3`` of some that mean the same.
    """

    NAME = "too-many-recipients"

    def __init__(
        self, *, limit: int = 10, text: str = "452 4.5.3 Too many recipients", **options: Any
    ) -> None:
        super().__init__(**options)
        self._limit, self._text = int(limit), text

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return self._text if moment == "RCPT" and len(visit.recipients) >= self._limit else None


class RateLimit(ZooRelay):
    """Takes `limit` messages in `seconds`, and says `text` to MAIL while there were so many.

    ``450 ratelimit exceeded`` (Selectel: 100 in 5 minutes), ``450 4.7.1 Error: too much mail`` (Postfix:
    nodemailer 700), ``550 5.7.0 Requested action not taken: too many emails per second`` (Mailtrap:
    nodemailer-smtp-pool 8).
    """

    NAME = "rate-limit"

    def __init__(
        self,
        *,
        limit: int = 5,
        seconds: float = 60.0,
        text: str = "450 4.7.1 Error: too much mail",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._limit, self._seconds, self._text = int(limit), float(seconds), text
        self._begun: list[float] = []

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != "MAIL":
            return None
        now = time.monotonic()
        self._begun = [at for at in self._begun if now - at < self._seconds]
        if len(self._begun) >= self._limit:
            return self._text
        self._begun.append(now)
        return None


class Greylister(ZooRelay):
    """Refuses what it has not seen for `seconds` yet, by sender and recipient (RFC 6647)."""

    NAME = "greylister"

    def __init__(self, *, seconds: float = 1200.0, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = float(seconds)
        self._seen: dict[tuple[str, str], float] = {}

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != "RCPT":
            return None
        now = time.monotonic()
        first = self._seen.setdefault((visit.sender or "", path_of(command)), now)
        if now - first >= self._seconds:
            return None
        return "450 4.2.0 Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/"


class FreshSessionRefused(ZooRelay):
    """Greets, and says ``421 4.3.2`` at the first MAIL of each session: a relay that is too busy for any."""

    NAME = "fresh-session-refused"

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return then("421 4.3.2 Service not available, closing channel", _close) if moment == "MAIL" else None


class EverySecond(ZooRelay):
    """Answers every second transaction, over all sessions, with `text` and ends the session."""

    NAME = "every-second"

    def __init__(self, *, text: str = "421 4.4.2 Try another time", **options: Any) -> None:
        super().__init__(**options)
        self._text = text
        self._begun = 0

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != "MAIL":
            return None
        self._begun += 1
        return then(self._text, _close) if self._begun % 2 == 0 else None


# --- accounts --------------------------------------------------------------------------------------


class SenderNotOwned(ZooRelay):
    """``553 5.7.1 … not owned by user`` at RCPT, or at MAIL, as Postfix says with its login maps."""

    NAME = "sender-not-owned"

    def __init__(self, *, stage: str = "RCPT", **options: Any) -> None:
        super().__init__(**options)
        self._stage = stage.upper()

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != self._stage:
            return None
        sender = visit.sender if visit.sender is not None else path_of(command)
        return f"553 5.7.1 <{sender}>: Sender address rejected: not owned by user {USER}"


class Ses(ZooRelay):
    """Amazon SES, after the dot: its rate or its day is used up, or a sender is not verified.

    `trouble`: ``rate`` (over `limit` messages a second), ``daily`` (over `limit` messages in all) or
    ``unverified``. The words are those of its own pages; 454 comes without an enhanced code.
    """

    NAME = "ses"

    def __init__(self, *, trouble: str = "rate", limit: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self._trouble, self._limit = trouble, int(limit)
        self._taken_at: list[float] = []

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != DOT:
            return None
        if self._trouble == "unverified":
            return (
                "554 Message rejected: Email address is not verified. The following identities failed the"
                f" check in region EU-WEST-1: {visit.sender}"
            )
        now = time.monotonic()
        if self._trouble == "rate":
            self._taken_at = [at for at in self._taken_at if now - at < 1]
        if len(self._taken_at) >= self._limit:
            what = (
                "Maximum sending rate exceeded."
                if self._trouble == "rate"
                else "Daily message quota exceeded."
            )
            return f"454 Throttling failure: {what}"
        self._taken_at.append(now)
        return None


class Gmail(ZooRelay):
    """Google's relay, beyond one of its limits.

    `trouble`: ``rate`` (421 4.7.28 after the dot, the session ends), ``daily`` (550 5.4.5 at MAIL) or
    ``recipients`` (452 4.5.3), each beyond `limit`. The words are those of Google's list of errors
    (support.google.com/a/answer/3726730).
    """

    NAME = "gmail"

    def __init__(self, *, trouble: str = "rate", limit: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self._trouble, self._limit = trouble, int(limit)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        over = len(self.taken) >= self._limit
        if self._trouble == "rate" and moment == DOT and over:
            text = (
                "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your\r\n"
                "421 4.7.28 IP Netblock. To protect our users, mail has been rate limited. - gsmtp"
            )
            return then(text, _close)
        if self._trouble == "daily" and moment == "MAIL" and over:
            return (
                "550 5.4.5 Daily user sending limit exceeded. For more information go to mail-limits - gsmtp"
            )
        if self._trouble == "recipients" and moment == "RCPT" and len(visit.recipients) >= self._limit:
            return "452 4.5.3 Your message has too many recipients. - gsmtp"
        return None


class Microsoft365(ZooRelay):
    """Microsoft 365, after the dot, beyond one of its limits.

    `trouble`: ``connections`` (432 4.3.2 while more than `limit` sessions are open; it allows three) or
    ``quota`` (554 5.2.0 beyond `limit` messages; it allows 10,000 recipients a day). Words as in Microsoft's
    pages on the submission of mail by authenticated clients.
    """

    NAME = "microsoft365"

    def __init__(self, *, trouble: str = "connections", limit: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self._trouble, self._limit = trouble, int(limit)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != DOT:
            return None
        if (
            self._trouble == "connections"
            and sum(not peer.over.is_set() for peer in self.peers) > self._limit
        ):
            return "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending"
        if self._trouble == "quota" and len(self.taken) >= self._limit:
            return (
                "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process"
                " message due to a permanent exception: the sender's submission quota was exceeded."
            )
        return None


class HeloCritic(ZooRelay):
    """Wants a name with a dot, or an address literal, in EHLO, and says so at RCPT only, as Postfix does.

    ``504 5.5.2 <vm>: Helo command rejected: need fully-qualified hostname`` (postal 19, Mailspring 1054,
    Haraka 1407: containers' names; an address literal passes all of Postfix's checks, chatmail 1847).
    """

    NAME = "helo-critic"

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment != "RCPT":
            return None
        greetings = [said for said in visit.peer.commands if said.upper().startswith(("EHLO", "HELO"))]
        name = greetings[-1].partition(" ")[2]
        if "." in name.strip(".") or name.startswith("["):
            return None
        return f"504 5.5.2 <{name}>: Helo command rejected: need fully-qualified hostname"


# --- relays in trouble, and what stands before them ------------------------------------------------


class RefusesEverybody(ZooRelay):
    """Says `text` at `stage` to all: a full disk (452 4.3.1), a policy that hit the sender (554 5.7.1)."""

    NAME = "refuses-everybody"

    def __init__(
        self, *, text: str = "452 4.3.1 Insufficient system storage", stage: str = "MAIL", **options: Any
    ) -> None:
        super().__init__(**options)
        self._text, self._stage = text, stage.upper()

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return self._text if moment.upper() == self._stage else None


class LateReply(ZooRelay):
    """Takes the message, and says so `seconds` after the dot: after its client's time-out.

    Content filters before the queue do this (swiftmailer 828, freescout 5457: the same letter again and
    again).
    """

    NAME = "late-reply"

    def __init__(self, *, seconds: float = 700.0, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = float(seconds)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return self._late if moment == DOT else None

    async def _late(self, peer: Peer) -> None:
        self.take(peer)
        self.visit(peer).end_transaction()
        try:
            await asyncio.wait_for(peer.over.wait(), self._seconds)
        except TimeoutError:
            await peer.say("250 2.0.0 Ok: queued at last")


class BrokenFirewall(ZooRelay):
    """PIPELINING is offered, and something on the way looks into SMTP and loses what it does not expect.

    `drops` ``packet``: all but the first command of a packet; ``dot``: what comes in one packet behind the
    dot. Cisco's PIX and ASA ("fixup smtp", "inspect esmtp") are known for both: Postfix has
    `smtp_pix_workarounds` for them, swaks and Exim ways to switch PIPELINING off.
    """

    NAME = "broken-firewall"

    def __init__(self, *, drops: str = "packet", **options: Any) -> None:
        super().__init__(**options)
        self._drops = drops

    async def _obey(self, peer: Peer, line: bytes) -> None:
        if self._drops == "packet":
            _lose_what_came(peer)
        await super()._obey(peer, line)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        if moment == DOT and self._drops == "dot":
            _lose_what_came(visit.peer)
        return None


def _lose_what_came(peer: Peer) -> None:
    peer.reader._buffer.clear()  # type: ignore[attr-defined]  # there is no other way to unread


class NeverGreets(ZooRelay):
    """Takes TCP and says nothing, from the connection with the number `after` (from 0) on."""

    NAME = "never-greets"

    def __init__(self, *, after: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self._after = int(after)

    def reply(self, visit: Visit, moment: str, command: str) -> Answer | None:
        return stall if moment == GREETING and visit.number >= self._after else None


async def _close(peer: Peer) -> None:
    peer.writer.close()


# --- by hand -----------------------------------------------------------------------------------------


def kinds() -> dict[str, type[Any]]:
    """All there are, by the name they have on the command line."""
    from lab import providers, restricted_postfix

    found: list[type[Any]] = [kind for kind in globals().values() if _is_one(kind, ZooRelay)]
    found += [kind for kind in vars(providers).values() if _is_one(kind, providers.Provider) and kind.NAME]
    found += [
        kind for kind in vars(restricted_postfix).values() if _is_one(kind, restricted_postfix.RealPostfix)
    ]
    return {kind.NAME: kind for kind in found}


def _is_one(kind: object, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _show(direction: str, said: bytes) -> None:
    for line in said.decode("utf-8", "replace").splitlines():
        print(direction, line, flush=True)


async def _keep(kind: type[Any], options: dict[str, Any]) -> None:
    async with kind(**options) as relay:
        relay.trace = _show
        print(f"{relay.host}:{relay.port}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Keep one relay until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m lab.relay_zoo", description="A relay with a habit.")
    parser.add_argument("relay", nargs="?", help="its name; see --list")
    parser.add_argument("options", nargs="*", metavar="option=value", help="see its docstring")
    parser.add_argument("--port", type=int, default=0, help="a free one unless given")
    parser.add_argument("--list", action="store_true", help="all names, with what they do")
    arguments = parser.parse_intermixed_args()
    known = kinds()
    if arguments.list or arguments.relay not in known:
        for name, kind in known.items():
            told = inspect.getdoc(kind) or ""
            print(f"{name:24}{told.splitlines()[0]}")
        sys.exit(not arguments.list)
    options: dict[str, Any] = dict(option.split("=", 1) for option in arguments.options)
    if arguments.port:
        options["port"] = arguments.port
    with suppress(KeyboardInterrupt):
        asyncio.run(_keep(known[arguments.relay], options))


if __name__ == "__main__":
    main()
