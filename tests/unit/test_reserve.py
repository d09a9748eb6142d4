"""A part of what routes share is kept for letters of priority `high`."""

from __future__ import annotations

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
@pytest.mark.parametrize(("sent", "line"), [(high(1), "default/high"), (letter(2), "default")])
async def test_senders_wait_in_the_line_of_the_letter_that_is_next(
    monkeypatch: pytest.MonkeyPatch, sent: Letter, line: str
) -> None:
    lined_up: list[str] = []
    add = Turns.add

    def noted(turns: Turns[object], who: str, what: object) -> None:
        lined_up.append(who)
        add(turns, who, what)

    monkeypatch.setattr(Turns, "add", noted)
    async with running(FakeRelay(), allowance=Allowance(letters=50, period=1.0), senders=1) as scene:
        scene.route.reserve = 0.5
        scene.known.limiter.divide({"default": 1.0, "default/high": 1.0})
        await scene.queue.insert([sent])
        scene.dispatcher.nudge()
        await scene.settled(1)
    assert set(lined_up) == {line}
