"""The sessions with one relay: opened for work, kept, replaced in time, closed when idle.

A session carries one transaction at a time, or two where the relay takes them pipelined: while one is at its
message the next one's envelope goes with it. Whoever sends takes a place in a session for one transaction.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.letter import Phase
from mailsender.ratelimit.turns import Turns
from mailsender.routing.breaker import Telling
from mailsender.routing.concurrency import Concurrency
from mailsender.routing.slow_replies import Dots
from mailsender.smtp.port import RelayAway, Session, Transport

log = structlog.get_logger()

FIRST_BACKOFF, LAST_BACKOFF = 1.0, 60.0
"""Seconds between two tries to open a session with a relay that is away."""

UNREACHED = 10.0
"""The most of them while nothing answers there at all: to knock costs a relay nothing, and one that is back
is to have its letters soon. All sessions share the pause, so nobody else finds out earlier."""

HUNG_LOOKS = 2
"""Looks at which somebody waited and nothing moved after which a relay hangs; one comes every few seconds."""

PROBE = "noop"
"""The step at which a relay that was away is found to be away still, although it lets us in."""

NOT_ASKED = "not asked yet"
"""The reason of a relay of which nothing is known."""

HANGS = "letters wait for it, and nothing moves: no session is opened, refused or left"
"""What is said of a relay that hangs."""

NO_LIMIT = 1_000_000
"""Recipients in a transaction as long as the relay has named no limit."""

LAST_MOMENT = 1.0
"""Seconds for a session in the making to be taken down at a stop."""

RELEARN = 3600.0
"""Seconds for which it is believed that a relay takes so many letters a session: limits are lifted, too."""

LOOK = 1.0
"""Seconds between two looks for sessions that idle for too long."""


class Stopped(Exception):  # noqa: N818  an answer, not a mistake
    """It is time to stop, and what is asked for would still take a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """At most `sessions` at once, `letters` in each (0 = no limit); closed after `idle` idle seconds."""

    sessions: int
    letters: int = 0
    idle: float = 30.0


@dataclass(slots=True, eq=False)
class Held:
    """An open session, and what it has come to.

    `carried` counts the transactions begun in it, `taken` those in which the relay took somebody, `under_way`
    those that have not ended. `share` is how many it is to carry, 0 for no limit; `room` how many recipients
    the relay takes in one transaction. `refused` is the number of its last refusal that was weighed: what it
    takes after that was judged later. `dot_at` is when the dot was written whose reply is waited for, 0 while
    there is none, `to_dot` how many seconds its last message took from MAIL to dot. `retired`: it is to carry
    nothing more.
    """

    session: Session
    share: int
    carried: int = 0
    taken: int = 0
    under_way: int = 0
    retired: bool = False
    gone: bool = False
    room: int = NO_LIMIT
    refused: int = 0
    dot_at: float = 0.0
    to_dot: float = 0.0
    idle_since: float = 0.0


@dataclass(slots=True)
class Reach:
    """Whether sessions can be opened: why not, since when and until when, in epoch seconds."""

    trouble: str = ""
    phase: str = ""
    since: float | None = None
    again_at: float = 0.0
    ever: bool = False
    told: Telling = field(default_factory=Telling)


def _no_rule(error: RelayAway) -> float:  # noqa: ARG001  as `Pool.ruled` is asked
    return 0.0


def _never() -> bool:
    return False


def _always() -> bool:
    return True


def _nothing() -> None:
    pass


