"""What looks after the queue as a whole, and can wait: letters of the dead, counts, and what is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.queue_stats import QueueStats
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.port import Queue

log = structlog.get_logger()

RECLAIM_EVERY = 2.0
"""Seconds between two looks for replicas that died: they are few, and an index tells who has letters."""

COUNT_SHARE = 10
"""How many times as long as counting took is waited until the next: millions of letters take a while."""

RECLAIMING = "letters of the dead"
"""What the log calls it where it fails."""

RECLAIM_BATCH = 1000
"""Letters given back in one round trip; a dead replica's share comes back in a few of them."""


ROUNDS, TURN = 20, 1.0
"""Parts of a chore that are done in one turn, and seconds after which no further one is begun: reclaiming
must not wait for long."""


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to be done every so many seconds, in parts of up to `limit` until one finds nothing to do."""

    name: str
    work: Callable[[int], Awaitable[int]]
    limit: int
    every: float


class Tidier:
    """Reclaims, counts, and does its chores; one that fails does not keep the others from their turn."""

    def __init__(
        self, queue: Queue, heartbeat: Heartbeat, clock: Clock, chores: Sequence[Chore] = ()
    ) -> None:
        self._queue = queue
        self._heartbeat = heartbeat
        self._clock = clock
        self._chores = chores
        self._undone: set[str] = set()
        self.tidied = dict.fromkeys([each.name for each in chores], 0)
        self.stats: QueueStats | None = None
        self._counted_at = 0.0
        self._uncounted = False
        self.reclaimed = 0

    @property
    def stats_age(self) -> float | None:
        """Seconds since the queue was counted; None where it never was."""
        return self._clock.monotonic() - self._counted_at if self.stats is not None else None

    async def count(self) -> None:
        """Count the queue anew.

        Raises:
            Unavailable: the queue is away; what was counted before stays.
        """
        self.stats = await self._queue.stats()
        self._counted_at = self._clock.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Reclaim, count and do chores until `stop`."""
        interval = self._heartbeat.interval
        count_at = self._clock.monotonic()
        due = dict.fromkeys(self.tidied, count_at)
        while not stop.is_set():
            now = self._clock.monotonic()
            await self._reclaim()
            if now >= count_at:
                took = await self._count()
                count_at = now + max(interval, COUNT_SHARE * took)
            for chore in self._chores:
                if now >= due[chore.name] and self._heartbeat.health.steady(now) and not stop.is_set():
                    done = await self._do(chore)
                    due[chore.name] = now + (chore.every if done else 0.0)
            await pause(stop, min(RECLAIM_EVERY, interval))

    async def _count(self) -> float:
        """Count the queue; the seconds that it took."""
        began = self._clock.monotonic()
        try:
            await self.count()
        except (Unavailable, Rejected) as error:
            if not self._uncounted and self._heartbeat.health.good:
                log.warning("counting_fails", error=str(error), action="the counts that are told grow old")
                self._uncounted = True
        else:
            if self._uncounted:
                log.info("counting_works")
            self._uncounted = False
        return self._clock.monotonic() - began

    async def _do(self, chore: Chore) -> bool:
        """Do some parts of it; whether that was all, for now."""
        done, ends = 0, self._clock.monotonic() + TURN
        try:
            for _ in range(ROUNDS):
                done = await chore.work(chore.limit)
                self.tidied[chore.name] += done
                if not done or self._clock.monotonic() > ends:
                    break
        except (Unavailable, Rejected) as error:
            # Not told to the heartbeat: a right that is wanting for a chore must not stop letters.
            self._tell_undone(chore.name, error)
            return True
        self._undone.discard(chore.name)
        return not done

    def _tell_undone(self, what: str, error: Exception) -> None:
        if what not in self._undone and self._heartbeat.health.good:
            log.warning("tidying_fails", what=what, error=str(error), action="it is tried again")
            self._undone.add(what)

    async def _reclaim(self) -> None:
        now, health = self._clock.monotonic(), self._heartbeat.health
        if not health.steady(now):
            return
        try:
            # Steady now, it must not be done after an outage that begins now: the living could not beat in
            # it. Nor by a clock that is set just now.
            count = await self._queue.reclaim(RECLAIM_BATCH, health.longest_gap, health.server(now))
        except Unavailable as error:
            self._heartbeat.away(error)
            return
        except Rejected as error:
            # MongoDB is there: what another program wrote may be the reason, and no chore has to wait for it.
            self._tell_undone(RECLAIMING, error)
            return
        self._undone.discard(RECLAIMING)
        if count:
            self.reclaimed += count
            log.warning("letters_reclaimed", letters=count, action="they are sent by whoever claims them")
