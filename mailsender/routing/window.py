"""When a route sends at all: ``Mon-Fri 08:00-20:00, Sat 10:00-14:00 Europe/Moscow``. Pure.

Times are those of a clock on the wall in the zone, UTC where none is named. Where that is set forward an hour
is left out: what begins in it begins as much later as it is left out for. Where it is set back an hour comes
twice: what begins in it begins the first time, and what ends in it ends the second time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

ALL_DAY: Final = 24 * 60
"""Minutes."""

MOST_SPANS: Final = 50
"""Spans of a window: more than a week of a shop's hours takes."""

_SPAN: Final = re.compile(
    r"(?:(?P<first>[A-Za-z]{3})(?:\s*-\s*(?P<last>[A-Za-z]{3}))?)?"
    r"\s*(?:(?P<begin>\d\d?:\d\d)\s*-\s*(?P<end>\d\d?:\d\d))?",
    re.ASCII,
)
_ZONE: Final = re.compile(r"\s(UTC|[A-Za-z_]+(?:/[A-Za-z0-9_+\-]+)+)\s*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a day, on some days of the week (0: Monday), in minutes since its midnight.

    `end` may lie in the next day, and then it is more than a day.
    """

    days: frozenset[int]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Spans of the week in a zone; a moment is in the window when it is in one of them."""

    spans: tuple[Span, ...]
    zone: ZoneInfo

    def open_at(self, now: float) -> bool:
        """Whether letters may be sent at `now`, in epoch seconds."""
        return any(begin <= now < end for begin, end in self._near(now))

    def next(self, now: float) -> float:
        """The first moment from `now` on at which letters may be sent; both in epoch seconds."""
        return min(max(begin, now) for begin, end in self._near(now) if end > now)

    def until(self, now: float) -> float:
        """Until when it stays as it is at `now`, open or closed, for certain; both in epoch seconds."""
        ends = [end for begin, end in self._near(now) if begin <= now < end]
        return max(ends) if ends else self.next(now)

    def _near(self, now: float) -> Iterator[tuple[float, float]]:
        """Begin and end of its spans from the day before `now` on, for as long as one has to come."""
        today = datetime.fromtimestamp(now, self.zone).date()
        # One of yesterday may last until tonight. A week has each span once, and a day may lack one whole.
        for ahead in range(-2, 15):
            day = today + timedelta(days=ahead)
            for span in self.spans:
                if day.weekday() in span.days:
                    begin, end = self._at(day, span.begin, 0), self._at(day, span.end, 1)
                    if begin < end:  # else all of it is left out
                        yield begin, end

    def _at(self, day: date, minutes: int, fold: int) -> float:
        """The moment at which the clock on the wall shows so many minutes after a day's midnight."""
        days, minutes = divmod(minutes, ALL_DAY)
        day += timedelta(days=days)
        wall = datetime(day.year, day.month, day.day, minutes // 60, minutes % 60, tzinfo=self.zone)
        early, late = (wall.replace(fold=each).timestamp() for each in (0, 1))
        if early > late:  # it is left out
            return early
        return late if fold else early


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
    spans = tuple(_span(part.strip()) for part in text[: found.start() if found else None].split(","))
    if len(spans) > MOST_SPANS:
        raise ValueError(f"has {len(spans)} spans; {MOST_SPANS} are allowed")
    return Window(spans, zone)


def _span(text: str) -> Span:
    found = _SPAN.fullmatch(text)
    if not text or found is None:
        raise ValueError("is no window such as Mon-Fri 08:00-20:00 Europe/Moscow")
    days = frozenset(range(7))
    if found["first"]:
        first, last = _day(found["first"]), _day(found["last"] or found["first"])
        days = frozenset((first + each) % 7 for each in range((last - first) % 7 + 1))
    if not found["begin"]:
        return Span(days, 0, ALL_DAY)
    begin, end = _minutes(found["begin"]), _minutes(found["end"])
    if begin in {end, ALL_DAY}:
        raise ValueError("has a span that takes no time")
    return Span(days, begin, end if begin < end else end + ALL_DAY)


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