class Pool:
    """Sessions with one relay, at most `limits.sessions`, and fewer at first. `stopping` ends all waiting.

    `patience` is how many seconds a transaction may wait behind another one in a session: its slot must not
    lapse meanwhile. `ruled` is asked, where a relay refuses a session, for how long none may be tried, and
    `rests` whether none may be opened now by what it ordered before, here or to another replica. `ended` is
    told when sessions have ended in which somebody has a place, who may wait for something else meanwhile.
    """

    def __init__(
        self,
        transport: Transport,
        limits: PoolLimits,
        clock: Clock,
        *,
        chance: random.Random,
        stopping: asyncio.Event,
        patience: float = math.inf,
    ) -> None:
        self.patience = patience
        self.ruled: Callable[[RelayAway], float] = _no_rule
        self.rests: Callable[[], bool] = _never
        self.ended: Callable[[], None] = _nothing
        self._transport = transport
        self._limits = limits
        self._window = Concurrency(limits.sessions)
        self._clock = clock
        self._chance = chance
        self._stopping = stopping
        self._open: set[Held] = set()
        self._making: set[object] = set()  # a mark for each session that is being opened
        self._idle: list[Held] = []  # the one that was used last is used first: few busy ones beat many idle
        self._second: dict[Held, None] = {}  # carry one transaction and take another, in the order of time
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._turns: Turns[asyncio.Future[None]] | None = None  # in its place where routes share it
        self._woken = 0  # waiters whose turn it is, and who have not gone on yet
        self._closing: set[asyncio.Task[None]] = set()
        self._backoff = FIRST_BACKOFF
        self._next_try = 0.0  # monotonic
        self._share = 0  # letters that the relay takes in one session, 0 while that is not known
        self._share_until = 0.0
        self._last_share = 0
        self._fewer_until = 0.0  # monotonic
        self._moves = 0  # sessions opened, refused, and left
        self._seen_moves = 0
        self._hung = 0  # looks in a row at which somebody waited and nothing moved
        self._hangs = asyncio.Event()
        self._again = asyncio.Event()
        self._openings: set[asyncio.Task[Held]] = set()
        self._opened_for = 0  # who waits for one of those
        self.reach = Reach()
        self.dots = Dots()
        self.refused: dict[str, int] = {}  # sessions that could not be opened, by stage

    # --- how it is -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._open)

    @property
    def busy(self) -> int:
        """Sessions that carry something now."""
        return sum(held.under_way > 0 for held in self._open)

    @property
    def away(self) -> bool:
        """Whether no session is open and the last try to open one failed."""
        return bool(self.reach.trouble) and not self._open

    @property
    def hangs(self) -> bool:
        """Whether somebody waited for a place, and nothing at all has moved since."""
        return self._hangs.is_set()

    @property
    def probing(self) -> bool:
        """Whether a relay that is away is being asked whether it is back."""
        return self.away and self._opening > 0

    @property
    def window(self) -> tuple[int, int]:
        """How many sessions it may have now, and at most."""
        return self._window.size, self._window.most

    @property
    def closed(self) -> bool:
        """Whether it may have no session at all, because other replicas have all that the relay takes."""
        return not self._window.most

    @property
    def reason(self) -> str:
        """Why nothing is carried; empty when it is."""
        if self.away:
            return self.reach.trouble
        if self.dots.stuck:
            return (
                f"all {self.dots.slow} open sessions wait for the reply to a message's end, the longest for"
                f" {self.dots.longest:.0f} s"
            )
        return "" if self.reach.ever or self.closed else NOT_ASKED

    # --- a place ---------------------------------------------------------------------------------

    @property
    def at_hand(self) -> bool:
        """Whether a session that is open has a place, as far as can be seen without a look at it."""
        return bool(self._idle) or bool(self._second)

    def at_once(self) -> Held | None:
        """A place in a session that certainly takes a transaction now, None where that has to be seen."""
        return None if self._turns is not None and self._others_wait() else self._ready()

    def _ready(self) -> Held | None:
        while self._idle:
            held = self._idle[-1]
            if held.gone or held.retired:
                self._idle.pop()
                self._discard(held)
                continue
            if not held.session.reusable:
                break
            self._idle.pop()
            return self._enter(held)
        if self._may_open():
            return None  # a session of its own is better than half of one
        for held in self._second:
            if held.session.reusable:
                return self._enter(held)
        return None

    def divide(self, shares: Mapping[str, float]) -> None:
        """From now on routes by these names wait here, each for its share; fewer than two: whoever comes.

        Whoever sends takes the session that it left again, and that is cheap; where another route waits it is
        that one's turn, or it would wait until nobody else had a letter.
        """
        if len(shares) > 1 and self._turns is not None:
            self._turns.use(shares)
            return
        self._wake_all()  # they wait anew
        self._turns = Turns(shares) if len(shares) > 1 else None

    async def place(
        self,
        *,
        wait: bool,
        route: str = "",
        still: Callable[[], bool] = _always,
        wanted: Callable[[], bool] = _always,
    ) -> Held:
        """A place in a session; opens one where that helps. `route` is who waits, where several share it.

        With `wait`, and as long as that holds `still`, it takes as long as it takes; without, only as long as
        some session is open, or is being opened, and the relay does not hang. Either way it is `wanted`.

        Raises:
            RelayAway: without `wait`: none can be had; or none is wanted any more.
            Stopped: it is time to stop.
        """
        first, woken = True, False
        while not self._stopping.is_set():
            held = None
            moves = self._moves
            wait = wait and still()
            if not (first and self._turns is not None and self._others_wait()):
                held = self._ready() or await self._tested() or await self._opened(wait=wait)
            if held is not None:
                if self._turns is not None and (self._idle or self._second or self._may_open()):
                    self._wake()  # for nobody comes by who would take it
                return held
            if self._turns is not None and woken and moves == self._moves:
                # Else it took a while, in which others had turns: who went on from before those would have
                # all of them alone until it had made up for it.
                self._turns.give_back(route)
            if not wait and (self.away or self.hangs or not (self._open or self._opening)):
                raise RelayAway(self.reach.trouble or "no session is open", phase=self.reach.phase)
            if not wanted():
                raise RelayAway("it is not wanted any more", phase=self.reach.phase)
            if self._stopping.is_set():
                break  # it was told while we looked, when we did not wait
            first, woken = False, await self._changed(route)
        raise Stopped

    def look_again(self) -> None:
        """Have all who wait see whether they still want a place."""
        self._again.set()
        self._again.clear()
        self._wake_all()

    def leave(self, held: Held, *, usable: bool = True) -> None:
        """A transaction has ended, or was not begun after all; `usable`: the session takes another one."""
        self._moves += 1
        held.under_way -= 1
        held.retired = held.retired or not usable
        self._second.pop(held, None)
        if held.retired:
            self._discard(held)
        elif held.under_way:
            self._offer_half(held)
        else:
            held.idle_since = self._clock.monotonic()
            self._idle.append(held)
        self._wake()

    def begin(self, held: Held) -> None:
        """The transaction of a place begins."""
        held.carried += 1
        if held.share and held.carried >= held.share:
            self.retire(held)

    def retire(self, held: Held) -> None:
        """Carry nothing more over it; what is under way may end."""
        held.retired = True
        self._second.pop(held, None)

    # --- keeping it ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Close what idles; ask a relay that is away, or was never asked, although nothing is to be sent."""
        while not self._stopping.is_set():
            if not self._open and (self.away or not self.reach.ever) and self._may_open():
                with suppress(Stopped):
                    held = await self._opened(wait=True)
                    if held is not None:
                        self.leave(held)
                continue
            self._close_idle()
            self._look_for_ended()
            left = self._next_try - self._clock.monotonic()
            await pause(self._stopping, min(LOOK, left) if left > 0 else LOOK)
            self._wake()

    def _look_for_ended(self) -> None:
        """Have nobody count on sessions that ended, as when it waits for a slot of a slow rate."""
        ended = [held for held in self._open if not held.retired and not held.session.alive]
        for held in ended:
            self.retire(held)
        if ended:
            self.ended()

    def look_at_dots(self) -> None:
        """Say it, once, when sessions wait for the reply to a dot since longer than usual."""
        dots = self.dots
        were_slow = dots.slow
        sessions = [(id(each), each.dot_at, each.taken) for each in self._open]
        dots.look(self._clock.monotonic(), sessions)
        if dots.slow and not were_slow:
            log.warning(
                "relay_slow",
                relay=self._transport.name,
                sessions=dots.slow,
                open_sessions=len(self._open),
                seconds=round(dots.longest, 1),
                action="their letters are waited for; what comes too late is uncertain",
            )
        elif were_slow and not dots.slow:
            log.info("relay_slow_no_more", relay=self._transport.name)

    def look_at_moves(self, *, slots_awaited: bool = False) -> None:
        """See whether it hangs: whoever has another relay is told to take that.

        Who waits for a slot (`slots_awaited`) has a session, and it is our own rate by which nothing moves.
        """
        moved, self._seen_moves = self._moves != self._seen_moves, self._moves
        if moved or slots_awaited:
            self._hung = 0
            if self._hangs.is_set():
                self._hangs.clear()
                log.info("relay_hangs_no_more", relay=self._transport.name)
        elif self._opened_for or self._others_wait():
            self._hung += 1
            if self._hung >= HUNG_LOOKS and not self._hangs.is_set():
                self._hangs.set()
                log.warning(
                    "relay_hangs",
                    relay=self._transport.name,
                    open_sessions=len(self._open),
                    opening=self._opening,
                    action="letters that have another relay go over that; others wait",
                )
                self._wake_all()

    def allow(self, sessions: int) -> None:
        """From now on there may be at most so many sessions; those beyond end when they carry nothing."""
        self._window.allow(sessions)
        self._close_beyond(sessions)
        self._wake_all()

    def fewer(self) -> None:
        """The relay took them all, and says of a letter that it has too many: one fewer from now on.

        How many it takes is asked again by opening one more after `RELEARN` seconds.
        """
        self._window.fewer(len(self._open))
        self._fewer_until = self._clock.monotonic() + RELEARN
        log.info(
            "relay_limits_connections",
            relay=self._transport.name,
            sessions=self._window.size,
            action="no more are opened for an hour",
        )
        self._close_beyond(self._window.size)

    def _close_beyond(self, sessions: int) -> None:
        busy = [held for held in self._open if held not in self._idle]
        for held in [*self._idle, *busy][: max(0, len(self._open) - sessions)]:
            self.retire(held)
        self._idle = [held for held in self._idle if not held.retired]
        for held in [each for each in self._open if each.retired]:
            self._discard(held)

    def stop(self) -> None:
        """Wake all who wait: `stopping` was set."""
        self._wake_all()

    def abort(self) -> None:
        """Cut all sessions now."""
        for held in self._open:
            held.session.abort()

    async def close(self) -> None:
        """Close all sessions that carry nothing; those that do are closed when they are left."""
        for held in list(self._open):
            held.retired = True
            if not held.under_way:
                self._discard(held)
        while self._closing or self._openings:
            await asyncio.wait(self._closing | self._openings)

    # --- what was learnt -------------------------------------------------------------------------

    def learn_share(self, taken: int) -> None:
        """A session was refused more after so many letters: twice the same is a limit."""
        if taken == self._last_share and taken != self._share:
            self._share, self._share_until = taken, self._clock.monotonic() + RELEARN
            log.info(
                "relay_limits_sessions",
                relay=self._transport.name,
                letters=taken,
                action="replaced before that",
            )
        self._last_share = taken

    @property
    def share(self) -> int:
        """Letters for the next session: as wanted, or what the relay takes if that is less; 0 = no limit."""
        wanted = self._limits.letters
        if not self._share or self._clock.monotonic() > self._share_until:
            self._share = 0
            return wanted
        return min(wanted, self._share) if wanted else self._share

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _opening(self) -> int:
        """Sessions that are being opened."""
        return len(self._making)

    def _may_open(self) -> bool:
        if self._opening and not self._open and (self.reach.trouble or not self.reach.ever):
            return False  # one asks whether it is there
        room = len(self._open) + self._opening < self._window.size
        return room and self._clock.monotonic() >= self._next_try and not self.rests()

    def _enter(self, held: Held) -> Held:
        held.under_way += 1
        self._second.pop(held, None)
        if held.under_way == 1 and held.session.pipeline_depth > 1:
            self._offer_half(held)
        return held

    def _offer_half(self, held: Held) -> None:
        """Let a session carry another transaction behind the one that it has, if it has not long to wait."""
        if held.to_dot <= self.patience:
            self._second[held] = None

    async def _tested(self) -> Held | None:
        """A place in a session that was idle for a while, if it is still good."""
        while self._idle:
            held = self._idle.pop()
            if held.retired or held.gone:
                self._discard(held)
                continue
            held.under_way += 1  # nobody closes it meanwhile
            ready = False
            try:
                ready = await held.session.check_alive()
            finally:
                held.under_way -= 1
                if not ready:
                    self._discard(held)
            if ready and not held.gone:
                return self._enter(held)
        return None

    async def _opened(self, *, wait: bool) -> Held | None:
        """A place in a new session; None where none may be opened now, or it failed.

        It is None, too, where who waits has to `look_again`, or, without `wait`, the relay hangs. The session
        is opened all the same, for others.
        """
        if not self._may_open() or (self.hangs and not wait):
            return None
        mark = object()
        self._making.add(mark)  # here, for others ask before the task begins
        opening = asyncio.ensure_future(self._open_another(mark))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        opening.add_done_callback(lambda _: self._making.discard(mark))  # where it was ended before it began
        self._opened_for += 1
        try:
            await _first_of(opening, self._again, *(() if wait else (self._hangs,)))
        except asyncio.CancelledError:
            opening.cancel()
            raise
        finally:
            self._opened_for -= 1
        if not opening.done():
            opening.add_done_callback(self._keep)
            return None
        try:
            held = opening.result()
        except RelayAway:
            if not wait:
                raise
            return None
        # Entered here and not in the task: nobody is to have half of it before whoever waited for it.
        return None if held.gone else self._enter(held)

    def _keep(self, opening: asyncio.Task[Held]) -> None:
        """Keep a session for whoever comes, if it was opened at last; that it was not is told already."""
        if opening.cancelled() or opening.exception() is not None or (held := opening.result()).gone:
            return
        held.idle_since = self._clock.monotonic()
        self._idle.append(held)
        self._wake()

    async def _open_another(self, mark: object) -> Held:
        """A new session, in which nobody has a place yet.

        Raises:
            RelayAway: it could not be opened, which is told.
            Stopped: it is time to stop.
        """
        try:
            session = await self._connected()
        except RelayAway as error:
            self.note_away(error)
            self._window.failed(len(self._open))
            self._postpone(UNREACHED if error.phase == Phase.CONNECT else LAST_BACKOFF, self.ruled(error))
            self._wake_all()  # whoever has another relay is not to wait for this one
            raise
        finally:
            self._moves += 1
            self._making.discard(mark)
            self._wake()  # whoever waits may open the next one, or learns that none can be
        held = Held(session, self.share)
        self._open.add(held)
        self._wake_all()  # there it is: all may open theirs
        self._backoff, self._next_try = FIRST_BACKOFF, 0.0
        if self._fewer_until and self._clock.monotonic() >= self._fewer_until:
            self._fewer_until = 0.0
            self._window.forget()
        self._window.opened()
        self.note_there()
        if len(self._open) > self._window.bound:
            self._discard(held)  # fewer are allowed since it was begun
        return held

    def _postpone(self, most: float, least: float) -> None:
        """The next try comes later, by ever more up to `most`; once for those that failed together.

        `least` seconds are kept in any case: a rule says so.
        """
        left = self._next_try - self._clock.monotonic()
        if left > 0 and left >= least:
            return
        seconds = max(least, min(most, self._backoff) * (0.75 + self._chance.random() / 2))
        self._backoff = min(LAST_BACKOFF, self._backoff * 2)
        self._next_try = self._clock.monotonic() + seconds
        self.reach.again_at = self._clock.epoch() + seconds

    async def _connected(self) -> Session:
        """A new session, unless it is time to stop before there is one: its opening may take minutes."""
        opening = asyncio.ensure_future(self._transport.connect())
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
        session = opening.result()
        if self.away and not await session.check_alive(ask=True):
            # A login is not much from a relay that was away: no letter is to find out that it ends there.
            await session.close()
            raise RelayAway("the relay ended the session at its first command (NOOP)", phase=PROBE)
        return session

    async def _changed(self, route: str) -> bool:
        """Wait until a place may have become free, or a session may be opened; whether it is our turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._turns is None:
            self._waiters.append(future)
        else:
            self._turns.add(route, future)
        left = self._next_try - self._clock.monotonic()
        try:
            if left > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await future
            else:
                await future
        finally:
            woken = future.done() and not future.cancelled()
            if woken:
                self._woken -= 1
            else:
                future.cancel()
                if self._turns is not None:
                    self._turns.remove(route, future)
        return woken

    def _others_wait(self) -> bool:
        """Whether somebody waits, or is about to go on."""
        waiting = self._waiters if self._turns is None else self._turns
        return self._woken > 0 or any(not each.done() for each in waiting)

    def _wake(self) -> None:
        while (waiter := self._next_waiter()) is not None:
            if not waiter.done():
                self._woken += 1
                waiter.set_result(None)
                return

    def _next_waiter(self) -> asyncio.Future[None] | None:
        if self._turns is not None:
            return self._turns.take() if len(self._turns) else None
        return self._waiters.popleft() if self._waiters else None

    def _wake_all(self) -> None:
        for _ in range(len(self._waiters if self._turns is None else self._turns)):
            self._wake()

    def _close_idle(self) -> None:
        before = self._clock.monotonic() - self._limits.idle
        for held in [each for each in self._idle if each.idle_since <= before]:
            self._idle.remove(held)
            self._discard(held)

    def _discard(self, held: Held) -> None:
        """Close a session, once nothing is under way in it."""
        held.retired = True
        if held.under_way or held.gone:
            return
        held.gone = True
        self._open.discard(held)
        task = asyncio.ensure_future(held.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- what is told ----------------------------------------------------------------------------

    def note_away(self, error: RelayAway) -> None:
        """Say it when the relay goes away, and keep why."""
        self.refused[error.phase] = self.refused.get(error.phase, 0) + 1
        reach = self.reach
        if not reach.trouble:
            reach.since = self._clock.epoch()
        event = "relay_away" if not self._open else "relay_refuses_session"
        # The relay's own words hold numbers that differ each time; its code tells what they are about.
        kind = event, error.phase, error.code or str(error)
        if reach.told.news(kind, self._clock.monotonic()):
            log.warning(
                event,
                relay=self._transport.name,
                phase=error.phase,
                code=error.code,
                error=str(error),
                action="tried again with backoff; letters wait and no attempt is counted",
            )
        reach.trouble, reach.phase = str(error), error.phase

    def note_there(self) -> None:
        """Say it when it is back."""
        reach = self.reach
        if reach.trouble or not reach.ever:
            away = round(self._clock.epoch() - reach.since, 1) if reach.since else 0.0
            log.info("relay_answers", relay=self._transport.name, after_seconds=away)
        reach.ever = True
        reach.told.over()
        reach.trouble, reach.phase, reach.since = "", "", None


async def _first_of(opening: asyncio.Task[Held], *events: asyncio.Event) -> None:
    """Wait until a session is opened, or was not, or until one of `events` is set."""
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    try:
        await asyncio.wait({opening, *waits}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
