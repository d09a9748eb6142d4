"""The suppression list in MongoDB: a collection with a document for each entry, under its key.

- `address`, `stream`, `source`, `reason`, `active`, `since`, `until` (null: it does not end), `refusals`,
  `letter`: as of `Entry`.
- `expire_at`: as `until`, where that is a time. What is over goes by the TTL index on it, some time later:
  nothing relies on it.

A refusal is taken in by one update of one document, so of several at once each counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, IndexModel, ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError

from mailsender.queue.mongo.client import DUPLICATE_KEY, Client, Document, calling, durable
from mailsender.queue.mongo.indexes import ensure_indexes
from mailsender.suppression.port import Entry, Filter, Refusal, Source
from mailsender.suppression.rules import REFUSALS

INDEXES: Final = (
    IndexModel([("expire_at", ASCENDING)], name="mailsender_suppression_expire", expireAfterSeconds=0),
    IndexModel([("stream", ASCENDING), ("_id", ASCENDING)], name="mailsender_suppression_stream"),
)

KEYS: Final = 5000
"""Keys in one query: 2 MB of them if each were as long as it can be. A claim of ordinary letters has
fewer."""

_LEARNED: Final = [each.value for each in Source if each.learned]

_BEHIND_A_SPACE: Final = "!"
"""The character that follows a space, which stands between an address and a stream."""


class MongoSuppressions:
    """`SuppressionStore` on `collection`; `timeout` is each call's deadline, in seconds.

    Its indexes are made before the first write: where nobody is suppressed there is no collection.
    """

    def __init__(self, client: Client, *, database: str, collection: str, timeout: float = 10.0) -> None:
        self._entries = durable(client, database, collection, timeout)
        self._timeout = timeout
        self._indexed = False

    async def empty(self) -> bool:
        """See `SuppressionStore.empty`."""
        async with calling(self._timeout):
            return await self._entries.find_one({}, {"_id": 1}) is None

    async def find(self, keys: Collection[str]) -> list[Entry]:
        """See `SuppressionStore.find`."""
        found: list[Entry] = []
        for part in _parts(sorted(set(keys))):
            async with calling(self._timeout):
                found += _entries_of(await self._entries.find({"_id": {"$in": part}}).to_list(None))
        return found

    async def put(self, entries: Sequence[Entry]) -> int:
        """See `SuppressionStore.put`."""
        last = {each.key: each for each in entries}
        writes = [ReplaceOne({"_id": key}, _document(each), upsert=True) for key, each in last.items()]
        new = 0
        for part in _parts(writes):
            new += (await self._written(part)).upserted_count
        return new

    async def note(self, refusals: Sequence[Refusal]) -> None:
        """See `SuppressionStore.note`."""
        writes = [UpdateOne({"_id": each.address}, _noting(each), upsert=True) for each in refusals]
        for part in _parts(writes):
            await self._written(part)

    async def remove(self, keys: Collection[str], *, learned: bool = False) -> int:
        """See `SuppressionStore.remove`."""
        only: Document = {"source": {"$in": _LEARNED}} if learned else {}
        gone = 0
        for part in _parts(sorted(set(keys))):
            async with calling(self._timeout):
                gone += (await self._entries.delete_many({"_id": {"$in": part}, **only})).deleted_count
        return gone

    async def listed(self, wanted: Filter, *, after: str, most: int) -> list[Entry]:
        """See `SuppressionStore.listed`."""
        query: Document = {
            "_id": {"$gt": after},
            "active": True,
            "$or": [{"until": None}, {"until": {"$gt": wanted.now}}],
        }
        if wanted.stream is not None:
            query["stream"] = wanted.stream
        if wanted.address:
            end = wanted.address + _BEHIND_A_SPACE
            query["$and"] = [{"_id": {"$gte": wanted.address, "$lt": end}}, {"address": wanted.address}]
        async with calling(self._timeout):
            cursor = self._entries.find(query, sort=[("_id", ASCENDING)], limit=most)
            return list(_entries_of(await cursor.to_list(None)))

    async def _written(self, writes: Sequence[Any]) -> Any:
        """The result of `writes`, which come in their order: several may be of one entry."""
        if not self._indexed:
            await ensure_indexes(self._entries, INDEXES)
            self._indexed = True
        async with calling(self._timeout):
            try:
                return await self._entries.bulk_write(writes)
            except BulkWriteError as error:
                if any(each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]):
                    raise
            # Another call made the same entry in the same moment: now it is there.
            return await self._entries.bulk_write(writes)


def _parts(several: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(several), KEYS):
        yield several[start : start + KEYS]


def _noting(refusal: Refusal) -> list[Document]:
    """`rules.refused` as an update."""
    at = refusal.at
    endless = {"$eq": [{"$type": "$until"}, "null"]}  # missing is another type
    holds = {"$or": [endless, {"$gt": ["$until", at]}]}
    learned = {"$in": ["$source", _LEARNED]}
    same = {"$eq": ["$letter", {"$literal": refusal.letter}]}
    was_active = {"$and": [holds, "$active"]}
    until = {"$max": [refusal.until, {"$cond": [holds, "$until", refusal.until]}]}
    number = {"$cond": [holds, {"$add": ["$refusals", 1]}, 1]}
    new = {
        "_id": "$_id",
        "address": {"$literal": refusal.address},
        "stream": {"$literal": ""},
        "source": {"$literal": Source.REFUSAL.value},
        "reason": {"$literal": refusal.reason},
        "active": {"$or": [refusal.own, was_active, {"$gte": [number, REFUSALS]}]},
        "since": {"$cond": [was_active, "$since", at]},
        "until": {"$cond": [endless, None, until]},
        "refusals": number,
        "letter": {"$literal": refusal.letter},
        "expire_at": {"$cond": [endless, "$$REMOVE", until]},
    }
    stays = {"$and": [holds, {"$or": [{"$not": [learned]}, same]}]}
    return [{"$replaceWith": {"$cond": [stays, "$$ROOT", new]}}]


def _document(entry: Entry) -> Document:
    found: Document = {
        "address": entry.address,
        "stream": entry.stream,
        "source": entry.source.value,
        "reason": entry.reason,
        "active": entry.active,
        "since": entry.since,
        "until": entry.until,
        "refusals": entry.refusals,
        "letter": entry.letter,
    }
    return found if entry.until is None else found | {"expire_at": entry.until}


def _entries_of(documents: Iterable[Document]) -> Iterator[Entry]:
    """Those that can be read: what somebody else wrote into the collection keeps nobody from sending."""
    for document in documents:
        try:
            entry = Entry(
                address=str(document["address"]),
                stream=str(document.get("stream", "")),
                source=Source(document["source"]),
                reason=str(document.get("reason", "")),
                active=bool(document.get("active", True)),
                since=document["since"],
                until=document.get("until"),
                refusals=int(document.get("refusals", 0)),
                letter=str(document.get("letter", "")),
            )
        except (LookupError, TypeError, ValueError):
            continue
        if isinstance(entry.since, datetime) and isinstance(entry.until, datetime | None):
            yield entry
