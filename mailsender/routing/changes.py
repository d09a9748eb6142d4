"""What of another plan can be taken while the service runs, and what takes a restart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The `plan` to go on by, and what of the new one is `taken` and what is `left` for a restart, in words.

    The words begin with keys of the file.
    """

    plan: Plan
    taken: tuple[str, ...]
    left: tuple[str, ...]


def _rates(relay: RelayPlan) -> object:
    return [
        (each.letters, each.period, each.burst, each.by_recipient)
        for each in (relay.allowance, *relay.further)
    ]


def _quota(relay: RelayPlan) -> object:
    allowance: Allowance = relay.allowance
    zone = allowance.timezone if allowance.quota else ""
    return allowance.quota, allowance.quota_period, zone, allowance.quota_by_recipient


_Look = Callable[[RelayPlan], object]

_TAKEN: Final[Sequence[tuple[str, _Look]]] = (
    ("rate", _rates),
    ("quota", _quota),
    ("destinations", lambda relay: relay.destinations),
    ("preset", lambda relay: relay.preset),
    ("rules", lambda relay: relay.rules),
    ("from", lambda relay: relay.senders),
    ("max_recipients", lambda relay: relay.policy.max_recipients),
)
"""What of a relay is looked up each time that it is needed, by its key."""

_LEFT: Final[Sequence[tuple[str, _Look]]] = (
    ("connections", lambda relay: relay.policy.sessions.sessions),
    ("connections_total", lambda relay: relay.connections_total),
    ("letters_per_session", lambda relay: relay.policy.sessions.letters),
    ("session_idle", lambda relay: relay.policy.sessions.idle),
)
"""What sessions, those who send over them, and further counters are made by."""


def changes(now: Plan, new: Plan, *, other_ways: Collection[str]) -> Changes:
    """What to go on by, where `now` is what runs and `new` what the file says.

    `other_ways` are the names of relays that the file would have reached in another way, or by another login:
    nothing of them is taken.
    """
    taken: list[str] = []
    left: list[str] = []
    relays = _relays(now, new, other_ways, taken, left)
    routes = _routes(now, new, taken, left)
    if now.suppression != new.suppression:
        taken.append("suppression")
    plan = Plan(relays=relays, routes=routes, suppression=new.suppression)
    return Changes(plan=plan, taken=tuple(taken), left=tuple(left))


def _relays(
    now: Plan, new: Plan, other_ways: Collection[str], taken: list[str], left: list[str]
) -> tuple[RelayPlan, ...]:
    """The relays that run, with what can be taken of the new ones."""
    wanted = {relay.name: relay for relay in new.relays}
    found = []
    for relay in now.relays:
        other = wanted.pop(relay.name, None)
        if other is None:
            left.append(f"relays.{relay.name} is gone: it stays, without letters, where no route leads to it")
            found.append(relay)
            continue
        # What the file says of a relay is of the one that it names now: until that one is reached, another
        # server's rate, quota or rules would hold where they were not meant to.
        stays = relay.name in other_ways
        found.append(relay if stays else _merged(relay, other))
        changed = [f"relays.{relay.name}.{key}" for key, look in _TAKEN if look(relay) != look(other)]
        (left if stays else taken).extend(changed)
        left += [f"relays.{relay.name}.{key}" for key, look in _LEFT if look(relay) != look(other)]
        if stays:
            left.append(f"relays.{relay.name}: how it is reached, or who logs in")
    left += [f"relays.{name} is new" for name in wanted]
    return tuple(found)


def _merged(relay: RelayPlan, other: RelayPlan) -> RelayPlan:
    return replace(
        other,
        connections_total=relay.connections_total,
        policy=replace(relay.policy, max_recipients=other.policy.max_recipients),
    )


def _routes(now: Plan, new: Plan, taken: list[str], left: list[str]) -> tuple[RoutePlan, ...]:
    """The new routes; of one over a relay that does not run yet the old one, if there is one."""
    running = {relay.name for relay in now.relays}
    there = {route.name: route for route in now.routes}
    found = []
    for route in new.routes:
        old = there.pop(route.name, None)
        absent = [name for name in (*route.relays, *route.fallback) if name not in running]
        if absent:
            found += [old] if old is not None else []
            left.append(f"routes.{route.name}: it leads over {', '.join(absent)}, which does not run yet")
        else:
            found.append(route)
            taken += [f"routes.{route.name}"] if route != old else []
    taken += [f"routes.{name} is gone" for name in there]
    if _order(now.routes, found) != _order(found, now.routes):
        taken.append("routes: their order")  # the first that fits takes a letter
    return tuple(found)


def _order(routes: Sequence[RoutePlan], others: Sequence[RoutePlan]) -> list[str]:
    """The names of those of `routes` that are among the others, too."""
    names = {route.name for route in others}
    return [route.name for route in routes if route.name in names]
