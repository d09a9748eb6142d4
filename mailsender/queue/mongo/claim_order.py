"""In which order letters of a route are claimed, and how those that another program put in get a place in it.

Fresh letters stand in one index by their rank, deferred ones in another by the time at which they are due: an
index over both would be walked through over all that is not due yet. One of each goes in turn. A rank is a
moment of the route's own time, which goes slower than the day where flows share the route: compared by it,
what was deferred would have to wait for all that came in before it was due, or go before all of it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple

from bson import MinKey, Timestamp, decode
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, IndexModel

from mailsender.model.letter import DEFAULT_ROUTE, Letter
from mailsender.model.queue_stats import MOST_ROUTES
from mailsender.queue.mongo.client import CODEC, RAW, Collection, Document
from mailsender.queue.mongo.documents import DEFERRED, letter_id
from mailsender.queue.ranks import in_line, in_turn

FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""No rank comes before it."""

STRAYS: Final = 1000
"""Letters that get their place in one go, of each kind."""

# Another program may have written a `due` that is no time: that is none.
_COME: Final[Document] = {"$or": [{"$ne": [{"$type": "$due"}, "date"]}, {"$lte": ["$due", "$$NOW"]}]}
DUE: Final[Document] = {"status": "awaiting", "$expr": _COME}
"""What may be sent: a letter without a time for it, or whose time has come."""

_RANK, _WAITS = "mailsender_rank", "mailsender_waits"
_SHOWN: Final[Document] = {"_id": 1, "size": {"$bsonSize": "$$ROOT"}, "created_at": 1}
_LOWEST: Final = MinKey()

# What comes behind strings and behind dates in the order of BSON's types.
_AFTER_TEXT: Final[Document] = {}
_AFTER_DATES: Final = Timestamp(0, 0)

_BY_ROUTE: Final = [("route", ASCENDING), ("rank", ASCENDING)]
_NO_LISTS: Final[Document] = {"$expr": {"$not": [{"$isArray": "$route"}]}}

_TIMED: Final[Document] = {"$eq": [{"$type": "$due"}, "date"]}
_HAS_COME: Final[Document] = {"$lte": ["$due", "$$NOW"]}
PLACED: Final[list[Document]] = [
    {
        "$set": {
            # Whoever gives a letter no place knows no routes either, whatever it wrote under that name.
            "route": DEFAULT_ROUTE,
            "due": {"$cond": [_TIMED, "$due", "$$REMOVE"]},
            # One without a time has waited for longest, as far as anybody knows.
            "rank": {"$cond": [_TIMED, {"$cond": [_HAS_COME, {"$max": ["$due", FIRST]}, DEFERRED]}, FIRST]},
        }
    },
]
"""An update that gives a letter its place."""

ORDER: Final = (
    # Of those with the same rank the one that was inserted first comes first: its record's number is lower.
    IndexModel(
        [("status", ASCENDING), ("route", ASCENDING), ("rank", ASCENDING)],
        name=_RANK,
        partialFilterExpression={"status": "awaiting"},
    ),
    IndexModel(
        [("status", ASCENDING), ("rank", ASCENDING), ("route", ASCENDING), ("due", ASCENDING)],
        name=_WAITS,
        partialFilterExpression={"status": "awaiting", "rank": DEFERRED},
    ),
)


class Counted(NamedTuple):
    """How many letters there are, and how many of each route."""

    letters: int
    routes: Mapping[str, int]


