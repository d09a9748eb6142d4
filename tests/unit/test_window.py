"""When a route sends at all, with zones and days of 23 and 25 hours."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.routing.window import DAYS, Window, read_window

BERLIN = ZoneInfo("Europe/Berlin")

OFFICE = read_window("Mon-Fri 08:00-20:00 Europe/Moscow")


def at(text: str) -> float:
    """Epoch seconds of a time, which is UTC's unless it says otherwise."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-30T04:59:59", "2026-11-30T05:00"),  # a Monday, 07:59:59 in Moscow
        ("2026-11-30T05:00", "2026-11-30T05:00"),
        ("2026-11-30T16:59:59", "2026-11-30T16:59:59"),
        ("2026-11-30T17:00", "2026-12-01T05:00"),
        ("2026-12-04T17:00", "2026-12-07T05:00"),  # over a weekend
    ],
)
def test_office_hours(now: str, opens: str) -> None:
    assert OFFICE.next(at(now)) == at(opens)
    assert OFFICE.open_at(at(now)) == (now == opens)


def test_several_spans_and_one_over_midnight() -> None:
    window = read_window("Sat-Sun 22:00-06:00, Wed")
    assert window.zone.key == "UTC"
    assert window.open_at(at("2026-12-05T23:00"))
    assert window.open_at(at("2026-12-06T05:59"))
    assert window.open_at(at("2026-12-07T05:59"))  # Monday morning belongs to Sunday
    assert not window.open_at(at("2026-12-05T05:00"))
    assert window.open_at(at("2026-12-02T00:00"))
    assert not window.open_at(at("2026-12-03T00:00"))


def test_a_span_over_the_end_of_the_week() -> None:
    window = read_window("Sat-Mon 10:00-11:00")
    assert [window.open_at(at(f"2026-12-0{day}T10:30")) for day in range(1, 8)] == [
        *[False] * 4,
        *[True] * 3,
    ]


@pytest.mark.parametrize(
    ("text", "from_", "opens"),
    [
        ("02:30-03:30", "2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00"),
        ("02:30-05:00", "2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00"),
        ("02:00-02:30", "2026-03-29T00:00+01:00", "2026-03-30T02:00+02:00"),
        ("Sun 02:15-02:45", "2026-03-29T00:00+01:00", "2026-04-05T02:15+02:00"),
        ("02:10-02:20", "2026-10-25T02:20+02:00", "2026-10-25T02:10+01:00"),
        ("00:00-02:00", "2026-10-25T02:20+02:00", "2026-10-26T00:00+01:00"),
        ("Sat 23:00-02:00", "2026-10-25T02:00+02:00", "2026-10-31T23:00+01:00"),
    ],
)
def test_an_hour_that_is_left_out_is_in_no_window_and_one_that_comes_twice_is_so_twice(
    text: str, from_: str, opens: str
) -> None:
    """On 2026-03-29 Berlin has no time from 02:00 to 03:00, on 2026-10-25 it has it twice."""
    window = read_window(f"{text} Europe/Berlin")
    assert window.next(at(from_)) == at(opens)
    assert window.open_at(at(opens))
    assert not window.open_at(at(opens) - 1)


ZONES = {  # with a year in which the clock was set
    "Europe/Berlin": 2026,
    "America/New_York": 2026,
    "Australia/Lord_Howe": 2026,  # by half an hour
    "America/Sao_Paulo": 2018,  # at midnight
    "Africa/Cairo": 2024,  # at midnight
    "Africa/Casablanca": 2026,  # for Ramadan
    "America/Havana": 2026,
    "Asia/Beirut": 2026,
    "Asia/Tehran": 2022,
    "Antarctica/Troll": 2026,  # by two hours
    "Atlantic/Azores": 2026,
    "Pacific/Chatham": 2026,  # at 02:45
    "Pacific/Apia": 2011,  # leaves out a Friday
    "Asia/Pyongyang": 2018,
    "UTC": 2026,
}


def set_at(zone: ZoneInfo, year: int) -> list[int]:
    """The moments of a year, to the hour, after which the zone's clock is another number of hours ahead."""
    start = int(at(f"{year}-01-01"))
    ahead = [datetime.fromtimestamp(start + 3600 * hour, zone).utcoffset() for hour in range(366 * 24)]
    return [start + 3600 * hour for hour in range(len(ahead) - 1) if ahead[hour] != ahead[hour + 1]]


MOMENTS = [
    (name, moment)
    for name, year in ZONES.items()
    for moment in set_at(ZoneInfo(name), year) or [int(at(f"{year}-06-01"))]
]
spans = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 95), st.integers(1, 95))


