"""How letters come into the MongoDB queue: in bulk, durably, once, and none at its neighbours' cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from bson import ObjectId, encode
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import FreshClaim, Letter, Origin, Status
from mailsender.queue.mongo.bodies import Bodies
from mailsender.queue.mongo.client import (
    DUPLICATE_KEY,
    Collection,
    Document,
    ServerClock,
    calling,
    passing,
    translated,
)
from mailsender.queue.mongo.document_reader import letter_of
from mailsender.queue.mongo.documents import (
    SHARING,
    Unstorable,
    answer_document,
    barest_of,
    datable,
    document_of,
    origin_document,
    remains_of,
)
from mailsender.queue.mongo.flows import Flows, Reserved
from mailsender.queue.mongo.older_builds import NEVER
from mailsender.queue.mongo.outbox import Entry, Outbox, late_id, named
from mailsender.queue.port import MOST_PUBLISHERS, PUBLISHERS_BYTES, Inserted
from mailsender.queue.ranks import offset

CHUNK_LETTERS = 1000
CHUNK_BYTES = 8 * 1024 * 1024

_ROUNDS = 5
"""How often a letter that vanishes (is forgotten) just when it is joined is tried again."""

_ELEMENT = 8
"""Bytes of an element of an array beside the document in it: its type, its number and the end of that."""

_ORIGINS: Document = {"$map": {"input": SHARING, "in": "$$this.origin"}}
_NO_DIGEST: Document = {"$ne": [{"$type": "$digest"}, "binData"]}

_PROCESSING = Status.PROCESSING.value
_FINAL = [Status.SENT.value, Status.ERROR.value]

_log = structlog.get_logger()


class _Incoming:
    """A letter on its way in: its document, and what became of it once that is known.

    `remains` says that the document is only what can be stored of the letter, `barest` that it is the least
    of that. `token` is that of the claim under which it shall come in, and `owned` whether it did.
    """

    __slots__ = (
        "barest",
        "document",
        "id",
        "letter",
        "now",
        "owned",
        "remains",
        "size",
        "token",
        "verdict",
    )

    def __init__(self, letter: Letter, now: datetime) -> None:
        self.letter = letter
        self.now = now
        self.remains = False
        self.barest = False
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
        """Put what is left of the letter in its place, and the second time the least of it."""
        _log.warning(
            "letter_cannot_be_stored",
            letter=self.letter.id,
            fault=reason,
            action="stored as an error without its body; the report gives its publisher the reason",
        )
        self.barest = self.remains
        if self.barest:
            self.letter = datable(self.letter)
        left = barest_of(self.letter, reason) if self.barest else remains_of(self.letter, reason)
        self.document, self.size = document_of(left, self.now)
        self.remains = True
        self.token = ""

    def comes_in_on(self, route: str) -> bool:
        """Whether it is a letter of that route that can be sent."""
        return self.waits and self.letter.route == route

    @property
    def waits(self) -> bool:
        """Whether it comes in to be sent as soon as it is its turn."""
        return not self.token and bool(self.document.get("rank"))

    def claim(self, token: str, rank: datetime) -> None:
        """Let it come in as claimed; `rank` is its place should it be given back, without its priority."""
        self.token = token
        if moved := offset(self.letter):
            rank += timedelta(seconds=moved)
        self.document |= {"status": _PROCESSING, "claim": token, "until": NEVER, "rank": rank}


@dataclass(slots=True)
class _Stored:
    """What the collection holds under an ID: whose it is, what content it has, and how many share it."""

    content: bytes
    digest: bytes
    origins: set[Origin]
    token: str
    sharing: int
    sharing_bytes: int

    def has_room(self, size: int) -> bool:
        """Whether another publisher, of so many bytes, may share it."""
        return self.sharing < MOST_PUBLISHERS and self.sharing_bytes + size <= PUBLISHERS_BYTES


class Inserter:
    """Carries `Queue.insert` out on one collection."""

    def __init__(
        self,
        letters: Collection,
        outbox: Outbox,
        server_clock: ServerClock,
        *,
        timeout: float,
        retention: timedelta,
        bodies: Bodies,
        flows: Flows,
    ) -> None:
        self._letters = letters
        self._outbox = outbox
        self._server_clock = server_clock
        self._timeout = timeout
        self._retention = retention
        self._bodies = bodies
        self._flows = flows

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim]) -> list[Inserted]:
        """See `Queue.insert`."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
        incoming = [_Incoming(letter, now) for letter in letters]
        for claim in claims:
            sendable = sorted(
                [each for each in incoming if each.comes_in_on(claim.route)],
                key=lambda each: offset(each.letter),
            )
            rank = self._flows.first(claim.route, now)
            for each in sendable[: claim.limit]:
                each.claim(claim.token, rank)
        await self._insert_ranked(incoming, now)
        mine: set[str] = set()
        for each in incoming:
            if each.owned:  # the same letter may come twice in one call
                each.verdict = Inserted.REPLAY if each.id in mine else Inserted.CLAIMED
                mine.add(each.id)
        return [each.verdict or Inserted.NEW for each in incoming]

    async def _insert_ranked(self, incoming: list[_Incoming], now: datetime) -> None:
        """Insert, once those that have to wait have their places."""
        waiting = [each for each in incoming if each.waits]
        if not waiting:
            await self._insert_all(incoming)
            return
        reserved = await self._flows.rank(
            [(each.letter, each.document) for each in waiting], now, self._timeout
        )
        failed: Unavailable | None = None
        try:
            await self._insert_all(incoming)
        except Unavailable as error:
            failed = error
        await self._give_back(reserved, waiting)  # who tries again gets others
        if failed is not None:
            raise failed

    async def _give_back(self, reserved: Sequence[Reserved], waiting: Sequence[_Incoming]) -> None:
        """Give back places that were reserved for letters which did not come in."""
        stored = [each.verdict is Inserted.NEW for each in waiting]
        if not all(stored):
            with suppress(Unavailable):  # what is inserted is inserted, and its flow comes a little later
                await self._flows.give_back(reserved, stored, self._timeout)

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

        Raises:
            Unavailable: not even the barest document is taken, which is not the letter's fault.
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
                _log.debug("insert_refused", fault=str(error))
            for culprit in culprits:
                if culprit.barest:
                    raise Unavailable(
                        "MongoDB takes no letter, however small; does a rule of its refuse them?"
                    )
                culprit.reduce("the queue cannot store the letter")
                pending.append([culprit])

    async def _insert_many(self, part: list[_Incoming]) -> list[_Incoming]:
        """One bulk insert; gives verdicts to what it stored, and returns what the server refused for good.

        Durable means: nothing but duplicate keys stood in the way *and* no member complained of the write
        concern. Duplicates alone prove nothing, for a majority may not have them yet.
        """
        refused: dict[int, int] = {}
        finals = [each for each in part if each.document["status"] in _FINAL]
        async with calling(self._timeout):
            entry = await self._announced(finals)
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
                culprits.append(each)
        if entry is not None:
            new = [named(each.letter) for each in finals if each.verdict is Inserted.NEW]
            # One that was there before stands for letters that an earlier try has got in, too.
            self._outbox.keep(
                entry.id, [(letter_id.lower(), origin) for letter_id, origin in new], whole=entry.fresh
            )
        return culprits

    async def _announced(self, finals: Sequence[_Incoming]) -> Entry | None:
        """An entry of the outbox for letters that come in as final, before they do."""
        if not finals:
            return None
        now = await self._server_clock.now()
        entry = await self._outbox.begin([each.id for each in finals], [], now)
        for each in finals:
            each.document |= {"outbox": entry.id, "expire_at": now + self._retention}
            each.document |= self._bodies.until(now)
        return entry

    async def _resolve(self, taken: list[_Incoming]) -> list[_Incoming]:
        """Decide about letters whose ID is taken; returns those that have to be looked at again."""
        stored = await self._stored([each.document["_id"] for each in taken])
        joins: list[_Join] = []
        again: list[_Incoming] = []
        for each in taken:
            found = stored.get(each.id)
            if found is None:
                again.append(each)  # its document vanished meanwhile
            elif found.content != each.letter.content:
                each.verdict = Inserted.TAKEN if each.letter.id_computed else Inserted.CLASH
            elif each.origin in found.origins:
                each.verdict = Inserted.REPLAY
                if each.token and each.token == found.token:
                    # An earlier try of ours, whose reply was lost.
                    each.verdict, each.owned = Inserted.NEW, True
                    found.token = ""
            else:
                join = _join_of(each, found)
                if join is not None:
                    joins.append(join)
        return again + await self._join_all(joins)

    async def _join_all(self, joins: list[_Join]) -> list[_Incoming]:
        """Add publishers to their letters; returns those of whom nobody knows whether it was done.

        One that the server refuses for good is told apart, and finds no room. Each has an entry in the outbox
        before, for the letter may be on its way, or have ended.
        """
        if not joins:
            return []
        async with calling(self._timeout):
            await self._outbox.begin_late([each.named for each in joins], await self._server_clock.now())
        open_: list[_Incoming] = []
        pending = [joins]
        while pending:
            part = pending.pop()
            try:
                refused, matched = await self._write_joins(part)
            except Rejected:
                if len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
                    continue
                refused, matched = {0}, 0
            for index in refused:
                part[index].incoming.verdict = Inserted.CROWDED
            joined = [join for index, join in enumerate(part) if index not in refused]
            if matched < len(joined):
                # Some were forgotten, or filled by others, between the look and the join. Those that did join
                # are found as replays of themselves in the next round, which is as good.
                open_ += [join.incoming for join in joined]
            else:
                await self._see_who_is_late(joined)
        await self._drop_needless([each for each in joins if each.incoming.verdict is not Inserted.LATE])
        return open_

    async def _see_who_is_late(self, joined: Sequence[_Join]) -> None:
        """Who joined a letter that waits is answered with the others: whoever claims it reads them all."""
        ids = [each.incoming.document["_id"] for each in joined]
        async with calling(self._timeout):
            query = {"_id": {"$in": ids}, "status": Status.AWAITING.value}
            found = await self._letters.find(query, {"_id": 1}, hint="_id_").to_list(None)
        waiting = {each["_id"] for each in found}
        for each in joined:
            late = each.incoming.document["_id"] not in waiting
            each.incoming.verdict = Inserted.LATE if late else Inserted.JOINED
            if late:
                self._outbox.keep(late_id(*each.named), [each.named])

    async def _drop_needless(self, joins: Sequence[_Join]) -> None:
        """Remove entries of publishers who are answered with the others, or not at all.

        Of whom nobody knows whether he joined it stays: the sweep finds out.
        """
        settled = [each.named for each in joins if each.incoming.verdict is not None]
        if settled:
            async with calling(self._timeout):
                await self._outbox.drop_late(settled)

    async def _write_joins(self, joins: list[_Join]) -> tuple[set[int], int]:
        """Those that the server refuses for good, by their place, and how many found their letter."""
        async with calling(self._timeout):
            try:
                result = await self._letters.bulk_write([_join(each) for each in joins], ordered=False)
            except BulkWriteError as error:
                if passing(error):
                    raise translated(error) from error
                refused = {each["index"] for each in error.details["writeErrors"]}
                return refused, int(error.details["nMatched"])
        return set(), int(result.matched_count)

    async def _stored(self, ids: list[Any]) -> dict[str, _Stored]:
        content = {
            name: {"$cond": [{"$eq": [{"$type": "$digest"}, "missing"]}, f"${name}", "$$REMOVE"]}
            for name in ("addresses", "subject", "body", "mail", "handling")
        }
        shown = {"origin": 1, "digest": 1, "also.origin": 1, "status": 1, "claim": 1, **content}
        shown |= {"sharing": {"$size": SHARING}, "sharing_bytes": {"$bsonSize": {"also": SHARING}}}
        async with calling(self._timeout):
            found = await self._letters.find({"_id": {"$in": ids}}, shown).to_list(None)
        return dict(map(_read_stored, found))


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
    token = document.get("claim", "") if letter.status is Status.PROCESSING else ""
    stored = _Stored(
        content=letter.content,
        digest=letter.digest,
        origins=origins,
        token=token,
        sharing=document["sharing"],
        sharing_bytes=document["sharing_bytes"],
    )
    return letter.id, stored


