"""Who waits for a letter while the service ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mailsender.admin.waiting import Waiting
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.queue.memory import MemoryQueue

ID = "00" * 12


class Closing(MemoryQueue):
    """A queue that is closed when somebody looks."""

    async def ended(self, ids: Sequence[str]) -> frozenset[str]:
        raise Unavailable("closed")


@pytest.mark.asyncio
async def test_a_drain_quicker_than_a_look_sends_away_who_waits() -> None:
    stopping = False
    waiting = Waiting(Closing(SystemClock()), lambda: stopping)
    caller = asyncio.create_task(waiting.ended(ID, lambda: False))
    await asyncio.sleep(0)
    stopping = True
    assert await asyncio.wait_for(caller, 5) is False
    assert await waiting.ended(ID, lambda: False) is False
