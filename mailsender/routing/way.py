"""Which way a letter would take, told beforehand: its route, and the relays of that. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mailsender.routing.patterns import named_in
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan
from mailsender.routing.table import RouteTable, Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A relay of a route: its weight (0: none), whether it is a fallback, and whether it takes the sender."""

    relay: RelayPlan
    weight: int
    fallback: bool
    takes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The route of a recipient, why it is that one, and its relays in their order."""

    route: RoutePlan
    why: str
    stops: tuple[Stop, ...]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "route": self.route.name,
            "why": self.why,
            "relays": [
                {
                    "relay": each.relay.name,
                    "weight": each.weight or None,
                    "fallback": each.fallback,
                    "takes_sender": each.takes,
                    "preset": each.relay.preset or None,
                    "rules": len(each.relay.rules),
                }
                for each in self.stops
            ],
            "expire": None if math.isinf(self.route.expire) else self.route.expire,
            "window": self.route.window or None,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"route   {self.route.name}: {self.why}"
        for number, each in enumerate(self.stops, 1):
            yield f"{number:<8}{_told(each)}"
        if self.route.window:
            yield f"window  {self.route.window}"
        if not math.isinf(self.route.expire):
            yield f"expires after {self.route.expire / 3600:g} h"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWay:
    """What is told instead of a letter that may not have the route which it names: it is an error."""

    why: str

    def document(self) -> dict[str, Any]:
        """For programs: as of a way, with nothing in it."""
        return {"route": None, "why": self.why, "relays": [], "expire": None, "window": None}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"route   none: {self.why}; a letter that names it is an error"


def way_of(plan: Plan, traits: Traits, to: str) -> Way:
    """The way of a letter of such traits to one recipient."""
    table = RouteTable(plan.routes)
    name = table.route_for(traits, to)
    route = next(each for each in plan.routes if each.name == name)
    relays = {each.name: each for each in plan.relays}
    weights = route.weights or (0,) * len(route.relays)
    order = [*zip(route.relays, weights, strict=True), *((each, 0) for each in route.fallback)]
    stops = tuple(
        Stop(
            relay=relays[each],
            weight=weight,
            fallback=place >= len(route.relays),
            takes=not relays[each].senders
            or all(named_in(relays[each].senders, sender) for sender in traits.senders),
        )
        for place, (each, weight) in enumerate(order)
    )
    return Way(route=route, why=_why(table, route, traits), stops=stops)


def _why(table: RouteTable, route: RoutePlan, traits: Traits) -> str:
    if traits.wish and traits.wish == route.name and not table.denial(traits.wish):
        return "the letter names it"
    denied = f"; {table.denial(traits.wish)}" if traits.wish else ""
    if route.match is None:
        return f"no other one is for it{denied}"
    return f"the first whose match fits{denied}"


def _told(stop: Stop) -> str:
    words = [stop.relay.name]
    if stop.weight:
        words.append(f"weight {stop.weight}")
    if stop.fallback:
        words.append("only where none of the others goes")
    if stop.relay.preset:
        words.append(f"preset {stop.relay.preset}")
    if not stop.takes:
        words.append("takes no mail from this sender")
    return ", ".join(words)
