"""The slot store in memory: for trials, and for tests of the loops."""

from __future__ import annotations

from dataclasses import replace

from mailsender.model.clock import Clock
from mailsender.ratelimit import gcra as limiter
from mailsender.ratelimit.gcra import Cursor, SlotGrant, SlotRequest
from mailsender.ratelimit.order import Order, obeyed


class MemorySlotStore:
    """`SlotStore` in memory; its clock is the process's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cursor = Cursor()
        self._beside: dict[str, MemorySlotStore] = {}

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

    async def order(self, order: Order, now: float) -> None:
        """See `SlotStore.order`."""
        here = self._clock.epoch()
        orders = obeyed(self._cursor.orders, order.later(here - now).checked(), here)
        self._cursor = replace(self._cursor, orders=orders)

    async def lift(self, key: str) -> bool:
        """See `SlotStore.lift`."""
        orders = dict(self._cursor.orders)
        lifted = orders.pop(key, None) is not None
        self._cursor = replace(self._cursor, orders=orders)
        return lifted

    def beside(self, name: str) -> MemorySlotStore:
        """See `SlotStore.beside`."""
        return self._beside.setdefault(name, MemorySlotStore(self._clock))
