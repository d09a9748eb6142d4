"""The shared cursor of slots, leased in MongoDB by MongoDB's clock.

One document holds the cursor. The arithmetic is that of `limiter.take`, written as an update pipeline in
the same order of operations, so that both come to the same number to the last bit; the contract suite
holds them against each other. Times in the document are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from pymongo import ReturnDocument

from mailsender.model.clock import Clock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.queue.mongo.client import Client, Document, calling, durable
from mailsender.ratelimit.gcra import (
    AHEAD,
    DAY_MARGIN,
    DEPTH,
    GENEROUS,
    MEMBER_AGE,
    Cursor,
    Member,
    SlotGrant,
    SlotRequest,
    days_around,
    grant_of,
)

_log = structlog.get_logger()

CURSOR = "cursor"
"""The document of the relay that the settings of one relay are."""

MOST_USED = 2**53
"""No quota is as large, and up to it every whole number can be told."""

TRIES = 3
"""Leases after which one whose day was not known is given up: the second knows the store's time."""


class MongoSlotStore:
    """`SlotStore` on the document `name` of `collection`; `timeout` is each call's deadline, in seconds."""

    def __init__(
        self,
        client: Client,
        *,
        database: str,
        collection: str,
        clock: Clock,
        timeout: float = 10.0,
        name: str = CURSOR,
    ) -> None:
        self._named = {"_id": name}
        self._slots = durable(client, database, collection, timeout)
        self._clock = clock
        self._timeout = timeout
        self._ahead = clock.epoch() - clock.monotonic()  # of the store's clock, as far as it is known

    async def lease(self, request: SlotRequest) -> SlotGrant:
        """See `SlotStore.lease`. Slots whose reply is lost are lost with it."""
        try:
            return await self._lease(request)
        except (Rejected, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Somebody wrote into the cursor what cannot be counted with; it would be met again and again.
            _log.error(
                "slots_cursor_mended",
                error=f"{type(error).__name__}: {error}",
                action="what can be read of it stays; the next slot is now, without a burst",
                check="who writes into the collection of slots",
            )
        async with calling(self._timeout):
            await self._slots.update_one(self._named, _mending())
        return await self._lease(request)

    async def _lease(self, request: SlotRequest) -> SlotGrant:
        for _ in range(TRIES):
            days = days_around(self._clock.monotonic() + self._ahead, request.allowance.timezone)
            asked = self._clock.monotonic()
            async with calling(self._timeout):
                document = await self._slots.find_one_and_update(
                    self._named, leasing(request, days), upsert=True, return_document=ReturnDocument.AFTER
                )
            answered = self._clock.monotonic()
            self._ahead = document["now"] - answered
            if document["known"]:
                return _grant(document, request, asked, answered)
        raise Unavailable("MongoDB's clock is in another day each time it is asked")

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        """See `SlotStore.give_back`. Not to be repeated when it failed: the quota might be returned twice."""
        if unspent <= 0:
            return
        async with calling(self._timeout):
            await self._slots.update_one(self._named, returning(grant, unspent))


def _grant(document: Document, request: SlotRequest, asked: float, answered: float) -> SlotGrant:
    members = {
        name: Member(at=each["at"], next=each["next"], hungry=each["hungry"])
        for name, each in document["members"].items()
    }
    return grant_of(
        cursor=Cursor(
            next=document["next"], used=int(document["used"]), day=document["day"], members=members
        ),
        first=document["first"],
        count=int(document["count"]),
        now=document["now"],
        request=request,
        asked=asked,
        answered=answered,
    )


def leasing(request: SlotRequest, days: Sequence[float]) -> list[Document]:
    """The pipeline of `limiter.take` with the server's `$$NOW`.

    The days' starts are computed here, one owner of time zones being enough: the server only says between
    which two of `days` it is. Is it beyond them, `known` is false and nothing is leased.
    """
    allowance, member = request.allowance, request.member
    before, today, tomorrow, after = days
    start = {"$subtract": ["$now", DEPTH * allowance.life]}
    horizon = {"$min": [{"$add": ["$now", AHEAD]}, {"$subtract": ["$day_end", DAY_MARGIN]}]}
    fitting = {"$add": [1, {"$floor": {"$divide": [{"$subtract": [horizon, "$first"]}, allowance.step]}}]}
    limits: list[Any] = [request.want, fitting, {"$cond": ["$known", request.want, 0]}]
    if allowance.quota:
        limits.append({"$subtract": [allowance.quota, "$used"]})
    mine: list[Document] = []
    if member:
        turn = {"$max": [{"$ifNull": [f"$members.{member}.next", 0.0]}, "$now"]}
        reach = {"$subtract": [{"$add": ["$now", AHEAD]}, "$turn"]}
        even = {"$add": [1, {"$floor": {"$divide": [reach, "$share"]}}]}
        limits.append({"$cond": ["$others", even, request.want]})
        mine = [{"$set": {"turn": turn}}]
    kept = {
        "at": "$now",
        "next": {"$cond": ["$others", {"$add": ["$turn", {"$multiply": ["$count", "$share"]}]}, "$now"]},
        "hungry": {"$lt": ["$count", request.want]},
    }
    return [
        {"$set": {"now": _seconds("$$NOW")}},
        {"$set": {"known": {"$and": [{"$lte": [before, "$now"]}, {"$lt": ["$now", after]}]}}},
        {
            "$set": {
                "today": _by_now((tomorrow, tomorrow), (today, today), otherwise=before),
                "day_end": _by_now((tomorrow, after), (today, tomorrow), otherwise=today),
                "members": _recent({"$ifNull": ["$members", {}]}),
            }
        },
        {"$set": {"used": {"$cond": [_same_day(), "$used", 0]}, "day": {"$cond": _day()}}},
        {"$set": {"first": {"$max": [{"$ifNull": ["$next", 0.0]}, start]}, "others": _hungry(member)}},
        {"$set": {"share": {"$multiply": [allowance.step * GENEROUS, {"$add": ["$others", 1]}]}}},
        *mine,
        {"$set": {"count": {"$max": [0, {"$min": limits}]}}},
        {
            "$set": {
                "next": {"$add": ["$first", {"$multiply": ["$count", allowance.step]}]},
                "used": {"$add": ["$used", "$count"]},
                **({f"members.{member}": kept} if member else {}),
            }
        },
        {"$unset": ["today", "turn", "share", "others"]},
    ]


def _mending() -> list[Document]:
    """What is left of a cursor when all is taken out that cannot be counted with."""
    return [
        {"$set": {"now": _seconds("$$NOW")}},
        {
            "$replaceWith": {
                "_id": "$_id",
                "next": {"$max": ["$now", _number("$next", {"$add": ["$now", AHEAD]})]},
                "used": _number("$used", MOST_USED),
                "day": _number("$day", {"$add": ["$now", AHEAD]}),
                "members": {},
            }
        },
    ]


def _number(field: str, most: Any) -> Document:
    """The number in a field, 0 where there is none up to `most`."""
    plain = {"$in": [{"$type": field}, ["double", "int", "long"]]}
    fits = {"$and": [plain, {"$gte": [field, 0]}, {"$lte": [field, most]}]}
    return {"$cond": [fits, field, 0]}


def _by_now(*from_on: tuple[float, float], otherwise: float) -> Any:
    """The value of the first of the times, the latest first, that is not later than now."""
    found: Any = otherwise
    for time, value in reversed(from_on):
        found = {"$cond": [{"$lte": [time, "$now"]}, value, found]}
    return found


def _same_day() -> Document:
    """Whether what was used still counts; beyond the days that are known nobody can say that it does not."""
    return {"$or": [{"$eq": ["$day", "$today"]}, {"$and": [{"$not": "$known"}, {"$gt": ["$used", 0]}]}]}


def _day() -> list[Any]:
    return ["$known", "$today", {"$ifNull": ["$day", 0.0]}]


def _recent(members: Any) -> Document:
    young = {"$lt": [{"$subtract": ["$now", "$$this.v.at"]}, MEMBER_AGE]}
    return {
        "$arrayToObject": {"$filter": {"input": {"$objectToArray": members}, "as": "this", "cond": young}}
    }


def _hungry(member: str) -> Document:
    """How many others wanted more than they got."""
    other = {"$and": ["$$this.v.hungry", {"$ne": ["$$this.k", member]}]}
    return {"$size": {"$filter": {"input": {"$objectToArray": "$members"}, "as": "this", "cond": other}}}


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
