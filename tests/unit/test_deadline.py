from __future__ import annotations

import asyncio

import pytest

from mailsender.service import HURRY, RESERVE, Deadline
from tests.clocks import ManualClock


def test_workers_are_cut_while_there_is_time_to_settle() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 30.0)
    assert deadline.left == 30.0
    assert deadline.work_left == pytest.approx(30.0 * (1 - RESERVE))
    clock.forward(25.0)
    assert deadline.left == 5.0
    assert deadline.work_left == 0.0
    clock.forward(25.0)
    assert deadline.left == 0.0


def test_a_hurry_leaves_only_what_giving_back_takes() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 30.0)
    deadline.hurry()
    assert deadline.left == HURRY
    assert deadline.work_left == 0.0


def test_a_hurry_never_adds_time() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 30.0)
    clock.forward(29.0)
    deadline.hurry()
    assert deadline.left == 1.0


@pytest.mark.asyncio
async def test_a_hurry_starts_the_wait_over_with_what_is_left() -> None:
    deadline = Deadline(ManualClock(), 30.0)
    asked: list[float] = []
    waiting = asyncio.Event()

    async def wait(seconds: float) -> bool:
        asked.append(seconds)
        if len(asked) == 1:
            waiting.set()
            await asyncio.Event().wait()
        return False

    bound = asyncio.create_task(deadline.bound(wait, lambda: deadline.work_left))
    await waiting.wait()
    deadline.hurry()
    assert not await bound
    assert asked == [pytest.approx(19.5), 0.0]


@pytest.mark.asyncio
async def test_without_a_hurry_the_wait_runs_once() -> None:
    deadline = Deadline(ManualClock(), 30.0)

    async def wait(seconds: float) -> bool:
        return seconds == 30.0

    assert await deadline.bound(wait, lambda: deadline.left)
