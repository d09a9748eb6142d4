"""How long the event loop stands still: what everything else waits for is seen here first.

A timer says so by coming late. A thread or a tracer would see more and cost more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from mailsender.model.clock import Clock

log = structlog.get_logger()

TICK: Final = 0.05
"""Seconds between two looks. A stall is measured this much too short at worst; twenty looks a second cost an
idle service 0.2 % of a core, as measured."""

STALL: Final = 0.1
"""Seconds from which the loop stood still: sessions, leases and probes bear less without harm."""

QUIET: Final = 10.0
"""Seconds between two lines about stalls; those between are counted in the next one."""


class Watchdog:
    """Counts stalls of the running event loop, and keeps the longest, and the longest by its CPU time.

    `cpu` reads the CPU seconds of the thread of the loop: a stall in which it used few was none of our
    work, but a machine without time for us or a call that blocked.
    """

    def __init__(self, clock: Clock, *, cpu: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._cpu = cpu
        self._timer: asyncio.TimerHandle | None = None
        self._at = self._cpu_before = 0.0
        self._told_at = float("-inf")
        self._untold = 0
        self.stalls = 0
        self.longest = 0.0
        self.longest_cpu = 0.0

    def start(self) -> None:
        """Begin to look; to be called in the loop."""
        self._at = self._clock.monotonic() + TICK
        self._cpu_before = self._cpu()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        late, used = self._clock.monotonic() - self._at, self._cpu() - self._cpu_before
        self.start()
        if late > STALL:
            self._note(late, used)

    def _note(self, seconds: float, used: float) -> None:
        self.stalls += 1
        self.longest = max(self.longest, seconds)
        self.longest_cpu = max(self.longest_cpu, min(used, seconds))
        self._untold += 1
        now = self._clock.monotonic()
        if now - self._told_at < QUIET:
            return
        log.warning(
            "loop_stalled",
            seconds=round(seconds, 3),
            cpu_seconds=round(min(used, seconds), 3),
            stalls=self._untold,
            longest=round(self.longest, 3),
            meanwhile="nothing was read, sent or answered",
        )
        self._told_at, self._untold = now, 0
