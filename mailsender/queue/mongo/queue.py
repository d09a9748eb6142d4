"""The queue in MongoDB.

Times are the server's (`$$NOW`), so that replicas need not agree about the time.
Claims and sweeps read ids from a partial index first and then change exactly those, guarded by the same
condition: another replica may have come first. No query scans the collection.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from random import randrange
from typing import Any

import structlog
from bson import encode
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, UpdateMany, UpdateOne
from pymongo.errors import DuplicateKeyError

from mailsender.aio import afterwards
from mailsender.model.clock import Clock
from mailsender.model.errors import Forbidden, Unavailable
from mailsender.model.history import History, digest_of, from_document
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    REPLICA_DIGITS,
    Claim,
    FreshClaim,
    Letter,
    Recipient,
    Settlement,
    Status,
    StoredLetter,
    now_ms,
    replica_of,
)
from mailsender.model.queue_stats import QueueStats, RouteStats
from mailsender.model.records import Record
from mailsender.queue.mongo import bodies, dead_letters
from mailsender.queue.mongo.bodies import Bodies
from mailsender.queue.mongo.claim_order import DUE, FIRST, ORDER, PLACED, Order, is_sayable, places_of
from mailsender.queue.mongo.client import (
    Client,
    Collection,
    Document,
    ServerClock,
    calling,
    committed,
    disconnect,
    durable,
    narrowed,
)
from mailsender.queue.mongo.dead_letters import documents_of
from mailsender.queue.mongo.document_reader import letter_of, noted_places
from mailsender.queue.mongo.documents import (
    DEFERRED,
    letter_id,
    likeness,
    nameable,
    slice_of,
    state_of,
    stored_id,
)
from mailsender.queue.mongo.flows import Flows
from mailsender.queue.mongo.indexes import INDEXES, ensure_indexes
from mailsender.queue.mongo.insert import Inserter
from mailsender.queue.mongo.older_builds import NEVER, UNCLAIMED, Older, not_leased
from mailsender.queue.mongo.outbox import Outbox, named
from mailsender.queue.mongo.quarantine import Apart, sorted_out
from mailsender.queue.mongo.replicas import Replicas
from mailsender.queue.port import CLOCK_AGE, Inserted
from mailsender.queue.ranks import RouteShares, Shares

CLAIM_BYTES = 8 * 1024 * 1024
"""Bytes of documents that one claim or one sweep brings into memory, but always at least one document."""

BUSY_TRIES = 5
"""How often a claim that lost all its letters to other replicas looks again."""

MOST_OWNERS = 1000
"""Replicas whose letters are looked for in one go: far more than there ever are."""

LANES = 5
"""Over how many heads of the queue replicas spread out when they get in each other's way."""

BEATS = 3
"""How many beats have to fit into a replica's life, one after the other, although none is answered."""

_BY_ID = "_id_"
_CLAIMED = "mailsender_claim"
_FREE = {"$set": {"status": "awaiting"}, "$unset": UNCLAIMED}
_PROCESSING = {"status": "processing"}
_FINAL = [Status.SENT.value, Status.ERROR.value]
_NO_TOKEN = {"$not": {"$type": "string"}}

_log = structlog.get_logger()


