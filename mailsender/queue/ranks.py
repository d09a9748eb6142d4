"""The order in which a route's letters go out: shares of its time for flows, and priorities. Pure.

A letter gets its rank when it comes in, a moment of the route's own time, and the lowest rank goes first.
Nothing has to be counted at a claim. It is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): the
letters of a flow stand one behind the other, as far apart as the flow's share lets them be, and the route's
time is the place of the letter whose turn it is. A flow of which nothing waits begins a little before that:
its first letter is the next, whatever the others have waiting, and what it did not send before gives it
nothing. While one flow alone waits nobody waits *for* a rank, and it has all of the route.

Ranks made of the time of day alone would not do that: where two batches share a route each gets half, what
waits of them falls behind the time of day more and more, and a newcomer would have to wait until they have
made up for it.

The flow of a letter is its stream. All letters that name none, those with the original's keys alone among
them, are one flow of their route, whatever the key of their record: so they go out in the order in which they
came in, as they always did; and keys are as many as a publisher has customers, of which nobody has a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, TypeVar

from mailsender.model.handling import Priority
from mailsender.model.letter import Letter

HEAD_START: Final = 3600.0
"""Seconds of the route's time by which a priority moves a letter: one of `high` overtakes what is younger
than an hour, one of `low` lets pass what comes within the hour. So nobody starves."""

OFFSETS: Final[Mapping[Priority, float]] = {
    Priority.HIGH: -HEAD_START,
    Priority.NORMAL: 0.0,
    Priority.LOW: HEAD_START,
}
"""Seconds from a letter's place in its flow to its rank."""

NO_RATE: Final = 1000.0
"""Letters a second by which a route's time goes where it keeps no rate. A rank is kept to the millisecond."""

LEAD: Final = 1.0
"""Seconds of the route's time by which a newcomer begins before the letter whose turn it is. Others are
claimed for about two seconds ahead, and it has to come before most of them, not behind."""

LOOK: Final = 1.0
"""Seconds for which it is believed how far a route's time has come: a newcomer overtakes so much more."""


FLOWS: Final = 10_000
"""Flows of a route from which on those are looked for that may be forgotten."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteShares:
    """The rate of a route in letters a second, 0 where it keeps none, and what a flow gets beside others.

    `shares` has streams that get something else than `share`.
    """

    rate: float = 0.0
    share: float = 1.0
    shares: Mapping[str, float] = field(default_factory=dict)

    def step(self, flow: str) -> float:
        """Seconds of the route's time from one letter of a flow to the next."""
        return 1.0 / ((self.rate or NO_RATE) * self.shares.get(flow, self.share))


ALIKE: Final = RouteShares()
"""Those of a route of which nothing was said."""


class Shares:
    """What routes were told to give to their flows; may be changed while letters come in."""

    def __init__(self, routes: Mapping[str, RouteShares] | None = None) -> None:
        self._routes = dict(routes or {})

    def use(self, routes: Mapping[str, RouteShares]) -> None:
        """Use these from now on; letters that wait keep their ranks."""
        self._routes = dict(routes)

    def step(self, route: str, flow: str) -> float:
        """Seconds of the route's time from one letter of a flow to the next."""
        return self._routes.get(route, ALIKE).step(flow)


def flow_of(letter: Letter) -> str:
    """The flow of a letter on its route: its stream, or the one of all that name none."""
    return letter.handling.stream


def offset(letter: Letter) -> float:
    """Seconds from a letter's place in its flow to its rank."""
    return OFFSETS[letter.handling.priority]


def reached(rank: float, moved: float) -> float:
    """Where the route's time is when a letter has its turn that stands at `rank`, `moved` from its place.

    That is its place. But one that overtakes others may have its place at the far end of its flow, hours
    ahead: then all newcomers would have to wait until the flow has come to there.
    """
    return rank - max(0.0, moved)


def in_line(places: Iterable[float | None]) -> tuple[float, ...]:
    """The places of letters of one claim; one that has none, as it is deferred, is beside the one before it.

    What has none and comes first is beside the first that has one.
    """
    known = list(places)
    last = next((each for each in known if each is not None), 0.0)
    found = []
    for each in known:
        last = last if each is None else max(last, each)
        found.append(last)
    return tuple(found)


def in_turn(one: Sequence[T], other: Sequence[T]) -> Iterator[T]:
    """One of each as long as there are both, `one` first; then what is left."""
    for pair in zip_longest(one, other):
        yield from (each for each in pair if each is not None)


class RouteTime:
    """A route's own time, and where its flows have come to, in seconds; for a queue within one process.

    A flow is forgotten when the route's time has come to where its next letter would be.
    """

    def __init__(self) -> None:
        self.now = -math.inf
        self._flows: dict[str, float] = {}
        self._forget_at = FLOWS

    def look(self, head: float | None, now: float) -> None:
        """The letter whose turn it is stands at `head`, as by `reached`; None: nothing waits.

        Then the day's time is the route's, unless that is ahead of it, and nobody owes anything.
        """
        self.now = max(self.now, now if head is None else head)
        if head is None:
            self._flows = {each: min(next_, self.now) for each, next_ in self._flows.items()}
            self._forget()

    def place(self, flow: str, step: float) -> float:
        """The place of the next letter of a flow."""
        place = max(self.now - LEAD, self._flows.get(flow, -math.inf))
        if flow not in self._flows and len(self._flows) >= self._forget_at:
            self._forget()
        self._flows[flow] = place + step
        return place

    def served(self, place: float) -> None:
        """A letter that stood there, as by `reached`, had its turn."""
        self.now = max(self.now, place)

    def _forget(self) -> None:
        self._flows = {each: next_ for each, next_ in self._flows.items() if next_ > self.now - LEAD}
        self._forget_at = max(FLOWS, 2 * len(self._flows))
