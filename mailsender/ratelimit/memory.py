"""The slot store in memory: for trials, and for tests of the loops."""

from __future__ import annotations

from mailsender.model.clock import Clock
from mailsender.ratelimit import gcra as limiter
from mailsender.ratelimit.gcra import Cursor, SlotGrant, SlotRequest


class MemorySlotStore:
    """`SlotStore` in memory; its clock is the process's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cursor = Cursor()

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """See `SlotStore.lease`."""
        monotonic, now = self._clock.monotonic(), self._clock.epoch()
        self._cursor, first, granted = limiter.take(self._cursor, now, request)
        return limiter.grant_of(
            cursor=self._cursor,
            first=first,
            count=granted,
            now=now,
            request=request,
            asked=monotonic,
            answered=monotonic,
        )

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """See `SlotStore.give_back`."""
        self._cursor = limiter.give_back(self._cursor, grant, unspent)
