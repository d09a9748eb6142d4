"""Documents that the original service or another program put into the collection are letters, too."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Code, MaxKey, ObjectId, Regex, Timestamp, encode
from bson.raw_bson import RawBSONDocument

from mailsender.model.errors import Unavailable
from mailsender.model.letter import DEFAULT_ROUTE, Answer, Settlement, Status
from mailsender.queue.port import Inserted, Queue
from tests.claims import REPLICA, claim, token_of
from tests.contract.conftest import FINISHED, MONGO, World, claim_one, letter, only, send_one

pytestmark = pytest.mark.asyncio

ORIGINAL = {"addresses": ["a@example.test"], "subject": "Тема", "body": "Тело", "token": "т", "kafkakey": "k"}


@pytest.mark.parametrize(
    "identity", [ObjectId(), "text", 7, {"a": [1, {"b": None}]}, 1.5, datetime(2020, 1, 1, tzinfo=UTC)]
)
@pytest.mark.parametrize("status", ["awaiting", "processing"])
@only(*MONGO)
async def test_a_document_left_by_another_program_is_adopted(
    queue: Queue, world: World, status: str, identity: Any
) -> None:
    await queue.insert([letter(1)])
    await world.raw.insert_one({"_id": identity, "status": status, **ORIGINAL})
    assert await queue.reclaim(10) == (1 if status == "processing" else 0)
    token, claimed = await claim_one(queue)
    assert claimed.adopted
    assert (claimed.addresses, claimed.subject, claimed.body) == (("a@example.test",), "Тема", "Тело")
    assert claimed.answers == (Answer(token="т", key=b"k"),)
    assert claimed.reason == ""
    assert await queue.get(claimed.id) == claimed
    assert await queue.claims_of(REPLICA) == {token: [claimed.id]}
    await queue.release(token, [claimed.id])
    sent = await send_one(queue)
    assert await queue.unreported(0, 10) == [sent]
    await queue.acknowledge([sent])
    document = await world.raw.find_one({"_id": identity})
    assert document["status"] == "sent"
    assert "expire_at" in document


@only(*MONGO)
async def test_a_key_of_raw_bytes_survives(queue: Queue, world: World) -> None:
    """The original wrote them as a BSON string; PyMongo would not, so the bytes are put together by hand."""
    raw = encode({"_id": ObjectId(), "status": "awaiting", **ORIGINAL, "kafkakey": "0123", "subject": "4567"})
    raw = raw.replace(b"0123", b"\xff\xfe\x00\xd0").replace(b"4567", b"a\xffbc")
    await world.raw.insert_one(RawBSONDocument(raw))
    await queue.reclaim(10)
    _, claimed = await claim_one(queue)
    assert claimed.answers[0].key == b"\xff\xfe\x00\xd0"
    assert claimed.subject == "a\N{REPLACEMENT CHARACTER}bc"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"addresses": "a@example.test"}, "addresses"),
        ({"addresses": ["a@example.test", 5]}, "addresses"),
        ({"addresses": {"a": 1}}, "addresses"),
        ({"addresses": ["a@example.test"] * 200_000}, "200000 addresses"),
        ({"recipients": [{"address": "a@example.test"}] * 100_000}, "100000 recipients"),
        ({"subject": 5}, "subject"),
        ({"body": ["x"]}, "body"),
    ],
)
@only(*MONGO)
async def test_a_field_of_a_wrong_type_becomes_a_reason(
    queue: Queue, world: World, change: dict[str, Any], word: str
) -> None:
    await world.raw.insert_one({"status": "awaiting", **ORIGINAL, **change})
    await queue.reclaim(10)
    token, claimed = await claim_one(queue)
    assert word in claimed.reason
    assert claimed.status is Status.PROCESSING
    wrong = claimed.evolve(status=Status.ERROR, finished_at=FINISHED)
    await queue.settle([Settlement(token=token, letter=wrong)])
    (found,) = await queue.unreported(0, 10)
    assert (found.status, found.reason) == (Status.ERROR, claimed.reason)


@only(*MONGO)
async def test_a_time_that_never_comes_is_now(queue: Queue, world: World) -> None:
    # What MongoDB sorts behind every date is never in the past.
    for never in (Timestamp(2**31, 1), Regex("x"), Code("f()"), MaxKey()):
        await world.raw.insert_one({"status": "awaiting", **ORIGINAL, "due": never})
        await world.raw.insert_one({"status": "processing", **ORIGINAL, "claim": never})
    await queue.reclaim(10)
    lease = await claim(queue, 10)
    assert len(lease.letters) == 8


@only(*MONGO)
async def test_a_claim_behind_all_tokens_is_nobodys(queue: Queue, world: World) -> None:
    for strange in ("x" * 40, "x" * 16 + "zz", "0123456789abcdefz", "\N{PILE OF POO}", "y"):
        await world.raw.insert_one({"status": "processing", **ORIGINAL, "claim": strange})
    await queue.reclaim(10)
    assert len((await claim(queue, 10)).letters) == 5


@only(*MONGO)
async def test_a_claim_that_is_the_beginning_of_many_frees_its_letter_alone(
    queue: Queue, world: World
) -> None:
    await world.raw.insert_one({"status": "awaiting", **ORIGINAL})
    await queue.reclaim(10)
    await queue.join(REPLICA, 60)
    token, ours = await claim_one(queue)
    for strange in ("", token[0], token[:8]):
        await world.raw.insert_one({"status": "processing", **ORIGINAL, "claim": strange})
    await queue.reclaim(10)
    others = await claim(queue, 10)
    assert len(others.letters) == 3
    assert ours.id not in {each.id for each in others.letters}


@pytest.mark.parametrize("none", [{}, []])
@only(*MONGO)
async def test_recipients_that_are_none_are_those_of_the_addresses(
    queue: Queue, world: World, none: object
) -> None:
    await world.raw.insert_one({"status": "awaiting", **ORIGINAL, "recipients": none})
    await queue.reclaim(10)
    _, claimed = await claim_one(queue)
    assert claimed.pending == claimed.addresses
    assert len(claimed.recipients) == len(claimed.addresses)


@only(*MONGO)
async def test_a_text_of_another_kind_is_settled_as_a_text(queue: Queue, world: World) -> None:
    # JavaScript is a string of PyMongo's that cannot be hashed.
    other = {"subject": Code("f()"), "addresses": [Code("a@example.test")], "token": Code("t")}
    for more in ({"relay": Code("r")}, {"message_id": Code("m"), "reason": Code("why")}):
        await world.raw.insert_one({"status": "awaiting", "body": Code("x"), **other, **more})
    await queue.reclaim(10)
    lease = await claim(queue, 10)
    assert [each.subject for each in lease.letters] == ["f()", "f()"]
    ended = [each.evolve(status=Status.ERROR, finished_at=FINISHED) for each in lease.letters]
    assert not await queue.settle([Settlement(token=lease.token, letter=each) for each in ended])
    assert [each.status for each in await queue.unreported(0, 10)] == [Status.ERROR, Status.ERROR]


@only(*MONGO)
async def test_a_bare_document_and_odd_fields_are_read(queue: Queue, world: World) -> None:
    await world.raw.insert_one({"status": "awaiting"})
    odd = {
        "token": {"id": ObjectId("0" * 24), "n": 2**40},
        "recipients": ["x"],
        "origin": "here",
        "attempts": "many",
        "also": [5],
    }
    await world.raw.insert_one({"status": "awaiting", **ORIGINAL, **odd})
    await queue.reclaim(10)
    lease = await claim(queue, 10)
    bare, strange = lease.letters
    assert (bare.addresses, bare.subject, bare.body, bare.answers) == ((), "", "", (Answer(),))
    assert strange.answers[0].token == {"id": {"$oid": "0" * 24}, "n": 2**40}
    assert strange.pending == ("a@example.test",)


@only(*MONGO)
async def test_publishing_what_another_program_put_in_joins_it(queue: Queue, world: World) -> None:
    sample = letter(1, id="6b03f03e1c3fe5165a363fce")
    content = {"addresses": list(sample.addresses), "subject": sample.subject, "body": sample.body}
    await world.raw.insert_one({"_id": ObjectId(sample.id), "status": "sent", "token": "theirs", **content})
    assert await queue.insert([sample.evolve(subject="other")]) == [Inserted.CLASH]
    assert await queue.insert([sample]) == [Inserted.LATE]
    assert await queue.insert([sample]) == [Inserted.REPLAY]
    (found,) = await queue.unreported(0, 10)
    assert [each.token for each in found.answers] == ["token 1"], "the other program answers its own"


ODD_ROUTES: tuple[Any, ...] = (
    *(["", "x"], [[MaxKey()], ""], [[MaxKey()], "default", "x"], [Code("a"), "b"], []),
    *("x" * 5000, "news", Code("f()"), MaxKey(), None, {"a": "b"}, 7),
)


@only(*MONGO)
async def test_a_route_that_is_none_keeps_no_letter_and_no_loop(queue: Queue, world: World) -> None:
    """A list stands in an index as each of what is in it: it was met there again and again, for ever."""
    await queue.insert([letter(1)])
    made = [{"_id": n, "status": "awaiting", **ORIGINAL, "route": each} for n, each in enumerate(ODD_ROUTES)]
    await world.raw.insert_many(made)
    await world.raw.insert_one({"_id": "last", "status": "awaiting", **ORIGINAL, "rank": MaxKey()})
    raw = encode({"_id": "raw", "status": "awaiting", **ORIGINAL, "route": "0123"})
    await world.raw.insert_one(RawBSONDocument(raw.replace(b"0123", b"\xff\xfe\x00\xd0")))
    for _ in range(3):  # those behind what cannot be said have their turn when it has another route
        await queue.reclaim(10, 5.0)
    claimed = (await queue.claim(100, token_of())).letters
    left = [each async for each in world.raw.find({"status": "awaiting"})]
    assert (left, len(claimed)) == ([], len(made) + 3)
    assert not any(each.reason for each in claimed)
    assert (await queue.stats()).awaiting == 0


@only(*MONGO)
async def test_however_many_names_there_are_each_letter_gets_its_place(queue: Queue, world: World) -> None:
    """In the time that there is for it, which is too little for one look at each name: it gets on."""
    await queue.insert([letter(1)])
    lists = [[f"l{name}" for name in range(1000)]] * 3
    routes = [*lists, *[f"r{name:03d}" for name in range(600)]]
    made = [{"_id": n, "status": "awaiting", **ORIGINAL, "route": each} for n, each in enumerate(routes)]
    await world.raw.insert_many(made)
    ends = time.monotonic() + 60
    while await world.raw.count_documents({"route": DEFAULT_ROUTE}) <= len(made):
        assert time.monotonic() < ends, "no letter got its place"
        with suppress(Unavailable):
            await queue.reclaim(10, 0.5)
    assert len((await queue.claim(1000, token_of())).letters) == len(made) + 1
