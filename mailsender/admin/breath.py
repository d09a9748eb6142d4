"""Long work in small pieces, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Final

BREATH: Final = 0.005
"""Seconds of work after which others have their turn."""


class Breath:
    """Lets others have their turn when long work has had its own."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def taken(self) -> None:
        """To be called between two small pieces of the work."""
        if time.monotonic() - self._since > BREATH:
            await asyncio.sleep(0)
            self._since = time.monotonic()
