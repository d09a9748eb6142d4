"""The suppression list in memory: for trials, and for tests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from mailsender.suppression.port import Entry, Filter, Refusal
from mailsender.suppression.rules import in_force, refused

MOST: Final = 100_000
"""Entries that are kept; the oldest go first. A trial needs no more."""


class MemorySuppressions:
    """`SuppressionStore` in memory. What is over stays until its place is needed."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    async def empty(self) -> bool:
        """See `SuppressionStore.empty`."""
        return not self._entries

    async def find(self, keys: Collection[str]) -> list[Entry]:
        """See `SuppressionStore.find`."""
        return [self._entries[key] for key in dict.fromkeys(keys) if key in self._entries]

    async def put(self, entries: Sequence[Entry]) -> int:
        """See `SuppressionStore.put`."""
        new = 0
        for each in entries:
            new += each.key not in self._entries
            self._keep(each)
        return new

    async def note(self, refusals: Sequence[Refusal]) -> None:
        """See `SuppressionStore.note`."""
        for each in refusals:
            self._keep(refused(self._entries.get(each.address), each))

    async def remove(self, keys: Collection[str], *, learned: bool = False) -> int:
        """See `SuppressionStore.remove`."""
        gone = [each for each in await self.find(keys) if each.source.learned or not learned]
        for each in gone:
            del self._entries[each.key]
        return len(gone)

    async def listed(self, wanted: Filter, *, after: str, most: int) -> list[Entry]:
        """See `SuppressionStore.listed`."""
        found = sorted(key for key, each in self._entries.items() if key > after and _fits(each, wanted))
        return [self._entries[key] for key in found[:most]]

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        while len(self._entries) > MOST:
            del self._entries[next(iter(self._entries))]


def _fits(entry: Entry, wanted: Filter) -> bool:
    if wanted.address and entry.address != wanted.address:
        return False
    return in_force(entry, wanted.now) and wanted.stream in {None, entry.stream}
