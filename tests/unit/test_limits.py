"""Limits of a relay together: rates, a rolling quota and orders, kept by several members on one store."""

from __future__ import annotations

import heapq
import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.ratelimit import gcra
from mailsender.ratelimit.gcra import AGREEMENT, AHEAD, Allowance, SlotGrant, SlotRequest
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import RELAY, Order
from tests.clocks import ManualClock
from tests.unit.test_gcra import most_in_a_period


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@dataclass
class WobblyClock(ManualClock):
    """A store's clock whose readings lie within `wobble` of the truth; the next may well be earlier."""

    wobble: float = 0.0
    chance: random.Random = field(default_factory=random.Random)

    def epoch(self) -> float:
        return super().epoch() - self.chance.uniform(0.0, self.wobble)


@dataclass
class Members:
    """Replicas that hurry or dawdle, idle, die, and give slots back, over one store."""

    allowances: tuple[Allowance, ...]
    seed: int
    count: int = 3
    wobble: float = 0.0
    idle: float = 0.0
    begun: list[float] = field(default_factory=list)
    orders: dict[float, Order] = field(default_factory=dict)  # given at those times
    told: list[tuple[float, Order]] = field(default_factory=list)
    early: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.clock = WobblyClock(wobble=self.wobble, chance=self.chance)
        self.store = MemorySlotStore(self.clock)

    @property
    def pause(self) -> float:
        return self.idle or max(each.period for each in self.allowances)

    def run(self, length: float, *, eager: bool = False) -> list[float]:
        """When transactions begin in so many seconds; `eager`: nobody idles, or dies."""
        ends = self.clock.now + length
        turns = [(self.clock.now + self.chance.uniform(0, 0.1), name) for name in range(self.count)]
        coming = sorted((at, order) for at, order in self.orders.items())
        heapq.heapify(turns)
        while turns[0][0] <= ends:
            at, name = heapq.heappop(turns)
            while coming and coming[0][0] <= at:
                self.clock.now, order = coming.pop(0)
                done(self.store.order(order, self.clock.start + self.clock.now))
                self.told.append((self.clock.now, order))
            self.clock.now = at
            heapq.heappush(turns, (self._turn(at, str(name), eager=eager), name))
        self.begun.sort()
        return self.begun

    def _turn(self, now: float, name: str, *, eager: bool) -> float:
        want = 1000 if eager else self.chance.choice([1, 2, 5, 50])
        member = name if eager or self.chance.random() < 0.5 else ""
        request = SlotRequest(
            want=want, allowance=self.allowances[0], member=member, further=self.allowances[1:]
        )
        grant = done(self.store.lease(request))
        fate = 0.5 if eager else self.chance.random()
        awake = now + grant.again
        if fate < 0.05:
            awake += self.chance.uniform(0, self.pause)  # it dies with its slots in hand, and comes back
        elif grant.count:
            spent = self.chance.randint(0, grant.count) if fate < 0.2 else grant.count
            times = list(self._spend(grant, spent, eager=eager))
            self._note_early(now, times)
            self.begun += times
            awake = max([awake, *times[-1:]])
            if spent < grant.count:
                done(self.store.give_back(grant, grant.count - spent))
        if fate > 0.9:
            awake += self.chance.uniform(0, 2 * self.pause)
        return max(awake, now + 0.01)

    def _spend(self, grant: SlotGrant, count: int, *, eager: bool) -> Iterator[float]:
        for index in range(count):
            earliest, latest = max(grant.earliest(index), grant.answered), grant.latest(index)
            if earliest < latest:
                # At once, at the last moment, or anywhere between.
                late = latest - 1e-9, self.chance.uniform(earliest, latest)
                yield earliest if eager else self.chance.choice([earliest, *late])

    def _note_early(self, now: float, times: list[float]) -> None:
        for at, order in self.told:
            if at <= now:
                self.early += [each for each in times if each + self.clock.start + AGREEMENT < order.until]


@st.composite
def rates(draw: st.DrawFn) -> tuple[Allowance, ...]:
    """One to three rates, each slower in the long run than the one before, or about as fast."""
    first = Allowance(
        letters=draw(st.integers(1, 40)),
        period=draw(st.sampled_from([0.1, 0.5, 1.0, 5.0])),
        burst=draw(st.integers(1, 40)),
    )
    found = [first]
    for _ in range(draw(st.integers(0, 2))):
        last = found[-1]
        longer = draw(st.sampled_from([1, 2, 10, 60]))
        letters = max(1, round(last.letters * longer * draw(st.floats(0.05, 1.3))))
        found.append(Allowance(letters=letters, period=last.period * longer, burst=draw(st.integers(1, 300))))
    draw(st.randoms(use_true_random=False)).shuffle(found)
    return tuple(found)


