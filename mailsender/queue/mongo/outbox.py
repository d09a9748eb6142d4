"""The outbox: whose reports are still to come. One small document for all letters settled at once.

To note it in each letter would cost MongoDB as much again as settling them, and an index besides. An entry
is written before the letters become final, and deleted when the reports of all are acknowledged: a letter
that is final and whose entry is gone has been answered. The fields of an entry:

- `letters`: the `_id`s of the letters that it stands for; each names it in its field `outbox`.
- `count`: how many they are. `at`: when it was made. `replica`: whose it is.
- `claims`: the tokens under which the letters are settled; empty where they came in as final.
- `origin`: in an entry for a letter's further publisher, where that one published it: its report is meant.

The entries of a replica that lives are its own. Those of others are swept: who is final is reported, what is
still to be settled under the entry's claims is waited for, and what went another way needs no entry.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection as Group
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

from bson import ObjectId
from pymongo import ASCENDING, IndexModel, UpdateOne

from mailsender.model.letter import Letter, Origin, replica_of
from mailsender.queue.mongo.client import Collection, Document, ServerClock, committed
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import nameable, origin_document, stored_id
from mailsender.queue.mongo.indexes import ensure_indexes

KEPT: Final = 50_000
"""Letters whose entries a process keeps in mind: ten times as many as the reporter has room for, and about
ten megabytes."""

ABSENT: Final = timedelta(hours=1)
"""How long an entry stays whose letters are not there: their insert may be on its way still."""

INDEXES: Final = (
    # The count is there so that counting reads the index alone.
    IndexModel([("at", ASCENDING), ("replica", ASCENDING), ("count", ASCENDING)], name="mailsender_outbox"),
)

_NO_ENTRY: Final = ObjectId(b"\0" * 12)

Named = tuple[str, Origin | None]
"""A letter and its first publisher: what a report is about, as far as an entry goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry as it is kept: its `_id`, the letters that it is for, and whether it was not there before."""

    id: ObjectId
    letters: tuple[str, ...]
    fresh: bool = True


class Outbox:
    """The outbox of a collection of letters; the owner gives calls a deadline and translates their errors."""

    def __init__(self, letters: Collection, outbox: Collection, clock: ServerClock) -> None:
        self._letters = committed(letters)
        self._written = letters
        self._outbox = outbox
        self._committed = committed(outbox)
        self._clock = clock
        self._indexes: dict[str, str] = {}
        self._most = KEPT
        self._left: dict[ObjectId, set[Named]] = {}
        self._entry_of: dict[Named, ObjectId] = {}
        self._name = ""
        self._names = {""}

    async def open(self) -> None:
        """Make sure that the index exists."""
        self._indexes = await ensure_indexes(self._outbox, INDEXES)

    async def try_to_remove(self) -> None:
        """Remove an entry that is never there: without the right all would be reported at each start."""
        await self._outbox.delete_one({"_id": _NO_ENTRY})

    def call(self, replica: str) -> None:
        """From now on entries are this replica's; those under a name that we had before are ours still."""
        self._name = replica
        self._names.add(replica)

    async def now(self) -> datetime:
        """The server's clock."""
        return await self._clock.now()

    # --- what is to be reported ------------------------------------------------------------------

    async def begin(self, ids: Sequence[str], claims: Group[str], now: datetime) -> Entry:
        """Store an entry for letters that are about to become final. To repeat it changes nothing."""
        tokens = sorted(claims)
        entry = Entry(id=_entry_id(*tokens, *ids), letters=tuple(ids))
        whose = {"replica": replica_of(tokens[0])} if tokens else {}
        # An update that finds it there waits for the majority as well; an insert that failed need not.
        put = self._putting(entry, {"claims": tokens, "at": now, **whose})
        result = await self._outbox.bulk_write([put])
        return replace(entry, fresh=bool(result.upserted_count))

    async def begin_late(self, joins: Sequence[tuple[str, Origin]], now: datetime) -> None:
        """Store entries for further publishers of letters: one for each, as each has a report of its own."""
        puts = []
        for each, origin in joins:
            fields = {"claims": [], "at": now, "origin": origin_document(origin)}
            puts.append(self._putting(Entry(id=late_id(each, origin), letters=(each,)), fields))
        if puts:
            await self._outbox.bulk_write(puts, ordered=False)

    async def drop_late(self, joins: Iterable[tuple[str, Origin]]) -> None:
        """Remove entries of further publishers whose reports come with all others."""
        ids = [late_id(each, origin) for each, origin in joins]
        if ids:
            await self._outbox.delete_many({"_id": {"$in": ids}})

    def _putting(self, entry: Entry, fields: Document) -> UpdateOne:
        stored = list(map(stored_id, entry.letters))
        whole = {"letters": stored, "count": len(stored), "replica": self._name, **fields}
        return UpdateOne({"_id": entry.id}, {"$setOnInsert": whole}, upsert=True)

    async def drop(self, entry: Entry) -> None:
        """Remove an entry for which there is nothing to report."""
        await self._outbox.delete_one({"_id": entry.id})

    def keep(self, entry: ObjectId, letters: Iterable[Named]) -> None:
        """Keep in mind which letters are to be reported under an entry of ours.

        While nothing can be reported this would grow with every letter. What is beyond the bound is left to
        the sweep, as is what the reporter has no room for.
        """
        fresh = set(letters)
        if fresh and len(self._entry_of) + len(fresh) <= self._most:
            self._left.setdefault(entry, set()).update(fresh)
            self._entry_of.update(dict.fromkeys(fresh, entry))

    # --- what was reported -----------------------------------------------------------------------

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """Note that the reports of `letters` are out: entries go with the last of them, or hold fewer.

        Repeating it after an error is safe.
        """
        told: defaultdict[ObjectId, set[Named]] = defaultdict(set)
        for letter in letters:
            entry = self._entry_of.get(named(letter))
            if entry is not None:
                told[entry].add(named(letter))
        over = [entry for entry, said in told.items() if self._left[entry] <= said]
        if over:
            await self._outbox.delete_many({"_id": {"$in": over}})
        for said in told.values():
            self._forget(said)

    def _forget(self, said: Iterable[Named]) -> None:
        for each in said:
            entry = self._entry_of.pop(each, None)
            if entry is not None:
                left = self._left[entry]
                left.discard(each)
                if not left:
                    del self._left[entry]

    async def shrink(self) -> None:
        """Let entries of ours hold no more than is left of them: whoever sweeps them repeats no more."""
        updates = [
            UpdateOne(
                {"_id": entry, "count": {"$gt": len(left)}},
                {"$set": {"letters": [stored_id(each) for each, _ in left], "count": len(left)}},
            )
            for entry, left in self._left.items()
        ]
        if updates:
            await self._outbox.bulk_write(updates, ordered=False)

    async def answered(self, entry: object) -> bool:
        """Whether the reports are out for which there was this entry."""
        return await self._outbox.find_one({"_id": entry}, {"_id": 1}) is None

    async def open_among(self, entries: Sequence[object]) -> set[object]:
        """Those of `entries` that are there: for whose letters reports are still to come."""
        ids = [each for each in entries if isinstance(each, ObjectId)]
        found = await self._outbox.find({"_id": {"$in": ids}}, {"_id": 1}).to_list(None)
        return {each["_id"] for each in found}

    # --- what was left behind --------------------------------------------------------------------

    async def sweep(self, living: Group[str], older_than: float, limit: int, keep: timedelta) -> list[Letter]:
        """Letters whose reports nobody living looks after, `limit` or more; with them their entries are ours.

        `older_than`, in seconds, is for our own: what we have no room for is found by ourselves. `keep` is
        how long final letters are remembered: those that have no report yet are for longer.
        """
        await self._clock.now()
        now = self._clock.latest()
        names = sorted(self._names)
        others = {"replica": {"$nin": [*living, *names]}}
        ours = {"replica": {"$in": names}, "at": {"$lte": now - timedelta(seconds=older_than)}}
        query = {"at": {"$lte": now}, "$or": [others, ours]}
        entries = await self._committed.find(query).sort([("at", ASCENDING)]).limit(limit).to_list(limit)
        found: list[Letter] = []
        for entry in entries:
            if len(found) >= limit:
                break
            if nameable(entry["_id"]):
                found += await self._swept(entry, now, keep)
        return found

    async def _swept(self, entry: Document, now: datetime, keep: timedelta) -> list[Letter]:
        ids, claims = _letters(entry), _tokens(entry)
        documents = await self._letters.find({"_id": {"$in": ids}}, hint="_id_").to_list(None)
        ready: list[Letter] = []
        waits = len(documents) < len(ids) and _age(entry, now) < ABSENT
        for document in documents:
            letter = letter_of(document)
            if letter.status.final:
                ready += _meant(letter, document, entry, claims)
            else:
                # Another's claim settles it under an entry of its own, unless it is a further publisher's.
                waits = waits or "origin" in entry or _text(document, "claim") in claims
        if ready:
            self.keep(entry["_id"], [named(each) for each in ready])
            await self._remember(ready, entry, now, keep)
        elif not waits:
            await self._outbox.delete_many({"_id": entry["_id"]})
        return ready

    async def _remember(
        self, ready: Sequence[Letter], entry: Document, now: datetime, keep: timedelta
    ) -> None:
        """Let letters that nobody could report for long be remembered for as long again."""
        if _age(entry, now) < keep / 2:
            return
        ids = [stored_id(each.id) for each in ready]
        await self._written.update_many(
            {"_id": {"$in": ids}}, {"$set": {"expire_at": now + keep}}, hint="_id_"
        )
        await self._outbox.update_one({"_id": entry["_id"]}, {"$set": {"at": now}})

    async def count(self) -> tuple[int, datetime | None]:
        """How many reports are still to come, and since when the first of them."""
        group = {"_id": None, "letters": {"$sum": "$count"}, "oldest": {"$min": "$at"}}
        stages: list[Document] = [{"$group": group}]
        named_ = self._indexes.get("mailsender_outbox")
        cursor = self._outbox.aggregate(stages, **({"hint": named_} if named_ else {}))
        if inspect.isawaitable(cursor):  # PyMongo's is, Motor's is not
            cursor = await cursor
        found = await cursor.to_list(1)
        count, oldest = (found[0]["letters"], found[0]["oldest"]) if found else (0, None)
        number = int(count) if isinstance(count, int | float) and isfinite(count) else 0
        return number, oldest if isinstance(oldest, datetime) else None


