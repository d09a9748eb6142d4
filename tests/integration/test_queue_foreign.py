"""Documents that other programs wrote: whatever stands in them, no call fails and no neighbour suffers."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, encode
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pymongo.errors import WriteError

from lab.parts import MongoServer
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Letter, Settlement, Status
from mailsender.queue.mongo.client import connect, disconnect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Inserted
from mailsender.reports.report import report_bytes
from tests.claims import LIFE, REPLICA, token_of
from tests.contract.conftest import again, ended, letter

EXAMPLES = 150
FIELDS = (
    *("addresses", "subject", "body", "token", "tokenjson", "kafkakey", "key", "origin", "digest"),
    *("created_at", "route", "rank", "due", "claim", "settled_by", "outcome", "recipients", "attempts"),
    *("relay", "message_id", "handling"),
    *("reason", "finished_at", "outbox", "also", "expire_at", "slices"),
)
EPOCH = DatetimeMS(0)

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(Binary, st.binary(max_size=5), st.sampled_from([0, 2, 3, 4, 5, 128])),
    st.builds(ObjectId),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.sampled_from([EPOCH, MinKey(), MaxKey(), Regex("("), Code("x"), Code("x", {"a": 1}), Timestamp(1, 1)]),
    st.sampled_from([Decimal128("NaN"), Decimal128("1E+6000"), DBRef("a", 1)]),
    st.sampled_from(["awaiting", "processing", "sent", "error", "accepted", "dot", "t" * 32]),
)
names = st.one_of(
    st.sampled_from([*FIELDS, "verdict", "phase", "text", "code", "topic", "address"]),
    st.text("ab", max_size=3),
)
odd = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
    max_leaves=8,
)
good = {
    "addresses": ["a@example.test"],
    "subject": "theirs",
    "body": "x",
    "token": "t",
    "kafkakey": "k",
}
documents = st.builds(
    lambda status, usual, changes: {"status": status, **usual, **changes},
    st.one_of(st.sampled_from(["awaiting", "processing", "sent", "error"]), plain),
    st.sampled_from([{}, good]),
    st.dictionaries(st.sampled_from(FIELDS), odd, max_size=5),
)
ids = st.one_of(st.just(ObjectId(letter(77).id)), plain.filter(lambda each: not isinstance(each, Regex)))


marks = st.dictionaries(st.sampled_from(["letters", "claims", "at", "count", "replica", "origin"]), odd)


class Bench:
    """A queue, and a loop of its own to run it in, example after example."""

    def __init__(self, uri: str) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._open(uri))

    async def _open(self, uri: str) -> None:
        self.client = connect(uri, timeout=10.0, app_name="foreign")
        self.name = f"test_{uuid4().hex[:12]}"
        self.queue = self.make()
        await self.queue.open()
        self.database = self.client.get_database(self.name)

    def make(self) -> MongoQueue:
        return MongoQueue(
            self.client,
            database=self.name,
            collection="letters",
            retention=60.0,
            clock=SystemClock(),
            timeout=10.0,
        )

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self.client.drop_database(self.name)
        await disconnect(self.client, 10.0)

    async def clear(self) -> None:
        for each in ("letters", "letters.outbox", "letters.replicas"):
            await self.database.get_collection(each).delete_many({})


@pytest.fixture(scope="module")
def bench(mongod: MongoServer) -> Iterator[Bench]:
    bench = Bench(mongod.uri)
    yield bench
    bench.close()


async def through(queue: MongoQueue, neighbour: Letter) -> dict[str, Letter]:
    """All that the loops do, until nothing is left to do; what was reported."""
    same = letter(77, subject="theirs", body="x", addresses=("a@example.test",))
    assert await queue.insert([neighbour]) == [Inserted.NEW]
    assert len(await queue.insert([again(same, 78), again(same, 79), letter(77, subject="other")])) == 3
    await queue.stats()
    await queue.join(REPLICA, LIFE)
    await queue.claims_of(REPLICA)
    await queue.reclaim(100)
    reported: dict[str, Letter] = {}
    for _ in range(10):
        lease = await queue.claim(10, token_of())
        await queue.held({lease.token: [each.id for each in lease.letters]})
        outcomes = [Settlement(token=lease.token, letter=ended(each)) for each in lease.letters]
        assert await queue.settle(outcomes) == frozenset()
        found = await queue.unreported(0, 10)
        for each in found:
            for answer in each.answers[each.answered :]:
                assert report_bytes(each, answer, with_body=True, limit=1_000_000)
        await queue.acknowledge(found)
        for each in found:
            assert await queue.get(each.id) is not None
            reported[each.id] = each
        if not lease.letters and not found:
            break
    else:
        raise AssertionError("the same letters come again and again")
    await queue.stats()
    return reported


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    documents,
    ids,
    st.dictionaries(st.sampled_from(["letters", "claims", "at", "count", "replica", "origin"]), odd),
)
@example({"status": "awaiting", "due": DatetimeMS(-(2**62))}, 1, {})
@example({"status": "awaiting", "due": [EPOCH]}, 2, {})
@example({"status": "awaiting", "attempts": Int64(2**63 - 1), **good}, 3, {})
@example({"status": "sent", "also": 5, **good}, ObjectId(letter(77).id), {})
@example({"status": "sent", "also": [5], **good}, ObjectId(letter(77).id), {})
@example({"status": "awaiting", "digest": "x", **good}, ObjectId(letter(77).id), {})
@example({"status": "processing", "claim": [REPLICA * 2], **good}, 4, {})
@example({"status": "sent", "answered": 9, **good}, 5, {})
@example({"status": "sent", "origin": {"topic": "t", "partition": float("inf")}}, 6, {})
@example({"status": "sent", "tokenjson": True, "token": "NaN", **good}, 7, {})
@example(
    {"status": "awaiting", **good}, DatetimeMS(2**62), {"letters": 5, "claims": [5], "count": float("nan")}
)
def test_no_document_of_another_program_harms_its_neighbours(
    bench: Bench, document: dict[str, Any], identity: Any, entry: dict[str, Any]
) -> None:
    async def run() -> None:
        await bench.clear()
        try:
            await bench.database.get_collection("letters").insert_one({**document, "_id": identity})
            await bench.database.get_collection("letters.outbox").insert_one(entry)
        except WriteError:
            return  # no other program can write it either
        queue, neighbour = bench.make(), letter(1)
        await queue.open()
        reported = await through(queue, neighbour)
        assert reported[neighbour.id].status is Status.SENT

    bench.runner.run(run())


def _text(name: bytes, value: bytes) -> bytes:
    return b"\x02" + name + b"\0" + struct.pack("<i", len(value) + 1) + value + b"\0"


def _document(*elements: bytes) -> RawBSONDocument:
    body = b"".join(elements)
    return RawBSONDocument(struct.pack("<i", len(body) + 5) + body + b"\0")


@pytest.mark.parametrize("status", ["awaiting", "processing"])
def test_what_no_client_can_name_is_set_apart(bench: Bench, status: str) -> None:
    """A hundred of them at the head of the queue would hide all that stands behind them for good."""

    async def run() -> None:
        await bench.clear()
        letters = bench.database.get_collection("letters")
        for number in range(100):
            name = _text(b"_id", b"\xff\xfe%d" % number)
            await letters.insert_one(_document(name, _text(b"status", status.encode())))
        queue, neighbour = bench.make(), letter(1)
        await queue.open()
        reported = await through(queue, neighbour)
        assert neighbour.id in reported
        if status == "processing":
            assert await queue.reclaim(10) == 0
        assert (await queue.stats()).awaiting == 0
        assert await letters.count_documents({"status": "error", "reason": {"$regex": "named"}}) == 100

    bench.runner.run(run())


CLAIMS = (b"", REPLICA[:4].encode(), REPLICA[:15].encode(), REPLICA.encode(), b"f" * 16, "€".encode())


@pytest.mark.parametrize("before", CLAIMS)
def test_a_claim_that_is_no_text_keeps_nobodys_letters_from_coming_back(bench: Bench, before: bytes) -> None:
    """It cannot be said in a query; dead replicas' letters stand before it in the index, and behind it."""

    async def run() -> None:
        await bench.clear()
        letters = bench.database.get_collection("letters")
        for bad in (b"\xff\xfe", b"\x80z"):
            claim = _text(b"claim", before + bad)
            await letters.insert_one(_document(_text(b"_id", bad.hex().encode()), STATUS, claim))
        queue = bench.make()
        await queue.open()
        dead = ("0" * 16, "f" * 16)
        await queue.join(REPLICA, LIFE)
        for number, replica in enumerate((*dead, REPLICA)):
            await queue.insert([letter(number)])
            assert (await queue.claim(1, token_of(replica))).letters
        assert await queue.reclaim(10) == 4
        assert await letters.count_documents({"status": "awaiting"}) == 4
        assert list(await queue.claims_of(REPLICA)) != []

    bench.runner.run(run())