@dataclass(slots=True)
class _Join:
    """A publisher on its way to the letter that it shares: its answer, and that as BSON would take it."""

    incoming: _Incoming
    found: _Stored
    answer: Document
    size: int

    @property
    def named(self) -> tuple[str, Origin]:
        """The letter, and where this publisher published it."""
        return self.incoming.id, self.incoming.origin


def _join_of(each: _Incoming, found: _Stored) -> _Join | None:
    """How a publisher comes to share a letter; None where it finds no room, which is its verdict then."""
    answer = answer_document(each.letter.answers[0])
    size = len(encode(answer)) + _ELEMENT
    if not found.has_room(size):
        each.verdict = Inserted.CROWDED
        return None
    found.origins.add(each.origin)
    found.sharing += 1
    found.sharing_bytes += size
    return _Join(each, found, answer, size)


def _join(join: _Join) -> UpdateOne:
    """Add a publisher to a letter, unless its origin is there. One that others filled meanwhile is not found.

    A pipeline reads `$name` in any string as a field, hence `$literal` around what came from outside.
    """
    each, found = join.incoming, join.found
    known = {"$in": [{"$literal": origin_document(each.origin)}, _ORIGINS]}
    room = {
        "$and": [
            {"$lt": [{"$size": SHARING}, MOST_PUBLISHERS]},
            {"$lte": [{"$bsonSize": {"also": SHARING}}, PUBLISHERS_BYTES - join.size]},
        ]
    }
    both = {"$concatArrays": [SHARING, [{"$literal": join.answer}]]}
    update = {"also": {"$cond": [known, "$also", both]}}
    same = {"$eq": ["$digest", {"$literal": found.digest}]} if found.digest else _NO_DIGEST
    query = {"_id": each.document["_id"], "$expr": {"$and": [same, {"$or": [known, room]}]}}
    return UpdateOne(query, [{"$set": update}])
