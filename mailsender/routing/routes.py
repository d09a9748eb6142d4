"""The routes that a plan stands for, over relays by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from mailsender.model.clock import Clock
from mailsender.routing.plan import Plan, RoutePlan
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route
from mailsender.routing.table import RouteTable, traits_of
from mailsender.routing.window import hours_of


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
    )


def divide(plans: Sequence[RoutePlan], relays: Mapping[str, Relay]) -> None:
    """Have each relay shared by the routes that use it."""
    for name, relay in relays.items():
        relay.divide({each.name: each.share for each in plans if name in (*each.relays, *each.fallback)})


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
