"""The store of codes in memory: for trials, and for tests."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from mailsender.codes.port import Kept, NewCode, Verdict
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


class MemoryCodeStore:
    """`CodeStore` in memory; its clock is the process's own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._codes: dict[bytes, _Code] = {}
        self._counts: dict[bytes, _Count] = {}

    async def take(self, name: bytes, most: int, window: float) -> float | None:
        """See `CodeStore.take`."""
        now = self._clock.epoch()
        found = self._counts.get(name)
        if found is None or found.until <= now:
            self._counts.pop(name, None)
            found = self._counts[name] = _Count(0, now + window)
            while len(self._counts) > MOST:
                del self._counts[next(iter(self._counts))]
        found.count += 1
        return None if found.count <= most else found.until - now

    async def give_back(self, name: bytes) -> None:
        """See `CodeStore.give_back`."""
        found = self._counts.get(name)
        if found is not None and found.count:
            found.count -= 1

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
