"""The store of codes in MongoDB, by MongoDB's clock.

One collection holds both kinds of documents, each under a name of 32 octets:

- a code: `hash`, `letter`, `tries`, `used`, `made_at`, `end`; and `fresh`, `said`, of the last call;
- a count: `count`, `until`, `same` (who was let through once, and when); and `now`, `again`, `fits`, of the
  last call.

Each is changed by one update of one document, so of calls at once each sees what the one before it did. What
is over goes by the TTL index on `expire_at`, some time later: nothing relies on it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, ReturnDocument
from pymongo.errors import DuplicateKeyError

from mailsender.codes.port import SAME, Kept, NewCode, Once, Verdict
from mailsender.queue.mongo.client import Client, Document, calling, durable
from mailsender.queue.mongo.indexes import ensure_indexes

EXPIRE: Final = IndexModel([("expire_at", ASCENDING)], name="mailsender_codes_expire", expireAfterSeconds=0)

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


class MongoCodeStore:
    """`CodeStore` on `collection`; `timeout` is each call's deadline, in seconds.

    Its index is made before the first write: where nobody asks for codes there is no collection.
    """

    def __init__(self, client: Client, *, database: str, collection: str, timeout: float = 10.0) -> None:
        self._codes = durable(client, database, collection, timeout)
        self._timeout = timeout
        self._indexed = False

    async def take(self, name: bytes, most: int, window: float, once: Once | None = None) -> float | None:
        """See `CodeStore.take`."""
        found = await self._changed(name, _counting(most, window, once))
        if found["fits"]:
            return None
        return float((found["until"] - found["now"]).total_seconds())

    async def give_back(self, name: bytes, once: Once | None = None) -> None:
        """See `CodeStore.give_back`."""
        change: Document = {"$inc": {"count": -1}}
        wanted: Document = {"_id": name, "count": {"$gt": 0}}
        if once is not None:
            change["$pull"] = {"same": {"name": once.name}}
            wanted["same.name"] = once.name
        async with calling(self._timeout):
            await self._codes.update_one(wanted, change)

    async def resting(self, name: bytes, pause: float) -> Kept | None:
        """See `CodeStore.resting`."""
        young = {"$gt": ["$made_at", {"$subtract": ["$$NOW", _milliseconds(pause)]}]}
        async with calling(self._timeout):
            found = await self._codes.find_one({"_id": name, "$expr": young})
        return None if found is None else _kept(found, new=False)

    async def put(self, name: bytes, code: NewCode, pause: float) -> Kept:
        """See `CodeStore.put`."""
        found = await self._changed(name, _putting(code, pause))
        return _kept(found, new=found["fresh"])

    async def withdraw(self, name: bytes, hash: bytes) -> None:  # noqa: A002  as in the port
        """See `CodeStore.withdraw`."""
        async with calling(self._timeout):
            await self._codes.delete_one({"_id": name, "hash": hash})

    async def check(self, name: bytes, hash: bytes, tries: int) -> Verdict:  # noqa: A002  as in the port
        """See `CodeStore.check`. After a lost reply nobody knows whether a right code was used up."""
        async with calling(self._timeout):
            found = await self._codes.find_one_and_update(
                {"_id": name},
                _checking(hash, tries),
                projection={"said": 1},
                return_document=ReturnDocument.AFTER,
            )
        return Verdict.OVER if found is None else Verdict(found["said"])

    async def _changed(self, name: bytes, pipeline: list[Document]) -> Document:
        """The document of this name after the update, which makes it where it is not there."""
        if not self._indexed:
            await ensure_indexes(self._codes, [EXPIRE])
            self._indexed = True
        async with calling(self._timeout):
            try:
                return await self._updated(name, pipeline)
            except DuplicateKeyError:  # another call made it in the same moment: now it is there
                return await self._updated(name, pipeline)

    async def _updated(self, name: bytes, pipeline: list[Document]) -> Document:
        found: Document = await self._codes.find_one_and_update(
            {"_id": name}, pipeline, upsert=True, return_document=ReturnDocument.AFTER
        )
        return found


def _counting(most: int, window: float, once: Once | None) -> list[Document]:
    over = {"$lte": [{"$ifNull": ["$until", _NEVER]}, "$$NOW"]}
    end = {"$add": ["$$NOW", _milliseconds(window)]}
    return [
        {
            "$set": {
                "count": {"$cond": [over, 0, "$count"]},
                "until": {"$cond": [over, end, "$until"]},
                "same": {"$cond": [over, [], {"$ifNull": ["$same", []]}]},
                "now": "$$NOW",
            }
        },
        {"$set": {"again": False if once is None else _let_through(once)}},
        {"$set": {"count": {"$cond": ["$again", "$count", {"$add": ["$count", 1]}]}, "expire_at": "$until"}},
        {"$set": {"fits": {"$or": ["$again", {"$lte": ["$count", most]}]}}},
        *([] if once is None else [{"$set": {"same": _remembered(once)}}]),
    ]


def _let_through(once: Once) -> Document:
    """Whether it was, so lately that it is the same."""
    young = {"$gt": ["$$each.at", {"$subtract": ["$$NOW", _milliseconds(once.pause)]}]}
    same = {"$eq": ["$$each.name", {"$literal": once.name}]}
    found = {"$filter": {"input": "$same", "as": "each", "cond": {"$and": [same, young]}}}
    return {"$gt": [{"$size": found}, 0]}


def _remembered(once: Once) -> Document:
    """Those let through once, and this one now if it is."""
    others = {
        "$filter": {"input": "$same", "as": "each", "cond": {"$ne": ["$$each.name", {"$literal": once.name}]}}
    }
    this = [{"name": {"$literal": once.name}, "at": "$$NOW"}]
    new = {"$and": ["$fits", {"$not": "$again"}]}
    return {"$cond": [new, {"$slice": [{"$concatArrays": [others, this]}, -SAME]}, "$same"]}


def _putting(code: NewCode, pause: float) -> list[Document]:
    rested = {"$subtract": ["$$NOW", _milliseconds(pause)]}
    end = {"$add": ["$$NOW", _milliseconds(code.life)]}
    new = {
        "_id": "$_id",
        "fresh": True,
        "hash": {"$literal": code.hash},
        "letter": {"$literal": code.letter},
        "tries": {"$literal": 0},
        "used": False,
        "made_at": "$$NOW",
        "end": end,
        "expire_at": end,
    }
    return [
        {"$set": {"fresh": {"$lte": [{"$ifNull": ["$made_at", _NEVER]}, rested]}}},
        {"$replaceWith": {"$cond": ["$fresh", new, "$$ROOT"]}},
    ]


def _checking(given: bytes, tries: int) -> list[Document]:
    said = {
        "$switch": {
            "branches": [
                {"case": {"$or": ["$used", {"$lte": ["$end", "$$NOW"]}]}, "then": Verdict.OVER.value},
                {"case": {"$gte": ["$tries", tries]}, "then": Verdict.TOO_OFTEN.value},
                {"case": {"$eq": ["$hash", {"$literal": given}]}, "then": Verdict.RIGHT.value},
            ],
            "default": Verdict.WRONG.value,
        }
    }
    tried = {"$in": ["$said", [Verdict.RIGHT.value, Verdict.WRONG.value]]}
    return [
        {"$set": {"said": said}},
        {
            "$set": {
                "tries": {"$add": ["$tries", {"$cond": [tried, 1, 0]}]},
                "used": {"$or": ["$used", {"$eq": ["$said", Verdict.RIGHT.value]}]},
            }
        },
    ]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _kept(found: dict[str, Any], *, new: bool) -> Kept:
    return Kept(letter=found["letter"], end=found["end"], new=new)
