"""A relay as this replica has it: its sessions, its rate, and what it last said of letters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from mailsender.model.clock import Clock
from mailsender.model.letter import Phase, Result
from mailsender.ratelimit.limiter import Limiter
from mailsender.routing.breaker import Breaker, Refusals, Telling
from mailsender.routing.pool import Pool, PoolLimits
from mailsender.routing.weighing import Ruling, Scale
from mailsender.smtp.port import Transport

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPolicy:
    """What the operator chose about a relay: the reverse-path, recipients a transaction, and its sessions."""

    reverse_path: str
    max_recipients: int
    sessions: PoolLimits


class Relay:
    """What KumoMTA calls an egress path: pool, limiter, breaker. Routes over it share all of them."""

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
    ) -> None:
        self.name = name
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
        self.breaker = Breaker()
        self.refusals = Refusals()
        self.scale = Scale()
        self.accepted = 0  # recipients, in transactions in which all of them were
        self.replies: dict[tuple[Phase, int | None], int] = {}  # recipients of the others, by stage and code
        self.refusing_since: float | None = None  # epoch seconds
        self.uneasy = False  # something was refused that may be everybody's, since it took one
        self._told_refusing = Telling()
        self._clock = clock

    # --- how it is -------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """``host:port``, as results, logs and reports name it."""
        return self.transport.name

    @property
    def reason(self) -> str:
        """Why letters do not go out to it, for readiness and status; empty when they may."""
        if self.breaker.open and not self.pool.away:
            return f"refuses letters: {self.breaker.why}"
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
        at = self.pool.reach.again_at if self.pool.away else now + self.breaker.left(self._clock.monotonic())
        return at if at > now else None

    @property
    def goes(self) -> bool:
        """Whether a letter would not only wait here."""
        return not self.pool.away and self.limiter.goes

    # --- what it says of letters -----------------------------------------------------------------

    def count(self, results: Iterable[Result]) -> None:
        """Count what a transaction came to in which not all were accepted."""
        for result in results:
            key = result.phase, result.code
            self.replies[key] = self.replies.get(key, 0) + 1

    def took(self, since: int) -> None:
        """It took somebody, in a transaction begun after so many refusals: those were not meant for all."""
        if self.refusals.taken(since):
            self.at_ease()
        self.scale.rule(Ruling.OWN, since)

    def at_ease(self) -> None:
        """It takes letters, or speaks of recipients: it does not refuse everybody."""
        self.uneasy = False
        self.refusals.end()
        if self.breaker.close():
            self._told_refusing.over()
            lasted = self._clock.epoch() - (self.refusing_since or 0.0)
            log.info("relay_takes_letters", relay=self.address, after_seconds=round(lasted, 1))
            self.refusing_since = None

    def at_ease_if_held(self) -> None:
        """It speaks of recipients again."""
        if self.breaker.open:
            self.at_ease()

    def refused(self, letter_id: str) -> None:
        """It refused a letter for what that alone says; nobody else is concerned, but what follows tells."""
        self.uneasy = True
        self.refusals.remember(letter_id)

    def doubt(self, letter_id: str, result: Result) -> bool:
        """It refused a letter in words that may be meant for everybody; whether they are."""
        self.uneasy = True
        if self.refusals.note(letter_id, result) or self.breaker.open:
            self.hold(letter_id, result)
            return True
        return False

    def hold(self, letter_id: str, result: Result) -> float:
        """It refuses everybody: no letters for a while; returns the seconds."""
        self.uneasy = True
        now = self._clock.monotonic()
        self.refusals.remember(letter_id)
        words = result.phase, result.code, result.enhanced
        said = " ".join(map(str, filter(None, (result.code, result.enhanced, result.text))))
        if self.breaker.trip(said, result.phase, now):
            self.refusing_since = self._clock.epoch()
        # Those who were on their way still when it was told say nothing more of it.
        if self.breaker.why == said and self._told_refusing.news(words, now):
            log.warning(
                "relay_refuses_letters",
                relay=self.address,
                phase=result.phase,
                code=result.code,
                enhanced=result.enhanced,
                text=result.text[:200],
                action="letters wait, none fails and no attempt is counted; one at a time is tried with"
                " growing pauses",
            )
        self.refusals.end()
        self.scale.rule(Ruling.EVERYBODY)
        return self.breaker.left(now)
