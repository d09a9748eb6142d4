"""The simulated store: what it does and what becomes known of it are two things."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from mailsender.model.errors import Unavailable
from mailsender.ratelimit.gcra import Allowance, SlotRequest
from simulation.loop import Process, VirtualLoop, context_of
from simulation.store import OPERATION, Store, at_once
from tests.dispatching import letter

REPLICA = "a" * 16
TOKEN = REPLICA + "b" * 16


class Quiet:
    """Notes what was done."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def done(self, process: Process, call: str, arguments: tuple[Any, ...], result: Any) -> None:
        self.calls.append(call)


class Scene:
    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.seen = Quiet()
        self.store = Store(self.loop, random.Random(1), self.seen)
        self.process = Process("one")
        self.seat = self.store.seat(self.process)
        at_once(self.store.queue.insert([letter(1), letter(2)]))

    def claim(self) -> asyncio.Task[Any]:
        return context_of(self.process).run(self.loop.create_task, self._claim())

    async def _claim(self) -> object:
        return await self.seat.queue.claim(10, TOKEN)

    def pass_(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture
def scene() -> Any:
    made = Scene()
    yield made
    made.loop.close()


def test_a_call_takes_a_while_and_is_answered(scene: Scene) -> None:
    claim = scene.loop.run_until_complete(scene.claim())
    assert len(claim.letters) == 2
    assert 0 < scene.loop.time() < 0.1
    assert scene.seen.calls == ["claim"]
    assert scene.store.claims(REPLICA) == scene.store.processing == 2
    assert scene.store.holds(TOKEN, letter(1).id)


def test_what_is_away_does_nothing(scene: Scene) -> None:
    scene.store.trouble.away = True
    with pytest.raises(Unavailable):
        scene.loop.run_until_complete(scene.claim())
    assert scene.store.claims(REPLICA) == 0


def test_an_answer_that_is_lost_was_given(scene: Scene) -> None:
    scene.store.trouble.lost = 1.0
    with pytest.raises(Unavailable):
        scene.loop.run_until_complete(scene.claim())
    assert scene.loop.time() >= OPERATION
    assert scene.store.claims(REPLICA) == 2


def test_what_was_on_its_way_when_its_process_died_is_done(scene: Scene) -> None:
    task = scene.claim()
    scene.pass_(0.0)
    scene.process.dead = True
    scene.pass_(1.0)
    assert scene.store.claims(REPLICA) == 2
    assert task.done()


def test_the_dead_reach_nothing(scene: Scene) -> None:
    scene.process.dead = True
    with pytest.raises(Unavailable):
        scene.loop.run_until_complete(scene.claim())
    assert scene.seen.calls == []


def test_slots_are_timed_by_the_clock_of_who_asked(scene: Scene) -> None:
    request = SlotRequest(want=3, allowance=Allowance(letters=10, period=1.0))

    async def lease() -> Any:
        scene.process.frozen = False
        return await scene.seat.slots("one").lease(request)

    task = context_of(scene.process).run(scene.loop.create_task, lease())
    scene.pass_(0.0)
    scene.process.frozen = True
    scene.pass_(2.0)
    scene.loop.thaw(scene.process)
    grant = scene.loop.run_until_complete(task)
    assert grant.asked == 0.0
    assert grant.answered >= 2.0, "it was frozen while the answer came"
    assert grant.latest(0) < grant.answered, "and its first slot has lapsed"
