"""A machine whose clock is off goes by the store's: no letter expires before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from mailsender.model.clock import APART, SharedClock, SystemClock
from mailsender.model.letter import Status, now_ms
from mailsender.queue.memory import MemoryQueue
from mailsender.service import Replica
from tests.clocks import ManualClock
from tests.dispatching import letter, until
from tests.relays import FakeRelay
from tests.unit.test_replica import replica_over

HOUR = 3600.0


class Off:
    """A machine's clocks; its time of day is so many seconds ahead of the world's."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._world = SystemClock()

    def monotonic(self) -> float:
        return self._world.monotonic()

    def epoch(self) -> float:
        return self._world.epoch() + self.seconds


@pytest.mark.parametrize("off", [0.0, APART, -APART])
def test_as_long_as_both_agree_it_is_the_machines(off: float) -> None:
    machine = ManualClock()
    shared = SharedClock(machine, lambda now: machine.start + now - off)
    assert (shared.epoch(), shared.monotonic()) == (machine.epoch(), machine.monotonic())


@pytest.mark.parametrize("off", [2 * HOUR, -2 * HOUR, APART + 1, -APART - 1])
def test_where_they_do_not_it_is_the_stores(off: float) -> None:
    machine = ManualClock()
    shared = SharedClock(machine, lambda now: machine.start + now - off)
    machine.forward(100)
    assert shared.epoch() == machine.epoch() - off


def test_before_the_stores_is_known_it_is_the_machines() -> None:
    machine = ManualClock()
    assert SharedClock(machine, lambda _: float("-inf")).epoch() == machine.epoch()


@asynccontextmanager
async def running(
    off: float, relay: FakeRelay, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replica]:
    replica = replica_over(relay, queue, Off(off), monkeypatch)
    async with asyncio.timeout(30):
        task = asyncio.create_task(replica.run())
        try:
            yield replica
        finally:
            replica.drain("test")
            await task


@pytest.mark.asyncio
@pytest.mark.parametrize("off", [2 * HOUR, -2 * HOUR])
async def test_a_letter_that_has_minutes_left_is_sent_and_its_times_are_right(
    off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, relay = SystemClock(), FakeRelay()
    queue = MemoryQueue(world)
    began = now_ms(world.epoch())
    expires = began + timedelta(minutes=5)
    one = letter(1).evolve(expires=expires)
    await queue.insert([one])
    async with running(off, relay, queue, monkeypatch) as replica:
        await until(lambda: replica.settler.tally.sent + replica.settler.tally.error == 1)
    found = await queue.get(one.id)
    assert found is not None
    assert (found.status, len(relay.sent)) == (Status.SENT, 1)
    assert found.finished_at is not None
    assert began <= found.finished_at <= now_ms(world.epoch()) + timedelta(seconds=1)


@pytest.mark.asyncio
async def test_a_letter_that_is_over_is_not_sent_by_a_machine_that_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, relay = SystemClock(), FakeRelay()
    queue = MemoryQueue(world)
    expires = now_ms(world.epoch()) - timedelta(minutes=5)
    one = letter(1).evolve(expires=expires)
    await queue.insert([one])
    async with running(-2 * HOUR, relay, queue, monkeypatch) as replica:
        await until(lambda: replica.settler.tally.sent + replica.settler.tally.error == 1)
    found = await queue.get(one.id)
    assert found is not None
    assert (found.status, len(relay.sent)) == (Status.ERROR, 0)
