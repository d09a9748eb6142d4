"""The arithmetic of ranks, and the shares that a plan gives."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from mailsender.model.letter import Claim
from mailsender.queue.ranks import FLOWS, RouteShares, RouteTime, Shares, in_line, in_turn
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.backlog import Backlog
from mailsender.routing.plan import Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.shares import expire_of, shares_of
from tests.dispatching import letter


class Line:
    """Letters that wait, and a server that takes the one whose turn it is."""

    def __init__(self, shares: dict[str, float]) -> None:
        self.shares = shares
        self.time = RouteTime()
        self.waiting: list[tuple[float, int, str]] = []
        self.count = 0

    def insert(self, flow: str, letters: int = 1) -> None:
        self.time.look(min(self.waiting)[0] if self.waiting else None, 1000.0)
        for _ in range(letters):
            place = self.time.place(flow, 1.0 / self.shares.get(flow, 1.0))
            self.waiting.append((place, self.count, flow))
            self.count += 1
        self.waiting.sort()

    def serve(self, letters: int) -> list[str]:
        taken, self.waiting = self.waiting[:letters], self.waiting[letters:]
        for place, _, _ in taken:
            self.time.served(place)
        return [flow for _, _, flow in taken]


@settings(deadline=None)  # thousands of letters
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=6), st.integers(0, 300))
def test_each_flow_gets_its_part_whenever_it_came(weights: list[float], before: int) -> None:
    shares = {str(number): weight for number, weight in enumerate(weights)}
    line = Line(shares)
    for flow in shares:
        line.insert(flow, 1500)
        line.serve(before)
    found, total = Counter(line.serve(200)), sum(weights)
    for flow, share in shares.items():
        if sum(each[2] == flow for each in line.waiting):
            assert abs(found[flow] - 200 * share / total) <= 1 + 2 * share


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(0, 60)), max_size=30))
def test_a_newcomer_waits_for_no_more_than_one_letter_of_each_flow(
    past: list[tuple[str, int, int]],
) -> None:
    line = Line({"a": 3.0, "b": 1.0, "c": 0.5})
    for flow, letters, served in past:
        line.insert(flow, letters)
        line.serve(served)
    line.insert("new")
    assert "new" in line.serve(4)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_nobody_overtakes_its_own(past: list[tuple[str, int, int]]) -> None:
    line = Line({"a": 3.0})
    for flow, letters, served in past:
        line.insert(flow, letters)
        line.serve(served)
    for flow in "abc":
        numbers = [number for _, number, name in line.waiting if name == flow]
        assert numbers == sorted(numbers)


def test_flows_are_forgotten_when_nothing_of_them_waits() -> None:
    time = RouteTime()
    for number in range(5 * FLOWS):
        time.look(float(number), 0.0)
        time.place(str(number), 0.5)
    assert len(time._flows) <= FLOWS + 1


def test_in_turn() -> None:
    assert list(in_turn([1, 2, 3], [10])) == [1, 10, 2, 3]
    assert list(in_turn([], [10, 11])) == [10, 11]


def test_what_has_no_place_stands_beside_the_one_before_it() -> None:
    assert in_line([None, 2.0, None, 3.0]) == (2.0, 2.0, 2.0, 3.0)
    assert in_line([None]) == (0.0,)
    assert in_line([]) == ()


def test_a_backlog_keeps_the_order_over_claims() -> None:
    backlog = Backlog()
    first, second, third = (letter(number) for number in range(3))
    backlog.put(Claim(token="a", letters=(first, second), places=(10.0, 20.0)))
    backlog.put(Claim(token="b", letters=(third,), places=(15.0,)))
    backlog.put(Claim(token="c", letters=(letter(3),)))
    assert [token for token, _ in backlog.drain()] == ["a", "b", "a", "c"]
    backlog.put(Claim(token="a", letters=(first, second), places=(10.0, 10.0)))
    backlog.put(Claim(token="b", letters=(third,), places=(10.0,)))
    assert [backlog.reserve_at_once() for _ in range(3)] == [True] * 3
    assert [backlog.take() for _ in range(3)] == [("a", first), ("a", second), ("b", third)]


def test_steps() -> None:
    shares = Shares({"r": RouteShares(rate=10.0, share=2.0, shares={"x": 0.5})})
    assert (shares.step("r", ""), shares.step("r", "x"), shares.step("s", "")) == (0.05, 0.2, 0.001)
    shares.use({})
    assert shares.step("r", "") == 0.001


def test_what_a_plan_gives() -> None:
    policy = RelayPolicy(reverse_path="", max_recipients=10, sessions=PoolLimits(sessions=2))
    ten, five = (Allowance(letters=each, period=1.0, burst=each) for each in (10, 5))
    free, retry = Allowance(letters=0, period=1.0), RetryPolicy(max_attempts=3, delay=1.0)
    plan = Plan(
        relays=(
            RelayPlan(name="a", allowance=ten, further=(five,), policy=policy),
            RelayPlan(name="b", allowance=ten, policy=policy),
            RelayPlan(name="c", allowance=free, policy=policy),
        ),
        routes=(
            RoutePlan(relays=("a", "b"), retry=retry, share=2.0, shares={"x": 3.0}),
            RoutePlan(name="spread", relays=("a", "b"), weights=(1, 2), retry=retry, expire=60.0),
            RoutePlan(name="free", relays=("c",), retry=retry),
        ),
    )
    found = shares_of(plan)
    assert found["default"] == RouteShares(rate=five.rate, share=2.0, shares={"x": 3.0})
    assert found["spread"].rate == five.rate + ten.rate
    assert found["free"].rate == 0.0
    assert expire_of(plan) == {"spread": 60.0}
