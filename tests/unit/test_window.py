"""When a route sends at all, with zones and days of 23 and 25 hours."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.routing.window import Window, read_window

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


def test_where_the_clock_is_set_forward_what_is_left_out_begins_later() -> None:
    """On 2026-03-29 Berlin has no time from 02:00 to 03:00."""
    window = read_window("02:30-05:00 Europe/Berlin")
    assert window.next(at("2026-03-29T00:00")) == at("2026-03-29T03:30+02:00")
    assert not read_window("02:30-03:15 Europe/Berlin").open_at(at("2026-03-29T03:20+02:00"))
    assert read_window("01:00-04:00 Europe/Berlin").open_at(at("2026-03-29T03:30+02:00"))


def test_where_it_is_set_back_both_hours_are_in_the_window() -> None:
    """On 2026-10-25 Berlin has the time from 02:00 to 03:00 twice."""
    window = read_window("02:00-02:45 Europe/Berlin")
    for text in ("02:10+02:00", "02:50+02:00", "02:10+01:00", "02:44+01:00"):
        assert window.open_at(at(f"2026-10-25T{text}")), text
    assert not window.open_at(at("2026-10-25T02:45+01:00"))


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
