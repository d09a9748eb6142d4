"""Letters of a route that are claimed and wait for a sender; bounded by what the dispatcher claims."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import TypeAlias

from mailsender.model.handling import Priority
from mailsender.model.letter import Claim, Letter

_Waiting: TypeAlias = tuple[float, str, Letter]
"""Its place in the route's order, its claim's token, and a letter."""


def _place(waiting: _Waiting) -> float:
    return waiting[0]


def _expired(letter: Letter, now: float) -> bool:
    return letter.expires is not None and letter.expires.timestamp() <= now


def _by_turns(here: Iterable[_Waiting], token: str, fresh: Sequence[Letter]) -> list[_Waiting]:
    """Those who are here in their order, and among them fresh letters of other streams.

    The second letter of a stream comes behind the first ones of all others, and so on.
    """
    rounds: Counter[str] = Counter()
    numbered = []
    for letter in fresh:
        numbered.append((rounds[letter.handling.stream], letter))
        rounds[letter.handling.stream] += 1
    more = deque(sorted(numbered, key=itemgetter(0)))
    found: list[_Waiting] = []
    last = -math.inf
    for each in here:
        stream = each[2].handling.stream
        while more and more[0][0] < rounds[stream]:
            found.append((last, token, more.popleft()[1]))
        rounds[stream] += 1
        last = max(last, each[0])
        found.append(each)
    return [*found, *((last, token, letter) for _, letter in more)]


class Backlog:
    """Letters in their order, each with its claim's token.

    A sender reserves one before it has a session and a slot, and takes it when it has both: which one it gets
    is decided then. `low` is set when a letter is taken and no more than `low_mark` are left, `room` likewise
    for `room_mark`. Those that were put aside come last again when their time has come.
    """

    def __init__(self) -> None:
        self._letters: deque[_Waiting] = deque()
        self._aside: dict[str, tuple[str, Letter, asyncio.TimerHandle]] = {}
        self._reserved = 0
        self._only: str | None = None  # the stream of all that are here, None where there may be several
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
        self._note_streams(claim.letters)
        places = claim.places or (last,) * len(claim.letters)
        more = [(place, claim.token, letter) for place, letter in zip(places, claim.letters, strict=True)]
        self._letters.extend(more)
        if more and more[0][0] < last:
            # Somebody came in since, whose turn it is before those that wait here. Both are in order already.
            self._letters = deque(sorted(self._letters, key=_place))
        for _ in claim.letters:
            self._wake()

    def _note_streams(self, letters: Sequence[Letter]) -> None:
        streams = {letter.handling.stream for letter in letters}
        if not self._letters:
            self._only = streams.pop() if len(streams) == 1 else None
        elif streams and streams != {self._only}:
            self._only = None

    def put_fresh(self, claim: Claim) -> None:
        """Add letters that came in just now, behind those that are here.

        Streams of which none is here take turns with those that are: else a batch that came at once, over a
        relay that is slow, would be gone through before a single letter of another one. Their letters were
        given no places in the route's order yet.
        """
        streams = {letter.handling.stream for letter in claim.letters}
        here = {self._only}
        if self._letters and streams != here:
            here = {letter.handling.stream for _, _, letter in self._letters}
        if not self._letters or streams <= here:
            self.put(claim)
            return
        self._only = None
        fresh = [each for each in claim.letters if each.handling.stream not in here]
        others = [each for each in claim.letters if each.handling.stream in here]
        letters = _by_turns(self._letters, claim.token, fresh)
        last = letters[-1][0]
        self._letters = deque([*letters, *((last, claim.token, each) for each in others)])
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
        self._note_streams([letter])
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
