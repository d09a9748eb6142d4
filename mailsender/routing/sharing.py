"""Sessions with relays that limit them over all replicas: each replica has its share of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue
from mailsender.ratelimit.connections import ConnectionShare
from mailsender.routing.pool import Pool

LOOKS = 3
"""Looks within the time after which a share may grow: one may fail, and everybody has seen what changed."""


@dataclass(slots=True)
class _Shared:
    pool: Pool
    most: int
    share: ConnectionShare
    allowed: int = 0


class Sharing:
    """Tells pools how many sessions are this replica's, by who lives. It looks every `interval` seconds.

    There are none until the first look, nor when MongoDB was away for `LOOKS` of them. A process that is
    frozen keeps its sessions until its relay ends them, though others take its share once it counts as dead.
    """

    def __init__(self, queue: Queue, in_flight: InFlight, clock: Clock, *, interval: float) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._clock = clock
        self._interval = interval
        self._shared: list[_Shared] = []

    def add(self, pool: Pool, total: int, most: int) -> None:
        """A relay that takes `total` sessions over all replicas; `most` is what this one wants of them."""
        pool.allow(0)
        share = ConnectionShare(total, patience=LOOKS * self._interval)
        self._shared.append(_Shared(pool, most, share))

    def __bool__(self) -> bool:
        return bool(self._shared)

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        while not stop.is_set():
            await self.look()
            await pause(stop, self._interval)

    async def look(self) -> None:
        """See who lives, and let pools have their share."""
        asked = self._clock.monotonic()
        try:
            living = await self._queue.living()
        except (Unavailable, Rejected):  # the heart tells of it; shares end by themselves
            living = frozenset()
        for each in self._shared:
            if living:
                each.share.see(self._in_flight.replica, living, asked)
            allowed = min(each.most, each.share.allowed(self._clock.monotonic()))
            if allowed != each.allowed:
                each.allowed = allowed
                each.pool.allow(allowed)
