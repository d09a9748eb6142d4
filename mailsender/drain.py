"""The order in which the service stops (promise P6), and why each step stands where it does.

1. Not ready, `/post` refused: nobody sends us more while we stop.
2. Intake ends its insert and commit and leaves the group: others get the partitions soonest.
3. No more claims; what no sender has begun goes back, so that another replica can send it now.
4. Senders finish their letter. At the deadline a session before its dot is cut (deferred, no attempt
   counted); one after it is uncertain.
5. Outcomes are settled: only then can nothing be sent twice.
6. Reports are published and marked: they tell what step 5 made durable.
7. Slots go back, so that the other replicas have them.
8. The heartbeat ends: not earlier, or letters would be given away under steps 4 to 6.
9. Producer, consumer, MongoDB, then HTTP are closed; HTTP last, so that progress can be watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from mailsender.model.ports import Clock

log = structlog.get_logger()

RESERVE = 0.35
"""The part of the time-out kept for settling and reporting when senders are cut."""

HURRY = 5.0
"""Seconds that a second signal leaves to give letters back."""


@dataclass(slots=True)
class Progress:
    """How far the drain is, for `/status`, `/halt` and the log."""

    reason: str = ""
    started: float | None = None
    step: str = ""
    unclean: list[str] = field(default_factory=list)
    uncertain_before: int = 0


class Deadline:
    """The moment by which the drain has to be over; a second signal pulls it closer."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._at = clock.monotonic() + timeout
        self._timeout = timeout
        self.hurried = asyncio.Event()

    def hurry(self) -> None:
        """Leave only what it takes to give letters back."""
        self._at = min(self._at, self._clock.monotonic() + HURRY)
        self.hurried.set()

    @property
    def left(self) -> float:
        """Seconds until all has to be over."""
        return max(0.0, self._at - self._clock.monotonic())

    @property
    def work_left(self) -> float:
        """Seconds until senders are cut, so that their outcomes can still be written."""
        if self.hurried.is_set():
            return 0.0
        return max(0.0, self.left - RESERVE * self._timeout)

    async def bound(self, wait: Callable[[float], Awaitable[bool]], seconds: Callable[[], float]) -> bool:
        """Run `wait` with `seconds()`; if the drain is hurried meanwhile, again with what that is then."""
        task = asyncio.ensure_future(wait(seconds()))
        hurried = asyncio.ensure_future(self.hurried.wait())
        if self.hurried.is_set():
            hurried.cancel()
            return await task
        try:
            await asyncio.wait({task, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.wait({task})
            return await wait(seconds())
        finally:
            hurried.cancel()
