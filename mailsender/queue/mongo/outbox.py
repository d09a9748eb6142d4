"""The outbox: whose reports are still to come. One small document for all letters settled at once.

To note it in each letter would cost MongoDB as much again as settling them, and an index besides. An entry
is written before the letters become final, and deleted when the reports of all are acknowledged: a letter
that is final and whose entry is gone has been answered. The fields of an entry:

- `letters`: the `_id`s of the letters that it stands for; each names it in its field `outbox`.
- `count`: how many they are. `at`: when it was made. `replica`: whose it is.
- `claims`: the tokens under which the letters are settled; empty where they came in as final.
- `origin`: in an entry for a letter's further publisher, where that one published it: its report is meant.

An entry goes with the last report of its letters; until then a sweep takes those out of it whose reports
are out. The entries of a replica that lives are its own. Those of others are swept: who is final is reported,
what is still to be settled under the entry's claims is waited for, and what went another way needs no entry.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Collection as Group
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import groupby, islice
from math import isfinite
from operator import itemgetter
from typing import Any, Final

import structlog
from bson import ObjectId
from pymongo import ASCENDING, IndexModel, UpdateOne

from mailsender.model.letter import Letter, Origin, Status, replica_of
from mailsender.queue.mongo.client import Collection, Document, ServerClock, committed
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import letter_id, nameable, origin_document, stored_id
from mailsender.queue.mongo.indexes import ensure_indexes

KEPT: Final = 50_000
"""Letters whose entries a process keeps in mind: ten times as many as the reporter has room for, and about
ten megabytes."""

ABSENT: Final = timedelta(hours=1)
"""How long an entry stays whose letters are not there: their insert may be on its way still."""

PAGES: Final = 8
"""Pages of entries that one sweep looks at: some thousands of them are looked at in about a second."""

MOST_ALIKE: Final = 10_000
"""Entries of the same millisecond that are looked at: one insert makes a thousand for further publishers."""

LOOKED_FOR: Final = 1000
"""Entries in mind that a sweep looks for, those first that have been there for longest."""

INDEXES: Final = (
    # The count is there so that counting reads the index alone.
    IndexModel([("at", ASCENDING), ("replica", ASCENDING), ("count", ASCENDING)], name="mailsender_outbox"),
)

_NO_ENTRY: Final = ObjectId(b"\0" * 12)
_OPEN: Final = [Status.AWAITING.value, Status.PROCESSING.value]

_log = structlog.get_logger()

Named = tuple[str, Origin | None]
"""A letter and its first publisher: what a report is about, as far as an entry goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry as it is kept: its `_id`, the letters that it is for, and whether it was not there before."""

    id: ObjectId
    letters: tuple[str, ...]
    fresh: bool = True


@dataclass(slots=True)
class _Kept:
    """What is kept in mind of an entry: whose reports are `left`, and whose are out but are named there.

    `whole`: there are no others whose reports are to come, so that the entry goes with the last that is left.
    Those that are out are as many as were reported since the last sweep that found the entry.
    """

    left: set[Named] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    whole: bool = True


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
        self._left: dict[ObjectId, _Kept] = {}
        self._entry_of: dict[Named, ObjectId] = {}
        self._looked_at: Any = None  # the time of the entries that the last sweep looked at last
        self._remembered = _NO_ENTRY
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

    def keep(self, entry: ObjectId, letters: Iterable[Named], *, whole: bool = True) -> None:
        """Keep in mind which letters are to be reported under an entry of ours.

        While nothing can be reported this would grow with every letter. What is beyond the bound is left to
        the sweep, as is what the reporter has no room for. Where these are not all (`whole`), the sweep says
        when the entry has to go.
        """
        fresh = set(letters)
        kept = self._left.get(entry)
        if kept is not None:
            fresh -= kept.left
        room = len(self._entry_of) + len(fresh) <= self._most
        if kept is None and fresh and room:
            kept = self._left[entry] = _Kept()
        if kept is not None:
            kept.whole = whole and room
            if room:
                kept.left |= fresh
                self._entry_of.update(dict.fromkeys(fresh, entry))

    # --- what was reported -----------------------------------------------------------------------

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """Note that the reports of `letters` are out: entries go with the last of them.

        From those that stay the sweep takes what is out. Repeating it after an error is safe.
        """
        said: defaultdict[ObjectId, set[Named]] = defaultdict(set)
        for letter in letters:
            entry = self._entry_of.get(named(letter))
            if entry is not None:
                said[entry].add(named(letter))
        over = {entry for entry, names in said.items() if self._ends_with(entry, names)}
        if over:
            await self._outbox.delete_many({"_id": {"$in": list(over)}})
        for entry, names in said.items():
            kept = self._left[entry]
            kept.left -= names
            for each in names:
                self._entry_of.pop(each, None)
            if entry in over and not kept.left:
                del self._left[entry]
            else:
                kept.told += [each for each, _ in names]

    def _ends_with(self, entry: ObjectId, names: set[Named]) -> bool:
        kept = self._left[entry]
        return kept.whole and kept.left <= names

    def _forget(self, entry: ObjectId) -> None:
        """Keep nothing in mind of an entry that is gone."""
        kept = self._left.pop(entry, None)
        if kept is not None:
            for each in kept.left:
                if self._entry_of.get(each) == entry:
                    del self._entry_of[each]

    async def _forget_gone(self) -> None:
        """Forget what others have reported and removed: they had declared us dead, say."""
        known = list(islice(self._left, LOOKED_FOR))
        if known:
            found = await self._outbox.find({"_id": {"$in": known}}, {"_id": 1}).to_list(None)
            there = {each["_id"] for each in found}
            for each in known:
                if each not in there:
                    self._forget(each)

    async def answered(self, entry: object) -> bool:
        """Whether the reports are out for which there was this entry."""
        return await self._outbox.find_one({"_id": entry}, {"_id": 1}) is None

    async def open_among(self, entries: Sequence[object]) -> set[object]:
        """Those of `entries` that are there: for whose letters reports are still to come."""
        ids = [each for each in entries if isinstance(each, ObjectId)]
        found = await self._outbox.find({"_id": {"$in": ids}}, {"_id": 1}).to_list(None)
        return {each["_id"] for each in found}

    # --- what was left behind --------------------------------------------------------------------

    async def sweep(self, living: Group[str], older_than: float, limit: int) -> list[Letter]:
        """Letters whose reports nobody living looks after, `limit` or more; with them their entries are ours.

        `older_than`, in seconds, is for our own: what we have no room for is found by ourselves. Each sweep
        goes on behind those that the last one looked at, and the one after the last entry begins anew: what
        cannot be reported, and who waits for a letter that is tried again, hides nobody.
        """
        await self._forget_gone()
        await self._clock.now()
        now = self._clock.latest()
        names = sorted(self._names)
        others = {"replica": {"$nin": [*living, *names]}}
        ours = {"replica": {"$in": names}, "at": {"$lte": now - timedelta(seconds=older_than)}}
        whose = {"$or": [others, ours]}
        found: list[Letter] = []
        behind, ended = self._looked_at, False
        for _ in range(PAGES):
            entries = await self._page(whose, behind, now, limit)
            ended = len(entries) < limit
            more, behind = await self._look_at(entries, behind, now, limit - len(found))
            found += more
            if ended or len(found) >= limit:
                break
        self._looked_at = None if ended and len(found) < limit else behind
        return found

    async def _page(self, whose: Document, behind: Any, now: datetime, limit: int) -> list[Document]:
        """The next entries behind a time: `limit` of them, and all that are as old as the last one."""
        at = {"$lte": now} if behind is None else {"$gt": behind, "$lte": now}
        cursor = self._committed.find({"at": at, **whose}).sort([("at", ASCENDING)])
        found: list[Document] = await cursor.limit(limit).to_list(limit)
        if len(found) == limit:
            last = found[-1]["at"]
            alike = await self._committed.find({"at": last, **whose}).limit(MOST_ALIKE).to_list(MOST_ALIKE)
            found = [each for each in found if each["at"] != last] + alike
        return found

    async def _look_at(
        self, entries: Sequence[Document], behind: Any, now: datetime, wanted: int
    ) -> tuple[list[Letter], Any]:
        """What is to be reported of entries, until that is enough, and the time of the last of them."""
        await self._shrink(entries)
        on_their_way = await self._on_their_way(entries)
        found: list[Letter] = []
        over: list[Any] = []
        gone: list[Any] = []
        for at, alike in groupby(entries, itemgetter("at")):
            if len(found) >= wanted:
                break
            behind = at
            for entry in alike:
                if not _knowable(entry["_id"]) or _is_late(entry, on_their_way):
                    continue
                ready, waits, absent = await self._swept(entry, now)
                found += ready
                if not ready and not waits:
                    over.append(entry["_id"])
                    gone += absent
        await self._remove(over, gone)
        return found, behind

    async def _shrink(self, entries: Sequence[Document]) -> None:
        """Take out of entries what is reported: nobody repeats it then, and nobody counts it."""
        updates = []
        shrunk: list[_Kept] = []
        for entry in entries:
            kept = self._left.get(entry["_id"]) if _knowable(entry["_id"]) else None
            if kept is not None and kept.told:
                told = set(kept.told)
                entry["letters"] = [each for each in _letters(entry) if letter_id(each) not in told]
                change = {
                    "$pullAll": {"letters": list(map(stored_id, kept.told))},
                    "$set": {"count": len(entry["letters"])},
                }
                updates.append(UpdateOne({"_id": entry["_id"]}, change))
                shrunk.append(kept)
        if updates:
            await self._outbox.bulk_write(updates, ordered=False)
        for kept in shrunk:
            kept.told.clear()

    async def _on_their_way(self, entries: Sequence[Document]) -> set[str]:
        """Letters with a further publisher that have not ended: their entries wait, maybe for days."""
        ids = [each for entry in entries if "origin" in entry for each in _letters(entry)]
        if not ids:
            return set()
        query = {"_id": {"$in": ids}, "status": {"$in": _OPEN}}
        found = await self._letters.find(query, {"_id": 1}, hint="_id_").to_list(None)
        return {letter_id(each["_id"]) for each in found}

    async def _swept(self, entry: Document, now: datetime) -> tuple[list[Letter], bool, list[Any]]:
        """What is to be reported of an entry, whether there may be more later, and who is not there."""
        ids, claims = _letters(entry), _tokens(entry)
        documents = await self._letters.find({"_id": {"$in": ids}}, hint="_id_").to_list(None)
        ready: list[Letter] = []
        absent: list[Any] = []
        if len(documents) < len(ids):
            there = {letter_id(each["_id"]) for each in documents}
            absent = [each for each in ids if letter_id(each) not in there]
        waits = bool(absent) and _age(entry, now) < ABSENT
        for document in documents:
            letter = letter_of(document)
            if letter.status.final:
                ready += _meant(letter, document, entry, claims)
            else:
                # Another's claim settles it under an entry of its own, unless it is a further publisher's.
                waits = waits or "origin" in entry or _text(document, "claim") in claims
        self.keep(entry["_id"], [named(each) for each in ready], whole=not waits)
        return ready, waits, absent

    async def _remove(self, over: Sequence[Any], gone: Sequence[Any]) -> None:
        """Remove entries of which nothing is to be reported; `gone` are those of their letters not there."""
        if over:
            await self._outbox.delete_many({"_id": {"$in": over}})
        for each in over:
            self._forget(each)
        if gone:
            _log.warning(
                "letters_gone",
                letters=len(gone),
                first=letter_id(gone[0]),
                fault="they were removed before their reports were out, or never came in",
                check="whether another program removes letters, or the service was away for longer than"
                " MONGODB_RETENTION",
            )

    # --- for how long letters are remembered -----------------------------------------------------

    async def remember(self, limit: int, keep: timedelta) -> int:
        """Let letters be remembered for `keep` from now on whose reports are late by a part of it.

        Each call goes on behind the entries of the last one, `limit` of them, and returns how many there
        were: 0 after the last of all. Whatever keeps reports waiting, the sweep may find nothing meanwhile.
        """
        now = await self._clock.now()
        query = {"_id": {"$gt": self._remembered}, "at": {"$lte": now - keep / 4}}
        cursor = self._outbox.find(query, {"letters": 1}, hint="_id_").sort([("_id", ASCENDING)])
        entries = await cursor.limit(limit).to_list(limit)
        ids = [each for entry in entries for each in _letters(entry)]
        if ids:
            # Not those again that another replica has done just now.
            soon = {"_id": {"$in": ids}, "expire_at": {"$lt": now + 3 * keep / 4}}
            await self._written.update_many(soon, {"$set": {"expire_at": now + keep}}, hint="_id_")
        self._remembered = entries[-1]["_id"] if entries else _NO_ENTRY
        return len(entries)

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


def _knowable(entry: Any) -> bool:
    """Whether an entry with this `_id` can be named and kept in mind; another program may choose any."""
    return isinstance(entry, Hashable) and nameable(entry)


def _is_late(entry: Document, on_their_way: Group[str]) -> bool:
    """Whether it is a further publisher's whose letter is on its way."""
    return "origin" in entry and any(letter_id(each) in on_their_way for each in _letters(entry))


def _letters(entry: Document) -> list[Any]:
    """The letters of an entry; one that another program wrote may hold anything."""
    found = entry.get("letters")
    return [each for each in found if nameable(each)] if isinstance(found, list) else []


def _tokens(entry: Document) -> list[str]:
    found = entry.get("claims")
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []
