"""What HTTP may ask of a replica about the suppression list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from mailsender.model.address import BadAddress
from mailsender.model.letter import now_ms
from mailsender.service import Replica
from mailsender.suppression.csv_text import Reader
from mailsender.suppression.port import Entry, Filter, Source, key_of
from mailsender.suppression.rules import BadEntry, end_of, entry_of, normal

log = structlog.get_logger()

STREAMS = 1000
"""Streams for which an address is taken off the list in one go: far more than a publisher has names for."""


class ReplicaSuppressions:
    """Implements `web.suppression_operations.SuppressionOperations` over a replica."""

    def __init__(self, replica: Replica) -> None:
        self._watch = replica.suppression
        self._store = replica.parts.suppressions
        self._clock = replica.clock

    def entry(self, address: str, *, stream: str, reason: str, until: str) -> Entry:
        """See `SuppressionOperations.entry`."""
        end = end_of(until, self._now) if until else None
        return entry_of(
            address,
            stream=stream,
            reason=reason,
            source=Source.OPERATOR,
            since=self._now,
            until=end,
            endless=bool(until) and end is None,
            now=self._now,
            life=self._watch.policy.life,
        )

    def reader(self) -> Reader:
        """See `SuppressionOperations.reader`."""
        return Reader(self._now, self._watch.policy.life)

    async def put(self, entries: Sequence[Entry], *, by: str) -> int:
        """See `SuppressionOperations.put`. No address stands in the log."""
        new = await self._store.put(entries)
        self._watch.stir()
        log.info("suppressions_put", entries=len(entries), new=new, by=by)
        return new

    async def remove(self, address: str, stream: str | None, *, by: str) -> int:
        """See `SuppressionOperations.remove`."""
        name = _name(address)
        keys = [key_of(name, stream or "")]
        if stream is None:  # the listing leaves out what holds no more, or not yet
            wanted = Filter(now=self._now, address=name)
            keys += [each.key for each in await self._store.listed(wanted, after="", most=STREAMS)]
        removed = await self._store.remove(keys)
        log.info("suppressions_removed", entries=removed, by=by)
        return removed

    async def listed(self, address: str, stream: str | None, *, after: str, most: int) -> list[Entry]:
        """See `SuppressionOperations.listed`."""
        name = _name(address) if address else ""
        domain = name[name.rfind("@") :] if name else ""
        found: list[Entry] = []
        for each in dict.fromkeys((name, domain)):
            wanted = Filter(now=self._now, address=each, stream=stream)
            found += await self._store.listed(wanted, after=after, most=most)
        return sorted(found, key=lambda entry: entry.key)[:most]

    @property
    def _now(self) -> datetime:
        return now_ms(self._clock.epoch())


def _name(address: str) -> str:
    try:
        return normal(address.strip())
    except BadAddress as error:
        raise BadEntry(f"address: {error}") from None
