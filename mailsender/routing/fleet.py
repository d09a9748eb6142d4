"""The relays and routes of a plan, as one replica has them."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mailsender.model.clock import Clock
from mailsender.ratelimit.destinations import Destinations, Rates
from mailsender.ratelimit.limiter import Limiter, nobody
from mailsender.ratelimit.port import SlotStore
from mailsender.routing.plan import Plan, RelayPlan, rates_of
from mailsender.routing.presets import rules_of
from mailsender.routing.relay import Relay
from mailsender.routing.route import Route
from mailsender.routing.routes import change, divide, further_recipients, made, waiting_for
from mailsender.smtp.port import Transport


@dataclass(frozen=True, slots=True)
class RelayParts:
    """The way to a relay, and where slots for it come from."""

    transport: Transport
    slots: SlotStore


class Fleet:
    """`relays` and `routes` in the order of the plan, over `parts` by the names of relays.

    `filed`: a file names them, so that rules and limits of destinations may come while it runs. `stopping`
    ends all waiting for a session.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Mapping[str, RelayParts],
        clock: Clock,
        *,
        chance: random.Random,
        stopping: asyncio.Event,
        filed: bool,
    ) -> None:
        self.filed = filed
        self._clock = clock
        self._chance = chance
        self._stopping = stopping
        self.routes: list[Route] = []
        self.relays = [self._relay(each, parts[each.name]) for each in plan.relays]
        by_name = self.by_name
        self.routes += [made(each, by_name, clock) for each in plan.routes]
        divide(plan.routes, by_name)

    @property
    def by_name(self) -> dict[str, Relay]:
        """The relays by their names."""
        return {relay.name: relay for relay in self.relays}

    def adopt(self, plan: Plan) -> None:
        """Go on by another plan, whose relays are those that run; see `mailsender.routing.changes`."""
        relays = self.by_name
        for each in plan.relays:
            relays[each.name].change(
                each.allowance,
                each.further,
                max_recipients=each.policy.max_recipients,
                senders=each.senders,
                rules=rules_of(each.rules, each.preset),
                destinations=rates_of(each),
            )
        there = {route.name: route for route in self.routes}
        for each_route in plan.routes:
            if each_route.name in there:
                change(there[each_route.name], each_route, relays)
            else:
                there[each_route.name] = made(each_route, relays, self._clock)
        divide(plan.routes, relays)
        # In place: relays ask these routes how much waits for them.
        self.routes[:] = [there[each.name] for each in plan.routes]

    def _relay(self, plan: RelayPlan, parts: RelayParts) -> Relay:
        own = self._limiter(parts.slots, (plan.allowance, *plan.further), plan.name, self.routes)
        destinations: Destinations | None = None
        if self.filed:  # else there are none, and no letter is to look for them
            destinations = Destinations(
                own, partial(self._limiter_beside, plan.name, parts.slots), self._clock
            )
            destinations.change(rates_of(plan))
        return Relay(
            plan.name,
            parts.transport,
            own,
            self._clock,
            policy=plan.policy,
            chance=self._chance,
            stopping=self._stopping,
            senders=plan.senders,
            connections_total=plan.connections_total,
            rules=rules_of(plan.rules, plan.preset),
            destinations=destinations,
        )

    def _limiter(self, slots: SlotStore, rates: Rates, relay: str, routes: Sequence[Route]) -> Limiter:
        """That of a relay: one lease of slots serves all letters for it."""
        return Limiter(
            slots,
            rates[0],
            self._clock,
            backlog=partial(waiting_for, relay, routes),
            further_recipients=partial(further_recipients, relay, routes),
            member=secrets.token_hex(8),
            further=rates[1:],
            watch=self.filed,
            name=relay,
        )

    def _limiter_beside(self, relay: str, slots: SlotStore, pattern: str, rates: Rates) -> Limiter:
        """That of destinations which a pattern names, beside the one of the relay itself."""
        return Limiter(
            slots.beside(pattern.lower()),
            rates[0],
            self._clock,
            backlog=int,
            further_recipients=nobody,
            member=secrets.token_hex(8),
            further=rates[1:],
            watch=self.filed,
            name=f"{relay}/{pattern}",
            within=relay,
        )
