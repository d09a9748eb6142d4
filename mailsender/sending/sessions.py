"""The session of one worker: opened when it is needed, replaced when it is worn or gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from mailsender.aio import first_of, pause
from mailsender.model.letter import Result
from mailsender.model.ports import Clock, Relay, RelayAway, Session
from mailsender.routing.breaker import Breaker, Refusals, Telling
from mailsender.routing.dots import Dots
from mailsender.sending.weighing import Ruling, Scale

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0
"""Seconds between two tries to reach a relay that is away."""


NOT_ASKED = "not asked yet"
"""The reason of a relay of which nothing is known."""

NO_LIMIT = 1_000_000
"""Recipients in a transaction as long as the relay has named no limit."""

LAST_MOMENT = 1.0
"""Seconds for a session in the making to be taken down at a stop."""


class Stopped(Exception):  # noqa: N818  an answer, not a mistake
    """It is time to stop, and what is asked for would still take a while."""


RELEARN = 3600.0
"""Seconds for which it is believed that a relay takes so many letters a session: limits are lifted, too."""


@dataclass(slots=True)
class RelayState:
    """What all workers together know of the relay; `busy` counts the sessions that carry something now."""

    name: str
    clock: Clock
    open_sessions: int = 0
    busy: int = 0
    trouble: str = ""
    phase: str = ""
    since: float | None = None  # epoch seconds of the first failure in a row
    connected_ever: bool = False
    asked_by: int = 0  # the `id` of the worker that opens a session although no letter waits
    breaker: Breaker = field(default_factory=Breaker)
    refusals: Refusals = field(default_factory=Refusals)
    dots: Dots = field(default_factory=Dots)
    scale: Scale = field(default_factory=Scale)
    refusing_since: float | None = None  # epoch seconds
    told_away: Telling = field(default_factory=Telling)
    told_refusing: Telling = field(default_factory=Telling)
    uneasy: bool = False  # something was refused that may be everybody's, since it took one
    share: int = 0  # letters that it takes in one session, 0 while that is not known
    share_until: float = 0.0
    last_share: int = 0
    again_at: float = 0.0  # epoch seconds of the next try, while it is away

    def tried_next(self, now: float, seconds: float) -> None:
        """One of those who try to reach it will do so again in `seconds`."""
        again = now + seconds
        self.again_at = min(self.again_at, again) if self.again_at > now else again

    @property
    def away(self) -> bool:
        """Whether no session is open and the last try to open one failed."""
        return bool(self.trouble) and self.open_sessions == 0

    @property
    def reason(self) -> str:
        """Why letters do not go out to it, for readiness and status; empty when they may."""
        if self.away:
            return self.trouble
        if self.breaker.open:
            return f"refuses letters: {self.breaker.why}"
        if self.dots.stuck:
            return (
                f"all {self.dots.slow} open sessions wait for the reply to a message's end, the longest for"
                f" {self.dots.longest:.0f} s"
            )
        return "" if self.connected_ever else NOT_ASKED

    @property
    def next_try(self) -> float | None:
        """Epoch seconds at which it is tried again while it is away or refuses letters, where that is known.

        It is not once that time has come: a try is under way, or waits for a letter.
        """
        now = self.clock.epoch()
        at = self.again_at if self.away else now + self.breaker.left(self.clock.monotonic())
        return at if at > now else None

    # --- what it says of letters ------------------------------------------------------------------

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
            self.told_refusing.over()
            lasted = self.clock.epoch() - (self.refusing_since or 0.0)
            log.info("relay_takes_letters", relay=self.name, after_seconds=round(lasted, 1))
            self.refusing_since = None

    def at_ease_if_held(self) -> None:
        """It speaks of recipients again."""
        if self.breaker.open:
            self.at_ease()

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
        now = self.clock.monotonic()
        self.refusals.remember(letter_id)
        words = result.phase, result.code, result.enhanced
        said = " ".join(map(str, filter(None, (result.code, result.enhanced, result.text))))
        if self.breaker.trip(said, result.phase, now):
            self.refusing_since = self.clock.epoch()
        # Those who were on their way still when it was told say nothing more of it.
        if self.breaker.why == said and self.told_refusing.news(words, now):
            log.warning(
                "relay_refuses_letters",
                relay=self.name,
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

    def look_at_dots(self, sessions: Sequence[Held]) -> None:
        """Say it, once, when sessions wait for the reply to a dot since longer than usual."""
        dots = self.dots
        were_slow = dots.slow
        dots.look(self.clock.monotonic(), [(id(each), each.dot_at, each.taken) for each in sessions])
        if dots.slow and not were_slow:
            log.warning(
                "relay_slow",
                relay=self.name,
                sessions=dots.slow,
                open_sessions=self.open_sessions,
                seconds=round(dots.longest, 1),
                action="their letters are waited for; what comes too late is uncertain",
            )
        elif were_slow and not dots.slow:
            log.info("relay_slow_no_more", relay=self.name)

    def learn_share(self, taken: int) -> None:
        """A session was refused more after so many letters: twice the same is a limit."""
        if taken == self.last_share and taken != self.share:
            self.share, self.share_until = taken, self.clock.monotonic() + RELEARN
            log.info("relay_limits_sessions", relay=self.name, letters=taken, action="replaced before that")
        self.last_share = taken

    def share_now(self, wanted: int) -> int:
        """Letters for the next session: `wanted`, or what the relay takes if that is less; 0 = no limit."""
        if not self.share or self.clock.monotonic() > self.share_until:
            self.share = 0
            return wanted
        return min(wanted, self.share) if wanted else self.share


@dataclass(slots=True, eq=False)
class Held:
    """An open session, and what it has come to.

    `carried` counts the transactions begun in it, `taken` those in which the relay took somebody. `share` is
    how many it is to carry, 0 for no limit; `room` how many recipients the relay takes in one transaction.
    `refused` is the number of its last refusal that was weighed: what it takes after that was judged later.
    `dot_at` is when the dot was written whose reply is waited for, 0 while there is none.
    """

    session: Session
    share: int
    carried: int = 0
    taken: int = 0
    worn: bool = False
    room: int = NO_LIMIT
    refused: int = 0
    dot_at: float = 0.0


class OwnSession:
    """At most one open session, shared by the lanes of one worker.

    After `share` transactions (0 = no limit) it is replaced, when those under way have ended. `stopping` ends
    all waiting for a relay that is away.
    """

    def __init__(
        self,
        relay: Relay,
        state: RelayState,
        clock: Clock,
        *,
        share: int,
        chance: random.Random,
        stopping: asyncio.Event,
    ) -> None:
        self._relay = relay
        self._state = state
        self._clock = clock
        self._share = share
        self._chance = chance
        self._stopping = stopping
        self._held: Held | None = None
        self._fitting = asyncio.Lock()
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self.deep = asyncio.Event()

    @property
    def warm(self) -> Held | None:
        """The session, when it needs no second look."""
        held = self._held
        return held if held is not None and not held.worn and held.session.warm else None

    @property
    def open(self) -> bool:
        """Whether there is one."""
        return self._held is not None

    @property
    def held(self) -> Held | None:
        """What is known of the session, if there is one."""
        return self._held

    @property
    def room(self) -> int:
        """Recipients that the relay takes in one transaction of this session, as far as is known."""
        return NO_LIMIT if self._held is None else self._held.room

    async def have(self) -> bool:
        """Whether it is there and fit; opens one, trying again with backoff. False: it is time to stop."""
        backoff = FIRST_BACKOFF
        while not self._stopping.is_set():
            try:
                await self.fit()
            except Stopped:
                return False
            except RelayAway as error:
                self.note_away(error)
            else:
                return True
            seconds = backoff * (0.75 + self._chance.random() / 2)
            self._state.tried_next(self._clock.epoch(), seconds)
            await pause(self._stopping, seconds)
            backoff = min(LAST_BACKOFF, backoff * 2)
        return False

    async def fit(self) -> Held:
        """One that can carry a transaction now.

        Raises:
            RelayAway: none can be opened.
            Stopped: it is time to stop, and there is none yet.
        """
        async with self._fitting:
            held = self._held
            if held is not None and held.worn:
                await first_of(self._quiet, self._stopping)
                if not self._quiet.is_set():
                    raise Stopped
                await self.close()
            held = self._held
            if held is not None and not await held.session.ready():
                await self.close()
            held = self._held
            if held is None:
                session = await self._opened()
                held = self._held = Held(session, self._state.share_now(self._share))
                self._state.open_sessions += 1
                self._note_there()
                if session.depth > 1:
                    self.deep.set()
            return held

    async def _opened(self) -> Session:
        """A new session, unless it is time to stop before there is one: its opening may take minutes."""
        opening = asyncio.ensure_future(self._relay.connect())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            opening.cancel()
            raise
        finally:
            stop.cancel()
        if not opening.done():
            opening.cancel()
            await asyncio.wait({opening}, timeout=LAST_MOMENT)
            raise Stopped
        return opening.result()

    def enter(self, held: Held) -> None:
        """A transaction begins."""
        held.carried += 1
        if held.share and held.carried >= held.share:
            held.worn = True
        self._under_way += 1
        self._state.busy += self._under_way == 1
        self._quiet.clear()

    def leave(self) -> None:
        """It has ended."""
        self._under_way -= 1
        if not self._under_way:
            self._state.busy -= 1
            self._quiet.set()

    def retire(self) -> None:
        """Carry nothing more over it; what is under way may end."""
        if self._held is not None:
            self._held.worn = True

    def abort(self) -> None:
        """Cut it now."""
        if self._held is not None:
            self._held.session.abort()

    async def close_if_idle(self) -> None:
        """Close it unless a transaction is under way."""
        if not self._under_way:
            await self.close()

    async def close(self, held: Held | None = None) -> None:
        """Close it; with `held` only if that is still the one."""
        mine = self._held
        if mine is None or (held is not None and held is not mine):
            return
        self._held = None
        self.deep.clear()
        self._state.open_sessions -= 1
        await mine.session.close()

    # --- what is known of the relay --------------------------------------------------------------

    def note_away(self, error: RelayAway) -> None:
        """Say it when the relay goes away, and keep why."""
        state = self._state
        if not state.trouble:
            state.since = self._clock.epoch()
        event = "relay_away" if state.open_sessions == 0 else "relay_refuses_session"
        # The relay's own words hold numbers that differ each time; its code tells what they are about.
        kind = event, error.phase, error.code or str(error)
        if state.told_away.news(kind, self._clock.monotonic()):
            log.warning(
                event,
                relay=state.name,
                phase=error.phase,
                code=error.code,
                error=str(error),
                action="tried again with backoff; letters wait and no attempt is counted",
            )
        state.trouble, state.phase = str(error), error.phase

    def _note_there(self) -> None:
        state = self._state
        if state.trouble or not state.connected_ever:
            away = round(self._clock.epoch() - state.since, 1) if state.since else 0.0
            log.info("relay_answers", relay=state.name, after_seconds=away)
        state.connected_ever = True
        state.told_away.over()
        state.trouble, state.phase, state.since = "", "", None
