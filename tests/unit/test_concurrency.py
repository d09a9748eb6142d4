"""How many sessions a relay is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailsender.routing.concurrency import FIRST, Concurrency


def test_it_begins_with_few_and_each_that_opens_allows_one_more() -> None:
    window = Concurrency(20)
    assert window.size == FIRST
    for _ in range(FIRST):
        window.opened()
    assert window.size == 2 * FIRST
    for _ in range(100):
        window.opened()
    assert window.size == 20
    assert Concurrency(2).size == 2


def test_at_the_start_of_a_run_of_failures_it_shrinks_to_what_is_open_and_one() -> None:
    window = Concurrency(20)
    for _ in range(20):
        window.opened()
    window.failed(3)
    assert (window.size, window.failures) == (4, 1)
    window.failed(3)
    assert (window.size, window.failures) == (4, 2), "the run goes on: the first one decided"
    window.opened()
    assert (window.size, window.failures) == (5, 0)


def test_one_that_says_it_has_too_many_gets_fewer_until_that_is_forgotten() -> None:
    window = Concurrency(20)
    window.fewer(5)
    window.opened()
    assert window.size == 4
    window.fewer(4)
    window.allow(30)
    assert window.size == 3
    for _ in range(5):
        window.fewer(1)
    assert window.size == 1, "one is what is needed"
    window.forget()
    window.opened()
    assert window.size == 2


def test_a_relay_that_opens_none_is_asked_for_one() -> None:
    window = Concurrency(20)
    window.failed(0)
    assert window.size == 1


def test_what_is_allowed_may_change() -> None:
    window = Concurrency(10)
    window.allow(2)
    assert window.size == 2
    window.allow(0)
    assert window.size == 0
    window.opened()
    assert window.size == 0
    window.allow(3)
    assert window.size == 3
    window.failed(1)
    window.allow(10)
    assert window.size == 2, "it still refuses more"


@given(st.integers(0, 50), st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=60))
def test_it_never_leaves_its_bounds(most: int, steps: list[int | None]) -> None:
    window = Concurrency(most)
    for step in steps:
        if step is None:
            window.opened()
        else:
            window.failed(step)
        assert min(1, most) <= window.size <= most
