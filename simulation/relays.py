"""Relays that follow a script, have limits of their own, and count what is sent to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.routing.reply_rule import Scope
from mailsender.smtp.port import NotBegun, Permit, RelayAway
from simulation.ledger import Begun, Dot, Ledger, Refused, Told
from simulation.loop import CURRENT, Process, VirtualLoop
from simulation.manners import CROWD, FULL, FULL_SESSION, GREY, NOBODY, TAKEN, Mood, Says, Traits, Window

DOT_TIMEOUT = 600.0
"""Seconds for which a client waits for the reply to its dot (RFC 5321 §4.5.3.2.6)."""

IDLE = 3.0
"""Seconds after which a session is asked whether it is still there before it is used again."""

FULL_FOR = 900.0
"""Seconds for which the mailbox of somebody is full whose address begins with `full`."""


class ScriptedRelay:
    """`Transport` to a relay of the world; one for all processes."""

    remark = ""

    def __init__(
        self,
        traits: Traits,
        loop: VirtualLoop,
        ledger: Ledger,
        chance: random.Random,
        *,
        owns: Callable[[str, str], bool],
    ) -> None:
        self.traits = traits
        self.name = self.address = f"{traits.host}:25"
        self.loop = loop
        self.ledger = ledger
        self.chance = chance
        self.owns = owns
        self.mood = Mood()
        self.windows = [Window(each) for each in traits.limits]
        self.sessions: set[ScriptedSession] = set()
        self.seen: dict[str, float] = {}
        self.busy_at = 0.0

    def bar_logins(self, barred: Callable[[str], str]) -> None:
        """See `Transport.bar_logins`: nobody logs in here."""

    async def connect(self) -> ScriptedSession:
        """See `Transport.connect`."""
        process = CURRENT.get()
        if process is None or process.dead:
            raise RelayAway("this process is dead", phase=Phase.CONNECT)
        await passing(self.loop, self.traits.connecting * (0.5 + self.chance.random()))
        if self.mood.away or process.dead:
            raise RelayAway("connection refused", phase=Phase.CONNECT)
        if self.traits.sessions and len(self.sessions) >= self.traits.sessions:
            raise RelayAway("421 4.7.0 too many connections", phase=Phase.GREETING, code=421)
        if self.mood.login:
            raise RelayAway("535 5.7.8 wrong password", phase=Phase.AUTH, code=535, permanent=True)
        self.busy_at = self.loop.time()
        session = ScriptedSession(self, process)
        self.sessions.add(session)
        most = self.ledger.sessions
        most[self.name] = max(most.get(self.name, 0), len(self.sessions))
        return session

    def cut(self, process: Process | None = None) -> None:
        """Lose the sessions of a process, or all."""
        for each in [each for each in self.sessions if process is None or each.process is process]:
            each.end()

    # --- what it says ------------------------------------------------------------------------------

    def at_mail(self, session: ScriptedSession, people: int = 1) -> Says | None:
        """What it says to MAIL for so many recipients; None: yes."""
        if self.mood.says is not None and self.mood.says.phase is Phase.MAIL:
            return self.mood.says
        if self.traits.letters_a_session and session.carried >= self.traits.letters_a_session:
            return FULL_SESSION
        return self._within(Phase.MAIL, people)

    def _within(self, phase: Phase, people: int = 1) -> Says | None:
        now = self.loop.time()
        for each in self.windows:
            if each.limit.says.phase is phase and not each.take(now, people):
                return each.limit.says
        return None

    def at_rcpt(self, recipient: str, taken: int) -> Says | None:
        """What it says to a recipient, behind so many whom it took; None: yes."""
        if self.traits.recipients and taken >= self.traits.recipients:
            return CROWD
        if recipient.startswith("nobody"):
            self.ledger.refused.append(Refused(recipient=recipient, relay=self.name))
            return NOBODY
        says = self.mood.says
        if says is not None and says.phase is Phase.RCPT and recipient.endswith(self.mood.domain):
            return says
        full = recipient.startswith("full")
        if full or self.traits.greylist:
            waited = self.loop.time() - self.seen.setdefault(recipient, self.loop.time())
            if waited < (FULL_FOR if full else self.traits.greylist):
                return FULL if full else GREY
        return None

    def at_dot(self, people: int) -> tuple[float, Says | None, bool, bool]:
        """Seconds until it has decided, what it says, whether it takes the message, whether it says so."""
        traits, roll = self.traits, self.chance.random()
        seconds = traits.dot * (0.5 + self.chance.random())
        says = self.mood.says if self.mood.says is not None and self.mood.says.phase is Phase.DOT else None
        says = says or self._within(Phase.DOT, people)
        if says is not None:
            return seconds, says, False, True
        if roll < max(traits.lost_after, self.mood.loses):
            return seconds, None, self.chance.random() < traits.taken_all_the_same, False
        if roll > 1 - traits.slow:
            seconds = traits.slowness * (0.5 + self.chance.random())
        return seconds, None, True, True


@dataclass(eq=False)
class ScriptedSession:
    """`Session` with such a relay, for one process."""

    relay: ScriptedRelay
    process: Process
    carried: int = 0
    under_way: int = 0
    over: bool = False
    used: float = 0.0
    waits: list[asyncio.Future[None]] = field(default_factory=list)
    envelope: asyncio.Lock = field(default_factory=asyncio.Lock)
    message: asyncio.Lock = field(default_factory=asyncio.Lock)

    tls = ""
    supports_smtputf8 = True
    supports_8bit = True

    def __post_init__(self) -> None:
        self.used = self.relay.loop.time()

    @property
    def pipeline_depth(self) -> int:
        """See `Session`."""
        return self.relay.traits.depth

    @property
    def alive(self) -> bool:
        """See `Session`."""
        return not self.over

    @property
    def reusable(self) -> bool:
        """See `Session`."""
        return not self.over and (self.under_way > 0 or self.relay.loop.time() - self.used <= IDLE)

    async def check_alive(self, *, ask: bool = False) -> bool:
        """See `Session`."""
        if self.alive and (self.under_way or (not ask and self.reusable)):
            return not self.process.dead
        return await self._turn(self.relay.traits.envelope) and not self.process.dead

    async def try_sender(self, reverse_path: str, recipient: str = "") -> Result:
        """See `Session`."""
        del reverse_path, recipient
        says = self.relay.at_mail(self)
        return TAKEN if says is None else says.result()

    def abort(self) -> None:
        """See `Session`."""
        self.end()

    async def close(self) -> None:
        """See `Session`."""
        self.end()

    def end(self) -> None:
        """The connection is over, whoever ended it: all who wait for something learn it."""
        if not self.over:
            self.over = True
            self.relay.sessions.discard(self)
            for each in self.waits:
                _set(each)
            self.waits.clear()

    async def transact(
        self, envelope: Envelope, message: bytes | tuple[bytes, ...], permit: Permit
    ) -> Outcome:
        """See `Session.transact`."""
        del message
        self.under_way += 1
        try:
            return await self._transact(envelope, permit)
        finally:
            self.under_way -= 1
            self.used = self.relay.loop.time()

    # --- a transaction -----------------------------------------------------------------------------

    async def _transact(self, envelope: Envelope, permit: Permit) -> Outcome:
        await self.envelope.acquire()
        ahead = True  # nobody's envelope goes before ours
        try:
            asked = await self._ask(envelope, permit)
            if isinstance(asked, Outcome):
                return asked
            if self.relay.traits.depth > 1:
                await self.message.acquire()
                self.envelope.release()
                ahead = False
            try:
                return await self._send(envelope, asked, permit)
            finally:
                if not ahead:
                    self.message.release()
        finally:
            if ahead:
                self.envelope.release()

    async def _ask(self, envelope: Envelope, permit: Permit) -> Outcome | dict[str, Result]:
        """MAIL and RCPT: what came of it, or what was said of those who were not taken."""
        relay, traits = self.relay, self.relay.traits
        if self.over:
            return self._lost(envelope, Phase.MAIL)
        if not permit.begin() or self.process.dead:
            raise NotBegun
        self._note_begin(permit, envelope.recipients)
        says = relay.at_mail(self, len(envelope.recipients))  # by what it has when MAIL comes
        if relay.chance.random() < traits.lost_before:
            relay.loop.world(relay.loop.time() + traits.envelope / 2, self.end)
        if not await self._turn(traits.envelope * (0.5 + relay.chance.random())):
            return self._lost(envelope, Phase.MAIL)
        if says is not None:
            return self._said(envelope, permit, says)
        refused: dict[str, Result] = {}
        for place, each in enumerate(envelope.recipients):
            no = relay.at_rcpt(each, place - len(refused))
            if no is not None:
                refused[each] = no.result()
                permit.refused({each: refused[each]})
                self._note_told(no, each)
        if len(refused) == len(envelope.recipients):
            return self._outcome(envelope, refused)
        return refused

    async def _send(self, envelope: Envelope, refused: dict[str, Result], permit: Permit) -> Outcome:
        """DATA, the message and its dot, for those who were taken."""
        relay = self.relay
        left = [each for each in envelope.recipients if each not in refused]
        if not await self._turn(relay.traits.envelope / 2):
            return self._outcome(envelope, refused | _all(left, Verdict.DEFERRED, Phase.DATA))
        if not permit.dot() or self.process.dead:
            self.end()
            return self._outcome(envelope, refused | _all(left, Verdict.DEFERRED, Phase.DATA))
        now = relay.loop.time()
        dots = self._note_dots(permit, left)
        seconds, says, takes, tells = relay.at_dot(len(left))
        relay.loop.world(now + seconds, _decide, dots, takes)
        if not tells:
            relay.loop.world(now + seconds, self.end)
        if not await self._turn(min(seconds, DOT_TIMEOUT)) or not tells or seconds > DOT_TIMEOUT:
            self.end()
            for each in () if self.process.dead else dots:
                each.given_up = relay.loop.time()
            return self._outcome(envelope, refused | _all(left, Verdict.UNCERTAIN, Phase.DOT))
        for each in dots:
            each.answered = relay.loop.time()
        said = TAKEN if says is None else says.result()
        results = refused | dict.fromkeys(left, said)
        if says is not None:
            permit.refused(dict.fromkeys(left, said))
        permit.replied(results)
        if says is None:
            self.carried += 1
        else:
            self._note_told(says)
            if says.code == 421:
                self.end()
        return self._outcome(envelope, results)

    async def _turn(self, seconds: float) -> bool:
        """Let the relay have its time; whether the connection is still there then."""
        if self.over:
            return False
        loop = self.relay.loop
        future: asyncio.Future[None] = loop.create_future()
        self.waits.append(future)
        timer = loop.world(loop.time() + seconds, _set, future)
        try:
            await future
        finally:
            timer.cancel()
            if future in self.waits:
                self.waits.remove(future)
        return not self.over

    def _lost(self, envelope: Envelope, phase: Phase) -> Outcome:
        """The connection ended before the relay said a word of this letter."""
        if self.carried:
            raise NotBegun
        return self._outcome(envelope, _all(envelope.recipients, Verdict.DEFERRED, phase))

    def _said(self, envelope: Envelope, permit: Permit, says: Says) -> Outcome:
        """The relay said this to all."""
        results = dict.fromkeys(envelope.recipients, says.result())
        permit.refused(results)
        if not (says.fresh and self.carried):
            self._note_told(says)
        if says.code == 421:
            self.end()
        return self._outcome(envelope, results)

    def _outcome(self, envelope: Envelope, results: dict[str, Result]) -> Outcome:
        ordered = {each: results[each] for each in envelope.recipients}
        return Outcome(results=ordered, session_usable=not self.over)

    # --- what is noted -----------------------------------------------------------------------------

    def _note_begin(self, permit: Permit, recipients: tuple[str, ...]) -> None:
        relay, (token, letter) = self.relay, _whose(permit)
        relay.busy_at = relay.loop.time()
        relay.ledger.begun.append(
            Begun(
                at=relay.loop.time(),
                relay=relay.name,
                process=self.process.name,
                letter=letter,
                owned=relay.owns(token, letter),
                recipients=recipients,
            )
        )

    def _note_dots(self, permit: Permit, recipients: Sequence[str]) -> list[Dot]:
        relay, (token, letter) = self.relay, _whose(permit)
        owned = relay.owns(token, letter)
        dots = [
            Dot(
                at=relay.loop.time(),
                relay=relay.name,
                process=self.process.name,
                letter=letter,
                recipient=each,
                owned=owned,
            )
            for each in recipients
        ]
        relay.ledger.dots += dots
        return dots

    def _note_told(self, says: Says, recipient: str = "") -> None:
        if says.holds:
            whom = {Scope.RECIPIENT: recipient, Scope.DESTINATION: recipient[recipient.find("@") :]}
            words = f"{says.code} {says.enhanced} {says.text}"
            self.relay.ledger.told.append(
                Told(
                    reached=self.relay.loop.time(),
                    relay=self.relay.name,
                    process=self.process.name,
                    words=words,
                    seconds=says.holds,
                    whom=whom.get(says.scope, ""),
                )
            )


async def passing(loop: VirtualLoop, seconds: float) -> None:
    """Let so much time pass, to the moment."""
    future: asyncio.Future[None] = loop.create_future()
    loop.world(loop.time() + seconds, _set, future)
    await future


def _whose(permit: Permit) -> tuple[str, str]:
    """Token and letter of a permit of the service's own."""
    return permit.token, permit.letter_id  # type: ignore[attr-defined]


def _all(recipients: Sequence[str], verdict: Verdict, phase: Phase) -> dict[str, Result]:
    return dict.fromkeys(recipients, Result(verdict=verdict, phase=phase, text="the connection was lost"))


def _decide(dots: Sequence[Dot], takes: bool) -> None:
    for each in dots:
        each.taken = takes


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
