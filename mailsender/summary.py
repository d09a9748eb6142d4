"""One line a minute under load: what was sent since the last one."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace

import structlog

from mailsender.leases import LeaseKeeper
from mailsender.ports import Clock
from mailsender.settle import Tally
from mailsender.waiting import pause

log = structlog.get_logger()

INTERVAL = 60.0
"""Seconds between two lines; none is written when nothing happened."""


class Summary:
    """Writes the event `summary` while there is something to say."""

    def __init__(self, tally: Tally, keeper: LeaseKeeper, clock: Clock) -> None:
        self._tally = tally
        self._keeper = keeper
        self._clock = clock
        self._before = replace(tally)
        self._since = clock.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Write a line a minute until `stop`."""
        while not stop.is_set():
            await pause(stop, INTERVAL)
            if not stop.is_set():
                self.last()

    def last(self) -> None:
        """Write what happened since the last line, if anything did."""
        now = self._clock.monotonic()
        before, after = asdict(self._before), asdict(self._tally)
        changed = {name: after[name] - before[name] for name in after}
        if any(changed.values()):
            stats = self._keeper.stats
            log.info(
                "summary",
                seconds=round(now - self._since),
                **changed,
                awaiting=stats.awaiting if stats else None,
                oldest_due=round(stats.oldest_due, 1) if stats else None,
            )
        self._before = replace(self._tally)
        self._since = now
