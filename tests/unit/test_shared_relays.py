"""Routes that use one relay: each gets its share of it while both have letters, and all while one has."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from mailsender.model.clock import SystemClock
from mailsender.model.handling import Handling
from mailsender.model.letter import Envelope, Letter, Outcome, Phase, Result, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.plan import Match, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.sending.sender import LOOK
from mailsender.smtp.port import Permit, RelayAway
from tests.clocks import ManualClock
from tests.dispatching import UNLIMITED, known_relay, letter, until
from tests.fleet import Fleet, fleet, route
from tests.relays import ACCEPTED, FakeRelay, FakeSession

NEWS = Match(streams=("news",))


class BusyRelay(FakeRelay):
    """A transaction takes a moment, in which letters are claimed."""

    async def connect(self) -> FakeSession:
        await super().connect()
        self.sessions[-1] = BusySession(self)
        return self.sessions[-1]


class BusySession(FakeSession):
    """See `BusyRelay`."""

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        await asyncio.sleep(0.004)
        return await super().transact(envelope, message, permit)


def plans(news: float = 1.0, rest: float = 1.0) -> list[RoutePlan]:
    return [route("news", "a", match=NEWS, share=news), route("default", "a", share=rest)]


def news(number: int) -> Letter:
    return letter(number, f"news{number}@x.test", route="news", handling=Handling(stream="news"))


def begun(relay: FakeRelay, since: int = 0) -> Counter[str]:
    """Letters sent, by their route."""
    found = Counter(each.recipients[0][:4] == "news" for each in relay.sent[since:])
    return Counter({"news": found[True], "default": found[False]})


async def both(scene: Fleet, count: int) -> None:
    """So many letters of each route."""
    more = [news(number) for number in range(count)], [letter(number) for number in range(count, 2 * count)]
    await scene.put(*more[0], *more[1])


@pytest.mark.asyncio
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("sessions", [1, 4])
async def test_three_to_one_while_both_wait_and_then_all(depth: int, sessions: int) -> None:
    relay = BusyRelay(depth=depth)
    async with fleet({"a": relay}, plans(news=3.0), sessions=sessions) as scene:
        await both(scene, 200)
        await scene.settled(400)
    found = begun(FakeRelay(sent=relay.sent[20:220]))
    assert abs(found["news"] - 150) <= 8
    assert begun(FakeRelay(sent=relay.sent[300:])) == {"news": 0, "default": 100}


@pytest.mark.asyncio
async def test_three_to_one_where_a_rate_is_kept() -> None:
    relay = FakeRelay()
    rate = {"a": Allowance(letters=60, period=1.0)}
    async with fleet({"a": relay}, plans(rest=3.0), sessions=4, allowances=rate) as scene:
        await both(scene, 100)
        await until(lambda: len(relay.sent) >= 100)
    found = begun(FakeRelay(sent=relay.sent[20:100]))
    assert abs(found["default"] - 60) <= 5


@pytest.mark.asyncio
async def test_two_replicas_keep_the_shares_of_routes_while_both_have_letters_of_both() -> None:
    """Each by itself: one that has none of a route at hand any more sends of the other one alone."""
    clock = SystemClock()
    queue, store, order = MemoryQueue(clock), MemorySlotStore(clock), list[bool]()

    def note(address: str) -> Result:
        order.append(address.startswith("news"))
        return ACCEPTED

    await queue.insert([news(number) for number in range(200)])
    await queue.insert([letter(number) for number in range(200, 400)])
    async with AsyncExitStack() as replicas:
        for _ in range(2):
            replica = fleet(
                {"a": FakeRelay(answer=note)},
                plans(news=3.0),
                sessions=4,
                allowances={"a": Allowance(letters=60, period=1.0, burst=10)},
                stores={"a": store},
                queue=queue,
                clock=clock,
            )
            await replicas.enter_async_context(replica)
        await until(lambda: len(order) >= 160)
    assert abs(sum(order[20:160]) - 105) <= 6


@pytest.mark.asyncio
async def test_a_route_that_comes_late_does_not_wait_until_the_other_one_has_no_more_letters() -> None:
    relay = BusyRelay()
    async with fleet({"a": relay}, plans(), sessions=1) as scene:
        await scene.put(*[news(number) for number in range(150)])
        await until(lambda: len(relay.sent) >= 10)
        await scene.put(letter(9999))
        await until(lambda: begun(relay)["default"] or len(relay.sent) >= 150)
        assert len(relay.sent) < 100


@pytest.mark.asyncio
async def test_a_route_without_letters_does_not_keep_others_from_trying_a_relay_again() -> None:
    """It has the try only once it has a letter for it."""
    relay = FakeRelay()
    async with fleet({"a": relay}, plans(), sessions=2) as scene:
        scene.relays["a"].hold("f" * 24, Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=451))
        breaker = scene.relays["a"].breaker
        await until(lambda: breaker.may_try(SystemClock().monotonic()) or breaker.state == "probing")
        await asyncio.sleep(2 * LOOK)  # all who wait for the time to try have come by
        assert breaker.state == "open"
        await scene.put(letter(1))
        await scene.settled(1)
        assert breaker.state == "closed"


@pytest.mark.asyncio
async def test_routes_wait_for_slots_each_for_its_share() -> None:
    clock = ManualClock()
    limiter = Limiter(MemorySlotStore(clock), Allowance(letters=1, period=1.0), clock, backlog=int)
    limiter.divide({"news": 1.0, "default": 3.0})
    order: list[str] = []

    async def wait(route: str) -> None:
        await limiter.acquire(route)
        order.append(route)

    tasks = [asyncio.create_task(wait(name)) for name in ("news",) * 8 + ("default",) * 8]
    await asyncio.sleep(0)
    assert limiter.waiting == 16
    limiter.change(UNLIMITED)  # all of them have slots now, in their turns
    await asyncio.gather(*tasks)
    assert Counter(order[:8]) == {"default": 6, "news": 2}


@pytest.mark.asyncio
async def test_who_waits_goes_on_waiting_when_routes_come_and_go() -> None:
    clock = ManualClock()
    limiter = Limiter(MemorySlotStore(clock), Allowance(letters=1, period=1.0), clock, backlog=int)
    tasks = [asyncio.create_task(limiter.acquire("default")) for _ in range(2)]
    await asyncio.sleep(0)
    for shares in ({"a": 1.0, "default": 1.0}, {"a": 2.0, "b": 1.0}, {"default": 1.0}, {"a": 1.0, "b": 1.0}):
        limiter.divide(shares)
        assert limiter.waiting == 2
    limiter.shut()
    assert limiter.waiting == 0
    for task in tasks:
        with pytest.raises(NoSlots):
            await task


@pytest.mark.asyncio
async def test_who_waits_for_a_session_goes_on_waiting_when_routes_come_and_go() -> None:
    pool = known_relay(FakeRelay(), ManualClock()).pool
    held = await pool.place(wait=True, route="a")
    waiting = asyncio.create_task(pool.place(wait=True, route="a"))
    for shares in ({"a": 1.0, "b": 1.0}, {"a": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}):
        pool.divide(shares)
        await asyncio.sleep(0)
        assert not waiting.done()
    pool.leave(held)
    assert pool.at_once() is None, "another one's turn has come"
    held = await waiting
    pool.leave(held)
    async with asyncio.timeout(5):
        assert await pool.place(wait=True, route="b") is held, "nobody else waits"


class SlowToOpen(FakeRelay):
    """Lets one session in at once, and refuses others when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = asyncio.Event()

    async def connect(self) -> FakeSession:
        if self.connects:
            self.connects += 1
            await self.refuses.wait()
            raise RelayAway("busy", phase="greeting", code=421)
        return await super().connect()


