"""What /status shows of relays and routes: breaker, rates, orders, what blocks them."""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import suppress
from typing import Any

import pytest

from mailsender.admin.relay_state import (
    GONE_SHOWN,
    ORDERS_SHOWN,
    relay_details,
    relay_state,
    route_state,
    route_states,
)
from mailsender.model.letter import Phase, Result, Verdict, now_ms
from mailsender.model.queue_stats import RouteStats
from mailsender.ratelimit.destinations import Destinations, Rates
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import RELAY, Order, sender
from mailsender.routing.obstacles import Kind, Moment, of_relay
from mailsender.routing.pool import HANGS, PoolLimits
from mailsender.routing.relay import Relay, RelayPolicy
from mailsender.routing.reply_rule import Action, Decision, Scope
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import Route
from mailsender.web.models import RelayDetailsView, RelayView, RouteView
from tests.clocks import ManualClock
from tests.relays import FakeRelay

pytestmark = pytest.mark.asyncio
FAST = Allowance(letters=14, period=1.0, burst=1, quota=500)


WAIT = Decision(
    rule="r", action=Action.WAIT, otherwise=Action.WAIT, scope=Scope.RECIPIENT, seconds=60.0, said="450"
)


def limiter_of(clock: ManualClock, rates: Rates) -> Limiter:
    return Limiter(MemorySlotStore(clock), rates[0], clock, backlog=int, further=rates[1:])


def relay_of(clock: ManualClock, name: str = "ses", **limits: Any) -> Relay:
    limiter = Limiter(
        MemorySlotStore(clock), limits.pop("allowance", FAST), clock, backlog=lambda: 0, **limits
    )
    policy = RelayPolicy(reverse_path="s@example.test", max_recipients=50, sessions=PoolLimits(sessions=3))
    relay = Relay(
        name,
        FakeRelay(name=f"{name}.example:587"),
        limiter,
        clock,
        policy=policy,
        chance=random.Random(1),
        stopping=asyncio.Event(),
    )
    relay.pool.reach.ever = True
    return relay


def shown(relay: Relay, clock: ManualClock) -> dict[str, Any]:
    """The details, which are those that the description of the HTTP side has."""
    details = relay_details(relay, clock.epoch(), clock.monotonic())
    RelayDetailsView.model_validate(details)
    RelayView.model_validate(relay_state(relay))
    return details


async def test_a_relay_that_takes_letters() -> None:
    clock = ManualClock()
    further = (Allowance(letters=2000, period=300.0),)
    found = shown(relay_of(clock, further=further), clock)
    assert (found["relay"], found["name"]) == ("ses", "ses.example:587")
    assert (found["state"], found["breaker"], found["trouble"]) == ("answers", "closed", None)
    assert found["rates"] == [
        {"letters": 14, "period_seconds": 1.0, "letters_now": 14.0},
        {"letters": 2000, "period_seconds": 300.0, "letters_now": 2000.0},
    ]
    assert (found["quota"], found["quota_left"], found["quota_until"]) == (500, None, None)
    assert found["sessions"] == {"max": 3, "open": 0, "busy": 0, "slow": 0}
    assert (found["orders"], found["orders_left_out"]) == ([], 0)


async def test_one_that_greets_nobody_is_not_said_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    relay = relay_of(clock)
    monkeypatch.setattr(relay.transport, "connect", asyncio.Event().wait)
    waiting = asyncio.create_task(relay.pool.place(wait=True))
    await asyncio.sleep(0)
    for _ in range(2):
        relay.pool.look_at_moves()
    found = shown(relay, clock)
    assert (found["state"], found["trouble"]) == ("hangs", HANGS)
    now = Moment(epoch=clock.epoch(), monotonic=clock.monotonic())
    assert [(each.kind, each.relay) for each in of_relay(relay, now)] == [(Kind.HANGS, "ses")]
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def test_one_without_a_rate_has_none() -> None:
    clock = ManualClock()
    found = shown(relay_of(clock, allowance=Allowance(letters=0, period=0.0)), clock)
    assert (found["rates"], found["quota"]) == ([], 0)


async def test_what_a_reply_ordered_is_shown_with_its_rule_and_its_end() -> None:
    clock = ManualClock()
    relay = relay_of(clock)
    until, slow = clock.epoch() + 60, clock.epoch() + 660
    said = "454 Throttling failure"
    relay.limiter.order(
        Order(key=RELAY, rule="ses/rate", said=said, until=until, factor=0.5, then_until=slow)
    )
    (order,) = shown(relay, clock)["orders"]
    assert (order["scope"], order["rule"], order["said"]) == ("relay", "ses/rate", said)
    assert (order["holds"], order["pace"], order["until"]) == (True, 0.0, now_ms(until).isoformat())
    assert order["over"] > now_ms(slow).isoformat(), "the rate grows in steps"
    assert shown(relay, clock)["rates"][0]["letters_now"] == 0.0
    clock.forward(61)
    found = shown(relay, clock)
    assert (found["orders"][0]["holds"], found["orders"][0]["pace"]) == (False, 0.5)
    assert found["rates"][0]["letters_now"] == 7.0


