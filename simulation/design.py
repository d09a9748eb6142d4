"""What a world is made of, and what the service in it is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mailsender.model.letter import DEFAULT_ROUTE
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.reply_rule import ReplyRule
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.shares import expire_of
from simulation.judge import Hours, Obeyed, Terms
from simulation.manners import Traits

UNLIMITED = Allowance(letters=0, period=1.0)

RETRY = RetryPolicy(max_attempts=0, delay=60.0, retry_for=5 * 86400.0)

ON_ITS_WAY = 0.0
"""Seconds for which a sender that has its session and its letter goes on although the relay has just told
another one to wait: none, as it asks once more before MAIL."""


def route(*relays: str, name: str = DEFAULT_ROUTE, **more: Any) -> RoutePlan:
    """A route over relays in this order, with the usual schedule unless more is said."""
    return RoutePlan(name=name, relays=relays, **{"retry": RETRY, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A relay of a world: how it is, and what the service was told of it.

    `further` are rates beside that of `allowance`; `total` is how many connections it takes from all replicas
    together, 0 where that is not known.
    """

    traits: Traits
    allowance: Allowance = UNLIMITED
    further: tuple[Allowance, ...] = ()
    sessions: int = 4
    total: int = 0
    letters: int = 0
    recipients: int = 100
    preset: str = ""
    rules: tuple[ReplyRule, ...] = ()

    @property
    def name(self) -> str:
        """``host:port``, as the ledger has it."""
        return f"{self.traits.host}:25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What a world is made of. `journal`: its hosts keep one.

    `hours` say of routes when they may send. `even`: the relays of the default route share letters by their
    weights. `moderate` are those that hardly ever have to tell of a limit once they did, `silent` those that
    never have to. See `Terms` of these and of what follows.
    """

    lines: Mapping[str, Line]
    routes: tuple[RoutePlan, ...] = (route("one"),)
    replicas: int = 1
    journal: bool = False
    retry: RetryPolicy = RETRY
    settings: Mapping[str, object] = field(default_factory=dict)
    prompt: Mapping[str, float] = field(default_factory=dict)
    hours: Mapping[str, Hours] = field(default_factory=dict)
    even: bool = False
    moderate: Collection[str] = ()
    silent: Collection[str] = ()
    obeyed: Obeyed = Obeyed.ALL
    on_its_way: float = ON_ITS_WAY

    def plan(self) -> Plan:
        """What the service is told."""
        relays = tuple(
            RelayPlan(
                name=name,
                allowance=each.allowance,
                further=each.further,
                connections_total=each.total,
                preset=each.preset,
                rules=each.rules,
                policy=RelayPolicy(
                    reverse_path="robot@example.test",
                    max_recipients=each.recipients,
                    sessions=PoolLimits(sessions=each.sessions, letters=each.letters),
                ),
            )
            for name, each in self.lines.items()
        )
        return Plan(relays=relays, routes=self.routes)

    def terms(self) -> Terms:
        """What it is judged by."""
        names = {name: each.name for name, each in self.lines.items()}
        return Terms(
            allowances={each.name: (each.allowance, *each.further) for each in self.lines.values()},
            connections={each.name: each.total for each in self.lines.values() if each.total},
            resends=self.retry.resends,
            patience=min(self.retry.retry_for, *(each.retry.retry_for for each in self.routes)),
            journal=self.journal,
            prompt=self.prompt,
            hours=self.hours,
            expire=expire_of(self.plan()),
            weights=self._weights() if self.even else {},
            moderate=frozenset(names[each] for each in self.moderate),
            silent=frozenset(names[each] for each in self.silent),
            obeyed=self.obeyed,
            on_its_way=self.on_its_way,
        )

    def _weights(self) -> dict[str, int]:
        default = next(each for each in self.routes if each.name == DEFAULT_ROUTE)
        return {
            self.lines[name].name: weight
            for name, weight in zip(default.relays, default.weights, strict=True)
        }
