"""What has to be done whatever happens, where it takes waiting.

Apart, and never compiled: compiled code that waits while it handles an exception shows it to other tasks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def afterwards(work: Callable[[], Awaitable[T]], then: Callable[[], Awaitable[None]]) -> T:
    """The result of `work`; `then` runs to its end first, even when `work` raises or is cancelled.

    Cancelled before `work` has begun, it does neither.
    """
    try:
        return await work()
    finally:
        await then()
