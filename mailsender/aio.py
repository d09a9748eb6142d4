"""Waits that an event ends, or time."""

from __future__ import annotations

import asyncio


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
