"""The implementations that answer to the contract suites, and what a suite needs to know of each."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from mailsender.model.clock import SystemClock
from mailsender.model.letter import (
    Answer,
    Letter,
    Origin,
    Phase,
    Recipient,
    Result,
    Settlement,
    Status,
    Verdict,
)
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.mongo.client import Driver, connect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Queue
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.mongo import MongoSlotStore
from mailsender.ratelimit.port import SlotStore
from tests.claims import REPLICA, claim
from tests.clocks import ManualClock

RETENTION = 1000.0

BACKENDS = ("memory", "mongo-motor", "mongo-pymongo")
MONGO = BACKENDS[1:]

_DATES = ("created_at", "rank", "due", "until", "at", "expire_at")


def letter(number: int = 0, **changes: Any) -> Letter:
    """A letter from a place in the topic that no other number has."""
    origin = Origin(topic="in", partition=0, offset=number, index=0, timestamp=1_700_000_000_000)
    fields: dict[str, Any] = {
        "id": origin.letter_id(),
        "addresses": (f"a{number}@example.test", f"b{number}@example.test"),
        "subject": f"Тема {number}",
        "body": f"<b>Тело {number}</b>",
        "answers": (Answer(token=f"token {number}", key=b"key \xff", origin=origin),),
    }
    return Letter(**fields | changes)


def again(stored: Letter, number: int, **changes: Any) -> Letter:
    """The same letter, published once more elsewhere."""
    other = letter(number)
    return other.evolve(
        id=stored.id, addresses=stored.addresses, subject=stored.subject, body=stored.body, **changes
    )


@dataclass
class World:
    """One store, the queues of the replicas that share it, and the passing of time."""

    backend: str
    make: Callable[[], Queue]
    clock: ManualClock | SystemClock
    raw: Any = None
    database: Any = None
    queues: list[Queue] = field(default_factory=list)

    async def replica(self) -> Queue:
        queue = self.make()
        await queue.open()
        self.queues.append(queue)
        return queue

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, as far as the queue can tell; nobody waits for it."""
        if isinstance(self.clock, ManualClock):
            self.clock.forward(seconds)
            return
        earlier = {
            name: {"$cond": [{"$eq": [{"$type": f"${name}"}, "date"]}, _before(name, seconds), f"${name}"]}
            for name in _DATES
        }
        for collection in (self.raw, self.outbox, self.replicas):
            await collection.update_many({}, [{"$set": earlier}])

    @property
    def outbox(self) -> Any:
        """The collection of the outbox."""
        return self.database.get_collection("letters.outbox")

    @property
    def replicas(self) -> Any:
        """The collection of replicas."""
        return self.database.get_collection("letters.replicas")

    async def document(self, each: Letter) -> dict[str, Any]:
        found: dict[str, Any] = await self.raw.find_one({"subject": each.subject})
        return found


def _before(name: str, seconds: float) -> dict[str, Any]:
    return {"$subtract": [f"${name}", int(seconds * 1000)]}


async def close(client: Any) -> None:
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def client(backend: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """Motor's client or PyMongo's; None in memory."""
    if backend == "memory":
        yield None
        return
    uri = request.getfixturevalue("mongod").uri
    driver: Driver = "motor" if backend == "mongo-motor" else "pymongo"
    made = connect(uri, timeout=10.0, app_name="contract", driver=driver)
    yield made
    await close(made)


@pytest_asyncio.fixture
async def world(backend: str, client: Any, request: pytest.FixtureRequest) -> World:
    if backend == "memory":
        clock = ManualClock()
        shared = MemoryQueue(clock, RETENTION)
        return World(backend, lambda: shared, clock)
    name = request.getfixturevalue("database")
    system = SystemClock()

    def make() -> Queue:
        return MongoQueue(
            client,
            database=name,
            collection="letters",
            retention=RETENTION,
            clock=system,
            timeout=10.0,
        )

    database = client.get_database(name)
    return World(backend, make, system, database.get_collection("letters"), database)


@pytest_asyncio.fixture
async def queue(world: World) -> Queue:
    return await world.replica()


@pytest_asyncio.fixture
async def slots(backend: str, client: Any, request: pytest.FixtureRequest) -> SlotStore:
    if backend == "memory":
        return MemorySlotStore(ManualClock())
    name = request.getfixturevalue("database")
    return MongoSlotStore(client, database=name, collection="letters.slots", clock=SystemClock())


def only(*backends: str) -> pytest.MarkDecorator:
    """For sentences of the contract that only make sense where there is a server."""
    return pytest.mark.parametrize("backend", backends, indirect=True)


ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="$secret ok")
REFUSED = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")
DEFERRED = Result(verdict=Verdict.DEFERRED, phase=Phase.CONNECT, text="Соединение потеряно")
FINISHED = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)


def ended(claimed: Letter, result: Result = ACCEPTED, status: Status = Status.SENT, **changes: Any) -> Letter:
    """The letter after its last transaction, with one result for all."""
    return claimed.evolve(
        status=status,
        recipients=tuple(Recipient(address=each, result=result) for each in claimed.addresses),
        attempts=claimed.attempts + 1,
        relay="relay:25",
        message_id=f"<{claimed.id}@example.test>",
        finished_at=FINISHED,
        **changes,
    )


async def claim_one(queue: Queue, replica: str = REPLICA) -> tuple[str, Letter]:
    claimed = await claim(queue, 1, replica)
    assert len(claimed.letters) == 1
    return claimed.token, claimed.letters[0]


async def send_one(queue: Queue) -> Letter:
    """Claim the first letter and settle it as sent."""
    token, claimed = await claim_one(queue)
    assert await queue.settle([Settlement(token=token, letter=ended(claimed))]) == frozenset()
    return ended(claimed)
