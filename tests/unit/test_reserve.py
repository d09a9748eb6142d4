"""A part of what routes share is kept for letters of priority `high`."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from mailsender.model.handling import Handling, Priority
from mailsender.model.letter import Claim, Letter
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.turns import Turns
from mailsender.routing.backlog import Backlog
from mailsender.routing.plan import RoutePlan
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import reserved_line
from mailsender.routing.routes import MOST_RESERVE, lines
from tests.dispatching import letter, running
from tests.relays import FakeRelay

CODES = RoutePlan(name="codes", retry=RetryPolicy(max_attempts=2, delay=1.0), share=1.0, reserve=0.4)
NEWS = RoutePlan(name="news", retry=RetryPolicy(max_attempts=2, delay=1.0), share=9.0)


def high(number: int) -> Letter:
    return letter(number, handling=Handling(priority=Priority.HIGH))


def served(shares: dict[str, float], *waiting: str) -> Counter[str]:
    """Whose turn it was of a thousand, while these wait at any time."""
    turns, found = Turns[str](shares), Counter[str]()
    for each in waiting:
        turns.add(each, each)
    for _ in range(1000):
        who = turns.take()
        found[who] += 1
        turns.add(who, who)
    return found


def test_letters_of_high_priority_have_their_part_whatever_the_shares_of_others() -> None:
    shares = lines([CODES, NEWS])
    found = served(shares, "codes", "news", "codes/high")
    assert found["codes/high"] == pytest.approx(400, abs=3)
    assert found["news"] == pytest.approx(9 * found["codes"], rel=0.05)


def test_what_they_do_not_need_is_not_lost() -> None:
    found = served(lines([CODES, NEWS]), "codes", "news")
    assert (found["codes"], found["news"]) == (100, 900)


def test_reserves_leave_something_to_others() -> None:
    greedy = [replace(CODES, reserve=1.0), replace(NEWS, reserve=0.8)]
    found = served(lines(greedy), "codes", "news", "codes/high", "news/high")
    assert found["codes"] + found["news"] == pytest.approx(1000 * (1 - MOST_RESERVE), abs=5)


def test_without_a_reserve_there_are_the_routes_alone() -> None:
    assert lines([NEWS]) == {"news": 9.0}


@pytest.mark.asyncio
async def test_each_that_is_reserved_is_the_next_one() -> None:
    backlog = Backlog()
    assert not backlog.high()
    backlog.put(Claim(token="t", letters=(high(1), letter(2))))
    assert backlog.reserve_at_once()
    assert backlog.high()
    assert backlog.reserve_at_once()
    assert not backlog.high(), "one of them is for the other letter"
    backlog.take()
    assert not backlog.high()


@pytest.mark.asyncio
async def test_its_letters_wait_in_their_own_line_and_those_of_other_routes_do_not_hold_them_up() -> None:
    """The other route has asked for all that the relay lets out in the next two seconds, and gets a third."""
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=20, period=1.0), senders=2) as scene:
        scene.known.limiter.divide({"default": 1.0, "other": 1.0, reserved_line("default"): 2.0})
        scene.route.reserve = 0.5
        others = [asyncio.create_task(scene.known.limiter.acquire("other")) for _ in range(40)]
        await asyncio.sleep(0)
        await scene.queue.insert([high(number) for number in range(10)])
        scene.dispatcher.nudge()
        await scene.settled(10)
        assert sum(each.done() for each in others) <= 15
        for each in others:
            each.cancel()
