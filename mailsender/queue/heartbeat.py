"""By what other replicas know that this one lives, and this one that MongoDB answers.

A replica is alive for as long as its row says, and extends it six times in that time. Its letters are its own
for so long; once its time is over another replica may declare it dead, and then gives its letters back. The
row says `dead` from then on, so the beat of one that was only frozen fails: it drops what it has, and goes on
under another name.
"""

from __future__ import annotations

import asyncio

import structlog

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue

log = structlog.get_logger()

LEAST_STEP, MOST_STEP = 0.5, 5.0
"""Seconds by which MongoDB's clock may seem to go wrong, for an answer takes its time; a sixth of a life if
that lies between."""


class Health:
    """For how long MongoDB has answered without a break, and what its clock shows. Pure, given `now`.

    `now` is in monotonic seconds. A gap between two answers longer than `longest_gap`, two intervals, is a
    break, too: the process was stopped, or the driver waited for the next primary. So is a clock of MongoDB's
    that was set, or that of another member: leases that it says ran out may be those of the living.
    """

    def __init__(self, interval: float) -> None:
        self.longest_gap = 2 * interval
        self._step = max(LEAST_STEP, min(MOST_STEP, interval))
        self._since: float | None = None
        self._last = float("-inf")
        self._server: float | None = None

    def answered(self, now: float, server: float) -> float:
        """An operation succeeded, and MongoDB's clock showed `server`, in epoch seconds.

        Returns by how many seconds the clock was set since the last time, 0.0 where it was not.
        """
        stepped = 0.0
        if self._server is not None:
            stepped = server - self.server(now)
            if abs(stepped) <= self._step:
                stepped = 0.0
        if self._since is None or stepped or now - self._last > self.longest_gap:
            self._since = now
        self._last, self._server = now, server
        return stepped

    def server(self, now: float) -> float:
        """What MongoDB's clock shows, unless it was set since it was asked; -inf before that."""
        return self._server + now - self._last if self._server is not None else float("-inf")

    def failed(self) -> None:
        """An operation did not."""
        self._since = None

    def steady(self, now: float) -> bool:
        """Whether it has been there for two intervals, so that others could renew their leases."""
        return self.steady_in(now) == 0.0

    def steady_in(self, now: float) -> float:
        """Seconds until it can be `steady` at the earliest: if from now on it answers each time."""
        if self._since is None or now - self._last > self.longest_gap:
            return self.longest_gap
        return max(0.0, self._since + self.longest_gap - now)

    @property
    def good(self) -> bool:
        """Whether the last operation succeeded."""
        return self._since is not None


class Heartbeat:
    """Keeps this replica alive for `life` seconds at a time, and knows how MongoDB is.

    A beat comes six times in that time, so that five may fail before it is over. `run` waits for nothing
    else.
    """

    def __init__(self, queue: Queue, in_flight: InFlight, clock: Clock, *, life: float) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._clock = clock
        self.life = life
        self.interval = life / 6
        self.health = Health(self.interval)
        self._forbidden = False
        self._away_since: float | None = None
        self.lost = 0

    async def begin(self) -> None:
        """Join the living, before anything is claimed.

        Raises:
            Unavailable: the queue is away.
        """
        asked = self._clock.monotonic()
        await self._queue.join(self._in_flight.replica, self.life)
        self._in_flight.alive_until = asked + self.life
        server = await self._queue.now(0.0)  # before a letter is looked at: it may be over by our clock alone
        self.health.answered(self._clock.monotonic(), server)

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop`."""
        beat_at = self._clock.monotonic()
        while not stop.is_set():
            now = self._clock.monotonic()
            if now >= beat_at:
                beat_at = now + self.interval
                await self._beat()
            await pause(stop, max(0.0, beat_at - self._clock.monotonic()))

    async def end(self) -> None:
        """Be among the living no more; what is left is given back by others.

        Raises:
            Unavailable: the queue is away.
        """
        await self._queue.leave(self._in_flight.replica)

    async def beat(self) -> None:
        """Extend this replica's life. One that was declared dead loses its letters, and joins anew.

        Raises:
            Unavailable: the queue is away; the time that is left goes on running out.
        """
        asked = self._clock.monotonic()
        if await self._queue.beat(self._in_flight.replica, self.life):
            self._in_flight.alive_until = asked + self.life
            return
        was = self._in_flight.replica
        lost = self._in_flight.begin_anew()
        self.lost += lost
        log.warning(
            "declared_dead",
            replica=was,
            letters=lost,
            action="they are left to whoever has them now; this replica goes on under another ID",
        )
        await self.begin()

    async def _beat(self) -> None:
        was_good = self.health.good
        try:
            await self.beat()
            server = await self._queue.now(0.0)
        except (Unavailable, Rejected) as error:
            self.away(error)
            return
        stepped = self.health.answered(self._clock.monotonic(), server)
        if stepped:
            log.warning(
                "mongodb_clock_set",
                seconds=round(stepped, 3),
                action="no replica is taken for dead until those who live could say so",
            )
        if self._away_since is not None or not was_good:
            seconds = self._clock.monotonic() - self._away_since if self._away_since is not None else 0.0
            log.info("mongodb_answers", after_seconds=round(seconds, 1))
        self._forbidden, self._away_since = False, None

    def away(self, error: Exception) -> None:
        """Note that MongoDB does not answer; whoever meets it first has it told, once."""
        self.health.failed()
        forbidden = isinstance(error, Forbidden)
        if self._away_since is None or (forbidden and not self._forbidden):
            log.warning(
                "mongodb_away",
                error=str(error),
                action="nothing new is claimed; letters in flight are ours for a while still",
            )
        if self._away_since is None:
            self._away_since = self._clock.monotonic()
        self._forbidden |= forbidden  # a server that comes back may let us in no more: worth a line too