@pytest.mark.asyncio
async def test_a_session_that_was_opened_in_vain_for_long_leaves_nobody_behind() -> None:
    relay = SlowToOpen()
    pool = known_relay(relay, ManualClock(), sessions=PoolLimits(sessions=2)).pool
    pool.divide({"a": 1.0, "b": 1.0})
    order: list[str] = []

    async def use(route: str) -> None:
        held = await pool.place(wait=True, route=route)
        order.append(route)
        await asyncio.sleep(0)
        pool.leave(held)

    async def both(**counts: int) -> None:
        tasks = [asyncio.create_task(use(route)) for route, count in counts.items() for _ in range(count)]
        await asyncio.gather(*tasks)

    pool.allow(1)
    held = await pool.place(wait=True, route="b")
    waiting = asyncio.create_task(use("a"))
    await asyncio.sleep(0)
    pool.allow(2)
    await until(lambda: relay.connects == 2)  # it was its turn, and it opens one
    pool.leave(held)
    await both(b=200)
    relay.refuses.set()
    await waiting
    order.clear()
    await both(a=50, b=50)
    assert 20 <= Counter(order[:50])["b"] <= 30


@pytest.mark.asyncio
async def test_who_waited_for_a_session_in_vain_costs_its_route_no_turns() -> None:
    """All who wait ask again whenever one more session may be tried."""
    pool = known_relay(FakeRelay(), ManualClock()).pool
    pool.divide({"a": 1.0, "b": 1.0})
    order: list[str] = []

    async def use(route: str) -> None:
        held = await pool.place(wait=True, route=route)
        order.append(route)
        await asyncio.sleep(0)
        pool.leave(held)

    held = await pool.place(wait=True, route="a")
    in_vain = [asyncio.create_task(use("b")) for _ in range(40)]
    await asyncio.sleep(0)
    for each in in_vain:
        each.cancel()
    await asyncio.wait(in_vain)
    waiting = [asyncio.create_task(use(route)) for route in "ab" for _ in range(30)]
    await asyncio.sleep(0)
    pool.leave(held)
    await asyncio.gather(*waiting)
    assert 14 <= Counter(order[:30])["b"] <= 16
