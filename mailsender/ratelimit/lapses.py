"""What it means for slots that the store is far away. Pure.

What time it is at the store is known no better than to within the time that its answer took, and that is
taken off the life of each slot. So a lease does not reach back to slots that would be over when it comes.
Where an answer takes all of a slot's life none can be used: the rate and the quota go by, and nothing is
sent.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from mailsender.ratelimit.gcra import AGREEMENT, MIN_LEFT, Allowance

LEASES = 10
"""Leases that are looked back at: a single answer may take long, and means nothing."""

MANY, FEW = 9, 5
"""From so many of them on in vain nothing is sent to speak of, and down to so few it is as it was before."""

WORTH = 0.01
"""Seconds of a slot's life below which it is rather over than used when a sender is a little late."""

ENOUGH = 2.0
"""How many times as long as an answer takes a slot is to be good, in what is advised."""


class Lapses:
    """How long the last leases took.

    `most`: hardly any of their slots could be used. `all`: none could even be handed out.
    """

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=LEASES)
        self.most = self.all = False

    @property
    def late(self) -> float:
        """Seconds that the next lease may take."""
        return max(self._took, default=0.0)

    @property
    def usual(self) -> float:
        """Seconds that half of them took at most."""
        return sorted(self._took)[len(self._took) // 2] if self._took else 0.0

    def note(self, took: float, life: float) -> None:
        """Take in how long a lease of slots took that are good for `life`, in seconds."""
        self._took.append(took)
        self.judge(life)

    def judge(self, life: float) -> None:
        """Slots are good for so long from now on."""
        self.most = _is(self.most, sum([life - took < WORTH for took in self._took]))
        self.all = _is(self.all, sum([life - took <= MIN_LEFT for took in self._took]))


def _is(before: bool, number: int) -> bool:
    return number > FEW if before else number >= MANY


def burst_for(rates: Sequence[Allowance], took: float) -> int:
    """The burst with which slots of all `rates` are good for long enough where an answer takes so long."""
    needed = ENOUGH * took + AGREEMENT
    return max([math.ceil(needed * each.letters / each.period) for each in rates if each.letters], default=1)
