"""In which order letters of a route are claimed, and how those that another program put in get a place in it.

Fresh letters stand in one index by their rank, deferred ones in another by the time at which they are due: an
index over both would be walked through over all that is not due yet.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, Final

from bson import MinKey, Timestamp, decode
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, IndexModel

from mailsender.model.letter import DEFAULT_ROUTE
from mailsender.queue.mongo.client import CODEC, RAW, Collection, Document

FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""No rank comes before it."""

MOST_ROUTES: Final = 1000
"""Routes whose letters are looked at in one go: far more than there ever are."""

STRAYS: Final = 1000
"""Letters that get their place in one go, of each kind."""

DEFERRED: Final = False
"""In the place of a rank: the letter has to wait until it is `due`."""

# Another program may have written a `due` that is no time: that is none.
_COME: Final[Document] = {"$or": [{"$ne": [{"$type": "$due"}, "date"]}, {"$lte": ["$due", "$$NOW"]}]}
DUE: Final[Document] = {"status": "awaiting", "$expr": _COME}
"""What may be sent: a letter without a time for it, or whose time has come."""

_RANK, _WAITS = "mailsender_rank", "mailsender_waits"
_SHOWN: Final[Document] = {"_id": 1, "size": {"$bsonSize": "$$ROOT"}}
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


class Order:
    """The order of a collection of letters; the owner gives calls a deadline and translates their errors."""

    def __init__(self, letters: Collection) -> None:
        self._letters = letters
        self._raw = letters.with_options(codec_options=RAW)
        self._indexes: dict[str, str] = {}
        self._served: frozenset[str] | None = None  # None: whichever there are

    def serve(self, routes: Iterable[str]) -> None:
        """From now on letters on other routes than these count as without a place, see `strays`."""
        self._served = frozenset(routes)

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
                {"$project": {**_SHOWN, "rank": 1}},
                {"$unionWith": {"coll": self._letters.name, "pipeline": others}},
            ]
        )
        if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
            cursor = await cursor
        found = await cursor.to_list(2 * (skip + limit))
        # Merged here: MongoDB's sort would mix those of the same millisecond.
        first, second = ([each for each in found if name in each] for name in ("rank", "due"))
        return list(islice(merge(first, second, key=_place_of), skip, skip + limit))

    async def oldest(self) -> datetime | None:
        """Since when the letter waits that may be sent and waits longest; None where there is none."""
        firsts = [
            _place_of(each) for route in await self.routes() for each in await self.heads(route, 0, 1, {})
        ]
        return min(firsts, default=None)

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
            elif not _is_sayable(route):
                yield None, query
                break
            else:
                yield route, query
                beyond = {"$gt": route}

    async def strays(self) -> AsyncGenerator[list[RawBSONDocument], None]:
        """Letters that have no place in the order, some and then more: their `_id`s as they came.

        They are those of other programs, of the original service, and of builds from before there were ranks;
        and all that wait on a route that is not served.
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
                elif self._served is not None and route not in self._served:
                    found = await self._between(_RANK, ("awaiting", route), ("awaiting", _beyond(route)))
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
    return type(route) is str and _is_sayable(route)


def _is_sayable(name: str) -> bool:
    """Whether a text that came from the server can go back there."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _place_of(head: Document) -> datetime:
    """The rank of a letter, or its time; whatever is no time has come."""
    found = head.get("rank", head.get("due"))
    return found if isinstance(found, datetime) else FIRST


_KEYS: Final = {model.document["name"]: list(model.document["key"]) for model in ORDER}
