"""Several rates of one relay, all of which hold: how slots lie that fit every one of them. Pure.

Each window has a cursor of its own, and a slot has a time for each: not sooner than `step` after the time
before it, and so that the slot is spent within the window's life of it. The window then holds what the module
`gcra` promises, whatever the others do. A lease lays its slots evenly, and as close as lets most of them
begin within its reach: at the step of the fastest rate while the slower ones have something in hand from a
pause, and at theirs when they have not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ENDLESS = 2**31
"""More slots than any lease has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One of the rates: its name in the store, seconds between its slots, and how far they may lag behind.

    A slot's own life is the shortest of all, so in a window with a longer one its time may lie `lag` before
    the moment from which the slot is good.
    """

    name: str
    step: float
    lag: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """Slots from `first` on, `step` apart, and what they take of each window.

    `starts`, `steps` and `lags` are in the order of the windows: the time of the first slot there, the least
    between two, and the window's lag.
    """

    first: float
    step: float
    starts: tuple[float, ...]
    steps: tuple[float, ...]
    lags: tuple[float, ...]

    def following(self, count: int) -> tuple[float, ...]:
        """Where the cursors stand after `count` of them.

        A time moves by its window's step, and is pulled along by slots that lie further apart.
        """
        return tuple(
            start + count * step
            if step >= self.step
            else max(start + count * step, self.first - lag + (count - 1) * self.step + step)
            for start, step, lag in zip(self.starts, self.steps, self.lags, strict=True)
        )


def lay(
    *,
    first: float,
    reach: float,
    want: int,
    cursors: Sequence[float],
    steps: Sequence[float],
    lags: Sequence[float],
) -> tuple[Laid, int]:
    """Lay up to `want` slots from `first` on for `reach` seconds, and say how many; below 1: none fits.

    Of steps that fit as many the closest is taken, which comes first.
    """
    starts = tuple(max(cursor, first - lag) for cursor, lag in zip(cursors, lags, strict=True))
    in_hand = [first - start for start in starts]
    counts = [min(want, 1 + math.floor(reach / step), _caught_up(step, steps, in_hand)) for step in steps]
    count = max(counts)
    step = steps[counts.index(count)]
    return Laid(first=first, step=step, starts=starts, steps=tuple(steps), lags=tuple(lags)), count


def _caught_up(step: float, steps: Sequence[float], in_hand: Sequence[float]) -> int:
    """After how many slots so far apart a window with a longer step is caught up with."""
    slower = [
        math.floor(have / (longer - step))
        for have, longer in zip(in_hand, steps, strict=True)
        if longer > step
    ]
    return 1 + min(slower, default=ENDLESS)
