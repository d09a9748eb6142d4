"""Where the suppression list is kept. The docstrings are the contract."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Source(StrEnum):
    """Who put an address on the list."""

    REFUSAL = "refusal"  # a relay refused it at RCPT
    BOUNCE = "bounce"  # a report of non-delivery came back
    OPERATOR = "operator"
    IMPORT = "import"  # an operator's file

    @property
    def learned(self) -> bool:
        """Whether nobody decided it: a later success takes such an entry away."""
        return self is Source.REFUSAL or self is Source.BOUNCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An address, or a domain as ``@example.com``, to which letters of a stream are not sent.

    An empty `stream` stands for all letters. `active` is False of one that was refused, but not often enough
    yet; `refusals` says how often. `until` is None for one that does not end by itself. `letter` is the ID of
    the letter that was refused last.
    """

    address: str
    stream: str = ""
    source: Source
    reason: str = ""
    active: bool = True
    since: datetime
    until: datetime | None = None
    refusals: int = 0
    letter: str = ""

    @property
    def key(self) -> str:
        """What it is kept under."""
        return key_of(self.address, self.stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An address was refused for good at the time `at`; what comes of it ends at `until`.

    `own`: the reply says so much of the recipient that one is enough.
    """

    address: str
    reason: str
    letter: str
    own: bool
    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries are listed: those in force at `now`, of this address and of this stream if one is named.

    `stream` is None for entries of any; empty for those that hold for all letters.
    """

    now: datetime
    address: str = ""
    stream: str | None = None


def key_of(address: str, stream: str = "") -> str:
    """What an entry is kept under. No address has a space, so none can be taken for another's."""
    return f"{address} {stream}" if stream else address


class SuppressionStore(Protocol):
    """The entries by their keys, shared by all replicas.

    Every write is durable when its call returns, and to repeat a call changes nothing more. All calls raise
    `Unavailable` when the store is away.
    """

    async def empty(self) -> bool:
        """Whether there is no entry at all."""
        ...

    async def find(self, keys: Collection[str]) -> list[Entry]:
        """The entries of these keys, those that are over or not active among them."""
        ...

    async def put(self, entries: Sequence[Entry]) -> int:
        """Keep these in place of what their keys had; how many of these keys had nothing.

        Of two of one key the last one stays.
        """
        ...

    async def note(self, refusals: Sequence[Refusal]) -> None:
        """Take in what relays refused, in this order; see `mailsender.suppression.rules.refused`."""
        ...

    async def remove(self, keys: Collection[str], *, learned: bool = False) -> int:
        """Take entries off the list, with `learned` only those that nobody decided; how many there were."""
        ...

    async def listed(self, wanted: Filter, *, after: str, most: int) -> list[Entry]:
        """Up to `most` entries whose keys come after `after`, in the order of their keys' code points."""
        ...
