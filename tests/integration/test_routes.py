"""Several relays and routes, built from code: letters go where their routes say, none waits for others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest

from lab.parts import MongoServer
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Queue
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.mongo import MongoSlotStore
from mailsender.ratelimit.order import RELAY, Order
from mailsender.ratelimit.port import SlotStore
from mailsender.routing.fleet import RelayParts
from mailsender.routing.plan import DestinationPlan, Match, Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy
from mailsender.service import Parts, Replica
from mailsender.settings.environment import Settings
from tests.dispatching import letter, until
from tests.fakes import FakeSink
from tests.relays import ACCEPTED, FakeRelay
from tests.unit.test_gcra import most_in_a_period
from tests.unit.test_replica import QuietSource, listen

pytestmark = pytest.mark.asyncio

FREE = Allowance(letters=0, period=1.0)


def plan(*, fast: Allowance = FREE, slow: Allowance = FREE) -> Plan:
    """Relays a, b and c; `news` goes over a, and over c where that is away; all else goes over b."""
    policy = RelayPolicy(reverse_path="s@example.test", max_recipients=10, sessions=PoolLimits(sessions=2))
    retry = RetryPolicy(max_attempts=3, delay=0.05)
    return Plan(
        relays=tuple(
            RelayPlan(name=name, allowance=allowance, policy=policy)
            for name, allowance in (("a", slow), ("b", fast), ("c", slow))
        ),
        routes=(
            RoutePlan(relays=("b",), retry=retry),
            RoutePlan(name="news", relays=("a", "c"), retry=retry),
        ),
    )


@dataclass
class Stage:
    """Where replicas share a queue, slots and relays."""

    make_queue: Callable[[], Queue]
    make_slots: Callable[[str], SlotStore]
    relays: dict[str, FakeRelay] = field(
        default_factory=lambda: {name: FakeRelay(name=f"{name}.example.test:25") for name in "abc"}
    )
    replicas: list[Replica] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, plan: Plan, replicas: int = 1) -> AsyncIterator[Queue]:
        clock = SystemClock()
        async with AsyncExitStack() as stack:
            for _ in range(replicas):
                queue = self.make_queue()
                parts = Parts(
                    queue=queue,
                    source=QuietSource(),
                    sink=FakeSink(),
                    relays={
                        name: RelayParts(relay, self.make_slots(name)) for name, relay in self.relays.items()
                    },
                )
                replica = Replica(Settings(), parts, clock, listen=listen, plan=plan)
                self.replicas.append(replica)
                task = asyncio.create_task(replica.run())
                await until(lambda replica=replica: replica.state == "running")

                async def stop(replica: Replica = replica, task: asyncio.Task[int] = task) -> None:
                    replica.drain("test")
                    assert await task == 0

                stack.push_async_callback(stop)
            yield self.replicas[-1].parts.queue

    def noting(self, *names: str) -> dict[str, list[float]]:
        """When each of these relays takes a letter from now on, in epoch seconds."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for name, times in found.items():

            def answer(_: str, times: list[float] = times) -> Result:
                times.append(time.time())
                return ACCEPTED

            self.relays[name].answer = answer
        return found

    def sent(self) -> dict[str, int]:
        """Letters by the relay that took them."""
        return {name: len(relay.sent) for name, relay in self.relays.items()}


@pytest.fixture(params=["memory", "mongo"])
def stage(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mongod: MongoServer
) -> Iterator[Stage]:
    for name, value in {
        "SMTP_HOST": "unused.example.test",
        "SMTP_FROM": "robot@example.test",
        "KAFKA_BROKERS": "nowhere:1",
        "MONGODB_URI": "memory:",
        "HTTP_PORT": "0",
        "DRAIN_TIMEOUT": "5s",
    }.items():
        monkeypatch.setenv(name, value)
    clock, name = SystemClock(), f"test_{uuid4().hex[:12]}"
    if request.param == "memory":
        queue, slots = MemoryQueue(clock), {each: MemorySlotStore(clock) for each in "abc"}
        yield Stage(lambda: queue, slots.__getitem__)
        return

    def make_queue() -> Queue:
        client = connect(mongod.uri, timeout=10.0, app_name="routes")
        return MongoQueue(
            client, database=name, collection="letters", retention=60.0, clock=clock, timeout=10.0
        )

    slots_client = connect(mongod.uri, timeout=10.0, app_name="routes")

    def make_slots(relay: str) -> SlotStore:
        return MongoSlotStore(
            slots_client, database=name, collection="letters.slots", clock=clock, name=relay
        )

    yield Stage(make_queue, make_slots)
    slots_client.close()


