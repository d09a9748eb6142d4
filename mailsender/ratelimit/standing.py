"""The orders of one relay as a replica knows them: the store's, and its own that are not written yet. Pure.

`now` is monotonic, in seconds. What time it is at the store is known from when it answered last, at the low
end: it is that late there at least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mailsender.ratelimit.order import RELAY, Order, obeyed

SMOOTH = 30.0
"""Seconds over which is averaged how fast a relay without a rate was sent to."""

LEAST_PACE = 1.0
"""Transactions a second that such a relay is taken to have had at least when it asks for fewer."""


class Standing:
    """Orders by scope. `ahead` is how much more the store's clock shows than the monotonic one, at least.

    `unwritten` are on this process's own clock, as they came.
    """

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead
        self.orders: dict[str, Order] = {}
        self.unwritten: dict[str, Order] = {}

    def add(self, order: Order, now: float, epoch: float) -> bool:
        """Obey an order whose times are on a clock that shows `epoch`; whether somebody is to hear of it.

        So it is where the scope begins to rest, also in the time in which it was only slowed, or rests for
        longer by another rule.
        """
        here = now + self.ahead
        before = self.orders.get(order.key)
        self.unwritten = obeyed(self.unwritten, order, epoch)
        order = order.later(here - epoch)
        self.orders = obeyed(self.orders, order, here)
        if before is None or here >= before.until:
            return True
        return order.rule != before.rule and order.until > before.until

    def written(self, order: Order) -> None:
        """The store has it, unless more was ordered meanwhile."""
        if self.unwritten.get(order.key) is order:
            del self.unwritten[order.key]

    def forget(self, key: str) -> None:
        """It was lifted."""
        self.orders.pop(key, None)
        self.unwritten.pop(key, None)

    def learn(self, orders: Mapping[str, Order], ahead: float, now: float, epoch: float) -> bool:
        """Take over the store's orders; whether the relay is to be used otherwise than it was."""
        before = self.orders.get(RELAY)
        self.ahead = ahead
        here = now + ahead
        found = {key: each for key, each in orders.items() if here < each.ends}
        for each in self.unwritten.values():
            found = obeyed(found, each.later(here - epoch), here)
        self.orders = found
        return _asked_for(before) != _asked_for(found.get(RELAY))

    def of(self, key: str, now: float) -> Order | None:
        """The order of a scope while anything is left of it."""
        order = self.orders.get(key)
        if order is not None and now + self.ahead >= order.ends:
            del self.orders[key]
            return None
        return order

    def all(self, now: float) -> list[Order]:
        """All of which anything is left; their times are epoch seconds at the store."""
        return [each for key in list(self.orders) if (each := self.of(key, now)) is not None]

    def left(self, key: str, now: float) -> float:
        """Seconds until something of a scope may begin; 0.0: now.

        The pace of the relay is kept by its slots, that of any other scope by being open a part of the time.
        """
        order = self.of(key, now)
        if order is None:
            return 0.0
        here = now + self.ahead
        return max(0.0, order.until - here) if key == RELAY else order.left(here)


def _asked_for(order: Order | None) -> tuple[float, ...]:
    return (order.until, order.factor, order.spacing) if order is not None else ()


class Pace:
    """How many transactions a second began at a relay without a rate, smoothed. Pure, given `now`."""

    def __init__(self, now: float) -> None:
        self.begun = 0
        self._rate = 0.0
        self._since = now

    def look(self, now: float) -> None:
        """Take in how many `begun` since the last look."""
        elapsed = now - self._since
        if elapsed > 0:
            self._rate += (1 - math.exp(-elapsed / SMOOTH)) * (self.begun / elapsed - self._rate)
            self.begun, self._since = 0, now

    def spacing(self, now: float) -> float:
        """Seconds between two of them, for an order to reduce.

        What other replicas sent is not known, so all together are to keep to what this one did.
        """
        self.look(now)
        return 1 / max(LEAST_PACE, self._rate)
