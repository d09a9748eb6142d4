"""Chores: done in parts until there is nothing to do, at their times, and none at the others' cost."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mailsender.model.errors import Forbidden, Rejected, Unavailable
from mailsender.queue.tidier import ROUNDS, Chore, Tidier
from tests.unit.test_heartbeat import Heart, SteppingEvent

pytestmark = pytest.mark.asyncio


class Work:
    """So many things to do; `fails` is what it ends with."""

    def __init__(self, left: int = 0, fails: Exception | None = None) -> None:
        self.left = left
        self.fails = fails
        self.calls: list[int] = []

    async def __call__(self, limit: int) -> int:
        self.calls.append(limit)
        if self.fails:
            raise self.fails
        done = min(limit, self.left)
        self.left -= done
        return done


class Life(asyncio.Event):
    """A stop that lets a second pass at each wait, with a beat in every tenth, and comes after `seconds`."""

    def __init__(self, heart: Heart, seconds: int) -> None:
        super().__init__()
        self.heart = heart
        self.left = seconds

    async def wait(self) -> bool:  # type: ignore[override]
        if self.left % 10 == 0:
            await self.heart.heartbeat.run(SteppingEvent(self.heart.clock, 0.0, 1))
        self.heart.clock.forward(1.0)
        self.left -= 1
        if self.left <= 0:
            self.set()
        return True


async def tidied(seconds: int = 60, **chores: tuple[Work, float]) -> Heart:
    """A replica whose tidier had these chores for so long; for the first third MongoDB is not steady yet."""
    made = Heart()
    parts = [Chore(name, work, 10, every) for name, (work, every) in chores.items()]
    made.tidier = Tidier(made.queue, made.heartbeat, made.clock, parts)  # type: ignore[arg-type]
    await made.heartbeat.begin()
    await made.tidier.run(Life(made, seconds))
    return made


async def test_a_chore_is_done_in_parts_until_nothing_is_left_and_again_at_its_time() -> None:
    work = Work(25)
    made = await tidied(60, one=(work, 30.0))
    assert work.calls == [10] * 5
    assert made.tidier.tidied == {"one": 25}


async def test_what_never_ends_does_not_keep_the_others_from_their_turn() -> None:
    endless, other = Work(10**9), Work(5)
    await tidied(30, one=(endless, 3600.0), two=(other, 3600.0))
    turns = 10  # since MongoDB is steady; what is not through goes on in the next one
    assert len(endless.calls) == turns * ROUNDS
    assert other.calls == [10, 10]


@pytest.mark.parametrize("error", [Unavailable("away"), Forbidden("no right"), Rejected("no")])
async def test_one_that_fails_is_told_once_and_stops_nothing_else(error: Exception) -> None:
    """A right that is wanting for a chore is none that letters need: claims go on."""
    bad, good = Work(fails=error), Work(5)
    with capture_logs() as logs:
        made = await tidied(60, bad=(bad, 5.0), good=(good, 5.0))
    assert made.heartbeat.health.good
    assert [each["what"] for each in logs if each["event"] == "tidying_fails"] == ["bad"]
    assert len(bad.calls) > 2
    assert good.left == 0


async def test_reclaiming_that_mongodb_refuses_is_no_outage_and_stops_no_chore() -> None:
    """Something that another program wrote may be the reason, for as long as it lies there."""
    made, work, asked = Heart(), Work(5), 0

    async def reclaim(*_: float) -> int:
        nonlocal asked
        asked += 1
        raise Rejected("a value cannot be written as BSON")

    made.queue.reclaim = reclaim  # type: ignore[method-assign, assignment]
    made.tidier = Tidier(made.queue, made.heartbeat, made.clock, [Chore("one", work, 10, 30.0)])  # type: ignore[arg-type]
    await made.heartbeat.begin()
    with capture_logs() as logs:
        await made.tidier.run(Life(made, 60))
    assert made.heartbeat.health.good
    assert work.left == 0
    assert asked > 2
    assert [each["what"] for each in logs if each["event"] == "tidying_fails"] == ["letters of the dead"]
