"""The relays and routes that settings, and the file beside them, stand for."""

from __future__ import annotations

import math
from dataclasses import replace

from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import (
    DEFAULT,
    DestinationPlan,
    Match,
    Plan,
    Priority,
    RelayPlan,
    RoutePlan,
)
from mailsender.routing.pool import PoolLimits
from mailsender.routing.presets import NO_LIMITS, Limits, limits_of
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy, read_schedule
from mailsender.settings.environment import Settings
from mailsender.settings.file.notations import Quota, Rate, counts_recipients, parse_quota, parse_rate
from mailsender.settings.file.relays import RelayTable
from mailsender.settings.file.routes import MatchTable, RouteTable
from mailsender.settings.file.rules import rules_of
from mailsender.settings.file.schema import SuppressionTable
from mailsender.settings.kinds import listed
from mailsender.suppression.rules import SuppressionPolicy

SESSIONS, RECIPIENTS, LETTERS = 5, 100, 1000
"""Sessions at once, recipients of a transaction and transactions of a session where neither the file nor the
preset says: those of `SMTP_*`."""


def plan_of(settings: Settings) -> Plan:
    """The relay and the route that `SMTP_*` are, and those of the file; the route `default` comes first."""
    config = settings.config
    relays = [_relay_of_settings(settings)] if settings.smtp_host else []
    if config is None:
        suppression = _suppression(settings, None)
        return Plan(
            relays=tuple(relays), routes=(RoutePlan(retry=_retry(settings)),), suppression=suppression
        )
    relays += [relay_plan(settings, name, each) for name, each in config.tables.relays.items()]
    routes = {name: _route_plan(settings, name, each) for name, each in config.tables.routes.items()}
    default = routes.pop(DEFAULT, RoutePlan(retry=_retry(settings)))
    return Plan(
        relays=tuple(relays),
        routes=(default, *routes.values()),
        suppression=_suppression(settings, config.tables.suppression),
    )


def _relay_of_settings(settings: Settings) -> RelayPlan:
    return RelayPlan(
        allowance=settings.allowance,
        policy=RelayPolicy(
            reverse_path=settings.sender[1],
            max_recipients=settings.smtp_max_recipients,
            sessions=PoolLimits(
                sessions=settings.smtp_max_senders,
                letters=settings.smtp_max_letters_per_session,
                idle=settings.smtp_session_idle,
            ),
        ),
    )


def relay_plan(settings: Settings, name: str, relay: RelayTable) -> RelayPlan:
    """A relay of the file; where it says nothing its preset's limits hold."""
    limits = limits_of(relay.preset)
    rates = relay.rate or [parse_rate(each) for each in limits.rates]
    quota = relay.quota or (parse_quota(limits.quota) if limits.quota else None)
    letters = relay.letters_per_session
    if letters is None:
        letters = limits.letters_per_session or LETTERS
    burst = relay.burst
    if burst is None:
        burst = 0 if limits.exact else 1
    first, *further = _allowances(rates, burst, quota, limits)
    return RelayPlan(
        name=name,
        allowance=first,
        further=tuple(further),
        policy=RelayPolicy(
            reverse_path=settings.sender[1],
            max_recipients=relay.max_recipients or limits.max_recipients or RECIPIENTS,
            sessions=PoolLimits(
                sessions=relay.connections or SESSIONS,
                letters=letters,
                idle=relay.session_idle,
            ),
        ),
        connections_total=relay.connections_total or limits.connections_total,
        senders=tuple(relay.from_ or ()),
        destinations=tuple(
            DestinationPlan(domain=domain, rates=tuple(_allowances(each.rate, burst)))
            for domain, each in relay.destinations.items()
        ),
        preset=relay.preset,
        rules=rules_of(name, relay),
    )


def _allowances(
    rates: list[Rate], burst: int, quota: Quota | None = None, limits: Limits = NO_LIMITS
) -> list[Allowance]:
    """One for each rate, or one of no rate; the first has the quota.

    Where only the quota counts recipients, and there is no rate, each of them takes a slot.
    """
    quota = quota or Quota(letters=0)
    of_quota = counts_recipients(quota, limits) and quota.letters > 0
    first, *further = rates or [Rate(letters=0, period=1.0, recipients=of_quota)]
    of_rate = counts_recipients(first, limits)
    return [
        Allowance(
            letters=first.letters,
            period=first.period,
            burst=burst,
            quota=quota.letters,
            quota_period=quota.period,
            timezone=quota.timezone,
            by_recipient=of_rate,
            quota_by_recipient=of_quota and not of_rate,
        ),
        *(
            Allowance(letters=each.letters, period=each.period, burst=burst, by_recipient=of_rate)
            for each in further
        ),
    ]


def _route_plan(settings: Settings, name: str, route: RouteTable) -> RoutePlan:
    weights = [each.weight for each in route.relays if each.weight is not None]
    return RoutePlan(
        name=name,
        match=None if route.match is None else _match(route.match),
        relays=tuple(each.name for each in route.relays),
        weights=tuple(weights),
        fallback=tuple(route.fallback),
        retry=_route_retry(settings, route),
        expire=math.inf if route.expire is None else route.expire,
        window=route.window,
        share=route.share,
        shares=dict(route.shares),
        reserve=route.reserve,
        open=route.open,
    )


def _match(match: MatchTable) -> Match:
    return Match(
        streams=tuple(match.stream or ()),
        senders=tuple(match.sender or ()),
        destinations=tuple(match.destination or ()),
        priorities=tuple(map(Priority, match.priority or ())),
        tags=tuple(match.tag or ()),
        larger=match.larger or 0,
        smaller=match.smaller or 0,
    )


def _route_retry(settings: Settings, route: RouteTable) -> RetryPolicy:
    """As the settings say, but for what the route says: its waits, and its end by the letter's age."""
    found = _retry(settings)
    return replace(
        found,
        retry_for=found.retry_for if route.expire is None else math.inf,
        schedule=read_schedule(route.retry) if route.retry else (),
    )


def _retry(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=settings.smtp_max_attempts,
        delay=settings.smtp_retry_delay,
        retry_for=settings.smtp_retry_for,
        resends=settings.smtp_uncertain_resends if settings.smtp_uncertain == "resend" else 0,
    )


def _suppression(settings: Settings, table: SuppressionTable | None) -> SuppressionPolicy:
    """What the file says goes before the settings."""
    table = table or SuppressionTable()
    streams = listed(settings.suppression_transactional)
    return SuppressionPolicy(
        learns=settings.suppression_learn if table.learn is None else table.learn,
        life=settings.suppression_life if table.life is None else table.life,
        transactional=frozenset(streams if table.transactional is None else table.transactional),
    )
