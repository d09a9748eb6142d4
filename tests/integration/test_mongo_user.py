"""What becomes of the service where MongoDB's user may not do all that it should."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from mailsender.adapters.mongo import connect, disconnect
from mailsender.adapters.mongo_queue import MongoQueue
from mailsender.letter import Settlement
from mailsender.ports import SystemClock
from tests import parts
from tests.contract.conftest import ended, letter

pytestmark = pytest.mark.asyncio

MANY = 40
"""More than share a mark."""


@pytest_asyncio.fixture
async def frugal(lone_mongod: parts.LoneMongod) -> AsyncIterator[MongoQueue]:
    """A queue whose user may remove nothing."""
    database = f"test_{uuid4().hex[:12]}"
    may = {"find", "insert", "update", "createIndex"}
    uri = lone_mongod.narrow_user(database, {"letters": may, "letters.marks": may})
    client = connect(uri, timeout=10.0, app_name="frugal")
    queue = MongoQueue(
        client, database=database, collection="letters", retention=60.0, clock=SystemClock(), timeout=10.0
    )
    await queue.open()
    yield queue
    await disconnect(client, 10.0)


async def test_reports_go_on_without_the_right_to_remove(frugal: MongoQueue) -> None:
    await frugal.insert([letter(number) for number in range(MANY)])
    lease = await frugal.claim(MANY, 60)
    letters = [ended(each) for each in lease.letters]
    assert (
        await frugal.settle([Settlement(token=lease.token, letter=each) for each in letters]) == frozenset()
    )
    found = await frugal.unreported(0, MANY)
    assert {each.id for each in found} == {each.id for each in letters}
    assert (await frugal.stats()).unreported == MANY, "none counts for two"
    await frugal.mark_reported(found)
    assert await frugal.unreported(0, MANY) == []
    assert (await frugal.stats()).unreported == 0
