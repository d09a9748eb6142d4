"""What the flows of routes get of their time, as a plan says. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mailsender.queue.ranks import RouteShares
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan


def shares_of(plan: Plan) -> dict[str, RouteShares]:
    """The shares of a plan's routes, by their names."""
    relays = {each.name: each for each in plan.relays}
    return {each.name: _shares(each, relays) for each in plan.routes}


def _shares(route: RoutePlan, relays: Mapping[str, RelayPlan]) -> RouteShares:
    """A route is as fast as its first relay, or as all among which its letters are spread."""
    used = route.relays if route.weights else route.relays[:1]
    rate = sum(_rate(relays[name]) for name in used)
    return RouteShares(
        rate=rate if math.isfinite(rate) else 0.0, share=route.share, shares=dict(route.shares)
    )


def _rate(relay: RelayPlan) -> float:
    """Letters a second; without end where the relay keeps no rate."""
    return min([each.rate for each in (relay.allowance, *relay.further) if each.letters], default=math.inf)


def expire_of(plan: Plan) -> dict[str, float]:
    """Seconds from its acceptance after which a letter is no longer sent, by routes that have such."""
    return {each.name: each.expire for each in plan.routes if math.isfinite(each.expire)}