@settings(max_examples=200, deadline=None)
@given(
    rates=rates(),
    count=st.integers(1, 4),
    wobble=st.sampled_from([0.0, AGREEMENT]),
    seed=st.integers(0, 2**32),
)
def test_no_window_of_any_rate_holds_too_many(
    rates: tuple[Allowance, ...], count: int, wobble: float, seed: int
) -> None:
    members = Members(rates, seed, count, wobble)
    begun = members.run(min(4 * members.pause, 60.0 + members.pause))
    for each in rates:
        assert most_in_a_period(begun, each.period) <= each.letters + each.burst


def test_the_search_finds_a_window_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property above is no proof unless its schedules catch slots that fit the fastest rate only."""
    monkeypatch.setattr("mailsender.ratelimit.windows._caught_up", lambda step, steps, in_hand: 10_000)
    rates = Allowance(letters=40, period=1.0, burst=10), Allowance(letters=100, period=5.0, burst=20)
    worst = [
        most_in_a_period(Members(rates, seed).run(30.0), each.period) - each.letters - each.burst
        for seed in range(20)
        for each in rates
    ]
    assert max(worst) > 0


def test_what_a_long_window_has_in_hand_goes_at_the_speed_of_the_short_one() -> None:
    rates = Allowance(letters=14, period=1.0), Allowance(letters=1000, period=300.0, burst=500)
    begun = Members(rates, 1, 2).run(200.0, eager=True)
    start = begun[0]
    # From 14 a second to 1000 in 300 seconds: what was in hand is used up after some 40 seconds.
    assert sum(each < start + 30 for each in begun) == pytest.approx(30 * 14, rel=0.06)
    assert sum(each >= start + 100 for each in begun) == pytest.approx(100 * 1000 / 300, rel=0.06)


_SECOND, _HOUR = Allowance(letters=14, period=1.0), Allowance(letters=100, period=3600.0)
_MORE, _DAY = Allowance(letters=120, period=3600.0), Allowance(letters=3000, period=86400.0)


@pytest.mark.parametrize(
    ("one", "other", "most"),
    [
        ((_SECOND, _HOUR), (_SECOND, _MORE), 120),
        ((_SECOND, _HOUR), (_HOUR,), 100),
        ((_SECOND, _HOUR), (_HOUR, _DAY), 100),
        ((_SECOND, _HOUR, _DAY), (_SECOND, _MORE, _DAY), 120),
        ((_HOUR,), (_MORE,), 120),
    ],
)
def test_what_goes_out_lies_between_the_rates_of_replicas_whose_rates_differ(
    one: tuple[Allowance, ...], other: tuple[Allowance, ...], most: int
) -> None:
    """As while they are restarted one by one, or where one has the old file still."""
    chance, clock = random.Random(1), ManualClock()
    store, begun = MemorySlotStore(clock), []
    while clock.now < 2 * 3600:
        clock.forward(chance.uniform(0.1, 5.0))
        rates = chance.choice([one, other])
        grant = done(store.lease(SlotRequest(want=5, allowance=rates[0], further=rates[1:])))
        begun += [max(grant.earliest(each), clock.now) for each in range(grant.count)]
    begun.sort()
    assert 95 < most_in_a_period(begun, 3600.0) <= most + 1


def test_a_slow_rate_that_is_no_more_is_not_waited_for() -> None:
    clock = ManualClock()
    store = MemorySlotStore(clock)
    for _ in range(2):
        done(store.lease(SlotRequest(want=1, allowance=_SECOND, further=(_HOUR,))))
    request = SlotRequest(want=1, allowance=_SECOND)
    done(store.lease(request))
    clock.forward(AGREEMENT + _SECOND.step)
    assert done(store.lease(request)).count == 1


def test_a_slower_rate_of_a_longer_period_makes_the_faster_one_idle() -> None:
    slow, fast = Allowance(letters=1, period=60.0), Allowance(letters=1000, period=1.0)
    assert SlotRequest(want=1, allowance=fast, further=(slow, fast)).rates == (slow,)
    assert SlotRequest(want=1, allowance=fast, further=(slow,)).life == slow.life


@pytest.mark.no_cover  # as in test_gcra: days of slots
@settings(max_examples=30, deadline=None)
@given(
    quota=st.integers(1, 60),
    period=st.sampled_from([3600.0, 86400.0]),
    rate=st.sampled_from([Allowance(letters=0, period=1.0), Allowance(letters=1, period=60.0, burst=9)]),
    wobble=st.sampled_from([0.0, AGREEMENT]),
    seed=st.integers(0, 2**32),
)
def test_no_period_of_a_rolling_quota_holds_more(
    quota: int, period: float, rate: Allowance, wobble: float, seed: int
) -> None:
    """Whenever the period begins, and whoever was restarted in it: the store is all that is remembered."""
    allowance = replace(rate, quota=quota, quota_period=period)
    members = Members((allowance,), seed, 3, wobble, idle=period / 20)
    begun = members.run(3 * period)
    assert most_in_a_period(begun, period) <= quota


def test_a_rolling_quota_can_be_used_up_again_and_again() -> None:
    allowance = Allowance(letters=0, period=1.0, quota=500, quota_period=3600.0)
    begun = Members((allowance,), 1, 2).run(5 * 3600.0, eager=True)
    assert len(begun) >= 5 * 500
    assert most_in_a_period(begun, 3600.0) == 500


@pytest.mark.skipif(
    not gcra.__file__.endswith(".py"), reason="what is compiled cannot be broken from outside"
)
def test_the_search_finds_a_quota_whose_buckets_go_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlotRequest, "keep", property(lambda self: self.allowance.quota_period - 30.0))
    allowance = Allowance(letters=0, period=1.0, quota=20, quota_period=3600.0)
    runs = [Members((allowance,), seed, 3, idle=60.0).run(4 * 3600.0) for seed in range(12)]
    assert max(most_in_a_period(begun, 3600.0) for begun in runs) > 20


def ordered(kind: str, at: float, wait: float, factor: float, slow: float) -> Order:
    until = ManualClock.start + at + wait
    return Order(key=kind, rule="r", said="450 no", until=until, factor=factor, then_until=until + slow)


@settings(max_examples=60, deadline=None)
@given(
    rates=rates(),
    given=st.lists(
        st.tuples(
            st.floats(0.0, 20.0), st.floats(0.0, 15.0), st.sampled_from([1.0, 0.5, 0.1]), st.floats(0.0, 30.0)
        ),
        min_size=1,
        max_size=4,
    ),
    wobble=st.sampled_from([0.0, AGREEMENT]),
    seed=st.integers(0, 2**32),
)
def test_nothing_leased_after_an_order_begins_before_its_time_and_no_rate_is_exceeded(
    rates: tuple[Allowance, ...],
    given: list[tuple[float, float, float, float]],
    wobble: float,
    seed: int,
) -> None:
    members = Members(rates, seed, 3, wobble)
    start = members.clock.now
    for at, wait, factor, slow in given:
        members.orders[start + at] = ordered(RELAY, start + at, wait, factor, slow)
    begun = members.run(40.0)
    assert members.early == []
    for each in rates:
        assert most_in_a_period(begun, each.period) <= each.letters + each.burst


def test_a_rate_that_was_ordered_down_grows_back_in_steps() -> None:
    members = Members((Allowance(letters=20, period=1.0, burst=5),), 1, 3)
    start = members.clock.now
    members.orders[start + 100] = ordered(RELAY, start + 100, 50.0, 0.2, 80.0)
    begun = [each - start for each in members.run(400.0, eager=True)]

    def speed(begins: float, ends: float) -> float:
        return sum(begins <= each < ends for each in begun) / (ends - begins)

    assert speed(10, 100) == pytest.approx(20, rel=0.05)
    assert speed(100 + AHEAD + 0.3, 150) == 0
    assert speed(150, 150.9) <= 0.2 * 20 + 1, "no storm after the pause"
    assert speed(150, 230) == pytest.approx(4, rel=0.1)
    for step, expected in enumerate((8, 12, 16)):
        assert speed(231 + 20 * step, 250 + 20 * step) == pytest.approx(expected, rel=0.1)
    assert speed(291, 400) == pytest.approx(20, rel=0.05)


def test_a_relay_without_a_rate_is_slowed_to_what_it_took() -> None:
    members = Members((Allowance(letters=0, period=1.0),), 1, 3)
    start = members.clock.now
    members.orders[start] = replace(ordered(RELAY, start, 10.0, 0.5, 200.0), spacing=0.1)
    begun = [each - start for each in members.run(300.0, eager=True)]
    assert min(begun) >= 10
    assert sum(10 <= each < 210 for each in begun) == pytest.approx(200 * 10 / 2, rel=0.05)
