"""The shared cursor of slots, leased in MongoDB by MongoDB's clock.

One document holds the cursor. The arithmetic is that of `limiter.take`, written as an update pipeline in
the same order of operations, so that both come to the same number to the last bit; the contract suite
holds them against each other. Times in the document are seconds.
"""

from __future__ import annotations

from typing import Any

from pymongo import ReturnDocument

from mailsender.adapters.mongo import Client, Document, calling, durable
from mailsender.limiter import AHEAD, DAY_MARGIN, DEPTH, Cursor, SlotGrant, SlotRequest, grant_of
from mailsender.ports import Clock

_CURSOR = {"_id": "cursor"}


class MongoSlotStore:
    """`SlotStore` on one document of `collection`; `timeout` is the deadline of each call, in seconds."""

    def __init__(
        self, client: Client, *, database: str, collection: str, clock: Clock, timeout: float = 10.0
    ) -> None:
        self._slots = durable(client, database, collection, timeout)
        self._clock = clock
        self._timeout = timeout

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """See `SlotStore.lease`. Slots whose reply is lost are lost with it."""
        asked = self._clock.monotonic()
        async with calling(self._timeout):
            document = await self._slots.find_one_and_update(
                _CURSOR, leasing(request), upsert=True, return_document=ReturnDocument.AFTER
            )
        answered = self._clock.monotonic()
        return grant_of(
            cursor=Cursor(next=document["next"], used=int(document["used"]), day=document["day"]),
            first=document["first"],
            count=int(document["count"]),
            now=document["now"],
            request=request,
            asked=asked,
            answered=answered,
        )

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """See `SlotStore.give_back`. Not to be repeated when it failed: the quota might be returned twice."""
        if unspent <= 0:
            return
        async with calling(self._timeout):
            await self._slots.update_one(_CURSOR, returning(grant, unspent))


def leasing(request: SlotRequest) -> list[Document]:
    """The pipeline of `limiter.take` with the server's `$$NOW`."""
    allowance = request.allowance
    day = {"$dateTrunc": {"date": "$$NOW", "unit": "day", "timezone": allowance.timezone}}
    next_day = {"$dateAdd": {"startDate": day, "unit": "day", "amount": 1, "timezone": allowance.timezone}}
    start = {"$subtract": ["$now", DEPTH * allowance.life]}
    horizon = {"$min": [{"$add": ["$now", AHEAD]}, {"$subtract": ["$day_end", DAY_MARGIN]}]}
    fitting = {"$add": [1, {"$floor": {"$divide": [{"$subtract": [horizon, "$first"]}, allowance.step]}}]}
    limits: list[Any] = [request.want, fitting]
    if allowance.quota:
        limits.append({"$subtract": [allowance.quota, "$used"]})
    return [
        {"$set": {"now": _seconds("$$NOW"), "day_end": _seconds(next_day), "today": _seconds(day)}},
        {"$set": {"used": {"$cond": [{"$eq": ["$day", "$today"]}, "$used", 0]}, "day": "$today"}},
        {"$set": {"first": {"$max": [{"$ifNull": ["$next", 0.0]}, start]}}},
        {"$set": {"count": {"$max": [0, {"$min": limits}]}}},
        {
            "$set": {
                "next": {"$add": ["$first", {"$multiply": ["$count", allowance.step]}]},
                "used": {"$add": ["$used", "$count"]},
            }
        },
        {"$unset": "today"},
    ]


def returning(grant: SlotGrant, unspent: int) -> list[Document]:
    """The pipeline of `limiter.give_back`."""
    end = grant.first + grant.count * grant.step
    following = grant.first + (grant.count - unspent) * grant.step
    ours_is_last = {"$lt": [{"$abs": {"$subtract": ["$next", end]}}, grant.step / 1000]}
    less = {"$max": [0, {"$subtract": ["$used", unspent]}]}
    return [
        {
            "$set": {
                "next": {"$cond": [ours_is_last, following, "$next"]},
                "used": {"$cond": [{"$eq": ["$day", grant.day]}, less, "$used"]},
            }
        }
    ]


def _seconds(date: Any) -> Document:
    return {"$divide": [{"$toDouble": {"$toLong": date}}, 1000]}
