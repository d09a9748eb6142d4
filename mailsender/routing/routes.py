"""The routes that a plan stands for, over relays by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from mailsender.model.clock import Clock
from mailsender.routing.plan import Plan, RoutePlan
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route, reserved_line
from mailsender.routing.table import RouteTable, traits_of
from mailsender.routing.window import hours_of

MOST_RESERVE: Final = 0.9
"""The part of a relay that all reserves together may be: other letters have to come through, too."""


def made(plan: RoutePlan, relays: Mapping[str, Relay], clock: Clock) -> Route:
    """A route as planned.

    Raises:
        KeyError: there is no relay of a name.
    """
    route = Route(plan.name, [relays[name] for name in plan.relays], retry=plan.retry, clock=clock)
    change(route, plan, relays)
    return route


def change(route: Route, plan: RoutePlan, relays: Mapping[str, Relay]) -> None:
    """Have a route go on as planned.

    Raises:
        KeyError: there is no relay of a name.
    """
    route.change(
        [relays[name] for name in plan.relays],
        retry=plan.retry,
        weights=plan.weights,
        fallback=[relays[name] for name in plan.fallback],
        hours=hours_of(plan.window),
        reserve=plan.reserve,
    )


def divide(plans: Sequence[RoutePlan], relays: Mapping[str, Relay]) -> None:
    """Have each relay shared by the routes that use it."""
    for name, relay in relays.items():
        relay.divide(lines([each for each in plans if name in (*each.relays, *each.fallback)]))


def lines(plans: Sequence[RoutePlan]) -> dict[str, float]:
    """The lines in which routes wait for a relay that they share, and what each gets beside the others.

    A reserve has a line of its own, in which letters of priority `high` wait: its share is that part of all.
    What it does not need is not lost: who does not wait has no turn.
    """
    shares = {each.name: each.share for each in plans}
    reserves = {each.name: min(each.reserve, MOST_RESERVE) for each in plans if each.reserve}
    taken = sum(reserves.values())
    scale = min(1.0, MOST_RESERVE / taken) if taken else 0.0
    rest = sum(shares.values()) / (1 - taken * scale)
    return shares | {reserved_line(name): part * scale * rest for name, part in reserves.items()}


def table_of(plan: Plan, service: str) -> RouteTable:
    """What says which route a letter takes that is sent from the `service`'s address unless it names one."""
    return RouteTable(plan.routes, partial(traits_of, service=service))


def further_recipients(relay: str, routes: Sequence[Route], letters: int) -> int:
    """How many recipients beyond one each the next letters have that will want a slot of a relay."""
    found = 0
    for route in routes:
        if len(route.backlog) and any(
            each.name == relay and route.waiting_for(each) for each in route.relays
        ):
            found += sum([len(each.pending) - 1 for each in route.backlog.next(letters)])
    return found


def waiting_for(relay: str, routes: Sequence[Route]) -> int:
    """Letters in the backlogs of routes that will want a slot of a relay, as far as is known."""
    return sum(
        route.waiting_for(each)
        for route in routes
        if len(route.backlog)
        for each in route.relays
        if each.name == relay
    )
