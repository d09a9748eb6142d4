"""Which replicas live: one small document for each, which its owner extends, beat by beat.

- `_id`: the replica's ID, with which the tokens of its claims begin. `until`: when it is over unless it is
  extended, by the server's clock. `dead`: true once somebody found its time over, and from then on.

A replica is declared dead before its letters are given back, in a write that its next beat would undo: of
the two one comes first, and the other finds it done. So a replica whose beat succeeds has its letters still.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from mailsender.model.letter import now_ms
from mailsender.queue.mongo.client import Collection, Document, ServerClock
from mailsender.queue.mongo.documents import nameable

FORGOTTEN = timedelta(hours=1)
"""How long a dead replica that has no letters is known still, for people who look."""


class Replicas:
    """The documents of replicas; the owner gives calls a deadline and translates their errors."""

    def __init__(self, replicas: Collection, clock: ServerClock) -> None:
        self._replicas = replicas
        self._clock = clock

    async def join(self, replica: str, life: float) -> None:
        """See `Queue.join`."""
        await self._replicas.update_one({"_id": replica}, _living(life), upsert=True)

    async def beat(self, replica: str, life: float) -> bool:
        """See `Queue.beat`. A row that is gone, or dead, is not made anew: its letters are others'."""
        result = await self._replicas.update_one({"_id": replica, "dead": {"$ne": True}}, _living(life))
        return bool(result.matched_count)

    async def leave(self, replica: str) -> None:
        """See `Queue.leave`."""
        await self._replicas.delete_one({"_id": replica})

    async def bury(self, by: float) -> set[str]:
        """Declare dead whose time is over, also by `by` in epoch seconds; returns the IDs of the living."""
        now: Any = {"$min": ["$$NOW", now_ms(by)]} if math.isfinite(by) else "$$NOW"
        over: Document = {"dead": {"$ne": True}, "$expr": {"$lte": ["$until", now]}}
        await self._replicas.update_many(over, {"$set": {"dead": True}})
        return await self.living()

    async def living(self) -> set[str]:
        """The IDs of those that nobody declared dead."""
        found = await self._replicas.find({"dead": {"$ne": True}}, {"_id": 1}).to_list(None)
        # What another program wrote there may be no text that a query can say.
        return {each["_id"] for each in found if isinstance(each["_id"], str) and nameable(each["_id"])}

    async def forget(self, with_letters: Iterable[str]) -> None:
        """Remove the dead that have no letters any more, and died a while ago."""
        long_ago = self._clock.latest() - FORGOTTEN
        await self._replicas.delete_many(
            {"dead": True, "until": {"$lt": long_ago}, "_id": {"$nin": list(with_letters)}}
        )


def _living(life: float) -> list[Document]:
    return [{"$set": {"until": {"$add": ["$$NOW", int(life * 1000)]}}}]
