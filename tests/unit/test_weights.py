"""Letters shared by weight."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mailsender.routing.weights import LAG, Turns

WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@given(WEIGHTS)
def test_in_as_many_turns_as_the_weights_add_up_to_each_has_its_own(weights: list[int]) -> None:
    turns, may = Turns(weights), [True] * len(weights)
    for _ in range(2):
        assert Counter(turns.take(may) for _ in range(sum(weights))) == Counter(dict(enumerate(weights)))


@given(WEIGHTS)
def test_a_thousand_letters_are_shared_within_two_in_a_hundred(weights: list[int]) -> None:
    turns, may = Turns(weights), [True] * len(weights)
    had = Counter(turns.take(may) for _ in range(1000))
    assert all(abs(had[each] - 1000 * w / sum(weights)) <= 20 for each, w in enumerate(weights))


def test_turns_are_spread() -> None:
    turns = Turns([5, 1, 1])
    assert [turns.take([True] * 3) for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


def test_one_that_may_not_is_passed_over_and_has_nothing_to_catch_up_with() -> None:
    turns = Turns([1, 1])
    assert [turns.take([False, True]) for _ in range(100)] == [1] * 100
    after = [turns.take([True, True]) for _ in range(10)]
    assert Counter(after) == {0: 5, 1: 5}
    assert turns.take([False, False]) is None


@given(WEIGHTS, st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=7))
def test_who_is_not_ready_has_its_turns_a_little_later(weights: list[int], ready: list[list[bool]]) -> None:
    turns, may = Turns(weights), [True] * len(weights)
    had: Counter[int | None] = Counter()
    for number in range(1000):
        had[turns.take(may, ready[number % len(ready)][: len(weights)])] += 1
        due = [(number + 1) * w / sum(weights) for w in weights]
        assert all(abs(had[each] - due[each]) <= (LAG + 1) * len(weights) for each in range(len(weights)))


def test_who_is_ready_has_the_turn_of_one_that_is_not() -> None:
    turns = Turns([1, 1])
    others = [turns.take([True, True], [False, True]) for _ in range(2 * LAG)]
    assert Counter(others)[1] > Counter(others)[0]
    assert [turns.take([True, True], [True, True]) for _ in range(2)] == [0, 0], "it catches up"


def test_one_without_a_weight_has_no_turn() -> None:
    turns = Turns([0, 1])
    assert [turns.take([True, True]) for _ in range(3)] == [1, 1, 1]


@given(WEIGHTS, st.integers(0, 50))
def test_a_turn_that_is_given_back_was_never_taken(weights: list[int], before: int) -> None:
    turns, plain, may = Turns(weights), Turns(weights), [True] * len(weights)
    for _ in range(before):
        turns.take(may)
        plain.take(may)
    place = turns.take(may)
    assert place is not None
    turns.give_back(place, may)
    assert [turns.take(may) for _ in range(50)] == [plain.take(may) for _ in range(50)]


@given(WEIGHTS, st.lists(st.booleans(), min_size=5, max_size=5), st.integers(1, 8))
def test_shares_are_kept_though_many_turns_come_back_late(
    weights: list[int], sends: list[bool], late: int
) -> None:
    turns, may = Turns(weights), [True] * len(weights)
    out: list[int] = []
    had: Counter[int] = Counter()
    tries = 0
    while had.total() < 1000:
        place = turns.take(may)
        assert place is not None
        if tries % 7 == 0 or sends[tries % 5]:
            had[place] += 1
        else:
            out.append(place)
        if len(out) >= late:
            turns.give_back(out.pop(0), may)
        tries += 1
    assert all(abs(had[each] - 1000 * w / sum(weights)) <= 20 for each, w in enumerate(weights))


def test_a_share_is_of_those_that_may() -> None:
    turns = Turns([3, 1, 0])
    assert turns.share(0, [True, True, True]) == 0.75
    assert turns.share(0, [True, False, True]) == 1.0
    assert turns.share(0, [False, True, True]) == 0.0
    assert turns.share(2, [True, True, True]) == 0.0
    assert turns.share(2, [False, False, True]) == 0.0
