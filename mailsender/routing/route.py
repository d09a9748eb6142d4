"""A route: where letters of a kind go, in which order of relays, and how often they are tried."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from mailsender.model.clock import Clock
from mailsender.model.letter import Claim
from mailsender.routing.backlog import Backlog
from mailsender.routing.relay import Relay
from mailsender.routing.retry import RetryPolicy

CLAIM = 500
"""Letters in one claim at most: as measured, a larger batch does not pay."""

FRESH = 2000
"""Letters that come claimed from intake up to which the backlog is filled: what is being sent, and a few
inserts that are under way meanwhile. With a rate it is what the rate lets out."""

LOOK = 1.0
"""Seconds between two looks for letters that wait in the queue while fresh ones keep the backlog full."""

AHEAD = 2.0
"""Seconds of work to hold: enough to hide a claim's round trip, and little for others to wait for."""


class Pace:
    """How many letters a second leave the backlog, smoothed. Pure, given `now`."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._since: float | None = None

    def note(self, letters: int, now: float) -> None:
        """`letters` left since the last call."""
        if self._since is None or now <= self._since:
            self._since = now
            return
        elapsed = now - self._since
        weight = 1 - math.exp(-elapsed / AHEAD)
        self._rate += weight * (letters / elapsed - self._rate)
        self._since = now

    @property
    def rate(self) -> float:
        """Letters a second."""
        return self._rate


class Route:
    """Relays in their order, a schedule, and the letters that are claimed for them.

    `dry`: the last look into the queue found no more than was taken. `nudged` is set when letters were stored
    that nobody claimed.
    """

    def __init__(self, name: str, relays: Sequence[Relay], *, retry: RetryPolicy, clock: Clock) -> None:
        self.name = name
        self.relays = tuple(relays)
        self.retry = retry
        self.backlog = Backlog()
        self.dry = False
        self.nudged = asyncio.Event()
        self._clock = clock
        self._pace = Pace()
        self._claimed = 0
        self._looked_at = clock.monotonic()

    @property
    def senders(self) -> int:
        """How many letters may be on their way at once."""
        return sum(relay.policy.sessions.sessions for relay in self.relays)

    @property
    def unlimited(self) -> bool:
        """Whether some relay keeps no rate."""
        return any(relay.limiter.allowance.unlimited for relay in self.relays)

    def relay(self) -> Relay:
        """The first one over which letters go, or else the first."""
        for relay in self.relays:
            if relay.goes and not relay.breaker.open:
                return relay
        return self.relays[0]

    def blocked_because(self) -> str:
        """Why what is claimed would only wait here; empty where it would not."""
        now = self._clock.monotonic()
        if any(relay.goes and not relay.breaker.left(now) for relay in self.relays):
            return ""
        relay = self.relays[0]
        return relay.reason or relay.limiter.blocked_because()

    @property
    def alone(self) -> bool:
        """Whether there is one relay, for which there is nothing but to wait."""
        return len(self.relays) == 1

    @property
    def tried(self) -> bool:
        """Whether it is no more than tried, with one letter at a time, whether a relay takes some again."""
        return all(relay.breaker.open for relay in self.relays)

    def nudge(self) -> None:
        """Letters were stored that nobody claimed: look into the queue now."""
        self.dry = False
        self.nudged.set()

    # --- how many letters ------------------------------------------------------------------------

    def note_look(self) -> None:
        """The queue is looked into now."""
        self._looked_at = self._clock.monotonic()

    def put(self, claim: Claim) -> None:
        """Add a claim's letters to the backlog."""
        self._claimed += len(claim.letters)
        self.backlog.put(claim)

    def room(self) -> int:
        """How many letters to claim now: what can be sent within `AHEAD`, less what is there."""
        if self.tried:
            return int(not self.backlog)  # for a try
        full = min(CLAIM, self.target())
        # A claim for a letter or two while the backlog is nearly full would be a round trip a letter.
        self.backlog.low_mark = full // 2
        if len(self.backlog) <= self.backlog.low_mark:
            return full - len(self.backlog)
        # Fresh letters may keep the backlog full for ever, and what waits in the queue must not starve behind
        # them.
        return full if self.dry and self._clock.monotonic() - self._looked_at >= LOOK else 0

    def fresh_room(self) -> int:
        """How many letters fit that come claimed from intake; -1 where none may come that way."""
        if self.tried or not self.dry or self.blocked_because():
            return -1
        full = FRESH if self.unlimited else self.target()
        return max(0, full - len(self.backlog))

    def target(self) -> int:
        """How many letters can be sent within `AHEAD`."""
        now = self._clock.monotonic()
        self._pace.note(self._claimed, now)
        self._claimed = 0
        target = max(2 * self.senders, self._pace.rate * AHEAD)
        allowances = [relay.limiter.allowance for relay in self.relays]
        if all(each.letters for each in allowances):
            target = min(target, sum(each.rate * AHEAD + each.burst for each in allowances))
        return math.ceil(target)
