"""Gives back letters that are under our name in the queue although nobody here has them.

A claim's reply may be lost, or come before the claim was carried out as a whole, or whoever asked may have
failed since. While this replica lives nobody else gets such letters.
"""

from __future__ import annotations

import asyncio

import structlog

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.port import Queue
from mailsender.sending.settler import Settler

log = structlog.get_logger()

EVERY = 60.0
"""Seconds between two looks where no reply is known to be lost. A look reads the IDs of what is in flight,
some thousands: once a minute that is nothing, and a letter may well wait a minute more."""

SOON = 2.0
"""Seconds between two questions whether a reply was lost."""


class LostClaims:
    """Looks now and then for what no claim brought here, and gives it back.

    Only when MongoDB has answered for a while: until then it may carry out what it was told before. What it
    carries out later still is found by the next look.
    """

    def __init__(
        self, queue: Queue, in_flight: InFlight, settler: Settler, heartbeat: Heartbeat, clock: Clock
    ) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._settler = settler
        self._heartbeat = heartbeat
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`."""
        look_at = self._clock.monotonic() + EVERY
        while not stop.is_set():
            now = self._clock.monotonic()
            due = self._in_flight.doubts or now >= look_at
            if due and self._heartbeat.health.steady(now):
                look_at = now + EVERY
                await self._look()
            await pause(stop, SOON)

    async def _look(self) -> None:
        doubts = self._in_flight.doubts
        try:
            await self.give_back()
        except (Unavailable, Rejected) as error:
            self._heartbeat.away(error)
        else:
            self._in_flight.doubts -= doubts

    async def give_back(self) -> int:
        """Give back what is ours in the queue, not in flight, and of no claim that is under way; how many.

        Raises:
            Unavailable: the queue cannot say whether there is any.
        """
        replica = self._in_flight.replica
        suspects = self._not_here(await self._queue.claims_of(replica))
        if not suspects:
            return 0
        # What was settled or given back while the queue was read is there no more.
        there = await self._queue.claims_of(replica)
        lost = 0
        for token, ids in suspects.items():
            still = [each for each in there.get(token, ()) if each in ids]
            lost += len(still)
            self._settler.release(token, still)
        if lost:
            log.info("lost_claims_returned", letters=lost)
        return lost

    def _not_here(self, ours: dict[str, list[str]]) -> dict[str, set[str]]:
        """Those of them, by token, that are not in flight under that token, and cannot come to be."""
        in_flight = self._in_flight
        found = {
            token: {each for each in ids if in_flight.token(each) != token}
            for token, ids in ours.items()
            if token not in in_flight.asked
        }
        return {token: ids for token, ids in found.items() if ids}
