"""Which relays and routes there are, as an operator chose; what is made of it is in `relay` and `route`."""

from __future__ import annotations

from dataclasses import dataclass

from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy

DEFAULT = "default"
"""The relay and the route that `SMTP_*` are, and the route of a letter that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPlan:
    """A relay: its rate and quota, and how it is used."""

    name: str = DEFAULT
    allowance: Allowance
    policy: RelayPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """A route: the names of its relays in their order, and how often letters are tried."""

    name: str = DEFAULT
    relays: tuple[str, ...] = (DEFAULT,)
    retry: RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of them; the first route is that of letters that come claimed from intake."""

    relays: tuple[RelayPlan, ...]
    routes: tuple[RoutePlan, ...]