class MongoQueue:
    """`Queue` on a collection of MongoDB, shared with any number of replicas.

    `retention` is how long, in seconds, reported letters are remembered, and `body_retention` how long
    their bodies, where that is not the same; `timeout` the deadline of every call to the server, in
    seconds. Records that the dead-letter topic refuses go to `deadletters`, by default the collection's
    name with ``.deadletters``.
    """

    def __init__(
        self,
        client: Client,
        *,
        database: str,
        collection: str,
        retention: float,
        clock: Clock,
        timeout: float,
        deadletters: str = "",
        body_retention: float | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._timeout = timeout
        self._retention = timedelta(seconds=retention)
        self._letters = durable(client, database, collection, timeout)
        self._committed = committed(self._letters)
        self._server_clock = ServerClock(client, clock)
        outbox = durable(client, database, f"{collection}.outbox", timeout)
        self._outbox = Outbox(self._letters, outbox, self._server_clock)
        marks = durable(client, database, f"{collection}.marks", timeout)
        self._older = Older(self._letters, marks, outbox, self._server_clock, retention=self._retention)
        kept = None if body_retention is None else timedelta(seconds=body_retention)
        self._bodies = Bodies(self._letters, self._outbox, self._server_clock, kept=kept)
        flows = durable(client, database, f"{collection}.flows", timeout)
        self._shares = Shares()
        self._flows = Flows(self._letters, flows, clock, self._shares)
        self._inserter = Inserter(
            self._letters,
            self._outbox,
            self._server_clock,
            timeout=timeout,
            retention=self._retention,
            bodies=self._bodies,
            flows=self._flows,
        )
        self._deadletters = durable(client, database, deadletters or f"{collection}.deadletters", timeout)
        self._partitions = durable(client, database, f"{collection}.partitions", timeout)
        self._replicas = Replicas(
            durable(client, database, f"{collection}.replicas", timeout), self._server_clock
        )
        self._order = Order(self._letters)
        self._skip = 0
        self._apart = Apart(self._letters, self._outbox, timeout, retention=self._retention)
        self._indexes: dict[str, str] = {}

    async def open(self) -> None:
        """See `Queue.open`."""
        self._server_clock.forget()
        async with calling(self._timeout):
            await self._server_clock.now()
        self._indexes = await ensure_indexes(self._letters, [*ORDER, *INDEXES, bodies.INDEX])
        self._order.use(self._indexes)
        await self._outbox.open()
        await self._flows.open()
        with suppress(Forbidden):  # what is kept stays, then; `mailsender check` tells the right
            await ensure_indexes(self._deadletters, dead_letters.INDEXES)
        async with calling(self._timeout):
            await self._outbox.try_to_remove()
            await self._older.open()

    async def close(self) -> None:
        """See `Queue.close`. Everything that shares the client is closed with it."""
        await disconnect(self._client, self._timeout)

    async def now(self, age: float = CLOCK_AGE) -> float:
        """See `Queue.now`."""
        async with calling(self._timeout):
            return await self._server_clock.epoch(age)

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        """See `Queue.insert`."""
        return await self._inserter.insert(letters, claims)

    async def join(self, replica: str, life: float) -> None:
        """See `Queue.join`."""
        async with calling(self._timeout):
            await self._replicas.join(replica, life)
        self._outbox.call(replica)

    async def beat(self, replica: str, life: float) -> bool:
        """See `Queue.beat`. Its deadline lets several beats fit into a life although none is answered."""
        async with calling(min(self._timeout, life / BEATS)):
            return await self._replicas.beat(replica, life)

    async def leave(self, replica: str) -> None:
        """See `Queue.leave`."""
        async with calling(self._timeout):
            await self._replicas.leave(replica)

    async def living(self) -> set[str]:
        """See `Queue.living`."""
        async with calling(self._timeout):
            return await self._replicas.living()

    async def claim(self, limit: int, token: str, route: str = DEFAULT_ROUTE) -> Claim:
        """See `Queue.claim`."""
        tried: list[Document] = []
        for _ in range(BUSY_TRIES):
            heads = await self._heads(route, limit)
            if not heads:
                break
            tried += heads
            if await self._take([each["_id"] for each in heads], token):
                letters = await self._under(token, [each["_id"] for each in tried])
                if letters:
                    return Claim(token=token, letters=letters, places=places_of(tried, letters))
        return Claim(token=token)

    def share(self, routes: Mapping[str, RouteShares]) -> None:
        """See `Queue.share`."""
        self._shares.use(routes)

    async def claim_expired(self, limit: int, token: str) -> Claim:
        """See `Queue.claim_expired`."""
        async with calling(self._timeout):
            over = {"status": "awaiting", "handling.expires": {"$lte": await self._server_clock.now()}}
            shown = {"_id": 1, "size": {"$bsonSize": "$$ROOT"}}
            cursor = self._letters.find(self._apart.beside(over), shown).sort(
                [("handling.expires", ASCENDING)]
            )
            found = _within(await cursor.limit(limit).to_list(limit))
        ids = [each["_id"] for each in found if nameable(each["_id"])]
        if not ids:
            return Claim(token=token)
        async with calling(self._timeout):
            change = {"$set": {"status": "processing", "claim": token, "until": NEVER}}
            await self._letters.update_many({"_id": {"$in": ids}, **over}, change, hint=_BY_ID)
        return Claim(token=token, letters=await self._under(token, ids))

    async def settle(self, settlements: Sequence[Settlement]) -> frozenset[str]:
        """See `Queue.settle`. Letters that end alike share one update."""
        if not settlements:
            return frozenset()
        finals = [each.letter.id for each in settlements if each.letter.status.final]
        async with calling(self._timeout):
            now = await self._server_clock.now()
            entry = (
                await self._outbox.begin(finals, {each.token for each in settlements}, now)
                if finals
                else None
            )
            ends: Document = {}
            if entry is not None:
                ends = {"outbox": entry.id, "expire_at": now + self._retention, **self._bodies.until(now)}
            updates = _settling(settlements, now, ends)
            result = await self._letters.bulk_write(updates, ordered=False)
            late: frozenset[tuple[str, str]] = frozenset()
            if result.matched_count < len(settlements):
                late = await self._late(settlements)
            if entry is not None and entry.fresh and not result.matched_count:
                # A repetition of what was reported long ago, or all of them are late.
                await self._outbox.drop(entry)
                entry = None
        if entry is not None:
            settled = [
                each.letter for each in settlements if not late or (each.token, each.letter.id) not in late
            ]
            self._outbox.keep(entry.id, [named(letter) for letter in settled if letter.status.final])
        return frozenset([each for _, each in late])

    async def _late(self, settlements: Sequence[Settlement]) -> frozenset[tuple[str, str]]:
        """Whom another holder of a token has settled, or has now, by token; a repetition is not late.

        One letter may have come with two tokens, of which one is good: that outcome is left to the sweep.
        """
        query = {"_id": {"$in": [stored_id(each.letter.id) for each in settlements]}}
        found = await self._letters.find(query, {"settled_by": 1}, hint=_BY_ID).to_list(None)
        settled_by = {letter_id(document["_id"]): document.get("settled_by") for document in found}
        return frozenset(
            (each.token, each.letter.id)
            for each in settlements
            if settled_by.get(each.letter.id) != each.token
        )

    async def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> bool:
        """See `Queue.progress`. What it writes is as large as the slice, not as the letter."""
        query = {"_id": stored_id(letter_id), "status": "processing", "claim": token}
        update = {"$set": {f"slices.{token}.{min(changed)}": slice_of(changed)}}
        async with calling(self._timeout):
            result = await self._letters.update_one(query, update, hint=_BY_ID)
        return bool(result.matched_count)

    async def release(self, token: str, ids: Sequence[str]) -> None:
        """See `Queue.release`."""
        if not ids:
            return
        query = {"_id": {"$in": list(map(stored_id, ids))}, "status": "processing", "claim": token}
        async with calling(self._timeout):
            await self._letters.update_many(query, _FREE, hint=_BY_ID)

    async def routes(self) -> list[str]:
        """See `Queue.routes`."""
        async with calling(self._timeout):
            return await self._order.routes()

    async def waiting(self, route: str, limit: int) -> list[str]:
        """See `Queue.waiting`."""
        async with calling(self._timeout):
            cursor = self._letters.find({"status": "awaiting", "route": route}, {"_id": 1})
            found = await cursor.limit(limit).to_list(limit)
        return [letter_id(each["_id"]) for each in found if nameable(each["_id"])]

    async def look_at(self, ids: Sequence[str]) -> list[Letter]:
        """See `Queue.look_at`."""
        stored = list(map(stored_id, ids))
        query = {"_id": {"$in": stored}, "status": "awaiting"}
        async with calling(self._timeout):
            shown = {"_id": 1, "size": {"$bsonSize": "$$ROOT"}}
            heads = await self._letters.find(query, shown, hint=_BY_ID).to_list(None)
            place = {each: number for number, each in enumerate(map(letter_id, stored))}
            heads.sort(key=lambda each: place[letter_id(each["_id"])])
            query["_id"] = {"$in": [each["_id"] for each in _within(heads)]}
            found = await self._letters.find(query, hint=_BY_ID).to_list(None)
        return _in_order(found, stored)

    async def move(self, ids: Sequence[str], origin: str, route: str) -> int:
        """See `Queue.move`."""
        query = {"_id": {"$in": list(map(stored_id, ids))}, "status": "awaiting", "route": origin}
        updates = await self._placed_on(route, query)
        async with calling(self._timeout):
            # Who is left there then is deferred.
            updates.append(UpdateMany(query, {"$set": {"route": route}}, hint=_BY_ID))
            result = await self._letters.bulk_write(updates)
        return int(result.modified_count)

    async def _placed_on(self, route: str, query: Document) -> list[UpdateOne | UpdateMany]:
        """Updates that move the fresh ones of a query to a route, to the places of who comes there now."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
            shown = {"rank": 1, "origin": 1, "handling": 1}
            cursor = self._letters.find({**query, "rank": {"$gte": FIRST}}, shown, hint=_BY_ID)
            # A date that Python cannot hold is another program's.
            found = [each for each in await cursor.to_list(None) if isinstance(each["rank"], datetime)]
        found.sort(key=itemgetter("rank"))
        ranks = [each["rank"] for each in found]
        letters = [letter_of(each).evolve(route=route) for each in found]
        await self._flows.rank(list(zip(letters, found, strict=True)), now, self._timeout)
        return [
            UpdateOne(
                {**query, "_id": each["_id"], "rank": rank},
                {"$set": {"route": route, "rank": each["rank"]}},
                hint=_BY_ID,
            )
            for each, rank in zip(found, ranks, strict=True)
        ]

    async def put_off(
        self, route: str, words: Sequence[str], after: float, limit: int
    ) -> list[tuple[str, float]]:
        """See `Queue.put_off`. It reads all that are deferred there, and gives back no bodies."""
        said: Document = {"$regex": f"^(?:{'|'.join(map(re.escape, words))})"}
        unasked = {"recipients": {"$elemMatch": {"text": said, "code": {"$exists": False}}}}
        shared = {"outcome.text": said, "outcome.code": {"$exists": False}}
        query: Document = {"status": "awaiting", "rank": DEFERRED, "route": route, "$or": [shared, unasked]}
        async with calling(self._timeout):
            query["due"] = {"$gt": datetime.fromtimestamp(after, UTC)}
            cursor = self._letters.find(query, {"_id": 1, "due": 1}).sort([("due", ASCENDING)])
            found = await cursor.limit(limit).to_list(limit)
        return [
            (letter_id(each["_id"]), each["due"].timestamp())
            for each in found
            if nameable(each["_id"]) and isinstance(each["due"], datetime)  # else it is another program's
        ]

    async def hasten(self, ids: Sequence[str]) -> int:
        """See `Queue.hasten`."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
            query = {"_id": {"$in": list(map(stored_id, ids))}, "status": "awaiting", "rank": DEFERRED}
            change = {"$set": {"due": now}}
            result = await self._letters.update_many({**query, "due": {"$gt": now}}, change, hint=_BY_ID)
        return int(result.modified_count)

    async def held(self, claims: Mapping[str, Sequence[str]]) -> dict[str, list[Letter]]:
        """See `Queue.held`."""
        ids = [stored_id(each) for each_token in claims.values() for each in each_token]
        query = {"_id": {"$in": ids}, "status": "processing", "claim": {"$in": list(claims)}}
        async with calling(self._timeout):
            found = await self._committed.find(query, hint=_BY_ID).to_list(None)
        held: defaultdict[str, list[Letter]] = defaultdict(list)
        for document in found:
            letter, token = letter_of(document), document["claim"]
            if isinstance(token, str) and letter.id in claims[token]:
                held[token].append(letter)
        return dict(held)

    async def noted(self, claims: Mapping[str, Sequence[str]]) -> dict[str, frozenset[int]]:
        """See `Queue.noted`."""
        noted: dict[str, frozenset[int]] = {}
        for token, ids in claims.items():
            slices = f"slices.{token}"
            query = {"_id": {"$in": list(map(stored_id, ids))}, "status": "processing", "claim": token}
            query[slices] = {"$exists": True}
            async with calling(self._timeout):
                found = await self._committed.find(query, {slices: 1}, hint=_BY_ID).to_list(None)
            for each in found:
                noted[letter_id(each["_id"])] = noted_places(each["slices"][token])
        return noted

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        """See `Queue.claims_of`. What is `processing` is little, and has an index of its own."""
        async with calling(self._timeout):
            found = await self._committed.find(_under_replica(replica), {"claim": 1}).to_list(None)
        claims: defaultdict[str, list[str]] = defaultdict(list)
        for document in found:
            if isinstance(document["claim"], str) and nameable(document["_id"]):
                claims[document["claim"]].append(letter_id(document["_id"]))
        return dict(claims)

    async def reclaim(self, limit: int, within: float = math.inf, by: float = math.inf) -> int:
        """See `Queue.reclaim`. In a failover the driver waits for the next primary, up to the deadline.

        Whose letters there are is looked for before who lives: a replica that joins between the two and
        claims is in neither, and one whose letters were seen has joined by then.
        """
        ends = self._clock.monotonic() + within
        async with calling(min(self._timeout, within)):
            owners, strange = await self._owners()
            living = await self._replicas.bury(by)
            await self._replicas.forget(owners)
        freed = await self._free_strays(limit, ends)
        for each in strange:
            freed += await self._free_all({**_PROCESSING, "claim": each}, limit, ends)
        for owner in owners:
            if owner not in living and freed < limit:
                freed += await self._free_all(_under_replica(owner), limit - freed, ends)
        await self._place_strays(ends)
        return freed

    async def _owners(self) -> tuple[list[str], list[Any]]:
        """The IDs of replicas that have letters, in as many looks into the index; and claims of nobody.

        Those are claims, or conditions for some. A claim that another program wrote may stand behind all
        tokens that begin as it does, or be no more than the beginning of the tokens of many, who live.
        """
        owners: list[str] = []
        strange: list[Any] = []
        beyond: Document = {"$gte": ""}
        for _ in range(MOST_OWNERS):
            query = {"status": "processing", "claim": beyond}
            first = self._letters.find(query, {"_id": 0, "claim": 1}).sort([("claim", ASCENDING)])
            found = await first.limit(1).to_list(1)
            if not found:
                break
            claim = found[0]["claim"]
            if not isinstance(claim, str):  # another program's: a list counts as each of what is in it
                await self._letters.update_many({**_PROCESSING, "claim": {"$type": "array"}}, _FREE)
                continue
            owner = replica_of(claim)
            end = f"{owner}g"
            if not is_sayable(claim) and not (is_sayable(owner) and claim < end):
                behind, beyond = _around(claim)
                strange.append(behind)
                if not beyond:
                    break
            elif len(owner) == REPLICA_DIGITS and claim < end:
                owners.append(owner)
                beyond = {"$gte": end}
            else:
                strange.append(claim)
                beyond = {"$gt": claim}
        return owners, strange

    async def _free_strays(self, limit: int, ends: float) -> int:
        """Give back what is `processing` without one of our tokens; how many.

        Such documents stand before and behind all tokens in the index, whatever another program wrote there.
        """
        freed = 0
        for order in (ASCENDING, DESCENDING):
            async with calling(self._left(ends)):
                query = {**_PROCESSING, **not_leased(self._server_clock.latest())}
                cursor = self._letters.find(self._apart.beside(query), {"claim": 1})
                found = await cursor.sort([("claim", order)]).limit(limit).to_list(limit)
            # Code is a kind of str, too.
            strays = [each["_id"] for each in found if type(each.get("claim")) is not str]
            if strays:
                freed += await self._free_these(strays, {**_PROCESSING, "claim": _NO_TOKEN}, ends)
        return freed

    async def _free_all(self, query: Document, limit: int, ends: float) -> int:
        """Give back letters of a query, up to `limit`; how many."""
        async with calling(self._left(ends)):
            found = (
                await self._letters.find(self._apart.beside(query), {"_id": 1}).limit(limit).to_list(limit)
            )
        return await self._free_these([each["_id"] for each in found], query, ends)

    async def _free_these(self, stored: Sequence[Any], query: Document, ends: float) -> int:
        """Give back documents as long as they are as `query` says; how many."""
        return await self._with_each(stored, query, partial(self._free, query, ends))

    async def _with_each(
        self, stored: Sequence[Any], query: Document, write: Callable[[Sequence[Any]], Awaitable[int]]
    ) -> int:
        """Write to documents of `query`, and set apart those to which nothing can be written; how many."""
        ids = [each for each in stored if nameable(each)]
        if len(ids) < len(stored):
            await self._apart.unnamed(query)
        return await self._write_each(ids, write)

    async def _write_each(self, ids: Sequence[Any], write: Callable[[Sequence[Any]], Awaitable[int]]) -> int:
        """Write to documents; those to which nothing can be written are set apart; how many were."""
        written, culprits = await narrowed(ids, write)
        for each, fault in culprits:
            await self._apart.put(each, str(fault))
        return written

    def _left(self, ends: float) -> float:
        """Seconds for a call that has to be over at `ends` on the monotonic clock."""
        return max(0.001, min(self._timeout, ends - self._clock.monotonic()))

    async def _place_strays(self, ends: float) -> None:
        """Give letters that other programs put in a place in the order of a route."""
        found = self._order.strays()
        await afterwards(partial(self._place_found, found, ends), found.aclose)

    async def _place_found(self, found: AsyncGenerator[list[RawBSONDocument], None], ends: float) -> None:
        while True:
            async with calling(self._left(ends)):
                strays = await anext(found, None)
            if strays is None:
                break
            named, nameless = sorted_out(strays)
            await self._apart.end(nameless)
            await self._write_each(named, partial(self._place, ends))

    async def _place(self, ends: float, ids: Sequence[Any]) -> int:
        async with calling(self._left(ends)):
            query = {"_id": {"$in": list(ids)}, "status": "awaiting"}
            result = await self._letters.update_many(query, PLACED, hint=_BY_ID)
        return int(result.modified_count)

    async def unreported(self, older_than: float, limit: int) -> list[Letter]:
        """See `Queue.unreported`. What a majority has not got yet may be rolled back, and is not told."""
        async with calling(self._timeout):
            await self._older.take_over(older_than, limit)
            living = await self._replicas.living()
            return await self._outbox.sweep(living, older_than, limit)

    async def remember(self, limit: int) -> int:
        """See `Queue.remember`."""
        async with calling(self._timeout):
            return await self._outbox.remember(limit, self._retention)

    async def acknowledge(self, letters: Sequence[Letter]) -> None:
        """See `Queue.acknowledge`."""
        async with calling(self._timeout):
            await self._outbox.acknowledge(letters)

    async def drop_bodies(self, limit: int) -> int:
        """See `Queue.drop_bodies`."""
        async with calling(self._timeout):
            return await self._bodies.drop(limit)

    async def get(self, letter_id: str) -> Letter | None:
        """See `Queue.get`. As a majority has it: what became of it is told, and must not be rolled back."""
        found = await self._look_up(self._committed, letter_id)
        return None if found is None else found.letter

    async def look_up(self, letter_id: str) -> StoredLetter | None:
        """See `Queue.look_up`. The time of acceptance is the server's."""
        return await self._look_up(self._letters, letter_id)

    async def _look_up(self, letters: Collection, letter_id: str) -> StoredLetter | None:
        try:
            query = {"_id": stored_id(letter_id)}
            encode(query)
        except (ValueError, BSONError):
            return None
        async with calling(self._timeout):
            document = await letters.find_one(query)
            if document is None:
                return None
            letter = letter_of(document)
            if letter.status.final and await self._outbox.answered(document.get("outbox")):
                letter = letter.evolve(answered=len(letter.answers))
        accepted = _time(document, "created_at")
        due = _time(document, "due") if document.get("rank") is DEFERRED else accepted
        due = due or _time(document, "due") or _time(document, "rank")  # another program's
        awaits = letter.status is Status.AWAITING
        return StoredLetter(
            letter=letter,
            accepted_at=accepted,
            due=due if awaits else None,
        )

    async def ahead(self, letter_id: str, most: int) -> int | None:
        """See `Queue.ahead`."""
        try:
            query = {"_id": stored_id(letter_id)}
            encode(query)
        except (ValueError, BSONError):
            return None
        async with calling(self._timeout):
            found = await self._letters.find_one(query, {"status": 1, "route": 1, "rank": 1, "due": 1})
            now = await self._server_clock.now()
            return None if found is None else await self._order.ahead(found, now, most)

    async def ended(self, ids: Sequence[str]) -> frozenset[str]:
        """See `Queue.ended`."""
        query = {"_id": {"$in": [stored_id(each) for each in ids]}, "status": {"$in": _FINAL}}
        async with calling(self._timeout):
            found = await self._letters.find(query, {"_id": 1}, hint=_BY_ID).to_list(None)
        return frozenset(letter_id(each["_id"]) for each in found)

    async def stats(self) -> QueueStats:
        """See `Queue.stats`. `sent` is what the others leave of the collection's own count."""
        async with calling(self._timeout):
            now = await self._server_clock.now()
            waiting = await self._order.waiting()
            deferred = await self._order.deferred(now)
            processing = await self._count({"status": "processing"}, _CLAIMED)
            error = await self._count({"status": "error"}, "mailsender_error")
            unreported, unreported_since = await self._outbox.count()
            total = await self._letters.estimated_document_count()
            oldest = await self._order.oldest()
        return QueueStats(
            awaiting=waiting.letters,
            due=max(0, waiting.letters - deferred.letters),
            processing=processing,
            sent=max(0, total - waiting.letters - processing - error),
            error=error,
            unreported=unreported,
            oldest_due=_age(min(oldest.values(), default=None), now),
            oldest_unreported=_age(unreported_since, now) if unreported else 0.0,
            routes={
                route: RouteStats(
                    awaiting=number,
                    deferred=min(number, deferred.routes.get(route, 0)),
                    oldest_due=_age(oldest.get(route), now),
                )
                for route, number in waiting.routes.items()
            },
        )

    async def keep_record(self, record: Record, reason: str) -> str:
        """See `Queue.keep_record`."""
        async with calling(self._timeout):
            for document in documents_of(record, reason, now_ms(self._clock.epoch()), self._retention):
                await self._deadletters.replace_one({"_id": document["_id"]}, document, upsert=True)
        digest = digest_of(record.key, record.value, record.timestamp)
        place = f"{record.topic}/{record.partition}/{record.offset}/{digest}"
        return f"{self._deadletters.full_name}/{place}"

    async def history(self, topic: str, partition: int) -> History:
        """See `Queue.history`."""
        async with calling(self._timeout):
            place = {"topic": topic, "partition": partition}
            found = await committed(self._partitions).find_one({"_id": place})
        return from_document(found or {})

    async def note_history(self, topic: str, partition: int, history: History) -> None:
        """See `Queue.note_history`."""
        place = {"topic": topic, "partition": partition}
        at, high = history.log, history.high
        behind: list[dict[str, Any]] = [{"log": {"$lt": at}}, {"log": at, "high": {"$lte": high}}]
        async with calling(self._timeout):
            await self._write_history(place, behind, {"_id": place, **history.document()})

    async def _write_history(
        self, place: dict[str, Any], behind: list[dict[str, Any]], document: dict[str, Any]
    ) -> None:
        try:
            await self._partitions.replace_one({"_id": place, "$or": behind}, document, upsert=True)
        except DuplicateKeyError:
            return  # what is kept knows more

    # --- what the calls above are made of ---

    async def _free(self, query: Document, ends: float, ids: Sequence[Any]) -> int:
        """Give letters back that are still as `query` says, until `ends` on the monotonic clock; how many."""
        async with calling(self._left(ends)):
            result = await self._letters.update_many({"_id": {"$in": list(ids)}, **query}, _FREE, hint=_BY_ID)
        return int(result.modified_count)

    async def _heads(self, route: str, limit: int) -> list[Document]:
        """Which letters to try for: the head of a route, or a lane beside it when it is crowded."""
        while True:
            async with calling(self._timeout):
                heads = await self._order.heads(route, self._skip, limit, self._apart.beside({}))
                found = _within(heads)
            if not self._skip:
                self._flows.served(route, found)
            if not found and self._skip:
                self._skip = 0
                continue
            named = [each for each in found if nameable(each["_id"])]
            if len(named) == len(found) or not await self._apart.unnamed({**DUE, "route": route}):
                return named

    async def _take(self, ids: list[Any], token: str) -> bool:
        """Try to put letters under `token`; False when other replicas were faster with all of them."""
        change = {"status": "processing", "claim": token, "until": NEVER}
        try:
            taken, culprits = await narrowed(ids, partial(self._put, change))
        except Unavailable as error:
            if isinstance(error, Forbidden):
                raise
            # It may have been done all the same: reading back by token tells.
            self._server_clock.forget()
            return True
        for stored, fault in culprits:
            await self._apart.put(stored, str(fault))
        self._skip = 0 if taken == len(ids) else randrange(LANES) * len(ids)  # noqa: S311
        return bool(taken)

    async def _put(self, change: Document, ids: Sequence[Any]) -> int:
        query = {"_id": {"$in": list(ids)}, **DUE}
        async with calling(self._timeout):
            result = await self._letters.update_many(query, {"$set": change}, hint=_BY_ID)
        return int(result.modified_count)

    async def _under(self, token: str, ids: list[Any]) -> tuple[Letter, ...]:
        async with calling(self._timeout):
            query = {"_id": {"$in": ids}, "claim": token, "status": "processing"}
            return tuple(_in_order(await self._committed.find(query, hint=_BY_ID).to_list(None), ids))

    async def _count(self, query: Document, hint: str) -> int:
        """Count by the index of that name, without which MongoDB would look at every document."""
        named = self._indexes.get(hint)
        hinted = {"hint": named} if named else {}
        return int(await self._letters.count_documents(query, **hinted))


def _within(found: list[Document]) -> list[Document]:
    """As many of `found` as fit into `CLAIM_BYTES`, and at least one."""
    total = 0
    for count, document in enumerate(found):
        total += document["size"]
        if count and total > CLAIM_BYTES:
            return found[:count]
    return found


def _in_order(found: list[Document], ids: list[Any]) -> list[Letter]:
    place = {letter_id(each): number for number, each in enumerate(ids)}
    return sorted(map(letter_of, found), key=lambda letter: place.get(letter.id, len(place)))


def _age(since: datetime | None, now: datetime) -> float:
    """Seconds since then; 0.0 where there is no such time."""
    return max(0.0, (now - since).total_seconds()) if since else 0.0


def _time(document: Document, name: str) -> datetime | None:
    """A field of a document that should be a time; another program may have written anything."""
    found = document.get(name)
    return found if isinstance(found, datetime) else None


def _around(claim: str) -> tuple[Document, Document]:
    """Conditions for claims beside one that no query can say, as it is not valid UTF-8, and for those beyond.

    Tokens are ASCII: those that begin as the claim does, as far as that is ASCII, come before all that goes
    on otherwise. Beyond is nothing, and no condition, where it begins with no ASCII.
    """
    length = next(index for index, each in enumerate(claim) if each >= "\x7f")
    low = claim[:length] + "\x7f"
    if not length:
        return {"$gte": low}, {}
    high = claim[: length - 1] + chr(ord(claim[length - 1]) + 1)
    return {"$gte": low, "$lt": high}, {"$gte": high}


def _under_replica(replica: str) -> Document:
    """Letters under a replica's tokens; hex digits come before a g."""
    return {**_PROCESSING, "claim": {"$gte": replica, "$lt": f"{replica}g"}}


def _settling(
    settlements: Sequence[Settlement], now: datetime, ends: Document
) -> list[UpdateMany | UpdateOne]:
    """The updates that settle letters; `ends` are further fields of those that are final."""
    groups: defaultdict[Any, list[Settlement]] = defaultdict(list)
    for each in settlements:
        groups[each.token, each.delay, likeness(each.letter)].append(each)
    return [_settlement(group, now, ends) for group in groups.values()]


def _settlement(group: list[Settlement], now: datetime, ends: Document) -> UpdateMany | UpdateOne:
    """One guarded update for letters that end alike. No pipeline: texts from outside are only texts here."""
    first = group[0]
    letter = first.letter
    state = state_of(letter)
    fields: Document = {name: value for name, value in state.items() if value}
    fields |= {"status": letter.status.value, "settled_by": first.token}
    # What an attempt before this one may have left. The others are only ever replaced.
    absent = [name for name in ("outcome", "recipients", "reason") if name not in fields]
    absent.append("slices")
    if letter.status is Status.AWAITING:
        due = now + timedelta(seconds=first.delay)
        fields |= {"route": letter.route, "rank": DEFERRED, "due": due}
    else:
        fields |= ends
    update: Document = {"$set": fields, "$unset": UNCLAIMED | dict.fromkeys(absent, "")}
    guard: Document = {"status": "processing", "claim": first.token}
    ids = [stored_id(each.letter.id) for each in group]
    if len(ids) == 1:
        return UpdateOne({"_id": ids[0], **guard}, update, hint=_BY_ID)
    return UpdateMany({"_id": {"$in": ids}, **guard}, update, hint=_BY_ID)
