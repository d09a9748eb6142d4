"""Whose turn it is at what several routes share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsender.ratelimit.turns import Turns


def taken(turns: Turns[str], count: int) -> Counter[str]:
    """Who gets so many, where each waits again as soon as it got one."""
    found: Counter[str] = Counter()
    for _ in range(count):
        who = turns.take()
        found[who] += 1
        turns.add(who, who)
    return found


def waiting(shares: dict[str, float], *names: str) -> Turns[str]:
    turns: Turns[str] = Turns(shares)
    for name in names:
        turns.add(name, name)
    return turns


def test_three_to_one_while_both_wait_and_all_while_one_does() -> None:
    turns = waiting({"large": 3.0}, "large", "small")
    assert taken(turns, 400) == {"large": 300, "small": 100}
    alone = waiting({"large": 3.0}, "small")
    assert taken(alone, 10) == {"small": 10}


def test_who_comes_late_gets_no_more_than_its_share() -> None:
    turns = waiting({}, "a")
    taken(turns, 1000)
    turns.add("b", "b")
    assert taken(turns, 100) == {"a": 50, "b": 50}


def test_who_left_and_comes_again_owes_nothing_and_is_owed_nothing() -> None:
    turns = waiting({}, "a", "b")
    taken(turns, 10)
    assert {turns.take(), turns.take()} == {"a", "b"}
    turns.add("a", "a")
    taken(turns, 100)
    turns.add("b", "b")
    found = taken(turns, 20)
    assert abs(found["b"] - 10) <= 1


def test_within_a_name_the_first_comes_first() -> None:
    turns: Turns[int] = Turns()
    for number in range(5):
        turns.add("a", number)
    assert list(turns) == [0, 1, 2, 3, 4]
    assert [turns.take() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(turns) == 0
    with pytest.raises(IndexError, match="nobody waits"):
        turns.take()


def test_a_turn_of_no_use_counts_for_nothing() -> None:
    turns = waiting({}, "a", "b")
    found: Counter[str] = Counter()
    for number in range(100):
        who = turns.take()
        if who == "a" and number % 2:
            turns.give_back(who)
        else:
            found[who] += 1
        turns.add(who, who)
    assert abs(found["a"] - found["b"]) <= 1


def test_nobody_waits_after_all_were_sent_away() -> None:
    turns = waiting({}, "a", "b")
    turns.clear()
    assert (len(turns), list(turns)) == (0, [])


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 3.0]), min_size=1))
def test_shares_hold_however_many_there_are(shares: dict[str, float]) -> None:
    turns = waiting(shares, *shares)
    found, total = taken(turns, 100), sum(shares.values())
    for name, share in shares.items():
        assert abs(found[name] - 100 * share / total) <= 1 + share


def test_when_all_were_woken_for_nothing_their_turns_are_as_before() -> None:
    turns: Turns[str] = Turns({"a": 3.0, "b": 1.0})
    for who in "aaaaabbbbb":
        turns.add(who, who)
    woken = [turns.take() for _ in range(10)]
    for who in woken:
        turns.give_back(who)
        turns.add(who, who)
    assert sorted(turns.take() for _ in range(4)) == ["a", "a", "a", "b"]


def test_who_waits_no_more_has_no_turn() -> None:
    turns = waiting({}, "a", "b")
    for number in range(20):
        turns.add("b", f"b{number}")
    for number in range(20):
        turns.remove("b", f"b{number}")
    turns.remove("b", "who never waited")
    turns.remove("c", "who never waited")
    assert len(turns) == 2
    assert taken(turns, 10) == {"a": 5, "b": 5}
