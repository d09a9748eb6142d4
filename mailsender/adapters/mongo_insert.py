"""How letters come into the MongoDB queue: in bulk, durably, once, and none at its neighbours' cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import structlog
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from mailsender.adapters.mongo import (
    DUPLICATE_KEY,
    Collection,
    Document,
    ServerClock,
    calling,
    passing,
    translated,
)
from mailsender.adapters.mongo_documents import (
    Unstorable,
    answer_document,
    document_of,
    origin_document,
    remains_of,
)
from mailsender.adapters.mongo_marks import Marks, mark_in
from mailsender.adapters.mongo_reading import letter_of
from mailsender.letter import FreshClaim, Lease, Letter, Origin, Status
from mailsender.ports import Inserted, Rejected, Unavailable

CHUNK_LETTERS = 1000
CHUNK_BYTES = 8 * 1024 * 1024

_ROUNDS = 5
"""How often a letter that vanishes (is forgotten) just when it is joined is tried again."""

_PROCESSING = Status.PROCESSING.value
_FINAL = [Status.SENT.value, Status.ERROR.value]

_log = structlog.get_logger()


class _Incoming:
    """A letter on its way in: its document, and what became of it once that is known.

    `remains` says that the document is only what can be stored of the letter. `token` is that of the claim
    under which it shall come in, and `owned` whether it did.
    """

    __slots__ = ("document", "id", "letter", "now", "owned", "remains", "size", "token", "verdict")

    def __init__(self, letter: Letter, now: datetime) -> None:
        self.letter = letter
        self.now = now
        self.remains = False
        self.verdict: Inserted | None = None
        self.token = ""
        self.owned = False
        self.document: Document = {}
        self.size = 0
        try:
            self.document, self.size = document_of(letter, now)
        except Unstorable as error:
            self.reduce(str(error))
        # As the queue writes it: hex digits may come in either case.
        self.id = letter.id.lower() if isinstance(self.document["_id"], ObjectId) else letter.id

    @property
    def origin(self) -> Origin:
        """Where it came from; the port's contract promises one."""
        origin = self.letter.answers[0].origin
        if origin is None:
            raise ValueError(f"letter {self.letter.id} has no origin")
        return origin

    def reduce(self, reason: str) -> None:
        """Put what is left of the letter in its place."""
        _log.warning(
            "letter_cannot_be_stored",
            letter=self.letter.id,
            fault=reason,
            action="stored as an error without its body; the report gives its publisher the reason",
        )
        self.document, self.size = document_of(remains_of(self.letter, reason), self.now)
        self.remains = True
        self.token = ""

    def claim(self, token: str, until: datetime) -> None:
        """Let it come in as claimed."""
        self.token = token
        self.document |= {"status": _PROCESSING, "lease": token, "until": until}


@dataclass(slots=True)
class _Stored:
    """What the collection holds under an ID: whose it is and what content it has."""

    content: bytes
    digest: bytes
    origins: set[Origin] = field(default_factory=set)
    lease: str = ""
    mark: ObjectId | None = None


