"""What a relay's reply ordered, ended by a person before its time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import structlog

from mailsender.admin.relay_state import orders_of
from mailsender.model.address import folded
from mailsender.model.errors import Unavailable
from mailsender.model.letter import now_ms
from mailsender.model.text import cleaned
from mailsender.ratelimit.order import LOGIN, MOST_KEY, RELAY, Order
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import Scope
from mailsender.sending.hastening import HEARD
from mailsender.service import Replica
from mailsender.web.operations import Lifted, NoOrder

log = structlog.get_logger()

MAX_REASON: Final = 200
"""Characters of a reason that are logged."""


SCOPES: Final = "relay, destination:DOMAIN and sender:ADDRESS"
"""What an order may be about."""


class Lifting:
    """Ends orders for a replica, and so for all of them: they stand in the store that these share."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def lift(self, relay: str, scope: str, *, by: str, reason: str) -> Lifted:
        """End what holds for a scope of a relay; `by` and `reason` say for the log who asked, and why.

        This replica begins at once, others at their next lease. Letters that were put off by it, without that
        the relay was asked for them, are due soon.

        Raises:
            NoOrder: there is no such relay or scope, or nothing is ordered there.
            Unavailable: MongoDB is away; it holds on.
        """
        replica = self._replica
        if replica.opening.text:
            raise Unavailable(replica.opening.text)
        there = {each.name: each for each in replica.relays}
        if relay not in there:
            raise NoOrder(f"there is no such relay; there are {', '.join(there)}")
        kind, mark, name = scope.strip().partition(":")
        key = f"{kind.lower()}{mark}{folded(name)}"[:MOST_KEY]
        if not _is_scope(key):
            raise NoOrder(f"there is no such scope; there are {SCOPES}, as status shows them")
        found = _ended_with(key, orders_of(there[relay]))
        lifted = [await _end(there[relay], each) for each in found]
        order = next((each for each in found.values() if each is not None), None)
        if not any(lifted) and order is None:
            raise NoOrder(f"nothing is ordered for this scope of {relay}")
        replica.dispatcher.nudge()
        replica.dispatcher.hastener.ask(heard=HEARD)
        log.warning(
            "order_lifted",
            relay=relay,
            scope=key,
            rule=order.rule if order else None,
            said=order.said if order else None,
            by=by,
            reason=" ".join(cleaned(reason).split())[:MAX_REASON] or None,
            action="it holds no more, on any replica; letters that waited for its end are due soon",
        )
        if order is None:
            return Lifted(relay=relay, scope=key)
        until = now_ms(order.until) if order.until < _LATEST else None
        return Lifted(relay=relay, scope=key, rule=order.rule, said=order.said, until=until)


_LATEST: Final = 253_402_300_000.0
"""Epoch seconds from which on a time has no date."""


def _is_scope(key: str) -> bool:
    """Whether an order may be about it; of a single recipient each replica has its own, and none is kept."""
    kind, _, name = key.partition(":")
    return key == RELAY or (kind in {Scope.DESTINATION, Scope.SENDER, LOGIN} and bool(name))


def _ended_with(key: str, orders: Mapping[str, Order]) -> dict[str, Order | None]:
    """The orders, as far as they are known, that end with that of a scope: with the relay's its logins'."""
    logins = [each for each in orders if key == RELAY and each.startswith(f"{LOGIN}:")]
    return {each: orders.get(each) for each in (key, *logins)}


async def _end(relay: Relay, key: str) -> bool:
    """Have the store forget the order; whether it had one."""
    kind, _, name = key.partition(":")
    if kind == Scope.DESTINATION and relay.destinations is not None:
        return await relay.destinations.lift(name)
    return await relay.limiter.lift(key)
