"""What a world is made of, and what the service in it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mailsender.model.letter import DEFAULT_ROUTE
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy
from simulation.judge import Obeyed, Terms
from simulation.manners import Traits

UNLIMITED = Allowance(letters=0, period=1.0)

RETRY = RetryPolicy(max_attempts=0, delay=60.0, retry_for=5 * 86400.0)

ON_ITS_WAY = 0.3
"""Seconds for which a sender that has its session and its letter goes on although the relay has just told
another one to wait: nobody asks once more before MAIL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A relay of a world: how it is, and what the service was told of it."""

    traits: Traits
    allowance: Allowance = UNLIMITED
    sessions: int = 4
    letters: int = 0
    recipients: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What a world is made of. `routes` name their relays in order; `journal`: its hosts keep one."""

    lines: Mapping[str, Line]
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {DEFAULT_ROUTE: ("one",)})
    replicas: int = 1
    journal: bool = False
    retry: RetryPolicy = RETRY
    settings: Mapping[str, object] = field(default_factory=dict)
    prompt: Mapping[str, float] = field(default_factory=dict)
    obeyed: Obeyed = Obeyed.ALONE
    on_its_way: float = ON_ITS_WAY

    def plan(self) -> Plan:
        """What the service is told."""
        relays = tuple(
            RelayPlan(
                name=name,
                allowance=each.allowance,
                policy=RelayPolicy(
                    reverse_path="robot@example.test",
                    max_recipients=each.recipients,
                    sessions=PoolLimits(sessions=each.sessions, letters=each.letters),
                ),
            )
            for name, each in self.lines.items()
        )
        routes = tuple(
            RoutePlan(name=name, relays=each, retry=self.retry) for name, each in self.routes.items()
        )
        return Plan(relays=relays, routes=routes)

    def terms(self) -> Terms:
        """What it is judged by."""
        return Terms(
            allowances={f"{each.traits.host}:25": each.allowance for each in self.lines.values()},
            resends=self.retry.resends,
            prompt=self.prompt,
            obeyed=self.obeyed,
            on_its_way=self.on_its_way,
        )
