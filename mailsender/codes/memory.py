"""The store of codes in memory: for trials, and for tests."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, field
from typing import Final

from mailsender.codes.port import SAME, Kept, NewCode, Once, Verdict
from mailsender.model.clock import Clock
from mailsender.model.letter import now_ms

MOST: Final = 100_000
"""Codes, and counts, that are kept; the oldest go first. A trial needs no more."""


@dataclass(slots=True)
class _Code:
    code: NewCode
    made_at: float
    end: float
    tries: int = 0
    used: bool = False


@dataclass(slots=True)
class _Count:
    count: int
    until: float
    same: dict[bytes, float] = field(default_factory=dict)


class MemoryCodeStore:
    """`CodeStore` in memory; its clock is the process's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._codes: dict[bytes, _Code] = {}
        self._counts: dict[bytes, _Count] = {}

    async def take(self, name: bytes, most: int, window: float, once: Once | None = None) -> float | None:
        """See `CodeStore.take`."""
        now = self._clock.epoch()
        found = self._counts.get(name)
        if found is None or found.until <= now:
            self._counts.pop(name, None)
            found = self._counts[name] = _Count(0, now + window)
            while len(self._counts) > MOST:
                del self._counts[next(iter(self._counts))]
        if once is not None and found.same.get(once.name, -math.inf) > now - once.pause:
            return None
        found.count += 1
        if found.count > most:
            return found.until - now
        if once is not None:
            found.same.pop(once.name, None)
            found.same[once.name] = now
            while len(found.same) > SAME:
                del found.same[next(iter(found.same))]
        return None

    async def give_back(self, name: bytes, once: Once | None = None) -> None:
        """See `CodeStore.give_back`."""
        found = self._counts.get(name)
        if found is None or (once is not None and found.same.pop(once.name, None) is None):
            return
        found.count = max(0, found.count - 1)

    async def resting(self, name: bytes, pause: float) -> Kept | None:
        """See `CodeStore.resting`."""
        found = self._codes.get(name)
        if found is None or found.made_at + pause <= self._clock.epoch():
            return None
        return _kept(found, new=False)

    async def put(self, name: bytes, code: NewCode, pause: float) -> Kept:
        """See `CodeStore.put`."""
        now = self._clock.epoch()
        found = self._codes.get(name)
        if found is not None and found.made_at + pause > now:
            return _kept(found, new=False)
        self._codes.pop(name, None)
        made = self._codes[name] = _Code(code, made_at=now, end=now + code.life)
        while len(self._codes) > MOST:
            del self._codes[next(iter(self._codes))]
        return _kept(made, new=True)

    async def withdraw(self, name: bytes, hash: bytes) -> None:  # noqa: A002  as in the port
        """See `CodeStore.withdraw`."""
        found = self._codes.get(name)
        if found is not None and hmac.compare_digest(found.code.hash, hash):
            del self._codes[name]

    async def check(self, name: bytes, hash: bytes, tries: int) -> Verdict:  # noqa: A002  as in the port
        """See `CodeStore.check`."""
        found = self._codes.get(name)
        if found is None or found.used or found.end <= self._clock.epoch():
            return Verdict.OVER
        if found.tries >= tries:
            return Verdict.TOO_OFTEN
        found.tries += 1
        found.used = hmac.compare_digest(found.code.hash, hash)
        return Verdict.RIGHT if found.used else Verdict.WRONG


def _kept(found: _Code, *, new: bool) -> Kept:
    return Kept(letter=found.code.letter, end=now_ms(found.end), new=new)