async def all_sent(queue: Queue, letters: Collection[int], count: int = 0) -> None:
    """Wait until those with these numbers are sent, or `count` of them.

    They are looked at one by one: a store's counts are not of one moment, and a letter that is put off
    between two of them is in neither.
    """
    open_ones, sent = {letter(number).id for number in letters}, 0
    async with asyncio.timeout(20):
        while sent < (count or len(letters)):
            found = await asyncio.gather(*[queue.get(each) for each in open_ones])
            now = {each.id for each in found if each is not None and each.status is Status.SENT}
            open_ones, sent = open_ones - now, sent + len(now)
            await asyncio.sleep(0.02)


async def test_each_letter_goes_where_its_route_says(stage: Stage) -> None:
    async with stage.running(plan()) as queue:
        await queue.insert([letter(n, route="news" if n % 3 == 0 else "default") for n in range(30)])
        await all_sent(queue, range(30))
        assert stage.sent() == {"a": 10, "b": 20, "c": 0}
        over_a, over_b = await queue.get(letter(0).id), await queue.get(letter(1).id)
        assert over_a is not None
        assert over_b is not None
        assert (over_a.relay, over_b.relay) == ("a.example.test:25", "b.example.test:25")


async def test_a_relay_that_is_away_holds_up_its_own_route_alone(stage: Stage) -> None:
    stage.relays["b"].away = "connection refused"
    async with stage.running(plan()) as queue:
        await queue.insert([letter(n, route="news" if n % 2 else "default") for n in range(20)])
        await all_sent(queue, range(1, 20, 2))
        assert stage.sent() == {"a": 10, "b": 0, "c": 0}
        waiting = await queue.get(letter(0).id)
        assert waiting is not None
        assert waiting.attempts == 0
        stage.relays["b"].away = ""
        await all_sent(queue, range(20))
        assert stage.sent() == {"a": 10, "b": 10, "c": 0}


async def test_the_next_relay_of_a_route_is_taken_where_the_first_one_is_away(stage: Stage) -> None:
    stage.relays["a"].away = "connection refused"
    async with stage.running(plan()) as queue:
        await until(lambda: stage.replicas[0].relays[0].pool.away)
        await queue.insert([letter(n, route="news") for n in range(10)])
        await all_sent(queue, range(10))
        assert stage.sent() == {"a": 0, "b": 0, "c": 10}


async def test_a_quota_that_is_used_up_holds_up_its_own_route_alone(stage: Stage) -> None:
    used_up = Allowance(letters=0, period=1.0, quota=3)
    async with stage.running(plan(fast=used_up)) as queue:
        await queue.insert([letter(n) for n in range(10)])
        await until(lambda: stage.replicas[0].relays[1].limiter.exhausted_until is not None)
        await queue.insert([letter(n, route="news") for n in range(10, 20)])
        await all_sent(queue, range(20), 13)
        assert stage.sent() == {"a": 10, "b": 3, "c": 0}
        conditions = {each.part for each in stage.replicas[0].conditions.now()}
        assert "quota" in conditions


async def test_the_rate_of_each_relay_is_kept_over_two_replicas(stage: Stage) -> None:
    rates = {"fast": Allowance(letters=100, period=1.0), "slow": Allowance(letters=20, period=1.0)}
    seconds = 2.0
    begun = stage.noting("a", "b")
    async with stage.running(plan(**rates), replicas=2) as queue:
        await queue.insert([letter(n, route="news" if n % 2 else "default") for n in range(800)])
        await until(lambda: all(stage.sent()[each] for each in "ab"))
        before = stage.sent()
        await asyncio.sleep(seconds)  # what is shown is what passes in a time
        after = stage.sent()
        done = {name: after[name] - before[name] for name in "ab"}
    assert most_in_a_period(begun["b"], 1.0) <= 101
    assert most_in_a_period(begun["a"], 1.0) <= 21
    # Each has its own: the faster one is not slowed down to the other's.
    assert done["b"] > 2 * done["a"] > 0


def said(code: int) -> Result:
    return Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=code, enhanced="4.2.0", text="not now")


