"""Marks: one small document that says of all letters settled at once whether their reports are out.

To note it in each letter would cost MongoDB as much again as settling them. The fields of a mark:

- `letters`: the `_id`s of the letters that it stands for, each of which names it in its field `mark`.
- `count`: how many they are. `claims`: the tokens under which they were settled. `at`: when.
- `reported`: False until the reports of all were acknowledged. `forget_at`: when they may be forgotten.

A mark is durable before its letters are settled, so that no final letter is ever without. One that stays
unreported (its process died, or the broker is away) is dissolved: its letters become `reported: false`, each
by itself (`reported: true` where this process knows that the report is out), and it is removed; where the
user may remove nothing it is called reported. Letters that several publishers wait for are marked by
themselves at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from math import isfinite
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, IndexModel
from pymongo.errors import OperationFailure

from mailsender.model.letter import Letter, Settlement
from mailsender.queue.mongo.client import Collection, Document, ServerClock, committed
from mailsender.queue.mongo.documents import letter_id, nameable, stored_id
from mailsender.queue.mongo.indexes import ensure_indexes

SHARED_FROM = 32
"""Letters settled at once from which they share a mark: it costs two writes of its own, about as much as
marking ten letters, and they wait for the first."""

AT_ONCE = 8
"""Marks dissolved, or forgotten, in one go: up to four thousand letters, which MongoDB does in a fraction of
a second."""

KEPT = 50_000
"""Letters whose marks a process keeps in mind: ten times as many as the reporter has room for, and about ten
megabytes."""

STALE = 60.0
"""Seconds beyond the age at which marks are dissolved, after which we look whether ours are still there."""

UNAUTHORIZED = 13
"""MongoDB's code for a user who may not do this."""

