"""One line a minute while something happens or waits: what was sent, how much waits, and for what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from mailsender.aio import pause
from mailsender.model.clock import Clock
from mailsender.model.letter import now_ms
from mailsender.model.queue_stats import QueueStats
from mailsender.observe.conditions import Condition, Conditions

log = structlog.get_logger()

INTERVAL = 60.0
"""Seconds between two lines; none is written when nothing happened and nothing waits."""

LOOK = 1.0
"""Seconds between two looks at what keeps letters waiting, so that it is known since when."""


class Counts(Protocol):
    """How full the queue was when it was counted last, and how many seconds ago that was."""

    @property
    def stats(self) -> QueueStats | None:
        """None where it never was."""
        ...

    @property
    def stats_age(self) -> float | None:
        """None where it never was."""
        ...


class Summary:
    """Writes the event `summary` while there is something to say; `counted` tells what was done so far."""

    def __init__(
        self,
        counted: Callable[[], Mapping[str, int]],
        queue: Counts,
        conditions: Conditions,
        clock: Clock,
    ) -> None:
        self._counted = counted
        self._queue = queue
        self._conditions = conditions
        self._clock = clock
        self._before = counted()
        self._since = clock.monotonic()
        self._full = Condition(part="queue", trouble=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Write a line a minute until `stop`."""
        while not stop.is_set():
            await pause(stop, LOOK)
            found = self._conditions.now()
            self._tell(found)
            if not stop.is_set() and self._clock.monotonic() - self._since >= INTERVAL:
                self.last(found)

    def last(self, conditions: list[Condition] | None = None) -> None:
        """Write what happened since the last line, and what waits now, if there is anything."""
        now, after = self._clock.monotonic(), self._counted()
        changed = {name: number - self._before[name] for name, number in after.items()}
        found = self._conditions.now() if conditions is None else conditions
        stats, age = self._queue.stats, self._queue.stats_age
        waiting = stats is not None and (stats.awaiting or stats.unreported)
        if any(changed.values()) or waiting or found:
            log.info(
                "summary",
                seconds=round(now - self._since),
                **changed,
                awaiting=stats.awaiting if stats else None,
                due=stats.due if stats else None,
                unreported=stats.unreported if stats else None,
                oldest_due=round(stats.oldest_due, 1) if stats else None,
                counts_age=round(age, 1) if age is not None else None,
                **({"waits_for": [sentence(each) for each in found]} if found else {}),
            )
        self._before, self._since = after, now

    def _tell(self, found: list[Condition]) -> None:
        """Say once what began or ended of that which no part tells by itself."""
        full = next((each for each in found if each.part == self._full.part), None)
        if full is None:
            if self._full.clear():
                log.info("queue_has_room")
        elif self._full.set(full.text, full.since):
            log.warning(
                "queue_full",
                reason=full.text,
                action="`POST /post` is refused; the topic is read on",
                advice="raise QUEUE_MAX_LETTERS, or the rate",
            )


def sentence(condition: Condition) -> str:
    """A condition in one line."""
    text = f"{condition.subject}: {condition.text}; since {now_ms(condition.since).isoformat()}"
    return f"{text}, until {now_ms(condition.until).isoformat()}" if condition.until else text
