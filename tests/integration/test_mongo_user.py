"""What becomes of the service where MongoDB's user may not do all that it should."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from lab import parts
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Forbidden, Unavailable
from mailsender.model.letter import Settlement
from mailsender.queue.mongo.client import connect, disconnect
from mailsender.queue.mongo.indexes import INDEXES
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.mongo.rights import RIGHTS
from mailsender.queue.port import Inserted
from tests.claims import claim
from tests.contract.conftest import again, ended, letter

pytestmark = pytest.mark.asyncio

MANY = 40
"""More than share a mark."""


def queue_of(client: Any, database: str) -> MongoQueue:
    return MongoQueue(
        client, database=database, collection="letters", retention=60.0, clock=SystemClock(), timeout=2.0
    )


async def opened(queue: MongoQueue) -> None:
    """As the service does: try again until it works."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await queue.open()
            except Unavailable:
                continue


@pytest.mark.parametrize("how", ["wrong password", "user of another database", "no user"])
async def test_whoever_is_not_let_in_waits_until_that_is_mended(
    lone_mongod: parts.LoneMongod, how: str
) -> None:
    """The words name what there is to set, and the same queue goes on when the user is there."""
    database, name = f"test_{uuid4().hex[:12]}", f"user-{uuid4().hex}"
    with MongoClient[dict[str, Any]](lone_mongod.uri()) as admin:
        home = admin[database] if how == "user of another database" else admin.admin
        roles = [{"role": "readWrite", "db": database}]
        home.command("createUser", name, pwd="old-s3cret", roles=roles)
        user = "" if how == "no user" else f"{name}:new-s3cret@"
        uri = f"mongodb://{user}127.0.0.1:{lone_mongod.port}/"
        client = connect(uri, timeout=2.0, app_name="user")
        queue = queue_of(client, database)
        with pytest.raises(Unavailable) as caught:
            await queue.open()
        text = str(caught.value)
        assert "MONGODB_USERNAME" in text
        assert "MONGODB_URI" in text
        assert "s3cret" not in text
        if how != "no user":
            assert "MONGODB_PASSWORD" in text
            assert "authSource" in text
        for call in (queue.open(), queue.insert([letter(1)]), claim(queue, 1), queue.stats()):
            with pytest.raises(Unavailable) as caught:
                await call
            assert "Topology" not in str(caught.value)
        if how == "no user":
            await disconnect(client, 10.0)
            return
        if how == "wrong password":
            admin.admin.command("updateUser", name, pwd="new-s3cret")
        else:
            admin.admin.command("createUser", name, pwd="new-s3cret", roles=roles)
    await opened(queue)
    assert await queue.insert([letter(1)]) == [Inserted.NEW]
    await disconnect(client, 10.0)


async def test_a_right_that_is_taken_away_is_waited_for(lone_mongod: parts.LoneMongod) -> None:
    """No letter is blamed for it: what comes in meanwhile is stored as it is when the right is back."""
    database, name = f"test_{uuid4().hex[:12]}", f"user-{uuid4().hex}"
    with MongoClient[dict[str, Any]](lone_mongod.uri()) as admin:
        writes, reads = ([{"role": role, "db": database}] for role in ("readWrite", "read"))
        admin.admin.command("createUser", name, pwd="s3cret", roles=writes)
        client = connect(f"mongodb://{name}:s3cret@127.0.0.1:{lone_mongod.port}/", timeout=10.0, app_name="u")
        queue = queue_of(client, database)
        await queue.open()
        await queue.insert([letter(number) for number in range(3)])
        lease = await claim(queue, 2)
        settlement = Settlement(token=lease.token, letter=ended(lease.letters[0]))
        admin.admin.command("updateUser", name, roles=reads)
        calls = [
            queue.insert([letter(7), letter(1, subject="other"), again(letter(2), 8)]),
            claim(queue, 1),
            queue.settle([settlement]),
            queue.release(lease.token, [lease.letters[1].id]),
            queue.join("another", 60.0),
        ]
        for call in calls:
            with pytest.raises(Unavailable, match="lacks rights"):
                await call
        admin.admin.command("updateUser", name, roles=writes)
    assert await queue.insert([letter(7)]) == [Inserted.NEW]
    assert await queue.settle([settlement]) == frozenset()
    assert (await queue.stats()).error == 0
    await disconnect(client, 10.0)


async def test_the_documented_rights_are_enough_beside_an_index_of_somebody_else(
    lone_mongod: parts.LoneMongod,
) -> None:
    database = f"test_{uuid4().hex[:12]}"
    with MongoClient[dict[str, Any]](lone_mongod.uri()) as admin:
        (first, *_) = INDEXES
        keys = list(first.document["key"].items())
        admin[database]["letters"].create_index(keys, name=first.document["name"], sparse=True)
    rights = {f"letters{beside}": actions for beside, actions in RIGHTS.items()}
    client = connect(lone_mongod.narrow_user(database, rights), timeout=10.0, app_name="narrow")
    queue = queue_of(client, database)
    await queue.open()
    assert await queue.insert([letter(1)]) == [Inserted.NEW]
    assert (await claim(queue, 1)).letters
    await disconnect(client, 10.0)


async def test_without_the_right_to_remove_reports_nothing_is_begun(lone_mongod: parts.LoneMongod) -> None:
    """Sent letters would be reported again at each start. Those that may not remove letters forget none."""
    database = f"test_{uuid4().hex[:12]}"
    may = {"find", "insert", "update", "createIndex"}
    rights = {"letters": may, "letters.outbox": may, "letters.replicas": may}
    client = connect(lone_mongod.narrow_user(database, rights), timeout=10.0, app_name="frugal")
    with pytest.raises(Forbidden, match="mailsender check"):
        await queue_of(client, database).open()
    await disconnect(client, 10.0)

    rights["letters.outbox"] = may | {"remove"}
    client = connect(lone_mongod.narrow_user(database, rights), timeout=10.0, app_name="frugal")
    queue = queue_of(client, database)
    await queue.open()
    await queue.insert([letter(number) for number in range(MANY)])
    taken = await claim(queue, MANY)
    settlements = [Settlement(token=taken.token, letter=ended(each)) for each in taken.letters]
    assert await queue.settle(settlements) == frozenset()
    found = await queue.unreported(0, MANY)
    assert len(found) == (await queue.stats()).unreported == MANY, "none counts for two"
    await queue.acknowledge(found)
    assert await queue.unreported(0, MANY) == []
    assert (await queue.stats()).unreported == 0
    await disconnect(client, 10.0)