class Inserter:
    """Carries `Queue.insert` out on one collection."""

    def __init__(self, letters: Collection, marks: Marks, server_clock: ServerClock, timeout: float) -> None:
        self._letters = letters
        self._marks = marks
        self._server_clock = server_clock
        self._timeout = timeout

    async def insert(self, letters: Sequence[Letter]) -> list[Inserted]:
        """See `Queue.insert`."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
        incoming = [_Incoming(letter, now) for letter in letters]
        await self._insert_all(incoming)
        return [each.verdict or Inserted.NEW for each in incoming]

    async def insert_claimed(
        self, wanted: Sequence[Letter], claim: FreshClaim
    ) -> tuple[list[Inserted], Lease]:
        """See `Queue.insert_claimed`."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
        incoming = [_Incoming(letter, now) for letter in wanted]
        # Written by us, for an insert cannot compute: at its high end, so that it is not before what we count
        # on.
        until = self._server_clock.latest() + timedelta(seconds=claim.lease)
        sendable = (each for each in incoming if each.letter.status is Status.AWAITING and not each.remains)
        for each in islice(sendable, claim.limit):
            each.claim(claim.token, until)
        await self._insert_all(incoming)
        owned: dict[str, Letter] = {}
        for each in incoming:
            if each.owned and owned.setdefault(each.id, each.letter) is not each.letter:
                each.verdict = Inserted.REPLAY  # the same letter twice in this call
        letters = tuple(owned.values())
        lease = Lease(token=claim.token, until=claim.since + claim.lease, letters=letters)
        return [each.verdict or Inserted.NEW for each in incoming], lease

    async def _insert_all(self, incoming: list[_Incoming]) -> None:
        for chunk in _chunks(incoming):
            await self._insert_chunk(chunk)

    async def _insert_chunk(self, chunk: list[_Incoming]) -> None:
        """Insert first, then look at those whose ID was taken, until each has its verdict."""
        open_ = chunk
        for _ in range(_ROUNDS):
            firsts: dict[str, _Incoming] = {}
            for each in open_:
                firsts.setdefault(each.id, each)
            await self._store(list(firsts.values()))
            open_ = [each for each in open_ if each.verdict is None]
            if open_:
                open_ = await self._resolve(open_)
            if not open_:
                return
        raise Unavailable("letters vanish from the queue as fast as they are joined")

    async def _store(self, firsts: list[_Incoming]) -> None:
        """Insert letters of different IDs; those without a verdict afterwards were there before.

        What the server refuses for good is halved until the culprit stands alone, and that one is stored
        as an error.
        """
        pending = [firsts]
        while pending:
            part = pending.pop()
            try:
                culprits = await self._insert_many(part)
            except Rejected as error:
                culprits = part
                if len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                if part[0].remains:
                    raise
                _log.debug("insert_refused", fault=str(error))
            for culprit in culprits:
                culprit.reduce("the queue cannot store the letter")
                pending.append([culprit])

    async def _insert_many(self, part: list[_Incoming]) -> list[_Incoming]:
        """One bulk insert; gives verdicts to what it stored, and returns what the server refused for good.

        Durable means: nothing but duplicate keys stood in the way *and* no member complained of the write
        concern. Duplicates alone prove nothing, for a majority may not have them yet.
        """
        refused: dict[int, int] = {}
        async with calling(self._timeout):
            try:
                await self._letters.insert_many([each.document for each in part], ordered=False)
            except BulkWriteError as error:
                if passing(error):
                    self._server_clock.forget()
                    raise translated(error) from error
                refused = {each["index"]: each["code"] for each in error.details["writeErrors"]}
        culprits = []
        for index, each in enumerate(part):
            code = refused.get(index)
            if code is None:
                each.verdict = Inserted.NEW
                each.owned = bool(each.token)
            elif code != DUPLICATE_KEY:
                if each.remains:
                    raise Rejected(f"MongoDB refuses even what is left of a letter: error {code}")
                culprits.append(each)
        return culprits

    async def _resolve(self, taken: list[_Incoming]) -> list[_Incoming]:
        """Decide about letters whose ID is taken; returns those whose document vanished meanwhile."""
        stored = await self._stored([each.document["_id"] for each in taken])
        joins: list[tuple[_Incoming, _Stored]] = []
        joining: list[_Incoming] = []
        vanished: list[_Incoming] = []
        for each in taken:
            found = stored.get(each.id)
            if found is None:
                vanished.append(each)
            elif each.origin in found.origins:
                each.verdict = Inserted.REPLAY
                if each.token and each.token == found.lease:
                    # An earlier try of ours, whose reply was lost.
                    each.verdict, each.owned = Inserted.NEW, True
                    found.lease = ""
            elif found.content != each.letter.content:
                each.verdict = Inserted.CLASH
            else:
                found.origins.add(each.origin)
                joins.append((each, found))
                joining.append(each)
        if joins:
            async with calling(self._timeout):
                told = await self._marks.reported([found.mark for _, found in joins if found.mark])
                updates = [_join(each, found, told=found.mark in told) for each, found in joins]
                result = await self._letters.bulk_write(updates, ordered=False)
            if result.matched_count < len(joins):
                # Some were forgotten between the look and the join. Those that did join are found as
                # replays of themselves in the next round, which is as good.
                return vanished + joining
        for each in joining:
            each.verdict = Inserted.JOINED
        return vanished

    async def _stored(self, ids: list[Any]) -> dict[str, _Stored]:
        content = {
            name: {"$cond": [{"$eq": [{"$type": "$digest"}, "missing"]}, f"${name}", "$$REMOVE"]}
            for name in ("addresses", "subject", "body")
        }
        shown = {"origin": 1, "digest": 1, "also.origin": 1, "status": 1, "lease": 1, **content}
        shown |= {"mark": 1, "reported": 1}
        async with calling(self._timeout):
            found = await self._letters.find({"_id": {"$in": ids}}, shown).to_list(None)
        return dict(map(_read_stored, found))


def _missing(name: str) -> Document:
    return {"$eq": [{"$type": f"${name}"}, "missing"]}


def _chunks(incoming: Sequence[_Incoming]) -> Iterator[list[_Incoming]]:
    """Parts that one round trip carries well."""
    chunk: list[_Incoming] = []
    size = 0
    for each in incoming:
        if chunk and (len(chunk) >= CHUNK_LETTERS or size + each.size > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(each)
        size += each.size
    if chunk:
        yield chunk


def _read_stored(document: Document) -> tuple[str, _Stored]:
    letter = letter_of(document)
    origins = {answer.origin for answer in letter.answers if answer.origin}
    lease = document.get("lease", "") if letter.status is Status.PROCESSING else ""
    return letter.id, _Stored(letter.content, letter.digest, origins, lease, mark_in(document))


def _join(each: _Incoming, found: _Stored, *, told: bool) -> UpdateOne:
    """Add a publisher to a letter, unless its origin is there, and let a reported letter be reported again.

    Who came before is not answered again, unless the letter is under a mark that was not seen reported, as
    `told` says.

    A pipeline reads `$name` in any string as a field, hence `$literal` around what came from outside.
    """
    answer = {"$literal": answer_document(each.letter.answers[0])}
    also = {"$ifNull": ["$also", []]}
    fresh = {
        "$not": [{"$in": [{"$literal": origin_document(each.origin)}, {"$ifNull": ["$also.origin", []]}]}]
    }
    reopened = {"$and": [fresh, {"$in": ["$status", _FINAL]}, {"$ne": ["$reported", False]}]}
    untold = {"$and": [_missing("reported"), {"$not": [_missing("mark")]}]}
    if told:
        untold["$and"].append({"$ne": ["$mark", found.mark]})
    same = found.digest or {"$exists": False}
    update = {
        "also": {"$cond": [fresh, {"$concatArrays": [also, [answer]]}, "$also"]},
        "answered": {
            "$cond": [reopened, {"$cond": [untold, 0, {"$add": [1, {"$size": also}]}]}, "$answered"]
        },
        "reported": {"$cond": [reopened, False, "$reported"]},
        "at": {"$cond": [reopened, "$$NOW", "$at"]},
        "expire_at": {"$cond": [reopened, "$$REMOVE", "$expire_at"]},
    }
    return UpdateOne({"_id": each.document["_id"], "digest": same}, [{"$set": update}])
