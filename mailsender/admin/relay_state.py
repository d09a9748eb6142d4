"""How relays and routes are, for people: as this replica sees them now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mailsender.model.handling import MAX_ROUTE
from mailsender.model.letter import now_ms
from mailsender.model.queue_stats import RouteStats
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.order import RELAY, Order, destination
from mailsender.routing.pool import HANGS
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route

DESTINATIONS_SHOWN: Final = 20
"""Destinations with limits of their own that are shown, those for which most wait."""

ORDERS_SHOWN: Final = 20
"""Orders of a relay that are shown, those that end last: there may be a thousand, of as many senders."""

GONE_SHOWN: Final = 20
"""Routes that are none, of those on which letters wait: within seconds these wait on their own."""

NO_ROUTE: Final = "there is no such route here; its letters are routed anew within seconds"

NOTHING_WAITS: Final = RouteStats(awaiting=0)


def relay_state(relay: Relay) -> dict[str, Any]:
    """Whether a relay takes letters, and why not."""
    reach = relay.pool.reach
    if relay.pool.away:
        state = "away"
    elif relay.breaker.open:
        state = "refuses"
    elif relay.pool.hangs:
        state = "hangs"
    else:
        state = "answers" if reach.ever else "not asked yet"
    return {
        "name": relay.address,
        "state": state,
        "trouble": reach.trouble or relay.breaker.why or (HANGS if relay.pool.hangs else None),
        "phase": reach.phase or relay.breaker.phase or None,
        "since": moment(relay.since),
        "again": moment(relay.next_try),
        "remark": relay.transport.remark or None,
    }


def relay_details(relay: Relay, now: float, monotonic: float) -> dict[str, Any]:
    """All of a relay: beside its state its breaker, rates, sessions, orders and destinations.

    `now` is epoch seconds, and `monotonic` the same moment.
    """
    limiter, pool = relay.limiter, relay.pool
    standing = orders_of(relay)
    orders = sorted(standing.values(), key=lambda order: (order.key != RELAY, -order.ends))
    pace = standing[RELAY].pace(now) if RELAY in standing else 1.0
    limited = relay.destinations.limiters if relay.destinations is not None else {}
    busiest = sorted(limited.items(), key=lambda each: -_in_line(each[1], monotonic))
    return {
        "relay": relay.name,
        **relay_state(relay),
        "breaker": relay.state,
        "rates": [_rate(each, pace) for each in limiter.rates],
        "quota": limiter.allowance.quota,
        "quota_left": limiter.quota_left,
        "quota_until": moment(limiter.exhausted_until),
        "sessions": {
            "max": relay.policy.sessions.sessions,
            "open": len(pool),
            "busy": pool.busy,
            "slow": pool.dots.slow,
        },
        "orders": [_order(each, now) for each in orders[:ORDERS_SHOWN]],
        "orders_left_out": max(0, len(orders) - ORDERS_SHOWN),
        "recipients_resting": relay.orders.count(monotonic),
        "destinations": [_destination(*each, now, monotonic) for each in busiest[:DESTINATIONS_SHOWN]],
        "destinations_left_out": max(0, len(busiest) - DESTINATIONS_SHOWN),
    }


def orders_of(relay: Relay) -> dict[str, Order]:
    """All that holds over a relay as this replica knows it, by scope; of single recipients nothing.

    A destination with limits of its own has its order there, and its pattern is the scope.
    """
    found = {each.key: each for each in relay.limiter.orders()}
    if relay.destinations is None:
        return found
    others = {key: each for key, each in found.items() if not key.startswith(destination(""))}
    return others | relay.destinations.orders()


def route_states(routes: Sequence[Route], counts: Mapping[str, RouteStats] | None) -> list[dict[str, Any]]:
    """All routes, those of `counts` behind them that are none: letters wait on them, and are routed anew.

    `counts` are of the queue, None where it was not counted yet.
    """
    known = {route.name for route in routes}
    gone = sorted(counts.keys() - known, key=lambda name: -counts[name].awaiting) if counts else []
    return [
        *(route_state(route, counts) for route in routes),
        *(_gone(name, counts) for name in gone[:GONE_SHOWN]),
    ]


def route_state(route: Route, counts: Mapping[str, RouteStats] | None) -> dict[str, Any]:
    """Over which relays a route goes, what waits for it, and what stops it."""
    return {
        "route": route.name,
        "relays": [relay.name for relay in route.relays],
        "blocked_because": route.blocked_because() or route.untaken or None,
        "in_hand": len(route.backlog),
        **_counts(route.name, counts),
    }


def _gone(name: str, counts: Mapping[str, RouteStats] | None) -> dict[str, Any]:
    return {
        "route": name[:MAX_ROUTE],
        "relays": [],
        "blocked_because": NO_ROUTE,
        "in_hand": 0,
        **_counts(name, counts),
    }


def _counts(name: str, counts: Mapping[str, RouteStats] | None) -> dict[str, Any]:
    if counts is None:
        return {"awaiting": None, "deferred": None, "oldest_due_seconds": None}
    found = counts.get(name, NOTHING_WAITS)
    return {
        "awaiting": found.awaiting,
        "deferred": found.deferred,
        "oldest_due_seconds": round(found.oldest_due, 1),
    }


def moment(epoch: float | None) -> str | None:
    """Epoch seconds as RFC 3339 has them; None where there is no such time."""
    return now_ms(epoch).isoformat() if epoch and math.isfinite(epoch) else None


def _rate(allowance: Allowance, pace: float) -> dict[str, Any]:
    return {
        "letters": allowance.letters,
        "period_seconds": allowance.period,
        "letters_now": round(allowance.letters * pace, 3),
    }


def _in_line(limiter: Limiter, monotonic: float) -> int:
    """Who waits for a destination's turn, as far as this replica knows: at hand, and put off."""
    return limiter.waiting + limiter.promised(monotonic)


def _destination(pattern: str, limiter: Limiter, now: float, monotonic: float) -> dict[str, Any]:
    pace = next((each.pace(now) for each in limiter.orders()), 1.0)
    return {
        "destination": pattern,
        "rates": [_rate(each, pace) for each in limiter.rates],
        "waiting": _in_line(limiter, monotonic),
        "blocked_because": limiter.blocked_because() or None,
    }


def _order(order: Order, now: float) -> dict[str, Any]:
    return {
        "scope": order.key,
        "rule": order.rule,
        "said": order.said,
        "holds": now < order.until,
        "until": moment(order.until),
        "pace": round(order.pace(now), 3),
        "over": moment(order.ends),
    }
