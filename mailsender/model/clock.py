"""Time, as the loops read it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time, as the loops read it."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for lives, slots and time-outs."""
        ...

    def epoch(self) -> float:
        """Seconds since 1970 in UTC; for what people and other programs read."""
        ...


class SystemClock:
    """The machine's own clocks."""

    monotonic = staticmethod(time.monotonic)
    epoch = staticmethod(time.time)
