"""Virtual time: nobody waits in earnest, one history, and processes that can be frozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from simulation.loop import Process, Spins, VirtualLoop, context_of


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def begin(loop: VirtualLoop, process: Process, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
    return context_of(process).run(loop.create_task, work)


async def until(loop: VirtualLoop, when: float) -> None:
    future: asyncio.Future[None] = loop.create_future()
    loop.world(when, future.set_result, None)
    await future


def test_a_year_passes_in_no_time(loop: VirtualLoop) -> None:
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(365 * 86400))
    assert loop.time() == 365 * 86400
    assert time.monotonic() - began < 5


def test_what_is_due_together_comes_in_the_order_in_which_it_was_asked_for(loop: VirtualLoop) -> None:
    seen: list[int] = []
    for number in (1, 2, 3):
        loop.world(5.0, seen.append, number)
    loop.world(4.0, seen.append, 0)
    loop.run_until_complete(until(loop, 6.0))
    assert seen == [0, 1, 2, 3]


def test_a_timer_that_was_cancelled_never_comes(loop: VirtualLoop) -> None:
    seen: list[int] = []
    loop.world(1.0, seen.append, 1).cancel()
    loop.run_until_complete(until(loop, 2.0))
    assert seen == []


def test_time_outs_are_those_of_virtual_time(loop: VirtualLoop) -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30.0):
                await asyncio.Event().wait()
        return loop.time()

    assert loop.run_until_complete(work()) == 30.0


async def ticks(loop: VirtualLoop, seen: list[float]) -> None:
    while True:
        await asyncio.sleep(1.0)
        seen.append(loop.time())


def test_a_frozen_process_has_no_turn_and_goes_on_where_it_was(loop: VirtualLoop) -> None:
    process, other = Process("one"), Process("other")
    seen: list[float] = []
    others: list[float] = []
    tasks = [begin(loop, process, ticks(loop, seen)), begin(loop, other, ticks(loop, others))]
    loop.run_until_complete(until(loop, 2.5))
    process.frozen = True
    loop.run_until_complete(until(loop, 10.5))
    assert seen == [1.0, 2.0]
    assert len(others) == 10
    loop.thaw(process)
    loop.run_until_complete(until(loop, 12.0))
    assert seen == [1.0, 2.0, 10.5, 11.5]
    end(loop, *tasks)


def test_polls_are_late_by_the_slack_and_never_beyond_what_the_world_does(loop: VirtualLoop) -> None:
    lazy = VirtualLoop(lambda _: 60.0)
    seen: list[float] = []
    task = begin(lazy, Process("one"), ticks(lazy, seen))
    lazy.run_until_complete(until(lazy, 30.0))
    lazy.run_until_complete(until(lazy, 200.0))
    assert seen == [30.0, 91.0, 152.0, 200.0]
    end(lazy, task)
    lazy.close()


async def spin() -> None:
    while True:  # noqa: ASYNC110  that is what is tried
        await asyncio.sleep(0)


async def wait_for_nothing() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("work", "why"), [(spin, "stands still"), (wait_for_nothing, "never comes")])
def test_who_never_ends_is_found_out(
    loop: VirtualLoop,
    work: Callable[[], Coroutine[Any, Any, None]],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simulation.loop.MOST_TURNS", 1000)
    task = loop.create_task(work())
    with pytest.raises(Spins, match=why):
        loop.run_until_complete(task)
    monkeypatch.undo()
    end(loop, task)


def test_an_error_that_nobody_takes_is_kept(loop: VirtualLoop) -> None:
    loop.world(1.0, int, "x")
    loop.run_until_complete(until(loop, 2.0))
    assert len(loop.faults) == 1
    assert "ValueError" in loop.faults[0]


def end(loop: VirtualLoop, *tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