def named(letter: Letter) -> Named:
    """What a report of this letter is about."""
    return letter.id, letter.answers[0].origin


def late_id(each: str, origin: Origin) -> ObjectId:
    """The `_id` of the entry for a further publisher: the same when its record is read again."""
    return _entry_id("late", each, repr(origin))


def _entry_id(*names: str) -> ObjectId:
    """The same for the same letters: a repetition whose first reply was lost makes no second entry."""
    whole = "\0".join(names).encode("utf-8", "surrogateescape")
    return ObjectId(blake2b(whole, digest_size=12).digest())


def _meant(letter: Letter, document: Document, entry: Document, claims: Group[str]) -> list[Letter]:
    """What is to be reported of a final letter by an entry: all of it, one publisher's answer, or nothing."""
    if "origin" in entry:
        theirs = [
            each for each in letter.answers if each.origin and origin_document(each.origin) == entry["origin"]
        ]
        return [letter.evolve(answers=tuple(theirs))] if theirs else []
    settled_by = _text(document, "settled_by")
    return [letter] if settled_by in claims or not (claims or settled_by) else []


def _text(document: Document, name: str) -> str:
    """A field of a document that holds one of our tokens; another program may have written anything."""
    found = document.get(name)
    return found if isinstance(found, str) else ""


def _age(entry: Document, now: datetime) -> timedelta:
    at = entry.get("at")
    return now - at if isinstance(at, datetime) else timedelta.max


def _letters(entry: Document) -> list[Any]:
    """The letters of an entry; one that another program wrote may hold anything."""
    found = entry.get("letters")
    return [each for each in found if nameable(each)] if isinstance(found, list) else []


def _tokens(entry: Document) -> list[str]:
    found = entry.get("claims")
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
