"""Letters of a route that are claimed and wait for a sender; bounded by what the dispatcher claims."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from itertools import islice

from mailsender.model.handling import Priority
from mailsender.model.letter import Claim, Letter


def _place(waiting: tuple[float, str, Letter]) -> float:
    return waiting[0]


def _expired(letter: Letter, now: float) -> bool:
    return letter.expires is not None and letter.expires.timestamp() <= now


class Backlog:
    """Letters in their order, each with its claim's token.

    A sender reserves one before it has a session and a slot, and takes it when it has both: which one it gets
    is decided then. `low` is set when a letter is taken and no more than `low_mark` are left, `room` likewise
    for `room_mark`. Those that were put aside come last again when their time has come.
    """

    def __init__(self) -> None:
        self._letters: deque[tuple[float, str, Letter]] = deque()
        self._aside: dict[str, tuple[str, Letter, asyncio.TimerHandle]] = {}
        self._reserved = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.low = asyncio.Event()
        self.low_mark = 0
        self.room = asyncio.Event()
        self.room_mark = 0

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, claim: Claim) -> None:
        """Add a claim's letters, where they stand in the route's order, and wake as many senders."""
        last = self._letters[-1][0] if self._letters else -math.inf
        places = claim.places or (last,) * len(claim.letters)
        more = [(place, claim.token, letter) for place, letter in zip(places, claim.letters, strict=True)]
        self._letters.extend(more)
        if more and more[0][0] < last:
            # Somebody came in since, whose turn it is before those that wait here. Both are in order already.
            self._letters = deque(sorted(self._letters, key=_place))
        for _ in claim.letters:
            self._wake()

    def next(self, count: int) -> list[Letter]:
        """Those who are taken next."""
        return [letter for _, _, letter in islice(self._letters, count)]

    def high(self) -> bool:
        """Whether what was reserved last would be a letter of priority `high`, if it were taken now."""
        place = self._reserved - 1
        return 0 <= place < len(self._letters) and self._letters[place][2].handling.priority is Priority.HIGH

    def put_aside(self, token: str, letter: Letter, seconds: float) -> None:
        """Keep a letter out of the way for so long; others are taken meanwhile."""
        before = self._aside.pop(letter.id, None)
        if before is not None:
            before[2].cancel()  # it was lost, and is here again under another claim
        timer = asyncio.get_running_loop().call_later(seconds, self._come_back, letter.id)
        self._aside[letter.id] = token, letter, timer

    def _come_back(self, letter_id: str) -> None:
        token, letter, _ = self._aside.pop(letter_id)
        last = self._letters[-1][0] if self._letters else -math.inf
        self._letters.append((last, token, letter))
        self._wake()

    def reserve_at_once(self) -> bool:
        """Reserve a letter if there is one that nobody reserved."""
        if len(self._letters) <= self._reserved:
            return False
        self._reserved += 1
        return True

    async def reserve(self) -> bool:
        """Wait for such a letter and reserve it; False when no more will come."""
        while not self._closed:
            if self.reserve_at_once():
                return True
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(future)
            await future
        return False

    def take(self) -> tuple[str, Letter] | None:
        """The next letter with its token, for a reservation; None when all were given back meanwhile."""
        self._reserved -= 1
        if not self._letters:
            return None
        _, token, letter = self._letters.popleft()
        self._tell_left()
        return token, letter

    def _tell_left(self) -> None:
        left = len(self._letters)
        if left <= self.low_mark:
            self.low.set()
        if left <= self.room_mark:
            self.room.set()

    def cancel(self) -> None:
        """Let somebody else have what was reserved."""
        self._reserved -= 1
        self._wake()

    def take_expired(self, now: float) -> list[tuple[str, Letter]]:
        """Take out those whose time to be sent is over; `now` is in epoch seconds."""
        over = [each for each in self._letters if _expired(each[2], now)]
        if over:
            self._letters = deque(each for each in self._letters if not _expired(each[2], now))
            self._tell_left()
        aside = [each for each in self._aside.values() if _expired(each[1], now)]
        for _, letter, timer in aside:
            timer.cancel()
            del self._aside[letter.id]
        return [
            *((token, letter) for _, token, letter in over),
            *((token, letter) for token, letter, _ in aside),
        ]

    def drain(self) -> list[tuple[str, Letter]]:
        """Take everything out."""
        letters = [(token, letter) for _, token, letter in self._letters]
        for token, letter, timer in self._aside.values():
            timer.cancel()
            letters.append((token, letter))
        self._letters.clear()
        self._aside.clear()
        return letters

    def close(self) -> None:
        """No more will come: whoever waits is told."""
        self._closed = True
        while self._waiters:
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            # Who waited last is woken first: few senders that are at it beat many.
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
