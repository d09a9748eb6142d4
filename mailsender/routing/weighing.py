"""Refusals whose meaning is not known yet: kept in flight until the relay's next answers tell."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from enum import StrEnum

import structlog

log = structlog.get_logger()

GRACE = 30.0
"""Seconds that an answer is waited for before the letter goes back to be tried again later: at the slowest
default rate the relay has said something about thirty other letters by then."""


class Ruling(StrEnum):
    """What a refusal turned out to mean."""

    OWN = "own"  # the relay took others after it: it is about the letter
    EVERYBODY = "everybody"  # it says so to everybody: it is about the relay, or our account
    UNKNOWN = "unknown"  # nothing was heard for a while
    STOPPED = "stopped"  # it is time to stop


class Scale:
    """Letters that wait for a ruling, each with what is to be done about it.

    They are few: as soon as there are more than `mailsender.routing.breaker.MIXED_RUN`, it is everybody.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[int, Callable[[Ruling], None], asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, letter_id: str, number: int, decide: Callable[[Ruling], None]) -> None:
        """Keep a letter, by the number of its refusal; `decide` is called once, soon or after a while."""
        self._decide(letter_id, Ruling.UNKNOWN)  # lost, and back under another claim
        timer = asyncio.get_running_loop().call_later(GRACE, self._decide, letter_id, Ruling.UNKNOWN)
        self._waiting[letter_id] = number, decide, timer

    def rule(self, ruling: Ruling, upto: float = math.inf) -> None:
        """Decide those whose number is not above `upto`."""
        for each in [each for each, (number, _, _) in self._waiting.items() if number <= upto]:
            self._decide(each, ruling)

    def _decide(self, letter_id: str, ruling: Ruling) -> None:
        found = self._waiting.pop(letter_id, None)
        if found is None:
            return
        _, decide, timer = found
        timer.cancel()
        try:
            decide(ruling)
        except Exception as error:  # it is not the fault of the letter that told
            log.error(
                "ruling_failed",
                letter=letter_id,
                exc_info=error,
                action="it stays in flight until this replica stops",
            )