async def test_whom_one_relay_puts_off_the_next_one_gets_and_the_queue_knows_which(stage: Stage) -> None:
    stage.relays["a"].answer = lambda address: said(450) if address.startswith("later") else ACCEPTED
    async with stage.running(plan()) as queue:
        mixed = letter(1, "now@example.test", "later@example.test", route="news")
        await queue.insert([mixed])
        await all_sent(queue, [1])
        found = await queue.get(mixed.id)
    assert found is not None
    assert [each.relay[0] for each in found.recipients] == ["a", "c"]
    assert (found.attempts, stage.sent()) == (1, {"a": 1, "b": 0, "c": 1})


async def test_letters_are_shared_by_weight(stage: Stage) -> None:
    shared = plan()
    default = replace(shared.routes[0], relays=("a", "b", "c"), weights=(3, 1, 1))
    async with stage.running(replace(shared, routes=(default,))) as queue:
        await queue.insert([letter(n) for n in range(500)])
        await all_sent(queue, range(500))
    assert all(abs(stage.sent()[name] - share) <= 10 for name, share in (("a", 300), ("b", 100), ("c", 100)))


async def test_recipients_of_one_letter_go_over_their_own_routes(stage: Stage) -> None:
    """The second part is put off, and comes again at its own time; nobody gets the letter twice."""
    answers = [said(450)]
    stage.relays["c"].answer = lambda _: answers.pop() if answers else ACCEPTED
    default, news = plan().routes
    corp = replace(news, name="corp", relays=("c",), match=Match(destinations=("*.corp.example",)))
    parted = replace(plan(), routes=(default, corp))
    async with stage.running(parted) as queue:
        mixed = letter(1, "x@example.test", "y@eu.corp.example", "z@example.test")
        await queue.insert([mixed])
        await all_sent(queue, [1])
        found = await queue.get(mixed.id)
    assert found is not None
    assert [each.relay[0] for each in found.recipients] == ["b", "c", "b"]
    sent = {name: [each.recipients for each in relay.sent] for name, relay in stage.relays.items()}
    corps = ("y@eu.corp.example",)
    assert sent == {"a": [], "b": [("x@example.test", "z@example.test")], "c": [corps, corps]}


async def test_letters_of_a_route_that_is_gone_go_over_the_one_that_is_theirs_now(stage: Stage) -> None:
    async with stage.running(plan()) as queue:
        await queue.insert([letter(n, route="gone") for n in range(20)])
        await all_sent(queue, range(20))
    assert stage.sent() == {"a": 0, "b": 20, "c": 0}


async def test_a_destination_s_rate_is_kept_by_all_replicas_and_holds_up_nobody_else(stage: Stage) -> None:
    begun: dict[str, list[float]] = {"slow.example": [], "example.test": []}

    def answer(address: str) -> Result:
        begun[address.partition("@")[2]].append(time.monotonic())
        return ACCEPTED

    stage.relays["b"].answer = answer
    rate = DestinationPlan(domain="slow.example", rates=(Allowance(letters=10, period=1.0),))
    made = plan()
    limited = replace(
        made, relays=tuple(replace(each, destinations=(rate,)) for each in made.relays if each.name == "b")
    )
    limited = replace(limited, routes=made.routes[:1])
    async with stage.running(limited, replicas=2) as queue:
        slow = [letter(number, f"r{number}@slow.example") for number in range(15)]
        await queue.insert([*slow, *(letter(number) for number in range(15, 25))])
        await all_sent(queue, range(25))
    assert most_in_a_period(sorted(begun["slow.example"]), 1.0) <= 11
    assert max(begun["example.test"]) < max(begun["slow.example"])


async def test_what_one_replica_was_told_all_obey_and_those_that_come_later(stage: Stage) -> None:
    busy = Allowance(letters=1000, period=1.0, burst=10)
    async with stage.running(plan(fast=busy), replicas=2) as queue:
        told = next(each.limiter for each in stage.replicas[0].relays if each.name == "b")
        told.order(Order(key=RELAY, rule="r", said="450 later", until=(ends := time.time() + 2.5)))
        await until(lambda: not told._standing.unwritten)
    async with stage.running(plan(fast=busy), replicas=2) as queue:
        begun = stage.noting("b")
        await queue.insert([letter(number) for number in range(20)])
        await all_sent(queue, range(20))
        assert stage.sent()["b"] == 20
        assert min(begun["b"]) >= ends - 0.05
        assert {(await queue.get(letter(number).id)).attempts for number in range(20)} == {1}  # type: ignore[union-attr]
