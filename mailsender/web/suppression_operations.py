"""What the HTTP side needs from the service about the suppression list. Its docstrings are the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mailsender.suppression.csv_text import Reader
from mailsender.suppression.port import Entry


class SuppressionOperations(Protocol):
    """The suppression list, as the HTTP side sees it. Each call may raise `Unavailable`: that is a 503."""

    def entry(self, address: str, *, stream: str, reason: str, until: str) -> Entry:
        """The entry that an operator asks for. See `mailsender.suppression.rules.entry_of`.

        `until` is what `end_of` there reads; empty it is the usual time.

        Raises:
            BadEntry: it can be none.
        """
        ...

    def reader(self) -> Reader:
        """What reads a file of entries."""
        ...

    async def put(self, entries: Sequence[Entry], *, by: str) -> int:
        """Put entries on the list, in place of those of the same keys; how many were new.

        `by` says for the log who asked.
        """
        ...

    async def remove(self, address: str, stream: str | None, *, by: str) -> int:
        """Take an address off the list, for a stream or, where that is None, altogether; how many entries.

        `by` says for the log who asked.

        Raises:
            BadEntry: it is no address.
        """
        ...

    async def listed(self, address: str, stream: str | None, *, after: str, most: int) -> list[Entry]:
        """Up to `most` entries that hold now and whose keys follow `after`. See `SuppressionStore.listed`.

        With an `address` those that hold for it: its own and those of its domain.

        Raises:
            BadEntry: `address` is neither empty nor an address.
        """
        ...
