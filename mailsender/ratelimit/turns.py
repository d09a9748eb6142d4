"""Whose turn it is where several wait for the same thing: each gets its share while all wait. Pure.

It is stride scheduling, or start-time fair queueing of what is all of one size: whoever gets something stands
`1/share` later, and who had nothing waiting begins where the others are. Routes wait so for the slots of a
relay that they share; within a route letters have an order of their own (`mailsender.queue.ranks`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Those who wait, by who they are; `shares` has those that get something else than 1.

    There are as many names as routes: nothing is forgotten.
    """

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._shares = dict(shares or {})
        self._waiting: dict[str, deque[T]] = {}
        self._next: dict[str, float] = {}
        self._now = 0.0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for each in self._waiting.values():
            yield from each

    def use(self, shares: Mapping[str, float]) -> None:
        """Use these from now on."""
        self._shares = dict(shares)

    def add(self, who: str, what: T) -> None:
        """Let one more wait, behind the others of the same name."""
        waiting = self._waiting.setdefault(who, deque())
        if not waiting:
            self._next[who] = max(self._now, self._next.get(who, 0.0))
        waiting.append(what)
        self._count += 1

    def take(self) -> T:
        """The one whose turn it is.

        Raises:
            IndexError: nobody waits.
        """
        who = min(
            [name for name, waiting in self._waiting.items() if waiting],
            key=self._next.__getitem__,
            default=None,
        )
        if who is None:
            raise IndexError("nobody waits")
        self._count -= 1
        self._now = self._next[who]
        self._next[who] += 1 / self._shares.get(who, 1.0)
        return self._waiting[who].popleft()

    def give_back(self, who: str) -> None:
        """A turn was of no use: it counts for nothing."""
        self._next[who] = at = self._next.get(who, 0.0) - 1 / self._shares.get(who, 1.0)
        self._now = min(self._now, at)  # or whoever waits anew would begin behind turns that were none

    def remove(self, who: str, what: T) -> None:
        """It waits no more, if it does still: nobody has a turn for it."""
        waiting = self._waiting.get(who)
        if waiting is not None and what in waiting:
            waiting.remove(what)
            self._count -= 1

    def clear(self) -> None:
        """Let nobody wait any more."""
        self._waiting.clear()
        self._count = 0
