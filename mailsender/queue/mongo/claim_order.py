"""In which order letters of a route are claimed, and how those that another program put in get a place in it.

Fresh letters stand in one index by their rank, deferred ones in another by the time at which they are due: an
index over both would be walked through over all that is not due yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
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
        names, _ = await self._routes()
        return names

    async def _routes(self) -> tuple[list[str], list[RawBSONDocument]]:
        """The routes on which letters wait, and letters whose route is no name, as another program wrote it.

        A list stands in the index as each of what is in it. Beyond what cannot be said in a query (it is not
        valid UTF-8) nothing is looked for, until such letters have another route.
        """
        names: list[str] = []
        odd: list[RawBSONDocument] = []
        for _ in range(MOST_ROUTES):
            query = {"status": "awaiting", "route": {"$gt": names[-1]} if names else {"$gte": ""}}
            order = [("route", ASCENDING), ("rank", ASCENDING)]
            first = await self._letters.find(query, {"_id": 0, "route": 1}).sort(order).limit(1).to_list(1)
            if not first:
                break
            name = _name_in(first[0]["route"], names[-1] if names else None)
            if name != first[0]["route"]:
                there = self._raw.find(query, {"_id": 1, "route": 1}).sort(order).limit(STRAYS)
                odd += [each for each in await there.to_list(STRAYS) if not _is_name(each)]
            if name is None:
                break
            names.append(name)
        return names, odd

    async def strays(self) -> list[RawBSONDocument]:
        """Letters that have no place in the order, up to `STRAYS` of each kind: their `_id`s as they came.

        They are those of other programs, of the original service, and of builds from before there were ranks.
        """
        if not {_RANK, _WAITS} <= self._indexes.keys():
            return []
        names, found = await self._routes()
        found += await self._between(_RANK, ("awaiting", _LOWEST), ("awaiting", ""))
        found += await self._between(_RANK, ("awaiting", _AFTER_TEXT), (_beyond("awaiting"),))
        for route in names:
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


def _name_in(route: Any, last: str | None) -> str | None:
    """The name that a route is, or the next one beyond `last` of a list; None where there is none."""
    names = [each for each in (route if isinstance(route, list) else [route]) if type(each) is str]
    beyond = [each for each in names if (last is None or each > last) and _is_sayable(each)]
    return min(beyond, default=None)


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
