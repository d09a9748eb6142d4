"""What of another plan is taken while the service runs, and what is left for a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.changes import changes
from mailsender.routing.plan import DestinationPlan, Match, Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.reply_rule import Action, ReplyRule, Scope
from mailsender.routing.retry import RetryPolicy
from mailsender.suppression.rules import SuppressionPolicy

RATE = Allowance(letters=14, period=1.0)
POLICY = RelayPolicy(reverse_path="a@example.com", max_recipients=50, sessions=PoolLimits(sessions=5))
RETRY = RetryPolicy(max_attempts=0, delay=60.0)
A, B = (RelayPlan(name=name, allowance=RATE, policy=POLICY) for name in "ab")
DEFAULT = RoutePlan(relays=("a",), retry=RETRY)
NEWS = RoutePlan(name="news", relays=("b", "a"), match=Match(streams=("n",)), retry=RETRY)
PLAN = Plan(relays=(A, B), routes=(DEFAULT, NEWS))


def test_the_same_plan_changes_nothing() -> None:
    found = changes(PLAN, PLAN, other_ways=())
    assert (found.plan, found.taken, found.left) == (PLAN, (), ())


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("rate", {"allowance": replace(RATE, letters=7)}),
        ("rate", {"further": (Allowance(letters=2000, period=300.0),)}),
        ("rate", {"allowance": replace(RATE, burst=2)}),
        ("quota", {"allowance": replace(RATE, quota=50_000, quota_period=86_400.0)}),
        ("quota", {"allowance": replace(RATE, quota=500, timezone="Europe/Moscow")}),
        ("destinations", {"destinations": (DestinationPlan(domain="gmail.com", rates=(RATE,)),)}),
        ("preset", {"preset": "ses"}),
        (
            "rules",
            {"rules": (ReplyRule(name="a/1", codes=("454",), action=Action.WAIT, scope=Scope.RELAY),)},
        ),
        ("from", {"senders": ("example.com",)}),
        ("max_recipients", {"policy": replace(POLICY, max_recipients=1)}),
    ],
)
def test_what_of_a_relay_is_looked_up_each_time_is_taken(key: str, other: dict[str, Any]) -> None:
    new = replace(PLAN, relays=(replace(A, **other), B))
    found = changes(PLAN, new, other_ways=())
    assert (found.plan, found.taken, found.left) == (new, (f"relays.a.{key}",), ())


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("connections", {"policy": replace(POLICY, sessions=PoolLimits(sessions=9))}),
        ("letters_per_session", {"policy": replace(POLICY, sessions=PoolLimits(sessions=5, letters=9))}),
        ("session_idle", {"policy": replace(POLICY, sessions=PoolLimits(sessions=5, idle=9.0))}),
        ("connections_total", {"connections_total": 3}),
    ],
)
def test_what_sessions_are_made_by_is_left(key: str, other: dict[str, Any]) -> None:
    found = changes(PLAN, replace(PLAN, relays=(replace(A, **other), B)), other_ways=())
    assert (found.plan, found.taken, found.left) == (PLAN, (), (f"relays.a.{key}",))


def test_both_at_once_are_told_apart() -> None:
    policy = replace(POLICY, max_recipients=1, sessions=PoolLimits(sessions=9))
    found = changes(PLAN, replace(PLAN, relays=(replace(A, policy=policy), B)), other_ways=())
    assert (found.taken, found.left) == (("relays.a.max_recipients",), ("relays.a.connections",))
    assert found.plan.relays[0].policy == replace(POLICY, max_recipients=1)


def test_nothing_is_taken_of_a_relay_that_is_to_be_another_server() -> None:
    """Its rate and its rules are the other server's, and letters still go to this one."""
    policy = replace(POLICY, max_recipients=1, sessions=PoolLimits(sessions=9))
    rule = ReplyRule(name="a/1", codes=("454",), action=Action.WAIT, scope=Scope.RELAY)
    rate = replace(RATE, letters=500, quota=10**6, quota_period=86_400.0)
    other = replace(A, allowance=rate, preset="sendgrid", rules=(rule,), policy=policy)
    found = changes(PLAN, replace(PLAN, relays=(other, replace(B, preset="ses"))), other_ways={"a"})
    assert found.plan.relays == (A, replace(B, preset="ses"))
    assert found.taken == ("relays.b.preset",)
    assert found.left == (
        *(f"relays.a.{key}" for key in ("rate", "quota", "preset", "rules", "max_recipients", "connections")),
        "relays.a: how it is reached, or who logs in",
    )


def test_routes_come_change_and_go() -> None:
    other = RoutePlan(name="other", relays=("b",), open=True, retry=RETRY)
    changed = replace(DEFAULT, weights=(1,))
    new = replace(PLAN, routes=(changed, other))
    found = changes(PLAN, new, other_ways=())
    assert found.plan == new
    assert found.taken == ("routes.default", "routes.other", "routes.news is gone")


def test_another_order_of_routes_is_a_change() -> None:
    other = RoutePlan(name="other", relays=("b",), open=True, retry=RETRY)
    now, new = (replace(PLAN, routes=routes) for routes in ((DEFAULT, NEWS, other), (DEFAULT, other, NEWS)))
    found = changes(now, new, other_ways=())
    assert (found.plan, found.taken) == (new, ("routes: their order",))


def test_a_route_over_a_relay_that_does_not_run_stays_as_it_was() -> None:
    c = replace(A, name="c")
    over = replace(NEWS, relays=("c",))
    fresh = RoutePlan(name="fresh", relays=("a",), fallback=("c",), open=True, retry=RETRY)
    found = changes(PLAN, Plan(relays=(A, B, c), routes=(DEFAULT, over, fresh)), other_ways=())
    assert found.plan == PLAN
    assert found.taken == ()
    assert found.left == (
        "relays.c is new",
        "routes.news: it leads over c, which does not run yet",
        "routes.fresh: it leads over c, which does not run yet",
    )


def test_a_relay_that_is_gone_stays_without_letters() -> None:
    found = changes(PLAN, Plan(relays=(A,), routes=(DEFAULT,)), other_ways=())
    assert found.plan == Plan(relays=(A, B), routes=(DEFAULT,))
    assert found.taken == ("routes.news is gone",)
    assert [text.startswith("relays.b is gone") for text in found.left] == [True]


def test_suppression_is_taken() -> None:
    new = replace(PLAN, suppression=SuppressionPolicy(learns=True))
    found = changes(PLAN, new, other_ways=())
    assert (found.plan, found.taken) == (new, ("suppression",))
