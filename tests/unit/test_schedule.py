"""Schedules of retries in their notation."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.model.durations import duration_of, seconds_of
from mailsender.model.handling import Handling
from mailsender.routing.retry import MOST_WAITS, RetryPolicy, read_schedule, schedule_text, with_schedule
from mailsender.sending.attempt import policy_of
from tests.dispatching import letter

TEXT = "1m, 5m*2, 30m, 1h*3, 4h"
WAITS = (60.0, 300.0, 300.0, 1800.0, 3600.0, 3600.0, 3600.0, 14400.0)


def test_it_is_read_and_written_alike() -> None:
    assert read_schedule(TEXT) == WAITS
    assert schedule_text(WAITS) == TEXT
    assert schedule_text(read_schedule("60s,5m *2 , 1800s,1h,1h*2,240m")) == TEXT


def test_the_last_wait_repeats_and_a_tenth_is_left_to_chance() -> None:
    policy = RetryPolicy(max_attempts=0, delay=1.0, schedule=read_schedule(TEXT))
    assert [policy.wait(tries, 0.5) for tries in range(1, 11)] == [*WAITS, 14400.0, 14400.0]
    assert policy.wait(1, 0.0) == pytest.approx(54.0)
    assert policy.wait(1, 1.0) == pytest.approx(66.0)


def test_the_bounds_of_a_policy_hold_for_a_schedule() -> None:
    policy = RetryPolicy(max_attempts=3, delay=1.0, schedule=(1.0,))
    assert policy.wait(2, 0.5) == 1.0
    assert policy.wait(3, 0.5) is None
    policy = RetryPolicy(max_attempts=0, delay=1.0, retry_for=125.0, schedule=(60.0, 5.0))
    assert policy.wait(14, 0.5) == 5.0
    assert policy.wait(15, 0.5) is None


def test_a_letters_own_schedule_changes_the_waits_alone() -> None:
    policy = RetryPolicy(max_attempts=7, delay=1.0, retry_for=math.inf, resends=3)
    own = with_schedule(policy, "2s")
    assert (own.schedule, own.max_attempts, own.resends) == ((2.0,), 7, 3)
    assert with_schedule(policy, "2s") is own


@pytest.mark.parametrize("retry", ["", "12h", "3d"])
def test_a_letter_that_says_until_when_it_is_sent_is_ended_by_no_waits(retry: str) -> None:
    policy = RetryPolicy(max_attempts=0, delay=60.0, retry_for=2 * 86400.0)
    handling = Handling(retry=retry, expire_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert policy_of(letter(1, handling=handling), policy).wait(500, 0.5) is not None
    assert policy_of(letter(1, handling=Handling(retry=retry)), policy).wait(500, 0.5) is None
    few = RetryPolicy(max_attempts=5, delay=60.0)
    assert policy_of(letter(1, handling=handling), few).wait(5, 0.5) is None, "how often it is tried holds"


@given(st.lists(st.integers(1, 7 * 86400).map(float), min_size=1, max_size=20))
def test_what_is_written_is_read_again(waits: list[float]) -> None:
    text = schedule_text(tuple(waits))
    if len(text) <= 200:
        assert read_schedule(text) == tuple(waits)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no schedule"),
        ("1m,", "is no schedule"),
        ("soon", "is no schedule"),
        ("1m*x", "not followed by a number"),
        ("1m*", "not followed by a number"),
        ("1m*-1", "not followed by a number"),
        ("1m*0", "no times"),
        ("1m*٣", "not followed by a number"),
        ("1m*" + "9" * 5000, "has 5003 characters"),
        ("1m*99999", "not followed by a number"),
        (f"1m*{MOST_WAITS + 1}", f"more than {MOST_WAITS} waits"),
        ("500ms", "from 1s to 7d"),
        ("0s", "from 1s to 7d"),
        ("8d", "from 1s to 7d"),
        ("9" * 12 + "d", "from 1s to 7d"),
    ],
)
def test_what_is_none(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_schedule(text)


def test_durations() -> None:
    assert seconds_of("1m30s") == 90.0
    assert seconds_of("250ms") == 0.25
    assert duration_of(5400.0) == "90m"
    for text in ("", "5", "5 s", "s", "-1s", "1e3s", "٣s", "9" * 400 + "s"):
        with pytest.raises(ValueError, match="a duration such as"):
            seconds_of(text)
