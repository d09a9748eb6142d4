"""Connections with a relay that limits them over all replicas."""

from __future__ import annotations

import pytest

from mailsender.model.errors import Unavailable
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import Relay
from mailsender.sending.sharing import LOOK, Sharing
from tests.clocks import ManualClock
from tests.dispatching import known_relay
from tests.relays import FakeRelay

LIFE = 30.0


class AwayAtTimes(MemoryQueue):
    """Says who lives unless it is away."""

    away = False

    async def living(self) -> set[str]:
        if self.away:
            raise Unavailable("away")
        return await super().living()


class Stage:
    """Replicas that share a relay which takes so many connections."""

    def __init__(self, total: int) -> None:
        self.clock = ManualClock()
        self.queue = AwayAtTimes(self.clock)
        self.total = total
        self.replicas: list[tuple[Sharing, Relay, InFlight]] = []

    async def join(self) -> None:
        relay = known_relay(FakeRelay(), self.clock, sessions=PoolLimits(sessions=10))
        relay.connections_total = self.total
        in_flight = InFlight()
        await self.queue.join(in_flight.replica, 1e9)
        sharing = Sharing(self.queue, in_flight, self.clock, [relay], life=LIFE)
        self.replicas.append((sharing, relay, in_flight))

    async def looks(self, seconds: float) -> None:
        """Everybody looks as often as they do; never are there more connections than the relay takes."""
        for _ in range(round(seconds / LOOK)):
            for sharing, _, _ in self.replicas:
                await sharing.look()
                assert sum(self.allowed()) <= self.total
            self.clock.forward(LOOK)

    def allowed(self) -> list[int]:
        return [relay.pool.window[1] for _, relay, _ in self.replicas]


@pytest.mark.asyncio
async def test_whoever_is_alone_has_all_of_them_at_once() -> None:
    stage = Stage(3)
    await stage.join()
    assert stage.allowed() == [0], "nobody looked yet"
    await stage.looks(LOOK)
    assert stage.allowed() == [3]


@pytest.mark.asyncio
async def test_replicas_share_them_and_never_have_more_together() -> None:
    stage = Stage(3)
    await stage.join()
    await stage.looks(60)
    await stage.join()
    await stage.looks(60)
    assert sorted(stage.allowed()) == [1, 2]
    await stage.join()
    await stage.join()
    await stage.looks(90)
    assert sorted(stage.allowed()) == [0, 1, 1, 1]
    surplus = next(relay for _, relay, _ in stage.replicas if not relay.pool.window[1])
    assert (surplus.goes, surplus.pool.reason) == (False, ""), "it is ready, and claims nothing for it"
    for _, _, in_flight in stage.replicas[1:]:
        await stage.queue.leave(in_flight.replica)
    del stage.replicas[1:]
    await stage.looks(60)
    assert stage.allowed() == [3]


@pytest.mark.asyncio
async def test_who_does_not_know_for_long_who_lives_has_none() -> None:
    stage = Stage(3)
    await stage.join()
    await stage.looks(10)
    stage.queue.away = True
    await stage.looks(LIFE - 10)
    assert stage.allowed() == [3]
    await stage.looks(15)
    assert stage.allowed() == [0]


def test_a_relay_without_such_a_limit_is_left_alone() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock, sessions=PoolLimits(sessions=10))
    sharing = Sharing(MemoryQueue(clock), InFlight(), clock, [relay], life=LIFE)
    assert (sharing.shares, relay.pool.window[1]) == ({}, 10)
