"""When a deferred recipient is tried again, and for how long. Pure.

A schedule reads ``1m, 5m*2, 30m, 1h*3, 4h``: the waits one after the other, some of them several times. The
last one repeats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Final

from mailsender.model.durations import duration_of, seconds_of

MAX_DELAY = 3600.0
"""Seconds. Doubling stops here, so that a relay that comes back is noticed within the hour."""

LEAST_DELAY = 0.01
"""Seconds that are doubled where `delay` is 0: a schedule without any pause would never come to its end."""

JITTER = 0.2
"""The part of a delay that is spread at random, lest letters deferred together come back together."""

SCHEDULED_JITTER = 0.1
"""The same of a schedule, which somebody chose wait by wait."""

MOST_WAITS: Final = 100
"""Waits of a schedule; the last of them repeats, so nobody needs more."""

MOST_TEXT: Final = 200
"""Characters of a schedule: it is stored with each letter that brings one."""

SHORTEST_WAIT: Final = 1.0
"""Seconds. A letter must not be able to make the service knock at a relay without a pause."""

LONGEST_WAIT: Final = 7 * 86400.0
"""Seconds. After a week nobody waits for a letter, and most relays give up after five days."""

DOUBLINGS = 64
"""Waits after which each further one takes `MAX_DELAY`, whatever the first one was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How soon, how often and for how long a deferred recipient is tried again; `delay` in seconds.

    It is given up when its waits would add up to more than `retry_for` seconds (RFC 5321 §4.5.4.1 asks for
    days), or after `max_attempts` where that is not 0. Only waits that follow an attempt that told something
    add up: what the relay or the account is to blame for takes none of a recipient's time.

    `resends` says how often a recipient is tried again who may have got the letter already. `schedule` are
    the waits, in seconds, where they are not `delay` doubled each time.
    """

    max_attempts: int
    delay: float
    retry_for: float = math.inf
    resends: int = 1
    schedule: tuple[float, ...] = ()

    def wait(self, tries: int, jitter: float) -> float | None:
        """Seconds until the next attempt after `tries` of them, None when there is none.

        `jitter` from 0 to 1 spreads the delay by `JITTER` to either side, or by `SCHEDULED_JITTER`.
        """
        if self.max_attempts and tries >= self.max_attempts:
            return None
        if self._waited(tries) > self.retry_for:
            return None
        spread = SCHEDULED_JITTER if self.schedule else JITTER
        return self._plain(tries) * (1 + spread * (2 * jitter - 1))

    def _plain(self, tries: int) -> float:
        """The wait after so many tries, not spread."""
        if self.schedule:
            return self.schedule[min(tries, len(self.schedule)) - 1]
        return min(MAX_DELAY, max(self.delay, LEAST_DELAY) * 2.0 ** min(tries - 1, DOUBLINGS))

    def _waited(self, tries: int) -> float:
        """The sum of the first `tries` waits."""
        if self.schedule:
            return sum(self.schedule[:tries]) + max(0, tries - len(self.schedule)) * self.schedule[-1]
        doubled = min(tries, DOUBLINGS)
        return sum(map(self._plain, range(1, doubled + 1))) + (tries - doubled) * MAX_DELAY


def read_schedule(text: str) -> tuple[float, ...]:
    """The waits of a schedule, in seconds.

    Raises:
        ValueError: it is none; the message says why, as a sentence without its subject.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"has {len(text)} characters; {MOST_TEXT} are allowed")
    waits: list[float] = []
    for part in text.split(","):
        wait, times = _waits(part.strip())
        if len(waits) + times > MOST_WAITS:
            raise ValueError(f"has more than {MOST_WAITS} waits; the last one repeats by itself")
        waits += [wait] * times
    return tuple(waits)


def schedule_text(waits: tuple[float, ...]) -> str:
    """A schedule as it is written, the same for all that mean the same."""
    runs = [(duration_of(wait), len(list(same))) for wait, same in groupby(waits)]
    return ", ".join(wait if times == 1 else f"{wait}*{times}" for wait, times in runs)


@lru_cache(maxsize=256)
def with_schedule(policy: RetryPolicy, text: str, *, ages: bool = False) -> RetryPolicy:
    """The policy with a letter's own schedule in place of its waits, if it brings one; all else stays.

    `ages`: the letter says itself until when it is sent, so that no waits end it.

    Raises:
        ValueError: `text` is none.
    """
    return replace(
        policy,
        schedule=read_schedule(text) if text else policy.schedule,
        retry_for=math.inf if ages else policy.retry_for,
    )


def _waits(part: str) -> tuple[float, int]:
    wait, star, times = part.partition("*")
    try:
        seconds = seconds_of(wait.strip())
    except ValueError:
        raise ValueError("is no schedule such as 1m, 5m*2, 30m, 1h*3, 4h") from None
    if not SHORTEST_WAIT <= seconds <= LONGEST_WAIT:
        raise ValueError(f"has a wait that is not from {SHORTEST_WAIT:g}s to {LONGEST_WAIT / 86400:g}d")
    if not star:
        return seconds, 1
    if not (times.strip().isascii() and times.strip().isdigit()) or len(times) > len("1000"):
        raise ValueError("has a * that is not followed by a number")
    number = int(times)
    if not number:
        raise ValueError("has a wait that stands there no times")
    return seconds, number
