"""Slots: the promise that no period ever holds too many (P5), against random schedules."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.ratelimit import gcra as limiter
from mailsender.ratelimit.gcra import (
    AGREEMENT,
    AHEAD,
    FARTHEST,
    MIN_LIFE,
    UNLIMITED,
    Allowance,
    Cursor,
    SlotGrant,
    SlotRequest,
    day_bounds,
    give_back,
    grant_of,
    take,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()


class Store:
    """The shared cursor behind a slow network, with a clock whose readings jump about."""

    def __init__(
        self, allowance: Allowance, chance: random.Random, wobble: float, set_back: float = 0.0
    ) -> None:
        self.allowance = allowance
        self.cursor = Cursor()
        self._chance = chance
        self._wobble = wobble
        self._set_back = set_back
        self._behind = 0.0

    def lease(self, asked: float, want: int, member: str = "") -> SlotGrant:
        """What a replica gets that asks at `asked` by the true time, which is its monotonic clock, too."""
        reached = asked + self._latency()
        if self._set_back and self._chance.random() < 0.05:
            self._behind += self._chance.uniform(0, self._set_back)
        # Readings lie within AGREEMENT of each other; the next may well be earlier than this one.
        now = reached + self._chance.uniform(-self._wobble, 0) - self._behind
        answered = reached + self._latency()
        request = SlotRequest(want=want, allowance=self.allowance, member=member)
        self.cursor, first, count = take(self.cursor, now, request)
        return grant_of(
            cursor=self.cursor,
            first=first,
            count=count,
            now=now,
            request=request,
            asked=asked,
            answered=answered,
        )

    def _latency(self) -> float:
        return self._chance.choice([0.0, 0.0005, 0.002, 0.03])


def spends(
    allowance: Allowance, *, seed: int, replicas: int, length: float, wobble: float, set_back: float = 0.0
) -> list[float]:
    """When transactions begin: replicas that hurry or dawdle, idle, die, and give slots back."""
    chance = random.Random(seed)
    store = Store(allowance, chance, wobble, set_back)
    begun: list[float] = []
    turns = [(NOON + chance.uniform(0, allowance.period), number) for number in range(replicas)]
    heapq.heapify(turns)
    while turns:
        now, number = heapq.heappop(turns)
        if now > NOON + length:
            continue
        grant = store.lease(now, chance.choice([1, 2, 5, 50]), chance.choice(["", str(number)]))
        awake = grant.answered + max(0.0, grant.again)
        fate = chance.random()
        if fate < 0.05:
            # It dies with its slots in hand, and comes back.
            awake += chance.uniform(0, allowance.period)
        elif grant.count:
            spent = chance.randint(0, grant.count) if fate < 0.2 else grant.count
            begun += _spend(grant, spent, chance)
            awake = max([awake, *begun[-1:]]) if spent else awake
            if spent < grant.count:
                store.cursor = give_back(store.cursor, grant, grant.count - spent)
        if fate > 0.9:
            awake += chance.uniform(0, 2 * allowance.period)
        heapq.heappush(turns, (max(awake, now + allowance.step / 10), number))
    return sorted(begun)


def _spend(grant: SlotGrant, count: int, chance: random.Random) -> Iterator[float]:
    for index in range(count):
        earliest, latest = max(grant.earliest(index), grant.answered), grant.latest(index)
        if earliest < latest:
            # At once, at the last moment, or anywhere between.
            yield chance.choice([earliest, latest - 1e-9, chance.uniform(earliest, latest)])


def most_in_a_period(begun: list[float], period: float) -> int:
    """The most spends in any window [t, t + period)."""
    most = start = 0
    for end, time in enumerate(begun):
        while begun[start] <= time - period:
            start += 1
        most = max(most, end - start + 1)
    return most


@settings(max_examples=300, deadline=None)
@given(
    letters=st.integers(1, 60),
    period=st.sampled_from([0.1, 0.5, 1.0, 5.0, 60.0]),
    burst=st.integers(1, 80),
    replicas=st.integers(1, 5),
    wobble=st.sampled_from([0.0, 0.01, AGREEMENT]),
    seed=st.integers(0, 2**32),
)
def test_no_period_holds_too_many(
    letters: int, period: float, burst: int, replicas: int, wobble: float, seed: int
) -> None:
    allowance = Allowance(letters=letters, period=period, burst=burst)
    begun = spends(allowance, seed=seed, replicas=replicas, length=12 * period, wobble=wobble)
    assert most_in_a_period(begun, period) <= letters + burst


@settings(max_examples=200, deadline=None)
@given(
    letters=st.integers(1, 60),
    period=st.sampled_from([0.1, 0.5, 1.0, 5.0, 60.0]),
    burst=st.integers(1, 80),
    replicas=st.integers(1, 5),
    wobble=st.sampled_from([0.0, AGREEMENT]),
    set_back=st.sampled_from([0.3, 5.0, 3600.0]),
    seed=st.integers(0, 2**32),
)
def test_no_period_holds_too_many_though_the_clock_is_set_back(
    letters: int, period: float, burst: int, replicas: int, wobble: float, set_back: float, seed: int
) -> None:
    """Again and again, and by any time: what was leased before is behind what is leased after."""
    allowance = Allowance(letters=letters, period=period, burst=burst)
    begun = spends(
        allowance, seed=seed, replicas=replicas, length=12 * period, wobble=wobble, set_back=set_back
    )
    assert most_in_a_period(begun, period) <= letters + burst


@settings(max_examples=100, deadline=None)
@given(
    letters=st.integers(1, 60),
    period=st.sampled_from([0.1, 1.0, 5.0, 60.0]),
    replicas=st.integers(1, 5),
    wobble=st.sampled_from([0.0, AGREEMENT]),
    seed=st.integers(0, 2**32),
)
def test_without_a_burst_no_period_holds_more_than_the_rate(
    letters: int, period: float, replicas: int, wobble: float, seed: int
) -> None:
    """As a relay counts that counts exactly; and only as much more as the store's clock jumps about.

    An epoch's seconds are told to some parts of a million.
    """
    allowance = Allowance(letters=letters, period=period, burst=0)
    begun = spends(allowance, seed=seed, replicas=replicas, length=12 * period, wobble=wobble)
    late = math.ceil(wobble / allowance.step)
    assert most_in_a_period(begun, period - 1e-5) <= letters + late


def test_without_a_burst_the_rate_is_nearly_the_full_one() -> None:
    assert Allowance(letters=14, period=1.0, burst=0).rate >= 0.95 * 14
    assert Allowance(letters=2000, period=300.0, burst=0).rate >= 0.999 * 2000 / 300


def test_without_a_burst_a_pause_is_not_caught_up_with() -> None:
    """Its first letter would be late already, and a relay might count the one of a second later with it."""
    exact = Allowance(letters=14, period=1.0, burst=0)
    for further, first in (((), NOON), ((Allowance(letters=2000, period=300.0, burst=5),), NOON)):
        request = SlotRequest(want=1, allowance=exact, further=further)
        assert take(Cursor(next=NOON - 60), NOON, request)[1] == first
    with_burst = SlotRequest(want=1, allowance=Allowance(letters=14, period=1.0, burst=2))
    assert take(Cursor(next=NOON - 60), NOON, with_burst)[1] < NOON


def test_the_search_finds_a_limiter_that_is_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property above is no proof unless its schedules catch slots that trust the clock."""
    monkeypatch.setattr(limiter, "AGREEMENT", 0.0)
    allowance = Allowance(letters=40, period=0.5, burst=5)
    worst = max(
        most_in_a_period(spends(allowance, seed=seed, replicas=4, length=6, wobble=0.05), 0.5)
        for seed in range(50)
    )
    assert worst > allowance.letters + allowance.burst


