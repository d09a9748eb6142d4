"""A route: where letters of a kind go, in which order of relays, and how often they are tried."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Container, Sequence
from datetime import datetime

from mailsender.model.clock import Clock
from mailsender.model.handling import Priority
from mailsender.model.letter import Claim, Letter, now_ms
from mailsender.routing.backlog import Backlog
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import Scope, scope_key
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.weights import Turns
from mailsender.routing.window import Hours

CLAIM = 500
"""Letters in one claim at most: as measured, a larger batch does not pay."""

FRESH = 2000
"""Letters that come claimed from intake up to which the backlog is filled: what is being sent, and a few
inserts that are under way meanwhile. With a rate it is what the rate lets out."""

LOOK = 1.0
"""Seconds between two looks for letters that wait in the queue while fresh ones keep the backlog full."""


def reserved_line(route: str) -> str:
    """The name of the line in which a route's letters of priority `high` wait; no route has such a name."""
    return f"{route}/high"


ALWAYS = Hours()
"""Those of a route without a sending window."""

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
    """Relays in their order or by weight, a schedule, and the letters that are claimed for them.

    `relays` are those that share its letters and, behind them, its `fallback`. `alone`: there is one relay,
    for which there is nothing but to wait. `open_to_all`: each of them takes mail from every sender, and
    `open_to_service` from the one of letters that name none. `hours`
    say when it sends at all. `dry`: the last look into the queue found no more than was taken. `nudged` is
    set when letters were stored that nobody claimed. `reserve` is the part of what routes share that its
    letters of priority `high` get before others.
    """

    def __init__(
        self,
        name: str,
        relays: Sequence[Relay],
        *,
        retry: RetryPolicy,
        clock: Clock,
        weights: Sequence[int] = (),
        fallback: Sequence[Relay] = (),
        hours: Hours = ALWAYS,
        reserve: float = 0.0,
    ) -> None:
        self.name = name
        self.backlog = Backlog()
        self.dry = False
        self.nudged = asyncio.Event()
        self.ended = asyncio.Event()  # nothing is claimed or sent for it any more
        self._clock = clock
        self._pace = Pace()
        self._claimed = 0
        self._looked_at = clock.monotonic()
        self.relays: tuple[Relay, ...] = ()
        self.change(relays, retry=retry, weights=weights, fallback=fallback, hours=hours, reserve=reserve)

    def change(
        self,
        relays: Sequence[Relay],
        *,
        retry: RetryPolicy,
        weights: Sequence[int] = (),
        fallback: Sequence[Relay] = (),
        hours: Hours = ALWAYS,
        reserve: float = 0.0,
    ) -> None:
        """Go on over other relays, in another order, by another schedule or at other hours.

        What is under way stays. Who waits for a relay has a look whether it is to wait for that still.
        """
        self._untaken, self._untaken_until = "", -math.inf
        self.hours = hours
        self.reserve = reserve
        before = self.relays
        self.relays = (*relays, *(each for each in fallback if each not in relays))
        self.alone = len(self.relays) == 1
        self.retry = retry
        self.open_to_all = not any(relay.senders for relay in self.relays)
        self.open_to_service = all(relay.takes((relay.policy.reverse_path,)) for relay in self.relays)
        self._first = tuple(relays)
        self._turns = Turns(weights) if weights else None
        if before and before != self.relays:
            for relay in before:
                relay.look_again()

    def waits_for(self, relay: Relay) -> bool:
        """Whether there is nothing but to wait for it: it is the only one."""
        return self.alone and self.relays[0] is relay

    @property
    def senders(self) -> int:
        """How many letters may be on their way at once."""
        return sum(relay.policy.sessions.sessions for relay in self.relays)

    @property
    def unlimited(self) -> bool:
        """Whether some relay keeps no rate."""
        return any(relay.limiter.allowance.unlimited for relay in self.relays)

    # --- which relay -----------------------------------------------------------------------------

    @property
    def goes(self) -> bool:
        """Whether a letter would go now."""
        return any(relay.free for relay in self.relays)

    @property
    def tried(self) -> bool:
        """Whether it is no more than tried, with one letter at a time, whether a relay takes some again."""
        if self.alone:
            return self.relays[0].breaker.open
        refusing = [relay for relay in self.relays if relay.breaker.open]
        return bool(refusing) and not self.goes and any(relay.goes for relay in refusing)

    def turn(self) -> tuple[Relay, int]:
        """The relay whose turn it is: by weight, or else the first over which letters go, or else the first.

        One that refused letters has a turn with a single letter when it is time for that, unless an earlier
        one goes; then the second value is the number of that try, else 0. Whoever takes a turn says what came
        of it: by `done`.
        """
        now = self._clock.monotonic()
        if self._turns is not None:
            for relay in self._first:
                if relay.breaker.may_try(now) and relay.goes:
                    return relay, relay.breaker.take_try(now)
            free = [relay.free for relay in self._first]
            place = self._turns.take(free, [relay.pool.at_hand for relay in self._first])
            if place is not None:
                return self._first[place], 0
        for relay in self.relays:
            if relay.free:
                return relay, 0
            if relay.goes and (number := relay.breaker.take_try(now)):
                return relay, number
        return self.relays[0], 0

    def line(self) -> str:
        """Where its next letter waits for what routes share: for priority `high` there may be a line."""
        return reserved_line(self.name) if self.reserve and self.backlog.high() else self.name

    def line_of(self, letter: Letter) -> str:
        """The same for a letter that was taken."""
        high = self.reserve and letter.handling.priority is Priority.HIGH
        return reserved_line(self.name) if high else self.name

    def done(self, relay: Relay, *, trial: int, sent: bool) -> None:
        """A turn is over. `trial`: as `turn` said. `sent`: a letter was taken."""
        if trial:
            relay.breaker.give_back(trial)
        elif self._turns is not None and not sent and relay in self._first:
            self._turns.give_back(self._first.index(relay), [each.free for each in self._first])

    def waiting_for(self, relay: Relay) -> int:
        """How many of the letters in the backlog will want a slot of a relay, as far as is known."""
        return math.ceil(len(self.backlog) * self.part_over(relay))

    def part_over(self, relay: Relay) -> float:
        """The part of its letters that goes over a relay, as things are."""
        if self._turns is not None and relay.free and relay in self._first:
            return self._turns.share(self._first.index(relay), [each.free for each in self._first])
        first = next((each for each in self.relays if each.free), self.relays[0])
        return 1.0 if relay is first and self._turns is None else 0.0

    def resting(self, author: str) -> tuple[Relay, ...]:
        """The relays over which nothing from a sender may begin now, by what they said of it.

        Without an `author` that is whom each of them sends for.
        """
        now = self._clock.monotonic()
        return tuple(
            relay
            for relay in self.relays
            if relay.ordered
            and relay.held(scope_key(Scope.SENDER, sender=author or relay.policy.reverse_path), now)
        )

    def next(
        self, tried: Container[Relay], senders: Collection[str] = (), resting: Container[Relay] = ()
    ) -> Relay | None:
        """Where what none of `tried` took may go now; those behind the first ones only if none of those goes.

        Those that take no mail from `senders`, and those `resting`, are as good as not there.
        """
        first = [
            relay for relay in self._first if relay.free and relay.takes(senders) and relay not in resting
        ]
        for relay in first:
            if relay not in tried:
                return relay
        if first:
            return None
        for relay in self.relays[len(self._first) :]:
            if relay not in tried and relay.free and relay.takes(senders) and relay not in resting:
                return relay
        return None

    @property
    def closed(self) -> bool:
        """Whether nothing may be sent now, by its window."""
        return self.hours.window is not None and self.hours.closed(self._clock.epoch())

    def blocked_because(self) -> str:
        """Why what is claimed would only wait here; empty where it would not."""
        if self.closed:
            return f"its sending window is closed until {self._opens().isoformat(timespec='minutes')}"
        now = self._clock.monotonic()
        if any(relay.goes and not relay.breaker.left(now) for relay in self.relays):
            return ""
        if self.alone:
            return self.relays[0].blocked_because()
        return "; ".join(f"{relay.name}: {relay.blocked_because()}" for relay in self.relays)

    def takes_none_from(self, sender: str, *, for_seconds: float) -> str:
        """Note that no relay takes mail from the service's `sender`, and letters wait for that; it in words.

        It is told for so many seconds, unless another letter has it noted anew.
        """
        self._untaken = f"no relay of the route {self.name} takes mail from {sender}"
        self._untaken_until = self._clock.monotonic() + for_seconds
        return self._untaken

    @property
    def untaken(self) -> str:
        """Why letters wait that name no sender of their own, where no relay takes mail from the service's."""
        return self._untaken if self._clock.monotonic() < self._untaken_until else ""

    def _opens(self) -> datetime:
        opens, window = self.hours.opens(self._clock.epoch()), self.hours.window
        return now_ms(opens) if window is None else now_ms(opens).astimezone(window.zone)

    def leave(self) -> None:
        """It is no more, or it is time to stop: nothing is claimed for it, and who sends for it ends."""
        self.ended.set()
        self.nudged.set()
        self.backlog.low.set()
        self.backlog.close()

    def nudge(self) -> None:
        """Letters were stored that nobody claimed: look into the queue now."""
        self.dry = False
        self.nudged.set()

    # --- how many letters ------------------------------------------------------------------------

    def note_look(self) -> None:
        """The queue is looked into now."""
        self._looked_at = self._clock.monotonic()

    def put(self, claim: Claim, *, fresh: bool = False) -> None:
        """Add a claim's letters to the backlog; `fresh` ones came in just now."""
        self._claimed += len(claim.letters)
        if fresh:
            self.backlog.put_fresh(claim)
        else:
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
        return math.ceil(min(target, sum([relay.limiter.most(AHEAD) for relay in self.relays])))
