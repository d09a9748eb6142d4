"""When a route sends at all: ``Mon-Fri 08:00-20:00, Sat 10:00-14:00 Europe/Moscow``. Pure.

Times are those of a clock on the wall in the zone, UTC where none is named. A window is open at a moment
exactly if what that clock shows then, weekday and time, lies in it: an hour that it leaves out is in none,
and one that it shows twice is in a window twice.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

ALL_DAY: Final = 24 * 60
"""Minutes."""

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_WEEK: Final = 7 * _DAY
"""Seconds."""

MOST_SPANS: Final = 50
"""Spans of a window: more than a week of a shop's hours takes."""

_SPAN: Final = re.compile(
    r"(?:(?P<first>[A-Za-z]{3})(?:\s*-\s*(?P<last>[A-Za-z]{3}))?)?"
    r"\s*(?:(?P<begin>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d))?",
    re.ASCII,
)
_ZONE: Final = re.compile(r"\s(UTC|[A-Za-z_]+(?:/[A-Za-z0-9_+\-]+)+)\s*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """Parts of the week in a zone; a moment is in it when what the zone's clock shows is in one of them.

    `edges` are the seconds since Monday's midnight at which it opens and closes in turn, in their order.
    """

    edges: tuple[int, ...]
    zone: ZoneInfo

    def open_at(self, now: float) -> bool:
        """Whether letters may be sent at `now`, in epoch seconds."""
        return bisect_right(self.edges, self._shown(math.floor(now))) % 2 == 1

    def next(self, now: float) -> float:
        """The first moment from `now` on at which letters may be sent; both in epoch seconds."""
        if self.open_at(now):
            return now
        second = self._turn(math.floor(now))
        while not self.open_at(second):
            second = self._turn(second)
        return float(second)

    def until(self, now: float) -> float:
        """Until when it stays as it is at `now`, open or closed, for certain; both in epoch seconds."""
        return float(self._turn(math.floor(now))) if self.open_at(now) else self.next(now)

    def _turn(self, second: int) -> int:
        """The first moment after this one at which the clock shows an edge, or has been set."""
        shown = self._shown(second)
        following = bisect_right(self.edges, shown)
        edge = self.edges[following] if following < len(self.edges) else self.edges[0] + _WEEK
        return self._set(second, second + edge - shown)

    def _set(self, begin: int, end: int) -> int:
        """The first moment after `begin` at which the clock has been set forward or back, at most `end`.

        No clock is set twice within an hour, and none at a part of a second.
        """
        ahead = self._ahead(begin)
        for at in range(begin, end, _HOUR):
            later = min(at + _HOUR, end)
            if self._ahead(later) != ahead:
                return at + bisect_left(
                    range(at, later), True, key=lambda second: self._ahead(second) != ahead
                )
        return end

    def _shown(self, second: int) -> int:
        """What the zone's clock shows, in seconds since its last Monday's midnight."""
        wall = datetime.fromtimestamp(second, self.zone)
        return wall.weekday() * _DAY + wall.hour * _HOUR + wall.minute * 60 + wall.second

    def _ahead(self, second: int) -> timedelta | None:
        """By how much the zone's clock is ahead of UTC."""
        return datetime.fromtimestamp(second, self.zone).utcoffset()


class Hours:
    """The window of a route, which is asked for every letter: what it said holds until its next change.

    Without a window it is always open.
    """

    def __init__(self, window: Window | None = None) -> None:
        self.window = window
        self._since, self._until = math.inf, -math.inf  # epoch seconds between which `_closed` holds
        self._closed = False

    def closed(self, now: float) -> bool:
        """Whether no letter may be sent at `now`, in epoch seconds."""
        if self.window is None:
            return False
        if not self._since <= now < self._until:  # a clock may have been set back, too
            self._closed = not self.window.open_at(now)
            self._since, self._until = now, self.window.until(now)
        return self._closed

    def opens(self, now: float) -> float:
        """When letters may be sent, from `now` on; both in epoch seconds."""
        return self._until if self.closed(now) else now


def hours_of(text: str) -> Hours:
    """The hours of a route whose window is written so; empty: it is always open.

    Raises:
        ValueError: as `read_window` does.
    """
    return Hours(read_window(text) if text else None)


def read_window(text: str) -> Window:
    """The window that `text` describes.

    Raises:
        ValueError: it describes none; the message says why, as a sentence without its subject.
    """
    found = _ZONE.search(text)
    try:
        zone = ZoneInfo(found[1] if found else "UTC")
    except (LookupError, OSError, ValueError):
        raise ValueError("names a zone that there is not") from None
    spans = text[: found.start() if found else None].split(",")
    if len(spans) > MOST_SPANS:
        raise ValueError(f"has {len(spans)} spans; {MOST_SPANS} are allowed")
    return Window(_edges(part for span in spans for part in _parts(span.strip())), zone)


def _edges(parts: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Where the union of parts of the week begins and ends in turn."""
    edges: list[int] = []
    for begin, end in sorted(parts):
        if edges and begin <= edges[-1]:
            edges[-1] = max(edges[-1], end)
        else:
            edges += (begin, end)
    return tuple(edges)


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """The parts of the week that a span is, in seconds since Monday's midnight; none goes over its end."""
    days, first, last = _span(text)
    for day in days:
        begin, end = day * _DAY + first * 60, day * _DAY + last * 60
        yield begin, min(end, _WEEK)
        if end > _WEEK:
            yield 0, end - _WEEK


def _span(text: str) -> tuple[frozenset[int], int, int]:
    """Days of the week (0: Monday), and begin and end in minutes since a day's midnight.

    The end may lie in the next day, and then it is more than a day.
    """
    found = _SPAN.fullmatch(text)
    if not text or found is None:
        raise ValueError("is no window such as Mon-Fri 08:00-20:00 Europe/Moscow")
    days = frozenset(range(7))
    if found["first"]:
        first, last = _day(found["first"]), _day(found["last"] or found["first"])
        days = frozenset((first + each) % 7 for each in range((last - first) % 7 + 1))
    if not found["begin"]:
        return days, 0, ALL_DAY
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    if begin in {end, ALL_DAY}:
        raise ValueError("has a span that takes no time")
    return days, begin, end if begin < end else end + ALL_DAY


def _day(name: str) -> int:
    try:
        return DAYS.index(name.capitalize())
    except ValueError:
        raise ValueError(f"has a day that is none of {', '.join(DAYS)}") from None


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > ALL_DAY:
        raise ValueError("has a time that is not from 00:00 to 24:00")
    return hours * 60 + minutes
