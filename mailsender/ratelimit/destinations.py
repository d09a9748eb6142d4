"""Limits of a relay for single destinations: each has slots of its own, beside those of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mailsender.aio import first_of
from mailsender.model.address import domain_of
from mailsender.model.clock import Clock
from mailsender.model.durations import duration_of
from mailsender.ratelimit.gcra import Allowance, Slot, meeting
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.order import RELAY, Order, destination

EARLY = 0.05
"""Seconds before a destination's slot at which one of the relay is asked for: sooner it would lapse."""

PATIENCE = 0.1
"""Seconds for which a sender waits for a destination's slot; beyond it others are sent to meanwhile."""

LONGEST = 1.0
"""Seconds for which it waits at most where other replicas have had the slots that this one counted on: the
session that it has is one that others go without."""

NEAR = 2.0
"""Seconds within which a letter's turn comes that is kept at hand, so that the destination's rate is used up:
longer than the queue is left alone for."""

Rates = tuple[Allowance, ...]


def told(limiter: Limiter) -> str:
    """The rates of a limiter, for people: ``10 in 1m, 100 in 1h``."""
    rates = (limiter.allowance, *limiter.further)
    return ", ".join(f"{each.letters} in {duration_of(each.period)}" for each in rates if each.letters)


def _narrowest(limiters: Mapping[str, Limiter], domain: str) -> Limiter | None:
    """The limiter of the narrowest pattern that a domain fits."""
    domain = domain.lower()
    found = limiters.get(domain)
    while found is None and "." in domain:
        domain = domain.partition(".")[2]
        found = limiters.get(f"*.{domain}")
    return found