def test_a_replica_whose_name_is_no_text_keeps_no_report_back(bench: Bench) -> None:
    async def run() -> None:
        await bench.clear()
        replicas = bench.database.get_collection("letters.replicas")
        await replicas.insert_one(_document(_text(b"_id", b"\xff\xfe")))
        queue = bench.make()
        await queue.open()
        await queue.join(REPLICA, LIFE)
        assert await queue.living() == {REPLICA}
        await queue.insert([letter(1, status=Status.ERROR, reason="bad")])
        assert [each.id for each in await queue.unreported(0.0, 10)] == [letter(1).id]

    bench.runner.run(run())


STATUS = _text(b"status", b"processing")


def _fat(size: int, **fields: Any) -> dict[str, Any]:
    """A document of exactly so many bytes."""
    empty = {"_id": ObjectId(), "status": "awaiting", **good, **fields, "fat": ""}
    return {**empty, "fat": "x" * (size - len(encode(empty)))}


@pytest.mark.parametrize("where", ["fat", "body"])
def test_what_has_no_room_for_a_claim_is_set_apart(bench: Bench, where: str) -> None:
    async def run() -> None:
        await bench.clear()
        full = _fat(16 * 1024 * 1024 - 20)
        if where == "body":
            full["body"], full["fat"] = full["fat"], "x"
        letters = bench.database.get_collection("letters")
        await letters.insert_one(full)
        queue, neighbour = bench.make(), letter(1)
        await queue.open()
        reported = await through(queue, neighbour)
        assert neighbour.id in reported
        found = await letters.find_one({"_id": full["_id"]}, {"status": 1, "reason": 1})
        assert found["status"] == "error"
        if where == "body":
            assert "cannot be claimed" in reported[str(full["_id"])].reason

    bench.runner.run(run())


def test_what_a_rule_of_the_collection_refuses_is_left_alone(bench: Bench) -> None:
    """No claim of one letter can be written; those of the others are."""

    async def run() -> None:
        await bench.clear()
        queue, stubborn = bench.make(), letter(2)
        letters = bench.database.get_collection("letters")
        await queue.insert([stubborn])
        rule = {"$or": [{"_id": {"$ne": ObjectId(stubborn.id)}}, {"status": "awaiting"}]}
        await bench.database.command({"collMod": "letters", "validator": rule})
        try:
            reported = await through(queue, letter(1))
            assert letter(1).id in reported
            assert stubborn.id not in reported
        finally:
            await bench.database.command({"collMod": "letters", "validator": {}})
        assert await letters.count_documents({"subject": stubborn.subject}) == 1

    bench.runner.run(run())
