"""What stands in the way of a letter now, told for people: over its relays, for its recipients, by the clock.

Relays are read as they are in this process, and nothing is changed. What they look at is what decides when a
letter is sent: see `Relay.blocked_because`, `Route.next` and `mailsender.sending.orders.spare`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mailsender.model.address import domain_of
from mailsender.model.letter import now_ms
from mailsender.routing.plan import RoutePlan
from mailsender.routing.pool import HANGS
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import RELAY_KEY, Scope, scope_key
from mailsender.routing.window import read_window

_LATEST: Final = 253_402_300_000.0
"""Epoch seconds from which on a time has no date: what holds until then does so until a person acts."""


class Kind(StrEnum):
    """What it is that stands in the way."""

    EXPIRED = "expired"  # its time to be sent is over
    ROUTE = "route"  # it waits on a route that is not its own, or is none
    DUE = "due"  # its own time, or a recipient's, is to come
    WINDOW = "window"  # the route does not send at this time
    AWAY = "away"  # the relay cannot be reached, or is not reached yet
    HANGS = "hangs"  # nothing moves with the relay
    BREAKER = "breaker"  # the relay refuses everybody's letters
    ORDER = "order"  # a relay's reply asked to wait
    TURN = "turn"  # the limits of the recipient's destination are reached
    QUOTA = "quota"  # it is used up
    SESSIONS = "sessions"  # other replicas have all that the relay takes
    SLOTS = "slots"  # the store of slots does not answer, or not soon enough
    SENDER = "sender"  # the relay takes no mail from the letter's senders
    SUPPRESSED = "suppressed"  # nothing is sent to the recipient
    BEHIND = "behind"  # other letters go first


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One thing that stands in the way: `text` is a sentence about it.

    `until` is when it is over, or is looked at again, in epoch seconds: None where nobody knows. `relay` is
    the name of the relay that it is about, if it is about one; `rule` and `said` are of an order.
    """

    kind: Kind
    text: str
    until: float | None = None
    relay: str = ""
    rule: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The same moment on both clocks, in seconds."""

    epoch: float
    monotonic: float


def of_relay(relay: Relay, now: Moment) -> Iterator[Obstacle]:
    """What stops all letters that would go over a relay."""
    name, pool, limiter = relay.name, relay.pool, relay.limiter
    if pool.closed:
        text = f"Other replicas have all the sessions that {name} takes."
        yield Obstacle(kind=Kind.SESSIONS, text=text, relay=name)
    if pool.away:
        again = pool.reach.again_at if pool.reach.again_at > now.epoch else None
        text = f"{name} cannot be used: {_ended(pool.reason)}{_again(again)}"
        yield Obstacle(kind=Kind.AWAY, text=text, until=again, relay=name, said=pool.reason)
    if pool.hangs and not pool.away:
        yield Obstacle(kind=Kind.HANGS, text=f"{name} hangs: {HANGS}.", relay=name)
    if relay.breaker.open:
        left = relay.breaker.left(now.monotonic)
        again = now.epoch + left if left else None
        text = f"{name} refuses everybody's letters: {_ended(relay.breaker.why)}{_again(again)}"
        yield Obstacle(kind=Kind.BREAKER, text=text, until=again, relay=name, said=relay.breaker.why)
    yield from _ordered(relay, RELAY_KEY, f"nothing goes over {name}", now)
    if limiter.exhausted_until is not None:
        until = limiter.exhausted_until
        text = f"The quota of {name} is used up until {time_of(until)}."
        yield Obstacle(kind=Kind.QUOTA, text=text, until=until, relay=name)
    if lacking := limiter.condition.text or limiter.lapsing.text:
        text = f"No slots can be had for {name}: {_ended(lacking)}"
        yield Obstacle(kind=Kind.SLOTS, text=text, relay=name)


def of_recipient(
    relay: Relay, address: str, author: str, senders: Sequence[str], now: Moment
) -> Iterator[Obstacle]:
    """What stops a letter to one recipient, from `author` and in the name of `senders`, over a relay."""
    name = relay.name
    if not relay.takes(senders):
        text = f"{name} takes no mail from {', '.join(senders)}."
        yield Obstacle(kind=Kind.SENDER, text=text, relay=name)
    for key, what in (
        (scope_key(Scope.SENDER, sender=author), f"nothing from {author} goes over {name}"),
        (scope_key(Scope.RECIPIENT, recipient=address), f"nothing to {address} goes over {name}"),
        (
            scope_key(Scope.DESTINATION, recipient=address),
            f"nothing to {address.rpartition('@')[2]} goes over {name}",
        ),
    ):
        yield from _ordered(relay, key, what, now)
    yield from _limited(relay, domain_of(address), now)


def of_window(route: RoutePlan, now: Moment) -> Iterator[Obstacle]:
    """Whether a route sends at this time at all."""
    if not route.window:
        return
    window = read_window(route.window)
    if not window.open_at(now.epoch):
        until = window.next(now.epoch)
        text = f"The route {route.name} sends in its window ({route.window}): the next is {time_of(until)}."
        yield Obstacle(kind=Kind.WINDOW, text=text, until=until)


def time_of(epoch: float) -> str:
    """A time for people, in UTC."""
    return now_ms(epoch).isoformat(timespec="seconds").replace("+00:00", "Z")


def _limited(relay: Relay, domain: str, now: Moment) -> Iterator[Obstacle]:
    """What stops all that goes to a domain over a relay, by the limits that the domain has there."""
    own = None if relay.destinations is None else relay.destinations.of(domain)
    if relay.destinations is None or own is None:
        return
    if lacking := own.condition.text or own.lapsing.text:
        text = f"No slots can be had for {domain} over {relay.name}: {_ended(lacking)}"
        yield Obstacle(kind=Kind.SLOTS, text=text, relay=relay.name)
    left = relay.destinations.reached(domain, now.monotonic)
    if left:
        until = now.epoch + left
        text = (
            f"The limits of {domain} over {relay.name} are reached: who comes now goes at {time_of(until)}."
        )
        yield Obstacle(kind=Kind.TURN, text=text, until=until, relay=relay.name)


def _ordered(relay: Relay, key: str, what: str, now: Moment) -> Iterator[Obstacle]:
    found = relay.resting(key, now.monotonic) if relay.ordered else None
    if found is None:
        return
    end = now.epoch + found.seconds
    until = end if math.isfinite(end) and end < _LATEST else None
    ends = f"until {time_of(until)}" if until else "until somebody acts"
    text = f"By the rule {found.rule} {what} {ends}; it said: {_ended(found.said)}"
    yield Obstacle(
        kind=Kind.ORDER, text=text, until=until, relay=relay.name, rule=found.rule, said=found.said
    )


def _again(until: float | None) -> str:
    return f" It is tried again at {time_of(until)}." if until else " It is tried again now."


def _ended(text: str) -> str:
    """A text as the end of a sentence."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
