"""The event loop that stands still is seen, told and counted."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.observe.stalls import QUIET, STALL, TICK, Watchdog
from tests.clocks import ManualClock


@pytest.mark.asyncio
async def test_a_loop_that_stands_still_is_told_with_its_length() -> None:
    dog = Watchdog(SystemClock())
    with capture_logs() as events:
        dog.start()
        await asyncio.sleep(0)
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:
            pass
        await asyncio.sleep(2 * TICK)
        dog.stop()
    assert dog.stalls >= 1
    assert dog.longest >= 0.3 - TICK
    (told,) = events
    assert (told["event"], told["log_level"]) == ("loop_stalled", "warning")
    assert told["seconds"] >= 0.3 - TICK
    assert 0 < told["cpu_seconds"] <= told["seconds"]


@pytest.mark.asyncio
async def test_stalls_are_counted_each_and_told_once_in_a_while() -> None:
    clock, used = ManualClock(), 0.0
    dog = Watchdog(clock, cpu=lambda: used)
    dog.start()
    with capture_logs() as events:
        for seconds in (TICK, STALL - 0.01, STALL + 0.01, 0.5, 0.2):
            clock.forward(TICK + seconds)
            dog._look()
        clock.forward(TICK + QUIET)  # a stall, too
        used = 1.5
        dog._look()
    dog.stop()
    assert (dog.stalls, round(dog.longest, 3), dog.longest_cpu) == (4, QUIET, 1.5)
    assert [(each["seconds"], each["stalls"], each["cpu_seconds"]) for each in events] == [
        (0.11, 1, 0.0),
        (QUIET, 3, 1.5),
    ]
