"""A relay's sessions over all replicas: each pool is told its share, by who lives."""

from __future__ import annotations

import asyncio

import pytest

from mailsender.model.errors import Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.sharing import LOOKS, Sharing
from tests.clocks import ManualClock
from tests.dispatching import until

pytestmark = pytest.mark.asyncio

INTERVAL = 10.0


class Pool:
    """Notes how many sessions it may have."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def allow(self, sessions: int) -> None:
        self.told.append(sessions)


class Queue(MemoryQueue):
    away = False

    async def living(self) -> frozenset[str]:
        if self.away:
            raise Unavailable("away")
        return await super().living()


class Stage:
    """A relay that takes three sessions; each replica would have two of them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = Queue(self.clock)

    async def replica(self) -> tuple[Sharing, Pool, str]:
        in_flight = InFlight()
        await self.queue.join(in_flight.replica, 60.0)
        sharing = Sharing(self.queue, in_flight, self.clock, interval=INTERVAL)
        pool = Pool()
        sharing.add(pool, 3, 2)  # type: ignore[arg-type]
        return sharing, pool, in_flight.replica

    async def pass_time(self, seconds: float, *sharings: Sharing) -> None:
        for _ in range(round(seconds / INTERVAL)):
            self.clock.forward(INTERVAL)
            for each in sharings:
                await each.look()


async def test_who_is_alone_has_what_it_wants_and_gives_way_to_others() -> None:
    stage = Stage()
    first, pool, _ = await stage.replica()
    assert pool.told == [0], "none before it has looked"
    await first.look()
    others = [await stage.replica() for _ in range(2)]
    await stage.pass_time(INTERVAL, first, *(each for each, _, _ in others))
    assert pool.told == [0, 2, 1]
    assert [told.told for _, told, _ in others] == [[0], [0]], "who comes waits until all have seen it"
    await stage.pass_time(LOOKS * INTERVAL, first, *(each for each, _, _ in others))
    assert [told.told for _, told, _ in others] == [[0, 1], [0, 1]]
    for _, _, name in others:
        await stage.queue.leave(name)
    await stage.pass_time(LOOKS * INTERVAL, first)
    assert pool.told == [0, 2, 1]
    await stage.pass_time(INTERVAL, first)
    assert pool.told == [0, 2, 1, 2]


async def test_who_cannot_see_the_living_has_none_after_a_while() -> None:
    stage = Stage()
    sharing, pool, _ = await stage.replica()
    await sharing.look()
    stage.queue.away = True
    await stage.pass_time(LOOKS * INTERVAL, sharing)
    assert pool.told == [0, 2]
    await stage.pass_time(INTERVAL, sharing)
    assert pool.told == [0, 2, 0]
    stage.queue.away = False
    await stage.pass_time(INTERVAL, sharing)
    assert pool.told == [0, 2, 0, 2]


async def test_it_looks_until_it_is_stopped() -> None:
    stage = Stage()
    sharing, pool, _ = await stage.replica()
    stop = asyncio.Event()
    running = asyncio.create_task(sharing.run(stop))
    await until(lambda: pool.told == [0, 2])
    stop.set()
    await running