def test_the_search_finds_cursors_that_are_drawn_in_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as one reading of the clock says, though the one before it showed more."""
    monkeypatch.setattr(limiter, "FARTHEST", AHEAD)
    allowance = Allowance(letters=20, period=0.5, burst=1)
    worst = max(
        most_in_a_period(spends(allowance, seed=seed, replicas=4, length=20, wobble=0.05), 0.5)
        for seed in range(50)
    )
    assert worst > allowance.letters + allowance.burst


def test_a_busy_replica_reaches_the_rate() -> None:
    allowance = Allowance(letters=50, period=1.0, burst=10)
    cursor, granted = Cursor(), 0
    for tick in range(1000):
        request = SlotRequest(want=50, allowance=allowance)
        cursor, _, count = take(cursor, NOON + tick / 100, request)
        granted += count
    assert granted / 10 == pytest.approx(50, rel=0.25)
    assert allowance.rate == pytest.approx(50)


@pytest.mark.parametrize(
    ("letters", "period", "burst"), [(5, 5.0, 1), (5, 5.0, 5), (14, 1.0, 1), (300, 1.0, 100)]
)
@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_who_shares_a_rate_gets_all_of_it_and_as_much_as_the_others(
    letters: int, period: float, burst: int, replicas: int
) -> None:
    """Each wants more than there is, and asks again when it is told to, or when its slots are handed out."""
    allowance = Allowance(letters=letters, period=period, burst=burst)
    store = Store(allowance, random.Random(1), 0.0)
    length = max(60.0, 40 * period)
    taken = Counter[str]()
    turns = [(NOON + number / 1000, str(number)) for number in range(replicas)]
    while turns:
        now, name = heapq.heappop(turns)
        if now > NOON + length:
            continue
        grant = store.lease(now, 1000, name)
        taken[name] += grant.count
        if replicas == 1 and not grant.count:
            assert now + grant.again <= store.cursor.next - AHEAD + 0.02, "nobody waits for nobody"
        heapq.heappush(turns, (max(now + 0.01, now + grant.again), name))
    assert sum(taken.values()) >= 0.9 * allowance.rate * length
    assert max(taken.values()) < 2 * min(taken.values()), taken


@pytest.mark.no_cover  # days of slots take three times as long when each line is counted
@settings(max_examples=40, deadline=None)
@given(quota=st.integers(1, 40), seed=st.integers(0, 2**32), days=st.integers(1, 3))
def test_no_day_holds_more_than_the_quota(quota: int, seed: int, days: int) -> None:
    zone = "America/New_York"
    allowance = Allowance(letters=1, period=600.0, burst=3, quota=quota, timezone=zone)
    begun = spends(allowance, seed=seed, replicas=3, length=days * 86400.0, wobble=0.0)
    by_day = Counter(day_bounds(time, zone)[0] for time in begun)
    assert all(count <= quota for count in by_day.values())


@pytest.mark.parametrize(
    ("zone", "moment", "start", "hours"),
    [
        ("Europe/Moscow", "2026-07-01T00:00+03:00", "2026-07-01T00:00+03:00", 24),
        ("Europe/Moscow", "2026-06-30T23:59+03:00", "2026-06-30T00:00+03:00", 24),
        ("Europe/Moscow", "2010-03-28T12:00+04:00", "2010-03-28T00:00+03:00", 23),
        ("Europe/Moscow", "2014-10-26T12:00+03:00", "2014-10-26T00:00+04:00", 25),
        ("America/New_York", "2026-03-08T12:00-04:00", "2026-03-08T00:00-05:00", 23),
        ("America/New_York", "2026-11-01T01:30-05:00", "2026-11-01T00:00-04:00", 25),
        ("America/New_York", "2026-11-01T01:30-04:00", "2026-11-01T00:00-04:00", 25),
    ],
)
def test_days_are_those_of_the_zone(zone: str, moment: str, start: str, hours: int) -> None:
    found_start, found_end = day_bounds(datetime.fromisoformat(moment).timestamp(), zone)
    assert found_start == datetime.fromisoformat(start).timestamp()
    assert found_end - found_start == hours * 3600


def test_slots_end_with_the_day_and_the_quota_begins_anew() -> None:
    allowance = Allowance(letters=0, period=1.0, quota=10)
    midnight = datetime(2026, 1, 6, tzinfo=UTC).timestamp()
    request = SlotRequest(want=6, allowance=allowance)
    before, first, count = take(Cursor(), midnight - 0.5, request)
    assert count == 6
    grant = _grant(before, first, count, midnight - 0.5, request)
    assert all(grant.latest(index) <= grant.asked + 0.5 for index in range(count))
    used_up, first, count = take(before, midnight - 0.4, request)
    assert count == 4
    nothing, first, count = take(used_up, midnight - 0.1, request)
    grant = _grant(nothing, first, count, midnight - 0.1, request)
    assert (count, grant.exhausted) == (0, True)
    assert grant.again == pytest.approx(0.1)
    _, _, count = take(nothing, midnight + 0.1, request)
    assert count == 6


@pytest.mark.parametrize("back", [0.5, 60.0, 3600.0, 86_400.0])
def test_a_clock_that_was_set_back_is_not_waited_for(back: float) -> None:
    request = SlotRequest(want=50, allowance=Allowance(letters=10, period=1.0), member="a")
    other = replace(request, member="b")
    cursor, _, count = take(Cursor(), NOON, request)
    assert count > 5
    cursor, _, _ = take(cursor, NOON, other)
    now = NOON - back
    for _ in range(2):  # what the first one finds far ahead is near for the second
        cursor, first, count = take(cursor, now, request)
        assert first <= now + FARTHEST + request.allowance.step + 1e-6
        now += 0.3
    assert count > 0


def test_a_rate_that_is_raised_holds_at_once_whatever_the_last_slot_took() -> None:
    slow = Allowance(letters=1, period=3600.0)
    cursor, last, count = take(Cursor(), NOON, SlotRequest(want=9, allowance=slow))
    assert count == 1
    fast = SlotRequest(
        want=9, allowance=Allowance(letters=20, period=1.0), further=(Allowance(letters=600, period=60.0),)
    )
    cursor, first, count = take(cursor, NOON + 1, fast)
    assert (count, _grant(cursor, first, count, NOON + 1, fast).again) == (0, pytest.approx(0.15, abs=0.01))
    cursor, first, count = take(cursor, NOON + 1.2, fast)
    assert count > 0
    assert first - last >= fast.allowance.step


def test_waiting_for_the_next_slot_of_a_slow_rate() -> None:
    request = SlotRequest(want=9, allowance=Allowance(letters=1, period=100.0))
    cursor, _, _ = take(Cursor(), NOON, request)
    cursor, first, count = take(cursor, NOON + 1, request)
    grant = _grant(cursor, first, count, NOON + 1, request)
    assert (count, grant.exhausted) == (0, False)
    # A hundred seconds after the first slot, which lay back by a part of its life, less what a lease
    # reaches ahead and the second that has passed; never longer than a minute at once.
    assert grant.again == pytest.approx(min(60.0, first - (NOON + 1) - AHEAD))


def test_a_slot_is_good_within_its_life() -> None:
    allowance = Allowance(letters=10, period=1.0, burst=10)
    request = SlotRequest(want=3, allowance=allowance)
    cursor, first, count = take(Cursor(), NOON, request)
    grant = _grant(cursor, first, count, NOON, request, asked=5.0, answered=7.0)
    # Asked at 5 and answered at 7: the store's clock may be up to two seconds further than we know.
    assert grant.earliest(1) - grant.earliest(0) == pytest.approx(allowance.step)
    assert grant.latest(0) - grant.earliest(0) == pytest.approx(allowance.life - 2.0)


@pytest.mark.parametrize(
    ("letters", "period", "burst", "life", "rate"),
    [
        (5, 5.0, 1, 1.0 - AGREEMENT, 1.0),
        (1000, 1.0, 1, MIN_LIFE, 1001 / 1.1),
        (1000, 1.0, 100, MIN_LIFE, 1000.0),
        (100, 1.0, 50, 0.45, 100.0),
    ],
)
def test_life_and_rate(letters: int, period: float, burst: int, life: float, rate: float) -> None:
    allowance = Allowance(letters=letters, period=period, burst=burst)
    assert allowance.life == pytest.approx(life)
    assert allowance.rate == pytest.approx(rate)
    assert not allowance.unlimited


def test_without_a_rate() -> None:
    assert Allowance(letters=0, period=5.0).unlimited
    assert not Allowance(letters=0, period=5.0, quota=1).unlimited
    assert UNLIMITED.good(-1e300)
    assert UNLIMITED.good(1e300)


def _grant(
    cursor: Cursor,
    first: float,
    count: int,
    now: float,
    request: SlotRequest,
    asked: float = 0.0,
    answered: float = 0.0,
) -> SlotGrant:
    return grant_of(
        cursor=cursor, first=first, count=count, now=now, request=request, asked=asked, answered=answered
    )
