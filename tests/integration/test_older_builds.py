"""A queue in which builds from before the heartbeat and the outbox were, or are at this moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from bson import ObjectId
from pymongo import ASCENDING

from lab.parts import MongoServer
from mailsender.model.clock import SystemClock
from mailsender.queue.mongo.client import Collection, connect, disconnect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Inserted
from tests.claims import LIFE, REPLICA, token_of
from tests.contract.conftest import letter

pytestmark = pytest.mark.asyncio

RETENTION = 3600.0
LEASE = "0" * 32


class Bench:
    def __init__(self, client: Any, database: str) -> None:
        self.client = client
        self.letters: Collection = client.get_database(database).get_collection("letters")
        self.marks: Collection = self.letters.marks
        self.queue = MongoQueue(
            client,
            database=database,
            collection="letters",
            retention=RETENTION,
            clock=SystemClock(),
            timeout=10.0,
        )

    async def open(self) -> None:
        """Begin where an older build was: an index tells of it."""
        await self.letters.create_index(
            [("reported", ASCENDING), ("at", ASCENDING)],
            name="mailsender_unreported",
            partialFilterExpression={"reported": False},
        )
        await self.queue.open()
        await self.queue.join(REPLICA, LIFE)

    async def leased(self, number: int, until: datetime) -> None:
        """A letter that an older build claimed."""
        assert await self.queue.insert([letter(number)]) == [Inserted.NEW]
        fields = {"status": "processing", "lease": LEASE, "until": until}
        await self.letters.update_one({"_id": ObjectId(letter(number).id)}, {"$set": fields})

    async def settled(self, number: int, **fields: Any) -> ObjectId:
        """A letter that an older build sent."""
        await self.leased(number, now())
        stored = ObjectId(letter(number).id)
        fields |= {"status": "sent", "settled_by": LEASE}
        update = {"$set": fields, "$unset": {"lease": "", "until": ""}}
        await self.letters.update_one({"_id": stored}, update)
        return stored


@pytest_asyncio.fixture
async def bench(mongod: MongoServer) -> AsyncIterator[Bench]:
    client = connect(mongod.uri, timeout=10.0, app_name="older")
    name = f"test_{uuid4().hex[:12]}"
    yield Bench(client, name)
    await client.drop_database(name)
    await disconnect(client, 10.0)


def now() -> datetime:
    return datetime.now(UTC)


def ago(seconds: float) -> datetime:
    return now() - timedelta(seconds=seconds)


async def test_what_an_older_build_leased_is_its_own_until_the_lease_ends(bench: Bench) -> None:
    await bench.open()
    await bench.leased(1, ago(-60))
    await bench.leased(2, ago(1))
    assert await bench.queue.reclaim(10) == 1
    claim = await bench.queue.claim(10, token_of())
    assert [each.id for each in claim.letters] == [letter(2).id]


async def test_an_older_build_takes_no_claim_of_ours_for_one_that_ran_out(bench: Bench) -> None:
    await bench.open()
    assert await bench.queue.insert([letter(1)]) == [Inserted.NEW]
    claim = await bench.queue.claim(1, token_of())
    over = {"status": "processing", "$expr": {"$lte": ["$until", "$$NOW"]}}
    assert await bench.letters.count_documents(over) == 0
    assert await bench.letters.count_documents({"until": {"$exists": True}}) == 1
    await bench.queue.release(claim.token, [letter(1).id])
    assert await bench.letters.count_documents({"until": {"$exists": True}}) == 0


@pytest.mark.parametrize("claimed", [True, False])
async def test_reports_that_an_older_build_owed_under_a_mark_are_published_once(
    bench: Bench, claimed: bool
) -> None:
    await bench.open()
    mark = ObjectId()
    ids = [await bench.settled(number, mark=mark) for number in range(3)]
    whole = {"_id": mark, "letters": ids, "count": 3, "leases": [LEASE], "at": ago(100), "reported": False}
    await bench.marks.insert_one(whole)
    if claimed:  # one of them it has not settled yet: its lease has to end first
        busy = {"status": "processing", "lease": LEASE, "until": ago(-60)}
        await bench.letters.update_one({"_id": ids[0]}, {"$set": busy, "$unset": {"settled_by": ""}})
    found = await bench.queue.unreported(60.0, 10)
    assert sorted(each.id for each in found) == sorted(letter(n).id for n in range(claimed, 3))
    stored = await bench.queue.look_up(letter(2).id)
    assert stored is not None
    assert stored.letter.answered == 0
    await bench.queue.acknowledge(found)
    assert await bench.queue.unreported(60.0, 10) == []
    assert await bench.marks.count_documents({}) == 0
    stored = await bench.queue.look_up(letter(2).id)
    assert stored is not None
    assert stored.letter.answered == 1


async def test_so_are_those_that_stood_in_the_letter(bench: Bench) -> None:
    await bench.open()
    await bench.settled(1, reported=False, at=ago(100))
    await bench.settled(2, reported=False, at=ago(1))
    await bench.settled(3, reported=True, at=ago(100))
    found = await bench.queue.unreported(60.0, 10)
    assert [each.id for each in found] == [letter(1).id]
    await bench.queue.acknowledge(found)
    assert await bench.queue.unreported(60.0, 10) == []


async def test_a_young_mark_is_left_to_the_build_that_made_it(bench: Bench) -> None:
    await bench.open()
    mark = ObjectId()
    ids = [await bench.settled(1, mark=mark)]
    whole = {"_id": mark, "letters": ids, "count": 1, "leases": [LEASE], "at": ago(10), "reported": False}
    await bench.marks.insert_one(whole)
    assert await bench.queue.unreported(60.0, 10) == []
    assert await bench.marks.count_documents({}) == 1


async def test_letters_that_were_reported_under_a_mark_are_forgotten_in_time(bench: Bench) -> None:
    await bench.open()
    mark = ObjectId()
    ids = [await bench.settled(1, mark=mark)]
    await bench.marks.insert_one({"_id": mark, "letters": ids, "at": ago(100), "reported": True})
    assert await bench.queue.unreported(60.0, 10) == []
    (document,) = await bench.letters.find({}).to_list(None)
    assert document["expire_at"] > now()
    assert await bench.marks.count_documents({}) == 0
