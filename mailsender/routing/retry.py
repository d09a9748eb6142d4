"""When a deferred recipient is tried again, and for how long. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_DELAY = 3600.0
"""Seconds. Doubling stops here, so that a relay that comes back is noticed within the hour."""

LEAST_DELAY = 0.01
"""Seconds that are doubled where `delay` is 0: a schedule without any pause would never come to its end."""

JITTER = 0.2
"""The part of a delay that is spread at random, lest letters deferred together come back together."""

DOUBLINGS = 64
"""Waits after which each further one takes `MAX_DELAY`, whatever the first one was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How soon, how often and for how long a deferred recipient is tried again; `delay` in seconds.

    It is given up when its waits would add up to more than `retry_for` seconds (RFC 5321 §4.5.4.1 asks for
    days), or after `max_attempts` where that is not 0. Only waits that follow an attempt that told something
    add up: what the relay or the account is to blame for takes none of a recipient's time.

    `resends` says how often a recipient is tried again who may have got the letter already.
    """

    max_attempts: int
    delay: float
    retry_for: float = math.inf
    resends: int = 1

    def wait(self, tries: int, jitter: float) -> float | None:
        """Seconds until the next attempt after `tries` of them, None when there is none.

        `jitter` from 0 to 1 spreads the delay by `JITTER` to either side.
        """
        if self.max_attempts and tries >= self.max_attempts:
            return None
        if self._waited(tries) > self.retry_for:
            return None
        return self._plain(tries) * (1 + JITTER * (2 * jitter - 1))

    def _plain(self, tries: int) -> float:
        """The wait after so many tries, not spread."""
        return min(MAX_DELAY, max(self.delay, LEAST_DELAY) * 2.0 ** min(tries - 1, DOUBLINGS))

    def _waited(self, tries: int) -> float:
        """The sum of the first `tries` waits."""
        doubled = min(tries, DOUBLINGS)
        return sum(map(self._plain, range(1, doubled + 1))) + (tries - doubled) * MAX_DELAY