@given(st.sampled_from(MOMENTS), st.lists(spans, min_size=1, max_size=3), st.integers(0, 59))
@settings(max_examples=60, deadline=None)
def test_it_is_as_the_clock_on_the_wall_says_minute_by_minute(
    moment: tuple[str, int], spans: list[tuple[int, int, int, int]], odd: int
) -> None:
    """Around the days on which clocks are set, against a reading of each minute's date and time."""
    (name, change), zone = moment, ZoneInfo(moment[0])
    text = ", ".join(
        f"{DAYS[first]}-{DAYS[last]} {clock(15 * begin)}-{clock(15 * (begin + length))}"
        for first, last, begin, length in spans
    )
    window = read_window(f"{text} {name}")
    each_minute = range(change - 2 * 86400, change + 2 * 86400, 60)
    shown = [reference(spans, datetime.fromtimestamp(second, zone)) for second in each_minute]
    assert [window.open_at(second) for second in each_minute] == shown
    opens = math.inf
    for second, is_open in zip(reversed(each_minute), reversed(shown), strict=True):
        if is_open:
            opens = second
        if second % 1800 == 0 and opens < math.inf:
            assert window.next(second) == opens
            assert window.next(second + odd) == max(opens, second + odd)
            until = window.until(second)
            assert second < until
            if until < each_minute[-1]:
                last = (int(until) - 60 - each_minute[0]) // 60
                assert set(shown[(second - each_minute[0]) // 60 : last + 1]) == {is_open}


def reference(spans: list[tuple[int, int, int, int]], wall: datetime) -> bool:
    """Whether what a clock shows lies in one of the spans, which are days, begin and length in quarters."""
    quarter = 4 * wall.hour + wall.minute // 15
    for first, last, begin, length in spans:
        days = {(first + each) % 7 for each in range((last - first) % 7 + 1)}
        if wall.weekday() in days and begin <= quarter < begin + length:
            return True
        if (wall.weekday() - 1) % 7 in days and quarter < begin + length - 96:
            return True
    return False


def test_a_day_that_is_left_out_is_in_no_window() -> None:
    """Samoa had no 2011-12-30, a Friday."""
    assert read_window("Fri Pacific/Apia").next(at("2011-12-24T12:00Z")) == at("2012-01-06T00:00+14:00")


def test_a_window_that_is_always_open() -> None:
    window = read_window("Mon-Sun")
    now = at("2026-11-30T12:00:00.5")
    assert window.next(now) == now < window.until(now)


minutes = st.integers(0, 24 * 60 - 1)
moments = st.integers(int(at("2025-01-01")), int(at("2027-01-01")))


@given(moments, minutes, minutes, st.sets(st.integers(0, 6)))
def test_what_comes_next_is_open_and_nothing_before_it_is(
    start: int, begin: int, length: int, days: set[int]
) -> None:
    names = ", ".join(
        f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[day]} {clock(begin)}-{clock(begin + length + 1)}"
        for day in (days or {0})
    )
    if length + 1 == 24 * 60:
        return
    window = read_window(f"{names} Europe/Berlin")
    opens = window.next(start)
    assert start <= opens <= start + 9 * 86400
    assert window.open_at(opens)
    for part in range(20):
        between = start + (opens - start) * part / 20
        assert between >= opens or not window.open_at(between)


@given(moments)
def test_apart_from_odd_hours_it_is_as_the_clock_on_the_wall_says(moment: int) -> None:
    wall = datetime.fromtimestamp(moment, BERLIN)
    window: Window = read_window("Mon-Fri 08:00-20:00 Europe/Berlin")
    assert window.open_at(moment) == (wall.weekday() < 5 and 8 <= wall.hour < 20)


def clock(minute: int) -> str:
    minute %= 24 * 60
    return f"{minute // 60:02}:{minute % 60:02}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no window"),
        ("always", "is no window"),
        ("Mon-Fri 08:00-20:00,", "is no window"),
        ("Mon-Fri 08:00-25:00", "from 00:00 to 24:00"),
        ("Mon-Fri 08:60-20:00", "from 00:00 to 24:00"),
        ("Mon-Fri 08:00-08:00", "takes no time"),
        ("Mon-Fri 24:00-08:00", "takes no time"),
        ("Mon-Fry 08:00-20:00", "is none of Mon, Tue"),
        ("Mon-Fri 08:00-20:00 Europe/Atlantis", "names a zone"),
        ("Mon-Fri 08:00-20:00 Europe/../../etc/passwd", "is no window"),
        (", ".join(["Mon"] * 51), "has 51 spans"),
    ],
)
def test_what_is_none(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_window(text)


def test_a_day_ends_at_24() -> None:
    window = read_window("Mon 20:00-24:00")
    assert window.open_at(at("2026-11-30T23:59:59"))
    assert not window.open_at(at("2026-12-01T00:00"))