class Order:
    """The order of a collection of letters; the owner gives calls a deadline and translates their errors."""

    def __init__(self, letters: Collection) -> None:
        self._letters = letters
        self._raw = letters.with_options(codec_options=RAW)
        self._indexes: dict[str, str] = {}
        self._deferred_first: dict[str, bool] = {}  # by route: whose turn it is where one of both goes

    def use(self, indexes: Mapping[str, str]) -> None:
        """Use the indexes that are there, by our names for them."""
        self._indexes = dict(indexes)

    async def heads(self, route: str, skip: int, limit: int, beside: Document) -> list[Document]:
        """`_id`s and sizes of letters of a route that may be sent, in order, the first `skip` left out.

        `beside` is a query for those that are not left alone.
        """
        fresh = {**DUE, "route": route, "rank": {"$gte": FIRST}, **beside}
        waits = {"status": "awaiting", "rank": DEFERRED, "route": route, "$expr": _HAS_COME, **beside}
        most = {"$limit": skip + limit}
        others = [{"$match": waits}, {"$sort": {"due": 1}}, most, {"$project": {**_SHOWN, "due": 1}}]
        cursor = self._letters.aggregate(
            [
                {"$match": fresh},
                {"$sort": {"rank": 1}},
                most,
                {"$project": {**_SHOWN, "rank": 1, "handling.priority": 1}},
                {"$unionWith": {"coll": self._letters.name, "pipeline": others}},
            ]
        )
        if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
            cursor = await cursor
        found = await cursor.to_list(2 * (skip + limit))
        # Merged here: MongoDB's sort would mix those of the same millisecond.
        kinds = [[each for each in found if name in each] for name in ("rank", "due")]
        if all(kinds):
            if self._deferred_first.get(route):
                kinds.reverse()
            if limit % 2:
                self._deferred_first[route] = not self._deferred_first.get(route)
        return list(islice(in_turn(*kinds), skip, skip + limit))

    async def oldest(self) -> dict[str, datetime]:
        """By route: since when the letter waits that may be sent and waits longest, if there is one."""
        heads = {route: await self.heads(route, 0, 2, {}) for route in await self.routes()}
        return {route: min(map(_waits_since, several)) for route, several in heads.items() if several}

    async def waiting(self) -> Counted:
        """How many letters wait. The index alone is read, once for all routes."""
        return await self._counted({"status": "awaiting"}, _RANK)

    async def deferred(self, now: datetime) -> Counted:
        """How many wait for a time of their own: those, and not the many that are due, are looked at."""
        return await self._counted({"status": "awaiting", "rank": DEFERRED, "due": {"$gt": now}}, _WAITS)

    async def ahead(self, letter: Document, now: datetime, most: int) -> int | None:
        """See `Queue.ahead`; `letter` is its document, or what of it says its place."""
        route, rank, due = (letter.get(each) for each in ("route", "rank", "due"))
        if letter.get("status") != "awaiting" or not isinstance(route, str):
            return None
        deferred = {"status": "awaiting", "rank": DEFERRED, "route": route}
        fresh = {"status": "awaiting", "route": route}
        if isinstance(rank, datetime):
            before = await self._count({**fresh, "rank": {"$gte": FIRST, "$lt": rank}}, _RANK, most)
            others = await self._count({**deferred, "due": {"$lte": now}}, _WAITS, before)
        elif rank is DEFERRED and isinstance(due, datetime) and due <= now:
            before = await self._count({**deferred, "due": {"$lt": due}}, _WAITS, most)
            others = await self._count({**fresh, "rank": {"$gte": FIRST}}, _RANK, before)
        else:
            return None
        return min(most, before + others)

    async def _count(self, query: Document, index: str, most: int) -> int:
        """How many letters of a query there are, as far as `most`: no more is looked at."""
        if not most:
            return 0
        return int(await self._letters.count_documents(query, limit=most, **self._hint(index)))

    async def _counted(self, query: Document, index: str) -> Counted:
        stages = [{"$match": query}, {"$group": {"_id": "$route", "letters": {"$sum": 1}}}]
        cursor = self._letters.aggregate(stages, **self._hint(index))
        if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
            cursor = await cursor
        total, routes = 0, dict[str, int]()
        async for each in cursor:
            total += each["letters"]
            # Another program's route may be any value.
            if isinstance(each["_id"], str):
                routes[each["_id"]] = each["letters"]
            if len(routes) > 2 * MOST_ROUTES:
                routes = _fullest(routes)
        return Counted(total, _fullest(routes))

    def _hint(self, index: str) -> dict[str, str]:
        """That index, if it is there: without it MongoDB would look at every document."""
        named = self._indexes.get(index)
        return {"hint": named} if named else {}

    async def routes(self) -> list[str]:
        """The routes on which letters wait, in as many looks into the index."""
        return [route async for route, _ in self._looks() if route is not None]

    async def _looks(self) -> AsyncGenerator[tuple[str | None, Document], None]:
        """The routes on which letters wait, one after another, each with the query that met it.

        None where what was met is no name, as another program wrote it. A list stands in the index as each of
        what is in it: where one was met lists are left out, or each of their texts would need a look of its
        own. Beyond what cannot be said in a query (it is not valid UTF-8) nothing is looked for, until such
        letters have another route.
        """
        beyond: Document = {"$gte": ""}
        texts: Document = {}
        for _ in range(MOST_ROUTES):
            query = {"status": "awaiting", "route": beyond, **texts}
            first = (
                await self._letters.find(query, {"_id": 0, "route": 1}).sort(_BY_ROUTE).limit(1).to_list(1)
            )
            if not first:
                break
            route = first[0]["route"]
            if isinstance(route, list):
                yield None, query
                texts = _NO_LISTS
            elif not is_sayable(route):
                yield None, query
                break
            else:
                yield route, query
                beyond = {"$gt": route}

    async def strays(self) -> AsyncGenerator[list[RawBSONDocument], None]:
        """Letters that have no place in the order, some and then more: their `_id`s as they came.

        They are those of other programs, of the original service, and of builds from before there were ranks.
        Whoever gives each of them its place as they come gets on, however little time there is for it.
        """
        if not {_RANK, _WAITS} <= self._indexes.keys():
            return
        found = await self._between(_RANK, ("awaiting", _LOWEST), ("awaiting", ""))
        found += await self._between(_RANK, ("awaiting", _AFTER_TEXT), (_beyond("awaiting"),))
        if found:
            yield found
        async with aclosing(self._looks()) as looks:
            async for route, query in looks:
                if route is None:
                    there = self._raw.find(query, {"_id": 1, "route": 1}).sort(_BY_ROUTE).limit(STRAYS)
                    found = [each for each in await there.to_list(STRAYS) if not _is_name(each)]
                else:
                    found = await self._on(route)
                if found:
                    yield found

    async def _on(self, route: str) -> list[RawBSONDocument]:
        """Letters of a route that have no place in its order."""
        found: list[RawBSONDocument] = []
        for index, low, high in (
            (_RANK, ("awaiting", route, _LOWEST), ("awaiting", route, False)),
            (_RANK, ("awaiting", route, True), ("awaiting", route, FIRST)),
            (_RANK, ("awaiting", route, _AFTER_DATES), ("awaiting", _beyond(route))),
            (_WAITS, ("awaiting", False, route, _AFTER_DATES), ("awaiting", False, _beyond(route))),
        ):
            found += await self._between(index, low, high)
        return found

    async def _between(self, index: str, low: Sequence[Any], high: Sequence[Any]) -> list[RawBSONDocument]:
        """What an index has from `low` to before `high`, values of its keys; the lowest where left out."""
        keys = _KEYS[index]
        bounds = [list(zip(keys, [*values, *[_LOWEST] * len(keys)], strict=False)) for values in (low, high)]
        query = {"status": "awaiting"} | ({"rank": DEFERRED} if index == _WAITS else {})
        cursor = self._raw.find(query, {"_id": 1}, hint=self._indexes[index])
        return list(await cursor.min(bounds[0]).max(bounds[1]).limit(STRAYS).to_list(STRAYS))


