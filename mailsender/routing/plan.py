"""Which relays and routes there are, as an operator chose; what is made of it is in `relay` and `route`.

Values only, read from settings and from the file that `MAILSENDER_CONFIG` names. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailsender.model.handling import Priority as Priority  # noqa: PLC0414  others take it from here
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.reply_rule import ReplyRule
from mailsender.routing.retry import RetryPolicy
from mailsender.suppression.rules import SuppressionPolicy

DEFAULT = "default"
"""The relay and the route that `SMTP_*` are, and the route of a letter that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPlan:
    """What of a relay's own limits holds for one destination: a domain, or ``*.domain``."""

    domain: str
    rates: tuple[Allowance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPlan:
    """A relay: its rates and quota, and how it is used.

    `allowance` is the first of its rates, with its quota; all of `further` hold beside it.
    `connections_total` is over all replicas, 0 where none is known. `senders` are the addresses and domains
    that it takes; no entry: all. `preset` names the reply rules and limits that go with it, `rules` are those
    of the file, which come before them.
    """

    name: str = DEFAULT
    allowance: Allowance
    further: tuple[Allowance, ...] = ()
    policy: RelayPolicy
    connections_total: int = 0
    senders: tuple[str, ...] = ()
    destinations: tuple[DestinationPlan, ...] = ()
    preset: str = ""
    rules: tuple[ReplyRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which letters a route is for: all that is said has to fit; what is empty fits every letter.

    `destinations` and `senders` are domains, ``*.domain`` or whole addresses. `larger` and `smaller` are
    characters of a letter's content, attachments left out.
    """

    streams: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    priorities: tuple[Priority, ...] = ()
    tags: tuple[str, ...] = ()
    larger: int = 0
    smaller: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """A route: its relays in their order or by weight, those behind them, and how often letters are tried.

    `weights` has an entry for each of `relays` where they share the letters; without, the first that goes
    takes all. `fallback` are tried only where none of `relays` goes. `expire` counts from a letter's
    acceptance. `window` is the text of a sending window, empty: at all times. `share` is what a flow gets
    beside others, and the route beside others over the same relay. `reserve` is the part of its relays'
    rates that letters of priority `high` get before other routes have their shares. `open`: letters may name
    it themselves.
    """

    name: str = DEFAULT
    match: Match | None = None
    relays: tuple[str, ...] = (DEFAULT,)
    weights: tuple[int, ...] = ()
    fallback: tuple[str, ...] = ()
    retry: RetryPolicy
    expire: float = math.inf
    window: str = ""
    share: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)
    reserve: float = 0.0
    open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All of them; the first route is that of letters that come claimed from intake.

    Routes stand in the order of the file: the first whose `match` fits a letter is its own, else `default`.
    `suppression` is what holds for the list of addresses to which nothing is sent.
    """

    relays: tuple[RelayPlan, ...]
    routes: tuple[RoutePlan, ...]
    suppression: SuppressionPolicy = field(default_factory=SuppressionPolicy)


def rates_of(relay: RelayPlan) -> dict[str, tuple[Allowance, ...]]:
    """The rates of single destinations, by their domains."""
    return {each.domain: each.rates for each in relay.destinations if each.rates}
