"""What the queue says while a majority is away: never that something is safe which is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from mailsender.adapters.mongo import connect
from mailsender.adapters.mongo_queue import MongoQueue
from mailsender.dev.mongod import Mongod, ReplicaSet
from mailsender.ports import Inserted, Rejected, SystemClock, Unavailable
from tests.contract.conftest import letter

pytestmark = pytest.mark.asyncio


def queue_at(uri: str, timeout: float) -> MongoQueue:
    client = connect(uri, timeout=timeout, app_name="durability")
    return MongoQueue(
        client, database="mts", collection="letters", retention=60, clock=SystemClock(), timeout=timeout
    )


async def eventually_open(queue: MongoQueue) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await queue.open()
            except Unavailable:
                continue


@pytest.mark.parametrize("away", ["freeze", "kill"])
async def test_an_insert_without_a_majority_is_never_called_durable(
    replica_set: ReplicaSet, away: str
) -> None:
    queue = queue_at(replica_set.uri, 3.0)
    await eventually_open(queue)
    letters = [letter(number) for number in range(20)]
    assert await queue.insert(letters[:10]) == [Inserted.NEW] * 10
    primary = replica_set.primary
    secondaries = [member for member in replica_set.members if member is not primary]
    try:
        for member in secondaries:
            getattr(member, away)()
        # New letters, letters that are there already, and both: each time the answer is "not sure".
        for part in (letters[10:], letters[10:], letters[:10], letters):
            with pytest.raises(Unavailable):
                await queue.insert(part)
    finally:
        for member in secondaries:
            if away == "freeze":
                member.thaw()
            else:
                member.launch()
    async with asyncio.timeout(60):
        while True:
            try:
                verdicts = await queue.insert(letters)
                break
            except Unavailable:
                continue
    assert set(verdicts) <= {Inserted.REPLAY, Inserted.NEW}
    claimed = []
    while found := (await queue.claim(50, 60)).letters:
        claimed += [each.id for each in found]
    assert sorted(claimed) == sorted(each.id for each in letters)
    await queue.close()


async def test_a_reclaim_does_not_outwait_an_outage(own_mongod: Mongod) -> None:
    """What it would do as soon as the server is back came before the owners could renew."""
    queue = queue_at(own_mongod.uri, 5.0)
    await queue.open()
    await queue.insert([letter(1)])
    assert (await queue.claim(1, 0.001)).letters
    own_mongod.freeze()
    try:
        with pytest.raises(Unavailable):
            await queue.reclaim(10, within=0.3)
    finally:
        own_mongod.thaw()
    assert (await queue.stats()).processing == 1
    assert await queue.reclaim(10, within=5.0) == 1
    await queue.close()


async def test_several_renewals_fit_into_a_lease_although_none_is_answered(own_mongod: Mongod) -> None:
    queue = queue_at(own_mongod.uri, 10.0)
    await queue.open()
    own_mongod.freeze()
    try:
        since = time.monotonic()
        with pytest.raises(Unavailable):
            await queue.renew({"t": [letter(1).id]}, 6.0)
        assert time.monotonic() - since < 3.0, "two of them fit in"
    finally:
        own_mongod.thaw()
    await queue.close()


async def test_a_frozen_server_is_unavailable_within_the_deadline(own_mongod: Mongod) -> None:
    queue = queue_at(own_mongod.uri, 1.0)
    await queue.open()
    await queue.insert([letter(1)])
    own_mongod.freeze()
    try:
        for call in (queue.insert([letter(2)]), queue.claim(1, 60), queue.stats(), queue.open()):
            since = time.monotonic()
            with pytest.raises(Unavailable):
                await call
            assert time.monotonic() - since < 5.0
        since = time.monotonic()
        try:
            await queue.close()
        except Unavailable:
            assert time.monotonic() - since < 5.0
    finally:
        own_mongod.thaw()


async def test_letters_survive_a_kill(own_mongod: Mongod) -> None:
    queue = queue_at(own_mongod.uri, 5.0)
    await queue.open()
    assert await queue.insert([letter(1)]) == [Inserted.NEW]
    own_mongod.kill()
    with pytest.raises(Unavailable):
        await queue.claim(1, 60)
    own_mongod.start()
    await eventually_open(queue)
    assert await queue.insert([letter(1)]) == [Inserted.REPLAY]
    assert len((await queue.claim(1, 60)).letters) == 1
    await queue.close()


async def test_a_server_that_never_was_is_unavailable() -> None:
    queue = queue_at("mongodb://127.0.0.1:9/", 0.5)
    with pytest.raises(Unavailable):
        await queue.open()
    await queue.close()


@pytest.mark.parametrize("uri", ["", "http://x", "mongodb://user:se/cret@host/", "mongodb://host:port/"])
async def test_a_bad_connection_string_is_rejected_without_repeating_it(uri: str) -> None:
    with pytest.raises(Rejected) as caught:
        connect(uri, timeout=1.0, app_name="x")
    assert "cret" not in str(caught.value)