def _beyond(text: str) -> str:
    """What comes next to a text: as a bound it leaves out nothing of it, MaxKey neither."""
    return f"{text}\0"


def _is_name(raw: RawBSONDocument) -> bool:
    route = decode(raw.raw, CODEC).get("route")
    return type(route) is str and is_sayable(route)


def is_sayable(name: str) -> bool:
    """Whether a text that came from the server can go back there."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _fullest(routes: Mapping[str, int]) -> dict[str, int]:
    """As many of the routes as are told, those with the most letters."""
    return dict(nlargest(MOST_ROUTES, routes.items(), key=itemgetter(1)))


def places_of(heads: Sequence[Document], letters: Sequence[Letter]) -> tuple[float, ...]:
    """Where letters stand in the order of their route, in seconds; they are of the `heads`."""
    ranks = {
        letter_id(each["_id"]): each["rank"].timestamp()
        for each in heads
        if isinstance(each.get("rank"), datetime)
    }
    return in_line([ranks.get(each.id) for each in letters])


def _waits_since(head: Document) -> datetime:
    """Since when a letter may be sent; one whose times are none has waited for longest."""
    found = head.get("created_at") if "rank" in head else head.get("due")
    return found if isinstance(found, datetime) else FIRST


_KEYS: Final = {model.document["name"]: list(model.document["key"]) for model in ORDER}
