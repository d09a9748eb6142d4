"""What the server does for blobs and bodies: it reads an index, however much lies beside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from pymongo import MongoClient, monitoring

from lab.parts import MongoServer
from mailsender.blobs.mongo import MongoBlobs
from mailsender.model.blobs import ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.queue import MongoQueue
from tests.contract.conftest import letter
from tests.integration.test_queue_plans import Commands

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sync(mongod: MongoServer) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        yield client


@pytest_asyncio.fixture
async def made(mongod: MongoServer, database: str) -> AsyncIterator[tuple[MongoQueue, MongoBlobs, Commands]]:
    commands = Commands()
    monitoring.register(commands)
    client = connect(mongod.uri, timeout=60, app_name="plans")
    common: dict[str, Any] = {
        "database": database,
        "collection": "letters",
        "clock": SystemClock(),
        "timeout": 60,
    }
    queue = MongoQueue(client, retention=60_000, body_retention=30, **common)
    blobs = MongoBlobs(client, retention=3600, **common)
    await queue.open()
    await blobs.open()
    yield queue, blobs, commands
    await queue.close()


async def test_no_question_about_blobs_reads_a_collection(
    made: tuple[MongoQueue, MongoBlobs, Commands], sync: MongoClient[dict[str, Any]], database: str
) -> None:
    queue, blobs, commands = made
    contents = {ref_of(each): each for each in (f"{number}".encode() for number in range(2000))}
    await blobs.secure([], contents)
    refs = list(contents)
    some = [letter(n, mail=f'{{"Attachments":[{{"Ref":"{refs[n]}"}}]}}') for n in range(500)]
    await queue.insert(some)
    await queue.insert([letter(n) for n in range(500, 3000)])
    sync[database]["letters.blobs.files"].update_many(
        {}, [{"$set": {"kept_until": datetime(2020, 1, 1, tzinfo=UTC)}}]
    )
    commands.sent.clear()
    assert await blobs.sweep(200) > 0
    await blobs.secure(refs[:100], {})
    await blobs.find(refs[0])
    await blobs.resumable(refs[0])
    await queue.drop_bodies(100)
    finds = [each for each in commands.sent if "find" in each and each["$db"] == database]
    assert {each["find"] for each in finds} >= {"letters", "letters.blobs.files"}
    for each in finds:
        command = {name: value for name, value in each.items() if name in {"find", "filter", "sort", "hint"}}
        plan = sync[database].command("explain", command, verbosity="queryPlanner")
        assert "COLLSCAN" not in repr(plan["queryPlanner"]["winningPlan"]), command


async def test_letters_without_attachments_have_no_entry_in_any_of_their_indexes(
    made: tuple[MongoQueue, MongoBlobs, Commands], sync: MongoClient[dict[str, Any]], database: str
) -> None:
    queue, _, _ = made
    await queue.insert([letter(n) for n in range(1000)])
    letters = sync[database]["letters"]
    for name in ("mailsender_blobs", "mailsender_body"):
        assert letters.count_documents({}, hint=name) == 0, name


async def test_a_store_that_is_away_says_so() -> None:
    client = connect("mongodb://127.0.0.1:1/", timeout=0.5, app_name="nowhere")
    blobs = MongoBlobs(
        client, database="x", collection="letters", retention=3600, clock=SystemClock(), timeout=0.5
    )
    with pytest.raises(Unavailable):
        await blobs.secure([ref_of(b"x")], {})
    with pytest.raises(Unavailable):
        await blobs.find(ref_of(b"x"))
    client.close()
