"""A relay as this replica has it: its sessions, its rate, and what it last said of letters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from mailsender.model.address import domain_of
from mailsender.model.clock import Clock
from mailsender.model.letter import Phase, Result, now_ms
from mailsender.ratelimit.destinations import Destinations, Rates
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.order import Order, login
from mailsender.routing.breaker import LAST_WAIT, PUT_OFF_RUN, PUT_OFF_WAIT, Breaker, Refusals, Telling
from mailsender.routing.orders import Orders, Resting
from mailsender.routing.patterns import named_in
from mailsender.routing.pool import Pool, PoolLimits
from mailsender.routing.reply_rule import (
    RELAY_KEY,
    Action,
    Decision,
    ReplyRule,
    Scope,
    decided,
    first_fit,
    scope_key,
)
from mailsender.routing.same_words import SameWords
from mailsender.routing.weighing import Ruling, Scale
from mailsender.smtp.port import RelayAway, Transport

log = structlog.get_logger()

ANYWHERE = ("", "*")
"""In the place of domains where what was said was not about recipients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPolicy:
    """What the operator chose about a relay: the reverse-path, recipients a transaction, and its sessions."""

    reverse_path: str
    max_recipients: int
    sessions: PoolLimits


class Relay:
    """What KumoMTA calls an egress path: pool, limiter, breaker, rules. Routes over it share all of them.

    `senders` are the addresses and domains that it takes mail from; no entry: from all. `connections_total`
    is how many it takes from all replicas together, 0 where that is not known. `rules` are the
    file's and the preset's about its replies. What its replies order by them is the limiter's to keep, but
    for `orders`, which are about single recipients. `destinations` has the limits of single domains.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        limiter: Limiter,
        clock: Clock,
        *,
        policy: RelayPolicy,
        chance: random.Random,
        stopping: asyncio.Event,
        senders: tuple[str, ...] = (),
        connections_total: int = 0,
        rules: Sequence[ReplyRule] = (),
        destinations: Destinations | None = None,
    ) -> None:
        self.name = name
        self.destinations = destinations
        self.senders = senders
        self.connections_total = connections_total
        self.rules = tuple(rules)
        self.orders = Orders()
        self.transport = transport
        self.limiter = limiter
        self.policy = policy
        self.pool = Pool(
            transport,
            policy.sessions,
            clock,
            chance=chance,
            stopping=stopping,
            patience=limiter.life / 2,
        )
        self.pool.ruled = self._session_refused
        transport.bar_logins(self._login_barred)
        self.pool.rests = self._rests
        self.pool.ended = limiter.look_again
        self.breaker = Breaker()
        self.refusals = Refusals()
        self.scale = Scale()
        self.same_words = SameWords()
        self.accepted = 0  # recipients, in transactions in which all of them were
        self.replies: dict[tuple[Phase, int | None], int] = {}  # recipients of the others, by stage and code
        self.refusing_since: float | None = None  # epoch seconds
        self.uneasy = False  # something was refused that may be everybody's, since it took one
        self._put_off: set[str] = set()  # letters that it put off since it took one, up to `PUT_OFF_RUN`
        self._put_off_to: set[str] = set()  # the domains of those, up to the second one
        self._told_refusing = Telling()
        self._clock = clock

    # --- how it is -------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """``host:port``."""
        return self.transport.address

    @property
    def told(self) -> str:
        """As results, logs and reports name it, see `Transport.name`."""
        return self.transport.name

    @property
    def reason(self) -> str:
        """Why letters do not go out to it, for readiness and status; empty when they may."""
        if self.breaker.open and not self.pool.away:
            return f"refuses letters: {self.breaker.why}"
        order = self.resting(RELAY_KEY, self._clock.monotonic()) if self.ordered else None
        if order is not None and not self.pool.away:
            return f"is to rest by the rule {order.rule}: {order.said}"
        return self.pool.reason

    @property
    def since(self) -> float | None:
        """Since when they do not, in epoch seconds, where that is known."""
        return self.pool.reach.since or self.refusing_since

    @property
    def next_try(self) -> float | None:
        """Epoch seconds at which it is tried again while it is away or refuses letters, where that is known.

        It is not once that time has come: a try is under way, or waits for a letter.
        """
        now = self._clock.epoch()
        monotonic = self._clock.monotonic()
        left = max(self.breaker.left(monotonic), self.held(RELAY_KEY, monotonic))
        at = max(now + left, self.pool.reach.again_at if self.pool.away else 0.0)
        return at if at > now else None

    @property
    def goes(self) -> bool:
        """Whether a letter would not only wait here."""
        return not (self.pool.away or self.pool.closed) and self.limiter.goes

    def blocked_because(self) -> str:
        """Why a letter would only wait here, for one that would."""
        if self.pool.closed:
            return "other replicas have all the sessions that it takes"
        return self.reason or self.limiter.blocked_because()

    @property
    def free(self) -> bool:
        """Whether letters that may go elsewhere are to go here.

        Before it is known what it ordered it opens no session, although nothing says that it is away.
        """
        return self.goes and self.limiter.knows and not self.breaker.open and not self.pool.hangs

    @property
    def state(self) -> str:
        """Its breaker, for people: `closed`, `open` or `probing`; open, too, while it cannot be reached."""
        if self.pool.away:
            return "probing" if self.pool.probing else "open"
        return self.breaker.state

    def takes(self, senders: Iterable[str]) -> bool:
        """Whether it takes mail in the name of all of these addresses."""
        return not self.senders or all(named_in(self.senders, each) for each in senders)

    def change(
        self,
        allowance: Allowance,
        further: tuple[Allowance, ...],
        *,
        max_recipients: int,
        senders: tuple[str, ...],
        rules: Sequence[ReplyRule],
        destinations: Mapping[str, Rates],
    ) -> None:
        """Go by other limits and rules; sessions, and what was ordered, stay."""
        self.limiter.change(allowance, further)
        if self.destinations is not None:
            self.destinations.change(destinations)
        self.pool.patience = self.limiter.life / 2
        self.policy = replace(self.policy, max_recipients=max_recipients)
        self.senders = senders
        self.rules = tuple(rules)

    def look_again(self) -> None:
        """Have all who wait for a session or a slot see whether they still are to."""
        self.pool.look_again()
        self.limiter.look_again()

    def divide(self, shares: Mapping[str, float]) -> None:
        """Routes by these names share its sessions and slots, by so much each."""
        self.pool.divide(shares)
        self.limiter.divide(shares)

    # --- what it orders --------------------------------------------------------------------------

    def _rests(self) -> bool:
        """Whether it ordered, or may have before this process began, that nothing begins now."""
        return not self.limiter.knows or (self.ordered and self.held(RELAY_KEY, self._clock.monotonic()) > 0)

    def _session_refused(self, error: RelayAway) -> float:
        """It refused a session; returns the seconds for which none may be tried, by what a rule says.

        What is ordered about the relay is kept as an order, which somebody may lift. That a login is refused
        until a person acts is about that login: another password, or token, is what the person comes with.
        """
        reply = error.reply
        if reply is None or reply.code < 400 or not self.rules:
            return 0.0
        rule = first_fit(self.rules, Phase(error.phase), reply.code, reply.enhanced, reply.text)
        if rule is None:
            return 0.0
        decision = decided(rule, reply.code, reply.enhanced, reply.text, blames_all=True)
        if decision.orders and decision.scope is Scope.RELAY:
            judged = decision.action is Action.STOP and bool(error.login)
            key = login(error.login) if judged else RELAY_KEY
            self.obey(replace(decision, then=None) if judged else decision, key, self._clock.monotonic())
            return 0.0
        return decision.seconds

    def _login_barred(self, mark: str) -> str:
        """Why nobody is to log in by what has this mark; empty where one may."""
        if not self.ordered:
            return ""
        order = self.limiter.held(login(mark), self._clock.monotonic())
        if order is None:
            return ""
        until = now_ms(order.until).isoformat(timespec="seconds")
        return (
            f"it refused this login ({order.rule}: {order.said}), which is tried again at {until}; another"
            " password or token is tried at once, and so is this one after `mailsender lift`"
        )

    def obey(self, decision: Decision, key: str, now: float) -> float:
        """Do what a reply orders beyond its letter: begin nothing that `key` covers, and then less at a time.

        All replicas obey it, and this one from now on, which is `now` in monotonic seconds; about a recipient
        it does so alone. Returns the seconds for which the key is held.
        """
        if decision.scope is Scope.RECIPIENT:
            self.orders.obey(decision, key, now)
        else:
            until, then = self._clock.epoch() + decision.seconds, decision.then
            order = Order(
                key=key,
                rule=decision.rule,
                said=decision.said,
                until=until,
                factor=1.0 if then is None else then.rate,
                then_until=0.0 if then is None else until + then.seconds,
            )
            if self.destinations is not None and decision.scope is Scope.DESTINATION:
                self.destinations.order(key.partition(":")[2], order)
            else:
                self.limiter.order(order)
        return self.held(key, now)

    @property
    def ordered(self) -> bool:
        """Whether anything may be held by an order: a cheap look before a closer one."""
        return self.limiter.ordered or bool(self.orders) or bool(self.destinations)

    def held(self, key: str, now: float) -> float:
        """Seconds for which nothing that a scope key covers may begin; `now` is monotonic."""
        resting = self.resting(key, now) if self.ordered else None
        return 0.0 if resting is None else resting.seconds

    def resting(self, key: str, now: float) -> Resting | None:
        """By what a scope key is held, if it is."""
        kind, _, name = key.partition(":")
        if self.destinations is not None and kind == Scope.DESTINATION:
            held = self.destinations.held(name, now)
            return self.orders.of(key, now) if held is None else Resting(held[1], held[0].rule, held[0].said)
        order = self.limiter.held(key, now)
        if order is not None:
            return Resting(self.limiter.left(key, now), order.rule, order.said)
        return self.orders.of(key, now)

    # --- what it says of letters -----------------------------------------------------------------

    def count(self, results: Iterable[Result]) -> None:
        """Count what a transaction came to in which not all were accepted."""
        for result in results:
            key = result.phase, result.code
            self.replies[key] = self.replies.get(key, 0) + 1

    def took(self, since: int) -> None:
        """It took somebody, in a transaction begun after so many refusals: those were not meant for all."""
        self._put_off.clear()
        self._put_off_to.clear()
        self.same_words.end()
        if self.refusals.taken(since):
            self.at_ease()
        self.scale.rule(Ruling.OWN, since)

    def at_ease(self) -> None:
        """It takes letters, or speaks of recipients: it does not refuse everybody."""
        self.uneasy = bool(self._put_off) or bool(self.same_words)
        self.refusals.end()
        if self.breaker.close():
            self._told_refusing.over()
            lasted = self._clock.epoch() - (self.refusing_since or 0.0)
            log.info("relay_takes_letters", relay=self.told, after_seconds=round(lasted, 1))
            self.refusing_since = None

    def at_ease_if_held(self) -> None:
        """It speaks of recipients again. While it puts off all of them that is no good news."""
        if self.breaker.open and not self.puts_off_all:
            self.at_ease()

    @property
    def puts_off_all(self) -> bool:
        """Whether it put off so many letters in a row that it is spoken to once a minute."""
        return len(self._put_off) >= PUT_OFF_RUN

    def put_off(self, letter_id: str, result: Result, recipients: Iterable[str] = ()) -> None:
        """It put off all recipients of a transaction with a 4xx; what that means is for each to bear.

        Where all who were in a row are of one domain it may be that: its other letters go on behind those.
        """
        self.uneasy = True
        if len(self._put_off_to) < 2:
            self._put_off_to.update(map(domain_of, recipients) if result.phase is Phase.RCPT else ANYWHERE)
        if not self.puts_off_all:
            self._put_off.add(letter_id)
        if self.puts_off_all:
            self._stop(
                result,
                most=PUT_OFF_WAIT,
                action="one letter at a time is tried, once a minute; the others wait and count no attempt",
            )
            self._pass_over()

    def _pass_over(self) -> None:
        """Have letters to the one domain, if it is one, make room for others when a letter is tried again."""
        if len(self._put_off_to) == 1:
            (domain,) = self._put_off_to
            now = self._clock.monotonic()
            decision = Decision(
                rule="default/put-off",
                action=Action.WAIT,
                otherwise=Action.WAIT,
                scope=Scope.DESTINATION,
                seconds=2 * self.breaker.left(now),
                said=self.breaker.why,
            )
            self.orders.obey(decision, scope_key(Scope.DESTINATION, recipient=f"@{domain}"), now)

    def refused_recipient(self, address: str, result: Result) -> frozenset[str]:
        """It refused one for good, in words that need not be about it; see `SameWords.heard`."""
        self.uneasy = True
        return self.same_words.heard(address, result)

    def refused(self, letter_id: str) -> None:
        """It refused a letter for what that alone says; nobody else is concerned, but what follows tells."""
        self.uneasy = True
        self.refusals.remember(letter_id)

    def doubt(self, letter_id: str, result: Result, recipient: str = "") -> bool:
        """It refused a letter in words that may be meant for everybody; whether they are.

        `recipient` is whom it was refused for, where it was taken for others.
        """
        self.uneasy = True
        if self.refusals.note(letter_id, result, recipient) or self.breaker.open:
            self.hold(letter_id, result)
            return True
        return False

    def hold(self, letter_id: str, result: Result) -> float:
        """It refuses everybody: no letters for a while; returns the seconds."""
        self.uneasy = True
        self.refusals.remember(letter_id)
        self._stop(
            result,
            most=LAST_WAIT,
            action="letters wait, none fails and no attempt is counted; one at a time is tried with"
            " growing pauses",
        )
        return self.breaker.left(self._clock.monotonic())

    def _stop(self, result: Result, *, most: float, action: str) -> None:
        now = self._clock.monotonic()
        words = result.phase, result.code, result.enhanced
        said = " ".join(map(str, filter(None, (result.code, result.enhanced, result.text))))
        if self.breaker.trip(said, result.phase, now, most):
            self.refusing_since = self._clock.epoch()
            self.look_again()
        # Those who were on their way still when it was told say nothing more of it.
        if self.breaker.why == said and self._told_refusing.news(words, now):
            log.warning(
                "relay_refuses_letters",
                relay=self.told,
                phase=result.phase,
                code=result.code,
                enhanced=result.enhanced,
                text=result.text[:200],
                rule=result.rule,
                action=action,
            )
        self.refusals.end()
        self.scale.rule(Ruling.EVERYBODY)
