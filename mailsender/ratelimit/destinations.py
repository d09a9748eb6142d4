"""Limits of a relay for single destinations: each has slots of its own, beside those of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from mailsender.model.clock import Clock
from mailsender.ratelimit.gcra import Slot
from mailsender.ratelimit.limiter import MIN_LEFT, Limiter, NoSlots
from mailsender.ratelimit.order import RELAY, Order, destination

EARLY = 0.05
"""Seconds before a destination's slot at which one of the relay is asked for: sooner it would lapse."""


class Destinations:
    """Limiters of a relay by the domains that they are for; ``*.domain`` is for all below one, together.

    `relay` is the limiter of all of it, which has the orders of destinations without limits of their own.
    """

    def __init__(self, relay: Limiter, limiters: Mapping[str, Limiter], clock: Clock) -> None:
        self._relay = relay
        self._limiters = {pattern.lower(): each for pattern, each in limiters.items()}
        self._clock = clock

    def of(self, domain: str) -> Limiter | None:
        """The limiter of a domain, by the narrowest pattern; None where it has no limits of its own."""
        if not self._limiters:
            return None
        domain = domain.lower()
        found = self._limiters.get(domain)
        while found is None and "." in domain:
            domain = domain.partition(".")[2]
            found = self._limiters.get(f"*.{domain}")
        return found

    def order(self, domain: str, order: Order) -> None:
        """Obey what a reply asks for a destination: the slots of one that has some are slowed exactly."""
        own = self.of(domain)
        (own or self._relay).order(order.of(RELAY if own is not None else destination(domain)))

    def left(self, domain: str, now: float) -> float:
        """Seconds until something may begin to a domain; 0.0: now, if there are slots. `now` is monotonic."""
        own = self.of(domain)
        return max(self._relay.left(destination(domain), now), 0.0 if own is None else own.left(RELAY, now))

    async def acquire(self, domain: str) -> Slot:
        """A slot that fits the domain's limits and the relay's.

        Raises:
            NoSlots: none will come for long.
        """
        own = self.of(domain)
        if own is None:
            return await self._relay.acquire()
        theirs = await own.acquire()
        await asyncio.sleep(max(0.0, theirs.earliest - EARLY - self._clock.monotonic()))
        ours = await self._relays(own, theirs)
        while (slot := meeting(theirs, ours, self._clock.monotonic())) is None or slot.over:
            if theirs.over or (theirs.latest < ours.latest and not ours.over):
                theirs = await self._theirs(own, ours)
            else:
                ours = await self._relays(own, theirs)
        return slot

    async def _relays(self, own: Limiter, theirs: Slot) -> Slot:
        try:
            return await self._relay.acquire()
        except NoSlots:
            own.put_back(theirs)
            raise

    async def _theirs(self, own: Limiter, ours: Slot) -> Slot:
        try:
            return await own.acquire()
        except NoSlots:
            self._relay.put_back(ours)
            raise

    async def run(self, stop: asyncio.Event) -> None:
        """Run all of them until `stop`."""
        async with asyncio.TaskGroup() as group:
            for each in self._limiters.values():
                group.create_task(each.run(stop))

    def shut(self) -> None:
        """Hand out nothing more."""
        for each in self._limiters.values():
            each.shut()

    async def close(self) -> None:
        """Give back what is left, and write down what was ordered."""
        async with AsyncExitStack() as stack:
            for each in self._limiters.values():
                stack.push_async_callback(each.close)


def meeting(one: Slot, other: Slot, now: float) -> Slot | None:
    """The time that two slots have in common, if it is worth having."""
    earliest, latest = max(one.earliest, other.earliest), min(one.latest, other.latest)
    if latest - max(now, earliest) <= MIN_LEFT:
        return None
    return Slot(earliest=earliest, latest=latest, terms=(*one.terms, *other.terms))
