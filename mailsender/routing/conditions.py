"""What keeps letters from going over relays and routes, as conditions (`mailsender.observe.conditions`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mailsender.model.durations import duration_of
from mailsender.model.queue_stats import QueueStats
from mailsender.model.text import counted
from mailsender.observe.conditions import Condition, first
from mailsender.ratelimit.destinations import told
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.routing.fleet import Fleet
from mailsender.routing.pool import HANGS, NOT_ASKED
from mailsender.routing.relay import Relay

LONG: Final = 60.0
"""Seconds of sending from which on a backlog is told: of less nobody has to think."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When it is looked: monotonic seconds, and what waited when the queue was counted last.

    `stats` were counted at `counted_at`, in epoch seconds. `stops`: nothing is to be begun any more.
    """

    monotonic: float
    stats: QueueStats | None
    counted_at: float
    stops: bool


def conditions_of(fleet: Fleet, moment: Moment) -> Iterator[Condition]:
    """Those of each relay, then the one of a route whose letters no relay takes."""
    for relay in fleet.relays:
        yield from _of_relay(fleet, relay, moment)
    untaken = (Condition(part="route", text=each.untaken, trouble=False) for each in fleet.routes)
    yield from first(*untaken)


def _of_relay(fleet: Fleet, relay: Relay, moment: Moment) -> Iterator[Condition]:
    limiter, reason = relay.limiter, relay.reason
    name = relay.name if fleet.filed else ""
    if limiter.lapsing.text:
        yield replace(limiter.lapsing, relay=name, trouble=not _stood_in_for(fleet, relay))
    if reason and not (moment.stops and reason == NOT_ASKED):
        yield Condition(
            part="relay",
            text=reason,
            trouble=reason == NOT_ASKED or not _stood_in_for(fleet, relay),
            since=relay.since or 0.0,
            until=relay.next_try,
            relay=name,
        )
    elif relay.pool.hangs:
        yield Condition(part="relay", text=f"hangs: {HANGS}", trouble=False, relay=name)
    if limiter.exhausted_until is not None:
        text = f"{_quota(limiter.allowance)} are used up"
        yield Condition(part="quota", text=text, trouble=False, until=limiter.exhausted_until, relay=name)
    elif (backlog := _backlog(fleet, relay, moment)) is not None:
        yield replace(backlog, relay=name)
    if relay.destinations is not None and (turns := relay.destinations.promised(moment.monotonic)):
        text = _in_line(turns, relay.destinations.limiters)
        yield Condition(part="destination", text=text, trouble=False, relay=name)


def _stood_in_for(fleet: Fleet, relay: Relay) -> bool:
    """Whether the letters of all its routes have another relay that goes."""
    return all(
        any(other.free for other in route.relays if other is not relay)
        for route in fleet.routes
        if relay in route.relays
    )


def _backlog(fleet: Fleet, relay: Relay, moment: Moment) -> Condition | None:
    """More letters that are due over a relay than its rates let out in `LONG` seconds."""
    slowest = min(relay.limiter.rates, key=lambda each: each.letters / each.period, default=None)
    if moment.stats is None or slowest is None:
        return None
    due = _due_over(fleet, relay, moment.stats)
    takes = due * slowest.period / slowest.letters
    if takes <= LONG:
        return None
    rate = f"{slowest.letters} in {duration_of(slowest.period)}"
    text = f"{due} letters are due, and the rate is {rate}"
    return Condition(part="rate", text=text, trouble=False, until=moment.counted_at + takes)


def _due_over(fleet: Fleet, relay: Relay, stats: QueueStats) -> int:
    """How many letters could go over a relay now, as things are, but for its rate."""
    if not fleet.filed:
        return stats.due
    waiting = ((stats.routes.get(route.name), route) for route in fleet.routes if not route.closed)
    return math.ceil(
        sum(
            (found.awaiting - found.deferred) * route.part_over(relay)
            for found, route in waiting
            if found is not None
        )
    )


def _in_line(turns: Mapping[str, int], limiters: Mapping[str, Limiter]) -> str:
    """How many wait for a turn of the destination for which most do, and for others."""
    most = max(turns, key=lambda pattern: turns[pattern])
    others = sum(turns.values()) - turns[most]
    text = f"{counted(turns[most], 'letter')} in line for {most} ({told(limiters[most])})"
    return f"{text}, {others} for other destinations" if others else text


def _quota(allowance: Allowance) -> str:
    """How much a relay's quota allows, in words."""
    of_recipients = allowance.by_recipient or allowance.quota_by_recipient
    what = "recipients" if of_recipients else "transactions"
    span = f"in {duration_of(allowance.quota_period)}" if allowance.quota_period else "a day"
    return f"{allowance.quota} {what} {span}"
