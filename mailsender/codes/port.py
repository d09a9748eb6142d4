"""Where codes and the counts of those who ask for them are kept. The docstrings are the contract.

Names and hashes are 32 octets that nobody can compute without the service's secret (`codes.seal`): a store
learns neither an address nor a code. Its own clock decides what is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol


class Verdict(StrEnum):
    """What a code that somebody gives is."""

    RIGHT = "right"  # and used up: it will not be so again
    WRONG = "wrong"
    OVER = "over"  # its time is over, it was used, or there is none
    TOO_OFTEN = "too-often"  # it was tried too often: even the right one is of no use


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """A code to be kept: its hash, the ID of its letter, and the seconds for which it holds."""

    hash: bytes
    letter: str
    life: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept under a name: `new` where it was put there now. `end` is when it is over."""

    letter: str
    end: datetime
    new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A request that counts as one however often it comes: the same `name` within `pause` seconds."""

    name: bytes
    pause: float


SAME: Final = 100
"""Requests that a count remembers as let through once, the last ones: those that come at once are fewer, and
what is forgotten is counted again."""


class CodeStore(Protocol):
    """Codes and counts by their names, shared by all replicas.

    Every write is durable when its call returns. All calls raise `Unavailable` when the store is away.
    """

    async def take(self, name: bytes, most: int, window: float, once: Once | None = None) -> float | None:
        """Count one more for `name`: None where it is among the first `most` of its window.

        Else the seconds until the window is over. It begins with the first that is counted and has `window`
        seconds. Of any number at once no more than `most` are let through. What was let through `once` is let
        through again, and not counted again.
        """
        ...

    async def give_back(self, name: bytes, once: Once | None = None) -> None:
        """Count one less for `name`: what was let through, `once` if so, came to nothing."""
        ...

    async def resting(self, name: bytes, pause: float) -> Kept | None:
        """What was put under `name` less than `pause` seconds ago."""
        ...

    async def put(self, name: bytes, code: NewCode, pause: float) -> Kept:
        """Keep `code` under `name` in place of the one before, which then holds no more.

        If that was put there less than `pause` seconds ago it stays, and is what is returned. Of any number
        at once one is put.
        """
        ...

    async def withdraw(self, name: bytes, hash: bytes) -> None:  # noqa: A002  as in `NewCode`
        """Forget the code under `name`, if it is the one with this hash."""
        ...

    async def check(self, name: bytes, hash: bytes, tries: int) -> Verdict:  # noqa: A002  as in `NewCode`
        """What a code with this hash is to the one under `name`, and use that up if it is right.

        Each answer of right or wrong is a try, and `tries` are allowed. Of any number of right ones at once
        one is told so, and of any number of wrong ones no more than `tries`.
        """
        ...
