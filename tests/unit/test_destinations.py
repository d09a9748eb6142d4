"""Limits by destination: what goes to one takes a slot of its own and one of the relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from mailsender.ratelimit.destinations import Destinations, meeting
from mailsender.ratelimit.gcra import UNLIMITED, Allowance, Slot
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import Order
from tests.clocks import ManualClock

RELAY_RATE = Allowance(letters=100, period=1.0, burst=30)


def slot(earliest: float, latest: float) -> Slot:
    return Slot(earliest=earliest, latest=latest)


def order(until: float) -> Order:
    return Order(key="destination:gmail.com", rule="r", said="450", until=until)


class Stage:
    """A relay of 100 a second, 4 of them to gmail.com and 1 to all that is below example.org."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemorySlotStore(self.clock)
        self.relay = Limiter(self.store, RELAY_RATE, self.clock, backlog=int)
        self.limiters = {
            "gmail.com": self._limiter("gmail.com", 4),
            "*.example.org": self._limiter("*.example.org", 1),
        }
        self.destinations = Destinations(self.relay, self.limiters, self.clock)

    def _limiter(self, name: str, letters: int) -> Limiter:
        allowance = Allowance(letters=letters, period=1.0)
        return Limiter(self.store.beside(name), allowance, self.clock, backlog=lambda: 2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(each.run(stop)) for each in (self.relay, self.destinations)]
        yield
        stop.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (slot(1, 3), slot(2, 4), slot(2, 3)),
        (slot(1, 2), slot(2, 3), None),
        (UNLIMITED, slot(2, 3), slot(2, 3)),
        (slot(0, 1.001), slot(0, 5), None),
    ],
)
def test_slots_meet(one: Slot, other: Slot, expected: Slot | None) -> None:
    assert meeting(one, other, 1.0) == expected
    assert meeting(other, one, 1.0) == expected


def test_the_narrowest_pattern_counts() -> None:
    stage = Stage()
    of = stage.destinations.of
    assert of("Gmail.com") is stage.limiters["gmail.com"]
    assert of("a.b.example.org") is of("c.example.org") is stage.limiters["*.example.org"]
    assert of("example.org") is of("elsewhere.example") is None


@pytest.mark.asyncio
async def test_a_slot_fits_the_destination_and_the_relay() -> None:
    stage = Stage()
    async with stage.running():
        slots = [await stage.destinations.acquire("gmail.com") for _ in range(3)]
        assert [b.earliest - a.earliest >= 0.249 for a, b in pairwise(slots)] == [True, True]
        elsewhere = [await stage.destinations.acquire("other.example") for _ in range(2)]
        assert elsewhere[1].earliest - elsewhere[0].earliest == pytest.approx(RELAY_RATE.step)


@pytest.mark.asyncio
async def test_a_destination_without_limits_is_held_by_an_order_of_the_relay() -> None:
    stage = Stage()
    stage.destinations.order("yahoo.com", order(stage.clock.epoch() + 30))
    now = stage.clock.monotonic()
    assert stage.destinations.left("Yahoo.com", now) == pytest.approx(30)
    assert stage.destinations.left("gmail.com", now) == 0
    assert [each.key for each in stage.relay.orders()] == ["destination:yahoo.com"]


@pytest.mark.asyncio
async def test_a_destination_with_limits_is_held_by_its_own() -> None:
    stage = Stage()
    async with stage.running():
        stage.destinations.order("gmail.com", order(stage.clock.epoch() + 30))
        assert stage.destinations.left("gmail.com", stage.clock.monotonic()) == pytest.approx(30)
        with pytest.raises(NoSlots):
            await stage.destinations.acquire("gmail.com")
        assert await stage.destinations.acquire("other.example")
        assert stage.relay.orders() == []


@pytest.mark.asyncio
async def test_a_relay_that_is_held_keeps_no_slot_of_a_destination() -> None:
    stage = Stage()
    async with stage.running():
        stage.relay.order(order(stage.clock.epoch() + 30).of("relay"))
        with pytest.raises(NoSlots):
            await stage.destinations.acquire("gmail.com")
        stage.clock.forward(0.01)
        own = stage.destinations.of("gmail.com")
        assert own is not None
        assert (await own.acquire()).earliest < stage.clock.monotonic(), "it was given back"
    stage.destinations.shut()
    with pytest.raises(NoSlots):
        await stage.destinations.acquire("gmail.com")
    await stage.destinations.close()
