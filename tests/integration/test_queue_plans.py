"""What the server does for a claim or a sweep: it reads an index, however much lies beside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from bson import ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, monitoring
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from lab.parts import MongoServer
from mailsender.model.clock import SystemClock
from mailsender.model.handling import PLAIN, Handling
from mailsender.model.letter import Answer, Letter, Origin, Settlement, Status
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.older_builds import NEVER
from mailsender.queue.mongo.queue import MongoQueue
from tests.claims import LIFE, OTHER, REPLICA, claim, token_of
from tests.clocks import ManualClock

pytestmark = pytest.mark.asyncio

FINISHED = 200_000
K = 100

ANY_DATE: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""The bounds of an index reach to the last date that there is, which Python has no name for."""


class Commands(CommandListener):
    """Every command that a client sends."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def sync(mongod: MongoServer) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        yield client


@pytest_asyncio.fixture
async def queue(mongod: MongoServer, database: str) -> AsyncIterator[MongoQueue]:
    client = connect(mongod.uri, timeout=60, app_name="plans")
    queue = MongoQueue(
        client, database=database, collection="letters", retention=60, clock=SystemClock(), timeout=60
    )
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
def commands() -> Iterator[Commands]:
    """Listens to clients that are made from now on."""
    listener = Commands()
    monitoring.register(listener)
    yield listener
    monitoring._LISTENERS.command_listeners.remove(listener)


def letter(number: int, stream: str = "", expires: datetime | None = None) -> Letter:
    origin = Origin(topic="in", partition=0, offset=number, index=0, timestamp=0)
    return Letter(
        id=origin.letter_id(),
        addresses=("a@example.test",),
        subject="s",
        body="b",
        answers=(Answer(origin=origin),),
        handling=Handling(stream=stream) if stream else PLAIN,
        expires=expires,
    )


def stages(plan: Any) -> Iterator[str]:
    """The names of all stages of the plan that was chosen, whatever its form."""
    if isinstance(plan, dict):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        for key, each in plan.items():
            if key != "rejectedPlans":
                yield from stages(each)
    elif isinstance(plan, list):
        for each in plan:
            yield from stages(each)


def explained(database: Any, sent: dict[str, Any]) -> dict[str, Any]:
    """How the server would carry a command out again."""
    kept = ("filter", "projection", "sort", "skip", "limit", "updates", "deletes", "query", "hint")
    kept += ("pipeline", "cursor")
    name = next(iter(sent))
    command = {name: sent[name], **{key: sent[key] for key in kept if key in sent}}
    found: dict[str, Any] = database.command(
        {"explain": command, "verbosity": "executionStats"}, codec_options=ANY_DATE
    )
    return found


async def exercise(queue: MongoQueue, start: int) -> None:
    """Use every call of the queue that reads or changes letters."""
    await queue.insert([letter(number) for number in range(start, start + 3 * K)])
    lease = await claim(queue, K)
    ids = [each.id for each in lease.letters]
    assert len(ids) == K
    assert await queue.beat(REPLICA, LIFE)
    await queue.claims_of(REPLICA)
    sent = [
        each.evolve(status=Status.SENT, finished_at=datetime(2026, 1, 1, tzinfo=UTC))
        for each in lease.letters
    ]
    await queue.settle([Settlement(token=lease.token, letter=each) for each in sent[: K // 2]])
    await queue.settle([Settlement(token="late", letter=each) for each in sent[-1:]])
    await queue.release(lease.token, ids[-2:])
    await queue.acknowledge((await queue.unreported(0, K))[:5])
    await queue.unreported(0, 1)  # takes those out of their entry
    await queue.remember(K)
    more = await claim(queue, K // 2)
    together = [each.evolve(status=Status.SENT) for each in more.letters]
    await queue.settle([Settlement(token=more.token, letter=each) for each in together])
    assert (await queue.get(together[0].id)) is not None
    assert len(await queue.ended([each.id for each in together])) == len(together)
    await queue.acknowledge(together)
    await claim(queue, 5, OTHER)
    await queue.leave(OTHER)
    assert await queue.reclaim(K) == 5
    over = datetime(2026, 1, 1, tzinfo=UTC)
    several = [letter(start + 4 * K + number, stream=f"s{number}", expires=over) for number in range(9)]
    await queue.insert(several)
    await queue.insert(several)  # gives places back
    assert len((await queue.claim_expired(5, token_of())).letters) == 5
    await queue.stats()
    waits = letter(start + 3 * K - 1)
    assert (await queue.ahead(waits.id, K)) is not None


async def test_no_command_scans_the_collection(
    commands: Commands, queue: MongoQueue, sync: MongoClient[dict[str, Any]], database: str
) -> None:
    await exercise(queue, 0)
    looking = {"find", "update", "delete", "aggregate", "count"}
    asked = [each for each in commands.sent if next(iter(each)) in looking]
    # A claim, a read back, a beat, a settlement, a release, the outbox, the sweeps and the counts.
    assert len(asked) > 25
    seen: set[str] = set()
    for sent in asked:
        name = next(iter(sent))
        several = {"update": "updates", "delete": "deletes"}.get(name)
        singles = [{**sent, several: [each]} for each in sent[several]] if several else [sent]
        if name == "aggregate" and any("$collStats" in stage for stage in sent["pipeline"]):
            continue
        if name == "count" and not sent.get("query"):
            continue
        if sent.get("hint") == "mailsender_unreported":
            continue  # asked by an index that only older builds make: without it the server scans nothing
        for single in singles:
            plan = set(stages(explained(sync[database], single)))
            if "letters.replicas" in single.values():
                continue  # they are as many as replicas
            assert "COLLSCAN" not in plan, single
            assert "SORT" not in plan, single
            assert plan & {"IXSCAN", "COUNT_SCAN", "IDHACK"}, (single, plan)
            seen.add(name)
    assert {"find", "update", "delete", "aggregate"} <= seen


async def test_counting_by_route_reads_indexes_alone(
    commands: Commands, queue: MongoQueue, sync: MongoClient[dict[str, Any]], database: str
) -> None:
    routes = [f"r{number}" for number in range(50)]
    await queue.insert([letter(number).evolve(route=routes[number % 50]) for number in range(3 * K)])
    await queue.join(REPLICA, LIFE)
    claimed = await queue.claim(5, token_of(), "r7")
    later = [each.evolve(status=Status.AWAITING) for each in claimed.letters]
    await queue.settle([Settlement(token=claimed.token, letter=each, delay=60) for each in later])
    commands.sent.clear()
    stats = await queue.stats()
    assert (len(stats.routes), stats.routes["r7"].awaiting, stats.routes["r7"].deferred) == (50, 6, 5)
    counts = [
        each for each in commands.sent if "$group" in str(each.get("pipeline")) and "$route" in str(each)
    ]
    assert len(counts) == 2
    looked = [list(numbers(explained(sync[database], each), "totalDocsExamined")) for each in counts]
    assert [set(each) for each in looked] == [{0}, {0}]


async def test_a_claim_costs_the_same_beside_finished_letters(
    queue: MongoQueue, sync: MongoClient[dict[str, Any]], database: str
) -> None:
    await queue.insert([letter(number) for number in range(3 * K)])
    letters = sync[database]["letters"]
    alone = [cost(sync, database, query) for query in SWEEPS]
    long_ago = datetime.now(UTC) - timedelta(days=1)
    done = {
        "status": "sent",
        "due": long_ago,
        "expire_at": datetime(2100, 1, 1, tzinfo=UTC),
    }
    for _ in range(0, FINISHED, 20_000):
        letters.insert_many([{"_id": ObjectId(), **done} for _ in range(20_000)], ordered=False)
    assert letters.estimated_document_count() == FINISHED + 3 * K
    assert [cost(sync, database, query) for query in SWEEPS] == alone
    assert len((await claim(queue, K)).letters) == K


SWEEPS: list[dict[str, Any]] = [
    {"filter": {"status": "processing", "claim": {"$gte": "a"}}, "sort": {"claim": 1}, "limit": 1},
    {"filter": {"status": "processing"}, "sort": {"claim": -1}, "limit": K},
    {"filter": {"status": "processing", "claim": "token"}},
]


def cost(sync: MongoClient[dict[str, Any]], database: str, query: dict[str, Any]) -> tuple[int, int]:
    """Keys and documents that the server looks at."""
    found = sync[database].command({"explain": {"find": "letters", **query}, "verbosity": "executionStats"})
    return found["executionStats"]["totalKeysExamined"], found["executionStats"]["totalDocsExamined"]


def cost_of_heads(commands: Commands, sync: MongoClient[dict[str, Any]], database: str) -> tuple[int, int]:
    """The same of the last look at the heads of a route."""
    sent = [each for each in commands.sent if "pipeline" in each and "$unionWith" in str(each)][-1]
    plan = explained(sync[database], sent)
    return sum(numbers(plan, "totalKeysExamined")), sum(numbers(plan, "totalDocsExamined"))


def numbers(plan: Any, name: str) -> Iterator[int]:
    """All numbers of that name in a plan."""
    if isinstance(plan, dict):
        for key, each in plan.items():
            if key == name:
                yield int(each)
            else:
                yield from numbers(each, name)
    elif isinstance(plan, list):
        for each in plan:
            yield from numbers(each, name)


async def test_the_heads_of_a_route_cost_the_same_beside_whatever_waits(
    commands: Commands, queue: MongoQueue, sync: MongoClient[dict[str, Any]], database: str
) -> None:
    """Fifty routes, a batch of many letters on one of them, many deferred ones that are not due yet."""
    await queue.insert([letter(number) for number in range(K)])
    await queue._order.heads("default", 0, K, {})
    alone = cost_of_heads(commands, sync, database)
    assert alone[1] == K, "it reads no document that it does not take"
    letters, now = sync[database]["letters"], datetime.now(UTC)
    waiting = {"status": "awaiting", "rank": now, "created_at": now}
    later = {**waiting, "rank": False, "due": now + timedelta(hours=1)}
    for start in range(0, FINISHED, 20_000):
        each = [{**(waiting if n % 2 else later), "route": f"r{(start + n) % 50}"} for n in range(20_000)]
        letters.insert_many([{"_id": ObjectId(), **one} for one in each], ordered=False)
    letters.insert_many([{"_id": ObjectId(), **later, "route": "default"} for _ in range(5_000)])
    await queue._order.heads("default", 0, K, {})
    assert cost_of_heads(commands, sync, database) == alone
    assert len(await queue._order.routes()) == 51
    await queue.insert([letter(K).evolve(route="r7")])
    assert len((await queue.claim(K, token_of(), "r7")).letters) == K
    assert [each async for each in queue._order.strays()] == []


async def test_a_place_in_a_flow_costs_the_same_beside_ten_thousand_flows(
    commands: Commands, queue: MongoQueue, sync: MongoClient[dict[str, Any]], database: str
) -> None:
    """Fifty routes, ten thousand flows, and many letters that wait in each of them."""
    queue._flows._clock = clock = ManualClock()
    await queue.insert([letter(number, stream="a") for number in range(K)])
    clock.forward(10)  # how far the route has come is looked for anew
    commands.sent.clear()
    await queue.insert([letter(number, stream="a") for number in range(K, 2 * K)])
    alone = [costs(sync, database, each) for each in ranking(commands)]
    flows, letters, now = sync[database]["letters.flows"], sync[database]["letters"], datetime.now(UTC)
    far = (now.timestamp() + 3600) * 1000
    names = [{"route": f"r{number % 50}", "flow": f"s{number}"} for number in range(10_000)]
    flows.insert_many([{"_id": name, "next": far, "era": 1, "expire_at": NEVER} for name in names])
    waiting = {"status": "awaiting", "rank": now, "created_at": now}
    for start in range(0, FINISHED, 20_000):
        each = [{**waiting, "route": f"r{(start + n) % 50}"} for n in range(20_000)]
        letters.insert_many([{"_id": ObjectId(), **one} for one in each], ordered=False)
    clock.forward(10)
    commands.sent.clear()
    await queue.insert([letter(number, stream="a") for number in range(2 * K, 3 * K)])
    asked = ranking(commands)
    assert [next(iter(each)) for each in asked] == ["find", "findAndModify", "findAndModify"]
    assert [costs(sync, database, each) for each in asked] == alone
    commands.sent.clear()
    several = [letter(3 * K + number, stream=f"s{number}") for number in range(K)]
    await queue.insert(several)
    assert [next(iter(each)) for each in ranking(commands)] == ["update", "find"], "however many they are"


def ranking(commands: Commands) -> list[dict[str, Any]]:
    """What was sent to find places for letters."""
    return [
        each
        for each in commands.sent
        if "letters.flows" in each.values() or (next(iter(each)) == "find" and "rank" in str(each))
    ]


def costs(sync: MongoClient[dict[str, Any]], database: str, sent: dict[str, Any]) -> tuple[int, int]:
    """Keys and documents that the server looks at for a command."""
    kept = ("filter", "projection", "sort", "limit", "query", "update", "upsert", "new")
    name = next(iter(sent))
    command = {name: sent[name], **{key: sent[key] for key in kept if key in sent}}
    found = sync[database].command({"explain": command, "verbosity": "executionStats"})
    return sum(numbers(found, "totalKeysExamined")), sum(numbers(found, "totalDocsExamined"))
