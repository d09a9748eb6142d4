"""Letters whose recipients take several routes: each part has its own transactions, and its own next time.

A letter is on one route at a time: on that of the part which is due first. The others' times stand with
their recipients, and so do those of recipients for whom a reply's rule asked to wait for longer, or who rest
and were not tried. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mailsender.model.letter import Letter, Recipient, Status
from mailsender.routing.table import RouteTable
from mailsender.sending.attempt import NO_WAITS

SOON = 1.0
"""Seconds by which a recipient may be ahead of its time where its letter is at hand anyway: clocks differ."""


@dataclass(frozen=True, slots=True)
class Part:
    """Who of a letter goes over a route now; `others` take other routes, or have to wait."""

    addresses: tuple[str, ...]
    others: bool


def part_of(letter: Letter, route: str, table: RouteTable, now: float) -> Part:
    """Those of a letter's recipients who are to be sent to over a route at `now`, in epoch seconds."""
    later = {each.address for each in letter.recipients if each.open and each.due > now + SOON}
    pending = letter.pending
    mine = pending if table.plain else table.parts(letter, pending).get(route, ())
    due = tuple(each for each in mine if each not in later) if later else mine
    return Part(due, others=len(due) < len(pending))


def moved_on(
    letter: Letter,
    table: RouteTable,
    now: float,
    *,
    tried: Collection[str] = (),
    delay: float = 0.0,
    own: Mapping[str, float] = NO_WAITS,
    last: str = "",
) -> tuple[Letter, float]:
    """A letter that is not done, on the route of its next part, and the seconds until that is due.

    Those who were `tried` come again after `delay` seconds, or after their `own`, the others at their time.
    Of parts that are due together the one of the route `last` has had its turn.
    """
    times = {
        each.address: now + own.get(each.address, delay) if each.address in tried else max(now, each.due)
        for each in letter.recipients
        if each.open
    }
    parts = {letter.route: tuple(times)} if table.plain else table.parts(letter, times)
    first: dict[str, float] = {}
    for route, addresses in parts.items():
        first[route] = min(times[each] for each in addresses)
    route = min(first, key=lambda each: (first[each], each == last))
    recipients = tuple(
        _due_at(each, times[each.address] if times[each.address] > first[route] else 0.0)
        if each.address in times
        else each
        for each in letter.recipients
    )
    moved = letter.evolve(status=Status.AWAITING, route=route, recipients=recipients)
    return moved, max(0.0, first[route] - now)


def _due_at(recipient: Recipient, due: float) -> Recipient:
    if recipient.due == due:
        return recipient
    return Recipient(
        address=recipient.address,
        result=recipient.result,
        tries=recipient.tries,
        doubts=recipient.doubts,
        closed=recipient.closed,
        relay=recipient.relay,
        due=due,
    )
