"""Time, as the loops read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

APART: Final = 5.0
"""Seconds by which a machine's clock may be off: the answer by which that is known takes its time."""


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


class SharedClock:
    """The clock of a machine, or that of the store where the machine's is off: all replicas go by one time.

    Else a machine whose clock is hours ahead would let letters expire that have hours left, and send outside
    of their windows. `store` says what the store's clock shows at a monotonic time, in epoch seconds, and
    -inf before that is known.
    """

    def __init__(self, machine: Clock, store: Callable[[float], float]) -> None:
        self._machine = machine
        self._store = store

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._machine.monotonic()

    def epoch(self) -> float:
        """See `Clock`."""
        here, there = self._machine.epoch(), self._store(self._machine.monotonic())
        return here if there <= 0.0 or abs(here - there) <= APART else there