class Destinations:
    """Limiters of a relay by the domains that they are for; ``*.domain`` is for all below one, together.

    `relay` is the limiter of all of it, which has the orders of destinations without limits of their own.
    `make` makes the limiter of a pattern.
    """

    def __init__(self, relay: Limiter, make: Callable[[str, Rates], Limiter], clock: Clock) -> None:
        self.limited = False  # whether any domain has limits: each letter asks
        self._relay = relay
        self._make = make
        self._clock = clock
        self._limiters: dict[str, Limiter] = {}
        self._given_up: dict[str, Limiter] = {}  # what was ordered there holds on
        self._made: dict[str, Limiter] = {}
        self._changed = asyncio.Event()

    def __bool__(self) -> bool:
        if self.limited or not self._given_up:  # each letter asks, and few relays have given any up
            return self.limited
        return any(each.ordered for each in self._given_up.values())

    def change(self, rates: Mapping[str, Rates]) -> None:
        """Keep to these from now on, all of a pattern's rates. What is known of a pattern stays."""
        for pattern, each in rates.items():
            if pattern in self._made:
                self._made[pattern].change(each[0], each[1:])
            else:
                self._made[pattern] = self._make(pattern, each)
        self._limiters = {pattern.lower(): self._made[pattern] for pattern in rates}
        self.limited = bool(self._limiters)
        self._given_up = {each.lower(): made for each, made in self._made.items() if each not in rates}
        for limiter in self._given_up.values():
            limiter.forget_turns()
        self._changed.set()

    def of(self, domain: str) -> Limiter | None:
        """The limiter of a domain, by the narrowest pattern; None where it has no limits of its own."""
        return _narrowest(self._limiters, domain) if self._limiters else None

    def rates_of(self, domain: str) -> str:
        """What the limits of a domain are, for people; empty where it has none of its own."""
        own = self.of(domain)
        return "" if own is None else told(own)

    def promised(self, now: float) -> dict[str, int]:
        """How many letters this replica has told a turn that is still to come, by patterns; no zeros."""
        found = {pattern: each.promised(now) for pattern, each in self._limiters.items()}
        return {pattern: several for pattern, several in found.items() if several}

    @property
    def knows(self) -> bool:
        """Whether what was ordered before the start is known."""
        return all(each.knows for each in self._limiters.values())

    def alike(self, addresses: Sequence[str]) -> int:
        """How many of them, from the first on, may be in one transaction: they share their limits."""
        first = self.of(domain_of(addresses[0]))
        for place, each in enumerate(addresses):
            if self.of(domain_of(each)) is not first:
                return place
        return len(addresses)

    @property
    def limiters(self) -> Mapping[str, Limiter]:
        """Those that are kept to now, by their patterns."""
        return self._limiters

    # --- orders ----------------------------------------------------------------------------------

    def order(self, domain: str, order: Order) -> None:
        """Obey what a reply asks for a destination: the slots of one that has some are slowed exactly."""
        own = self.of(domain)
        (own or self._relay).order(order.of(RELAY if own is not None else destination(domain)))

    def held(self, domain: str, now: float) -> tuple[Order, float] | None:
        """By what nothing may begin to a domain, and for how many seconds; `now` is monotonic."""
        own = self.of(domain)
        before = _narrowest(self._given_up, domain) if self._given_up else None
        for limiter, key in ((self._relay, destination(domain)), (own, RELAY), (before, RELAY)):
            order = None if limiter is None else limiter.held(key, now)
            if limiter is not None and order is not None:
                return order, limiter.left(key, now)
        return None

    def orders(self) -> dict[str, Order]:
        """What holds for patterns that have limits of their own, by its scope for people."""
        several = self._given_up | self._limiters
        found = ((pattern, each.orders()) for pattern, each in several.items())
        return {destination(pattern): each[0].of(destination(pattern)) for pattern, each in found if each}

    async def lift(self, domain: str) -> bool:
        """End what was ordered for a domain, or for the pattern of limits that it has; whether there was any.

        Raises:
            Unavailable: the store is away; it holds on.
        """
        lifted = await self._relay.lift(destination(domain))
        for own in (self.of(domain), _narrowest(self._given_up, domain)):
            lifted = (own is not None and await own.lift(RELAY)) or lifted
        return lifted

    # --- slots -----------------------------------------------------------------------------------

    def reached(self, domain: str, now: float) -> float:
        """Seconds until a domain's limits let somebody through again who comes now; 0.0: they do so now."""
        own = self.of(domain)
        if own is None or own.wait(now) <= PATIENCE:
            return 0.0
        return own.next_turn(now) - now

    def near(self, domain: str, now: float) -> float:
        """As `rest`, but 0.0 where the turn is so far ahead that the queue is the place to wait."""
        own = self.of(domain)
        if own is None or own.wait(now) <= PATIENCE or own.next_turn(now) - now > NEAR:
            return 0.0
        return own.turn(now)

    def rest(self, domain: str, now: float) -> float:
        """Seconds for which a letter is left for later, so that nobody else waits for it; 0.0: go on.

        It comes when it is its turn, as far as this replica knows: behind all who were told theirs before.
        """
        own = self.of(domain)
        if own is None or own.wait(now) <= PATIENCE:
            return 0.0
        return own.turn(now)

    async def join(self, address: str, ours: Slot, route: str = "") -> Slot:
        """A slot that fits the limits of an address's domain, too; `ours` is one of the relay.

        `route` is who waits for it.

        Raises:
            Changed: as `Limiter.acquire`; `ours` is given back.
            NoSlots: none will come for long; `ours` is given back.
        """
        own = self.of(domain_of(address))
        if own is None or ours.limits is own:
            return ours
        theirs = await self._theirs(own, ours)
        while (slot := meeting(theirs, ours, self._clock.monotonic())) is None or slot.over:
            if theirs.over or (theirs.latest < ours.latest and not ours.over):
                theirs = await self._theirs(own, ours)
            else:
                await asyncio.sleep(max(0.0, theirs.earliest - EARLY - self._clock.monotonic()))
                ours = await self._ours(own, theirs, route)
        return replace(slot, limits=own, recipients=ours.recipients)

    async def _ours(self, own: Limiter, theirs: Slot, route: str) -> Slot:
        try:
            return await self._relay.acquire(route)
        except NoSlots:
            own.put_back(theirs)
            raise

    async def _theirs(self, own: Limiter, ours: Slot) -> Slot:
        try:
            async with asyncio.timeout(LONGEST):
                return await own.acquire()
        except (NoSlots, TimeoutError):
            self._relay.put_back(ours)
            raise NoSlots from None

    # --- their life ------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Run all of them until `stop`."""
        running: set[str] = set()
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                self._changed.clear()
                for pattern in self._made.keys() - running:
                    group.create_task(self._made[pattern].run(stop))
                running.update(self._made)
                await first_of(stop, self._changed)

    def shut(self) -> None:
        """Hand out nothing more."""
        for each in self._made.values():
            each.shut()

    async def close(self) -> None:
        """Give back what is left, and write down what was ordered."""
        for each in self._made.values():
            await each.close()
