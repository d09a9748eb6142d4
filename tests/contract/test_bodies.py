"""Bodies that are kept for a shorter time than their letters: what is left is known again, and says so."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from mailsender.model.blobs import named_in, ref_of
from mailsender.model.letter import Answer, Letter, Status
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Inserted
from mailsender.reports.report import report
from tests.contract import conftest
from tests.contract.conftest import MONGO, RETENTION, World, again, claim_one, letter, only, send_one

pytestmark = pytest.mark.asyncio

KEPT = 100.0
REF = ref_of(b"%PDF")
MAIL = f'{{"Attachments":[{{"Ref":"{REF}"}}],"From":"a@b.test","TextBody":"what it said"}}'


@pytest_asyncio.fixture
async def world(backend: str, client: Any, request: pytest.FixtureRequest) -> World:
    """As the other suites have it, but with a time for bodies."""
    if backend == "memory":
        clock = conftest.ManualClock()
        shared = MemoryQueue(clock, RETENTION, KEPT)
        return World(backend, lambda: shared, clock)
    name, system = request.getfixturevalue("database"), conftest.SystemClock()
    database = client.get_database(name)

    def make() -> MongoQueue:
        return MongoQueue(
            client,
            database=name,
            collection="letters",
            retention=RETENTION,
            body_retention=KEPT,
            clock=system,
            timeout=10.0,
        )

    return World(backend, make, system, database.get_collection("letters"), database)


async def pass_time(world: World, seconds: float) -> None:
    await world.pass_time(seconds)
    if world.raw is not None:
        earlier = {"$subtract": ["$body_until", int(seconds * 1000)]}
        there = {"body_until": {"$exists": True}}
        await world.raw.update_many(there, [{"$set": {"body_until": earlier}}])


async def reported(world: World, each: Letter) -> Letter:
    """The letter, inserted, sent and its report acknowledged."""
    (queue,) = world.queues or [await world.replica()]
    await queue.insert([each])
    sent = await send_one(queue)
    await queue.acknowledge([sent])
    return sent


async def test_a_reported_letter_loses_what_it_said_and_keeps_the_rest(world: World) -> None:
    sent = await reported(world, letter(mail=MAIL))
    queue = world.queues[0]
    await pass_time(world, KEPT - 10)
    assert await queue.drop_bodies(10) == 0
    await pass_time(world, 20)
    assert await queue.drop_bodies(10) == 1
    assert await queue.drop_bodies(10) == 0
    left = await queue.get(sent.id)
    assert left is not None
    assert (left.body, left.bare, left.status) == ("", True, Status.SENT)
    assert left.mail == '{"From":"a@b.test"}'
    assert named_in(left.mail) == ()
    assert left.content == sent.content
    assert (left.subject, left.addresses) == (sent.subject, sent.addresses)
    assert left.recipients == sent.recipients
    assert left.message_id == sent.message_id
    if world.raw is not None:
        document = await world.document(left)
        assert {"blobs", "body_until"} & document.keys() == set()
        assert b"what it said" not in repr(document).encode()


async def test_what_awaits_or_is_not_reported_yet_keeps_it(world: World) -> None:
    queue = await world.replica()
    await queue.insert([letter(0), letter(1), letter(2)])
    sent = await send_one(queue)  # and not acknowledged
    _, claimed = await claim_one(queue)
    await pass_time(world, KEPT + 1)
    for _ in range(3):
        await queue.drop_bodies(10)
    for each in (sent, claimed, letter(2)):
        found = await queue.get(each.id)
        assert found is not None
        assert (found.body, found.bare) == (each.body, False)
    await queue.acknowledge([sent])
    await pass_time(world, 601)
    assert await queue.drop_bodies(10) == 1
    found = await queue.get(sent.id)
    assert found is not None
    assert found.bare


@pytest.mark.parametrize("digest", [True, False])
async def test_it_is_known_again_by_its_content(world: World, digest: bool) -> None:
    """Its record is read again; another publisher brings the same letter, or another one under its ID."""
    first = letter(mail=MAIL)
    if digest:
        first = first.evolve(digest=first.content)
    sent = await reported(world, first)
    queue = world.queues[0]
    await pass_time(world, KEPT + 1)
    assert await queue.drop_bodies(10) == 1
    assert await queue.insert([first]) == [Inserted.REPLAY]
    second = again(first, 7, mail=MAIL)
    assert await queue.insert([second]) == [Inserted.LATE]
    assert await queue.insert([letter(8, id=first.id, mail=MAIL, body="other")]) == [Inserted.CLASH]
    (told,) = await queue.unreported(0.0, 10)
    assert told.id == sent.id
    assert [each.origin for each in told.answers] == [second.answers[0].origin]
    made = report(told, told.answers[0])
    assert (made.Body, made.BodyOmitted, made.Status) == ("", True, "sent")


async def test_an_error_from_the_start_loses_its_body_as_well(world: World) -> None:
    queue = await world.replica()
    bad = letter(status=Status.ERROR, reason="bad", answers=(Answer(origin=letter().answers[0].origin),))
    await queue.insert([bad])
    await queue.acknowledge([bad])
    await pass_time(world, KEPT + 1)
    assert await queue.drop_bodies(10) == 1
    found = await queue.get(bad.id)
    assert found is not None
    assert (found.body, found.bare, found.reason) == ("", True, "bad")


@only(*MONGO)
async def test_it_goes_by_its_index_and_in_parts(world: World) -> None:
    queue = await world.replica()
    await queue.insert([letter(number) for number in range(5)])
    for _ in range(5):
        await queue.acknowledge([await send_one(queue)])
    await pass_time(world, KEPT + 1)
    plan = await world.raw.find({"body_until": {"$lte": conftest.FINISHED}}).explain()
    assert "mailsender_body" in repr(plan["queryPlanner"]["winningPlan"])
    assert [await queue.drop_bodies(2) for _ in range(4)] == [2, 2, 1, 0]
