"""Callers who wait for what becomes of a letter, over one look at the queue for all of them.

Who sends a letter may be another replica, so it is the queue that is asked: for IDs alone, ten times a second
at most, however many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mailsender.model.errors import Unavailable
from mailsender.queue.port import Queue

LOOK: Final = 0.1
"""Seconds between two looks: too short to be noticed by a person, and ten small queries a second."""


@dataclass(eq=False, frozen=True, slots=True)
class _Waiter:
    letter_id: str
    gone: Callable[[], bool]
    told: asyncio.Future[bool]


class Waiting:
    """All who wait over one queue, as many as HTTP lets; `stopping` says whether to send them away."""

    def __init__(self, queue: Queue, stopping: Callable[[], bool]) -> None:
        self._queue = queue
        self._stopping = stopping
        self._waiters: set[_Waiter] = set()
        self._looking: asyncio.Task[None] | None = None

    async def ended(self, letter_id: str, gone: Callable[[], bool]) -> bool:
        """Wait until a letter is `sent` or `error`; there is no end to it otherwise but the caller's own.

        False, without knowing it: the caller is `gone`, or the service stops.
        """
        if self._stopping():
            return False
        waiter = _Waiter(letter_id, gone, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        try:
            return await waiter.told
        finally:
            self._waiters.discard(waiter)

    async def _look(self) -> None:
        """Look for those who wait, until nobody does. While the queue is away nobody is told anything."""
        while True:
            await asyncio.sleep(LOOK)
            if not self._waiters:  # they went when they were told
                return
            stopping = self._stopping()
            asked = {waiter.letter_id for waiter in self._waiters}
            try:
                ended = await self._queue.ended(sorted(asked))
            except Unavailable:
                ended = frozenset()
            for waiter in list(self._waiters):
                if waiter.told.done():
                    continue
                if waiter.letter_id in ended:
                    waiter.told.set_result(True)
                elif stopping or waiter.gone():
                    waiter.told.set_result(False)

    def _looked(self, task: asyncio.Task[None]) -> None:
        """Tell those who still wait that looking has ended: a fault of ours, or the end of the process."""
        if task is not self._looking:
            return
        error = None if task.cancelled() else task.exception()
        for waiter in self._waiters:
            if waiter.told.done():
                continue
            if error is None:
                waiter.told.set_result(False)
            else:
                waiter.told.set_exception(error)
