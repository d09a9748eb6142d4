"""Waits that an event ends, or time; and what has to be done whatever happens, where it takes waiting.

Never compiled: compiled code that waits while it handles an exception shows it to other tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait until `event` is set or `seconds` are over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until one of `events` is set or `timeout` seconds are over."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def afterwards(work: Callable[[], Awaitable[T]], then: Callable[[], Awaitable[None]]) -> T:
    """The result of `work`; `then` runs to its end first, even when `work` raises or is cancelled.

    Cancelled before `work` has begun, it does neither.
    """
    try:
        return await work()
    finally:
        await then()