INDEXES = (
    IndexModel(
        # The count is there so that counting reads the index alone.
        [("reported", ASCENDING), ("at", ASCENDING), ("count", ASCENDING)],
        name="mailsender_unreported",
        partialFilterExpression={"reported": False},
    ),
    IndexModel(
        [("forget_at", ASCENDING)],
        name="mailsender_forget",
        partialFilterExpression={"forget_at": {"$exists": True}},
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark in the making: its `_id`, when it was made by the server's clock, and the letters it is for."""

    id: ObjectId
    at: datetime
    letters: tuple[str, ...]


@dataclass(slots=True)
class _Ours:
    """A mark of this process: letters whose reports are not acknowledged yet, and since when."""

    left: set[str]
    at: datetime


class Marks:
    """The marks of a collection of letters; the owner gives calls a deadline and translates their errors."""

    def __init__(
        self,
        letters: Collection,
        marks: Collection,
        clock: ServerClock,
        *,
        retention: timedelta,
        shared_from: int = SHARED_FROM,
    ) -> None:
        self._letters = letters
        self._marks = marks
        self._committed_letters = committed(letters)
        self._committed = committed(marks)
        self._clock = clock
        self._retention = retention
        self._shared_from = shared_from
        self._indexes: dict[str, str] = {}
        self._ours: dict[ObjectId, _Ours] = {}
        self._mark_of: dict[str, ObjectId] = {}

    async def open(self) -> None:
        """Make sure that the indexes exist."""
        self._indexes = await ensure_indexes(self._marks, INDEXES)

    async def begin(self, settlements: Sequence[Settlement], now: datetime) -> Mark | None:
        """Store a mark for those that can share one; None where they are too few.

        To repeat it for the same settlements changes nothing.
        """
        sharing = [each for each in settlements if can_share(each)]
        if len(sharing) < self._shared_from:
            return None
        ids = tuple([each.letter.id for each in sharing])
        tokens = sorted({each.token for each in sharing})
        mark = Mark(id=_mark_id(tokens, ids), at=now, letters=ids)
        fields = {
            "letters": list(map(stored_id, ids)),
            "count": len(ids),
            "claims": tokens,
            "at": now,
            "reported": False,
        }
        # An update that finds it there waits for the majority as well; an insert that failed need not.
        await self._marks.update_one({"_id": mark.id}, {"$setOnInsert": fields}, upsert=True)
        return mark

    def keep(self, mark: Mark, ids: Iterable[str]) -> None:
        """Keep in mind which letters were settled under our mark.

        While nothing can be reported this would grow with every letter. What is beyond the bound is left to
        the sweep, as is what the reporter has no room for.
        """
        left = set(ids)
        if left and len(self._mark_of) + len(left) <= KEPT:
            self._ours[mark.id] = _Ours(left, mark.at)
            self._mark_of.update(dict.fromkeys(left, mark.id))

    async def report(self, letters: Sequence[Letter]) -> list[Letter]:
        """Note that the reports of `letters` are out; returns those that have to be marked by themselves.

        A mark is written when the last of its letters is reported. Repeating it after an error is safe.
        """
        alone: list[Letter] = []
        ours: dict[ObjectId, list[Letter]] = {}
        for letter in letters:
            mark = self._mark_of.get(letter.id)
            if mark is None:
                alone.append(letter)
            else:
                ours.setdefault(mark, []).append(letter)
        complete = [
            mark for mark, said in ours.items() if self._ours[mark].left <= {each.id for each in said}
        ]
        if complete:
            await self._clock.now()
            query = {"_id": {"$in": complete}, "reported": False}
            result = await self._marks.update_many(query, {"$set": self._over()})
            if result.matched_count < len(complete):
                # Another replica dissolved it; or it is a repetition, then this changes nothing.
                alone += [each for mark in complete for each in ours[mark]]
        for said in ours.values():
            self.disown([each.id for each in said])
        return alone

    def disown(self, ids: Iterable[str]) -> None:
        """Know no more of a mark of these letters: they were reported, or are marked by themselves."""
        for each in ids:
            mark = self._mark_of.pop(each, None)
            if mark is not None:
                left = self._ours[mark].left
                left.discard(each)
                if not left:
                    del self._ours[mark]

    async def dissolve(self, older_than: float, limit: int) -> None:
        """Let letters be marked by themselves, `limit` or more, whose marks are older than that in seconds.

        A mark of which a settlement may still be under way is left alone: nobody would know of it.
        """
        since = {"$subtract": ["$$NOW", int(older_than * 1000)]}
        query = {"reported": False, "$expr": {"$lte": ["$at", since]}}
        cursor = self._committed.find(query, {"letters": 1, "claims": 1}).sort([("at", ASCENDING)])
        old = _holding(_named(await cursor.limit(AT_ONCE).to_list(AT_ONCE)), limit)
        if old:
            busy = await self._busy(old)
            old = [mark for mark in old if busy.isdisjoint(map(letter_id, _letters(mark)))]
            marks = [mark["_id"] for mark in old]
            unreported = [each for mark in old for each in self._unreported(mark)]
            theirs = {"_id": {"$in": unreported}, "mark": {"$in": marks}}
            # Whoever joined one took the answers before for given, which they are not.
            gone = dict.fromkeys(["mark", "answered", "expire_at"], "")
            none_given = {"$set": {"reported": False}, "$unset": gone}
            await self._letters.update_many(theirs, none_given, hint="_id_")
            await self._mark_alone(old)
            await self._remove(marks)
            for mark in marks:
                self._drop(mark)
        await self._drop_gone(older_than)

    async def forget(self) -> int:
        """Delete some of the letters that were reported under marks and need not be remembered; how many.

        One that another publisher joined has a field `reported` of its own, and stays.
        """
        query = {"$expr": {"$lte": ["$forget_at", "$$NOW"]}, "forget_at": {"$exists": True}}
        cursor = self._marks.find(query, {"letters": 1}).sort([("forget_at", ASCENDING)])
        old = _named(await cursor.limit(AT_ONCE).to_list(AT_ONCE))
        if not old:
            return 0
        ids = [each for mark in old for each in _letters(mark)]
        marks = [mark["_id"] for mark in old]
        theirs = {"_id": {"$in": ids}, "mark": {"$in": marks}, "reported": {"$exists": False}}
        result = await self._letters.delete_many(theirs, hint="_id_")
        await self._marks.delete_many({"_id": {"$in": marks}})
        return int(result.deleted_count)

    async def reported(self, marks: Iterable[ObjectId]) -> set[ObjectId]:
        """Those of `marks` whose letters have their reports, or that are gone."""
        asked = set(marks)
        if not asked:
            return asked
        query = {"_id": {"$in": list(asked)}, "reported": False}
        found = await self._marks.find(query, {"_id": 1}).to_list(None)
        return asked - {each["_id"] for each in found}

    async def unreported(self) -> int:
        """How many letters are under marks that are not reported."""
        stages: list[Document] = [
            {"$match": {"reported": False}},
            {"$group": {"_id": None, "letters": {"$sum": "$count"}}},
        ]
        named = self._indexes.get("mailsender_unreported")
        cursor = self._marks.aggregate(stages, **({"hint": named} if named else {}))
        if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
            cursor = await cursor
        found = await cursor.to_list(1)
        count = found[0]["letters"] if found else 0
        return int(count) if isinstance(count, int | float) and isfinite(count) else 0

    async def _busy(self, marks: Sequence[Document]) -> set[str]:
        """Letters that are still to be settled under their marks, as a majority knows."""
        query = {
            "_id": {"$in": [each for mark in marks for each in _letters(mark)]},
            "status": "processing",
            "claim": {"$in": sorted({token for mark in marks for token in _tokens(mark)})},
        }
        found = await self._committed_letters.find(query, {"_id": 1}, hint="_id_").to_list(None)
        return {letter_id(each["_id"]) for each in found}

    def _unreported(self, mark: Document) -> list[Any]:
        """Of a mark of ours we know which reports are out; of another's, all may be wanting."""
        ours = self._ours.get(mark["_id"])
        if ours is None:
            return _letters(mark)
        return [each for each in _letters(mark) if letter_id(each) in ours.left]

    async def _mark_alone(self, marks: Sequence[Document]) -> None:
        """Mark by themselves the letters that are still under marks about to go: their reports are out."""
        await self._clock.now()
        theirs = {
            "_id": {"$in": [each for mark in marks for each in _letters(mark)]},
            "mark": {"$in": [mark["_id"] for mark in marks]},
            "reported": {"$exists": False},
        }
        forget = self._clock.latest() + self._retention
        fields = {"answered": 1, "reported": True, "expire_at": forget}
        await self._letters.update_many(theirs, {"$set": fields, "$unset": {"mark": ""}}, hint="_id_")

    async def _remove(self, marks: Sequence[ObjectId]) -> None:
        """Remove marks that stand for no letter any more; who may remove nothing has them count for none."""
        query = {"_id": {"$in": list(marks)}}
        try:
            await self._marks.delete_many(query)
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
        else:
            return
        # Reports must go out all the same; that nothing is ever forgotten is told by `forget`.
        await self._marks.update_many(query, {"$set": self._over()})

    def _over(self) -> Document:
        """The fields of a mark that counts for none any more; the server's clock was just asked."""
        return {"reported": True, "forget_at": self._clock.latest() + self._retention}

    async def _drop_gone(self, older_than: float) -> None:
        """Keep in mind no longer what another replica dissolved, and reported perhaps, long ago."""
        await self._clock.now()
        stale = self._clock.latest() - timedelta(seconds=older_than + STALE)
        old = [mark for mark, ours in self._ours.items() if ours.at < stale]
        for mark in await self.reported(old):
            self._drop(mark)

    def _drop(self, mark: ObjectId) -> None:
        ours = self._ours.get(mark)
        if ours is not None:
            self.disown(list(ours.left))


def can_share(settlement: Settlement) -> bool:
    """Whether a letter can share a mark: it is final, and one publisher waits for its report."""
    return settlement.letter.status.final and len(settlement.letter.answers) == 1


def mark_in(document: Document) -> ObjectId | None:
    """The mark that says whether a letter was reported; None where the document says so itself."""
    mark = document.get("mark")
    return mark if "reported" not in document and isinstance(mark, ObjectId) else None


def _named(marks: list[Document]) -> list[Document]:
    return [mark for mark in marks if nameable(mark["_id"])]


def _letters(mark: Document) -> list[Any]:
    """The letters of a mark; one that another program wrote may hold anything."""
    found = mark.get("letters")
    return [each for each in found if nameable(each)] if isinstance(found, list) else []


def _tokens(mark: Document) -> list[str]:
    found = mark.get("claims")
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _mark_id(tokens: Sequence[str], ids: Sequence[str]) -> ObjectId:
    """The same for the same settlements: a repetition whose first reply was lost makes no second mark."""
    named = "\0".join([*tokens, *ids]).encode("utf-8", "surrogateescape")
    return ObjectId(blake2b(named, digest_size=12).digest())


def _holding(marks: list[Document], letters: int) -> list[Document]:
    """The first of `marks` that hold so many letters together."""
    total = 0
    for number, mark in enumerate(marks, start=1):
        total += len(_letters(mark))
        if total >= letters:
            return marks[:number]
    return marks
