"""Orders: what a relay's reply asked for beyond its letter, and until when. Pure, given `now`.

An order covers a scope: the relay, a destination, or a sender there. It stands in the document of the relay's
slots, so every replica obeys it from its next lease on, and after a restart. It has two phases, as what
resumes at full speed after a pause is how storms come back: until `until` nothing begins, and from then until
`then_until` no more than `factor` of the rate. After that the rate grows to its full height in steps.

Times are epoch seconds on the clock of the store that keeps the order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from mailsender.model.address import domain_of, folded
from mailsender.model.text import cleaned

RELAY: Final = "relay"
"""The scope of an order that covers everything which goes over the relay."""

MOST_ORDERS = 1000
"""Orders of one relay at most, beside that for all of it: a few hundred octets each, in a document that is
read whole when one of them changes."""

MOST_KEY, MOST_RULE, MOST_SAID = 320, 100, 200
"""Characters of an order's texts: the longest address (RFC 5321 §4.5.3.1), a name, what a page shows."""

STEPS = 4
"""In so many equal steps a rate grows from what was ordered to what is allowed."""

MIN_STEP, MAX_STEP = 15.0, 900.0
"""Seconds that such a step lasts: a quarter of the time for which the rate was reduced, if within these."""

HEARD = 10.0
"""Seconds in which further replies that ask for less speed are about the same excess: they were on their way
already. After that the relay asks for less than what it is given now."""

SLICE = 4.0
"""Seconds of which a scope that has no slots of its own is open for the part that its order allows. All
replicas tell them by the store's clock, so they open and close together."""

LEAST = 1 / 64
"""The part of a rate below which it is not reduced: what needs less needs a pause."""


def destination(domain: str) -> str:
    """The scope of all recipients in a domain, or in that of an address."""
    return f"destination:{domain_of(domain)}"


LOGIN: Final = "login"
"""Begins the scope of one login: a user with a password, or a token."""


def login(mark: str) -> str:
    """The scope of a login, by its mark: see `Transport.bar_logins` of `mailsender.smtp.port`."""
    return f"{LOGIN}:{mark}"


def sender(address: str) -> str:
    """The scope of all letters with this reverse-path."""
    return f"sender:{folded(address)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What holds for the scope `key` by the rule `rule`, for the reply `said`.

    Nothing begins before `until`, `math.inf` for one that only a person ends. `factor` 1.0: it is over then.
    `spacing` is the seconds between two transactions at full speed where the relay has no rate of its own, or
    a higher one; 0.0: its own rate. `at` is when the factor was last reduced, which the store fills in.
    """

    key: str
    rule: str
    said: str
    until: float
    factor: float = 1.0
    then_until: float = 0.0
    spacing: float = 0.0
    at: float = 0.0

    @property
    def step(self) -> float:
        """Seconds that each step of growth lasts."""
        return max(MIN_STEP, min(MAX_STEP, (self.then_until - self.until) / STEPS))

    @property
    def ends(self) -> float:
        """When nothing is left of it."""
        if self.factor >= 1:
            return self.until
        return max(self.until, self.then_until + (STEPS - 1) * self.step)

    def pace(self, now: float) -> float:
        """The part of the rate that holds `now`: 0.0 while nothing may begin, 1.0 once it is over.

        The same arithmetic runs inside MongoDB (`ratelimit/pipelines.py`).
        """
        if now < self.until:
            return 0.0
        if self.factor >= 1:
            return 1.0
        if now < self.then_until:
            return self.factor
        steps = 1 + math.floor((now - self.then_until) / self.step)
        return 1.0 if steps >= STEPS else self.factor + (1 - self.factor) * steps / STEPS

    def left(self, now: float) -> float:
        """Seconds until a transaction may begin, where nobody leases slots for the scope."""
        if now < self.until:
            return self.until - now
        gone = now % SLICE
        return SLICE - gone if gone >= SLICE * self.pace(now) else 0.0

    def of(self, key: str) -> Order:
        """The same for another scope."""
        return replace(self, key=key)

    def later(self, seconds: float) -> Order:
        """The same on a clock that shows so much more."""
        then_until = self.then_until + seconds if self.factor < 1 else 0.0
        return replace(self, until=self.until + seconds, then_until=then_until)

    def checked(self) -> Order:
        """The same within its bounds: texts that can be stored, and a pace that can be kept."""
        return replace(
            self,
            key=cleaned(self.key)[:MOST_KEY],
            rule=cleaned(self.rule)[:MOST_RULE],
            said=cleaned(self.said)[:MOST_SAID],
            factor=min(1.0, max(LEAST, self.factor)),
            then_until=max(self.until, self.then_until) if self.factor < 1 else 0.0,
            spacing=max(0.0, self.spacing),
        )


def merged(old: Order | None, new: Order, now: float) -> Order:
    """What holds when `new` comes: all that `old` still asks for, too.

    Who asks for less speed again, and did not mean the same excess, gets so much less than the speed of now.
    """
    if old is None or now >= old.ends:
        return replace(new, at=now)
    factor, at = min(old.factor, new.factor), old.at
    if new.factor < 1 and now - old.at >= HEARD:
        at = now
        factor = max(LEAST, old.pace(now) * new.factor) if now >= old.until else factor
    told = new if new.until >= old.until else old
    until = max(old.until, new.until)
    return Order(
        key=new.key,
        rule=told.rule,
        said=told.said,
        until=until,
        factor=factor,
        then_until=max(until, old.then_until, new.then_until) if factor < 1 else 0.0,
        spacing=max(old.spacing, new.spacing),
        at=at,
    )


def obeyed(orders: Mapping[str, Order], new: Order, now: float) -> dict[str, Order]:
    """All orders when `new` comes: the expired go, and of too many the one that would end first."""
    key = new.key
    kept = {name: each for name, each in orders.items() if name != key and now < each.ends}
    kept[key] = merged(orders.get(key), new, now)
    while len(kept) - (RELAY in kept) > MOST_ORDERS:
        del kept[min((each.ends, name) for name, each in kept.items() if name != RELAY)[1]]
    return kept