async def test_of_many_orders_that_of_the_relay_comes_first_and_the_longest_are_shown() -> None:
    clock = ManualClock()
    relay = relay_of(clock)
    for number in range(ORDERS_SHOWN + 5):
        end = clock.epoch() + 100 + number
        relay.limiter.order(Order(key=sender(f"{number}@x.test"), rule="r", said="no", until=end))
    relay.limiter.order(Order(key=RELAY, rule="r", said="stop", until=math.inf))
    found = shown(relay, clock)
    assert [each["scope"] for each in found["orders"][:2]] == ["relay", f"sender:{ORDERS_SHOWN + 4}@x.test"]
    assert (found["orders"][0]["until"], found["orders"][0]["over"]) == (None, None), "until somebody acts"
    assert (len(found["orders"]), found["orders_left_out"]) == (ORDERS_SHOWN, 6)


async def test_destinations_with_limits_and_what_holds_there() -> None:
    clock = ManualClock()
    relay = relay_of(clock)
    relay.destinations = Destinations(relay.limiter, lambda _, rates: limiter_of(clock, rates), clock)
    relay.destinations.change({"gmail.com": (Allowance(letters=20, period=1.0),), "*.example.org": (FAST,)})
    end = clock.epoch() + 60
    relay.destinations.order("gmail.com", Order(key="", rule="google/slow", said="421 4.7.28", until=end))
    relay.destinations.order("other.test", Order(key="", rule="r", said="450", until=end - 1))
    relay.orders.obey(WAIT, "recipient:a@b.test", clock.monotonic())
    found = shown(relay, clock)
    assert [(each["scope"], each["rule"]) for each in found["orders"]] == [
        ("destination:gmail.com", "google/slow"),
        ("destination:other.test", "r"),
    ]
    assert [each["destination"] for each in found["destinations"]] == ["gmail.com", "*.example.org"]
    assert found["destinations"][0] == {
        "destination": "gmail.com",
        "rates": [{"letters": 20, "period_seconds": 1.0, "letters_now": 0.0}],
        "waiting": 0,
        "blocked_because": "it asked to wait (google/slow): 421 4.7.28",
    }
    assert (found["recipients_resting"], found["destinations_left_out"]) == (1, 0)
    clock.forward(61)
    assert shown(relay, clock)["recipients_resting"] == 0


async def test_a_route_says_what_blocks_it() -> None:
    clock = ManualClock()
    first, second = relay_of(clock, "ses"), relay_of(clock, "postfix")
    route = Route(
        "news", [first], retry=RetryPolicy(max_attempts=1, delay=1.0), clock=clock, fallback=[second]
    )
    found = route_state(route, None)
    RouteView.model_validate(found)
    assert found == {
        "route": "news",
        "relays": ["ses", "postfix"],
        "blocked_because": None,
        "in_hand": 0,
        "awaiting": None,
        "deferred": None,
        "oldest_due_seconds": None,
    }
    refusal = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=550, text="Account suspended")
    for relay in (first, second):
        relay.hold("0" * 24, refusal)
    assert (shown(first, clock)["state"], shown(first, clock)["breaker"]) == ("refuses", "open")
    blocked = route_state(route, None)["blocked_because"]
    assert "ses: refuses letters: 550 Account suspended; postfix: refuses" in blocked


async def test_a_route_says_how_many_wait_and_one_that_is_none_is_told_behind() -> None:
    clock = ManualClock()
    retry = RetryPolicy(max_attempts=1, delay=1.0)
    routes = [Route(name, [relay_of(clock)], retry=retry, clock=clock) for name in ("default", "news")]
    counts = {
        "news": RouteStats(awaiting=7, deferred=2, oldest_due=12.34),
        **{f"old{number}": RouteStats(awaiting=number) for number in range(1, GONE_SHOWN + 3)},
    }
    found = route_states(routes, counts)
    for each in found:
        RouteView.model_validate(each)
    assert [(each["route"], each["awaiting"], each["deferred"]) for each in found[:3]] == [
        ("default", 0, 0),
        ("news", 7, 2),
        (f"old{GONE_SHOWN + 2}", GONE_SHOWN + 2, 0),
    ]
    assert (found[1]["oldest_due_seconds"], found[1]["blocked_because"]) == (12.3, None)
    assert "no such route" in found[2]["blocked_because"]
    assert len(found) == 2 + GONE_SHOWN
