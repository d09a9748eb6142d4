"""How relays and routes are, for people: as this replica sees them now."""

from __future__ import annotations

import math
from typing import Any, Final

from mailsender.model.letter import now_ms
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.order import RELAY, Order
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route

ORDERS_SHOWN: Final = 20
"""Orders of a relay that are shown, those that end last: there may be a thousand, of as many senders."""


def relay_state(relay: Relay) -> dict[str, Any]:
    """Whether a relay takes letters, and why not."""
    reach = relay.pool.reach
    if relay.pool.away:
        state = "away"
    elif relay.breaker.open:
        state = "refuses"
    else:
        state = "answers" if reach.ever else "not asked yet"
    return {
        "name": relay.address,
        "state": state,
        "trouble": reach.trouble or relay.breaker.why or None,
        "phase": reach.phase or relay.breaker.phase or None,
        "since": moment(relay.since),
        "again": moment(relay.next_try),
        "remark": relay.transport.remark or None,
    }


def relay_details(relay: Relay, now: float) -> dict[str, Any]:
    """All of a relay: beside its state its breaker, rates, sessions and orders; `now` is epoch seconds."""
    limiter, pool = relay.limiter, relay.pool
    orders = sorted(limiter.orders(), key=lambda order: (order.key != RELAY, -order.ends))
    pace = next((order.pace(now) for order in orders if order.key == RELAY), 1.0)
    return {
        "relay": relay.name,
        **relay_state(relay),
        "breaker": relay.state,
        "rates": [_rate(each, pace) for each in (limiter.allowance, *limiter.further) if each.letters],
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
    }


def route_state(route: Route) -> dict[str, Any]:
    """Over which relays a route goes, and what stops it."""
    return {
        "route": route.name,
        "relays": [relay.name for relay in route.relays],
        "blocked_because": route.blocked_because() or None,
        "in_hand": len(route.backlog),
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
