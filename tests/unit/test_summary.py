from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mailsender.model.queue_stats import QueueStats
from mailsender.observe import summary as module
from mailsender.observe.conditions import Condition, Conditions
from mailsender.observe.summary import Summary
from mailsender.queue.heartbeat import Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.tidier import Tidier
from tests.clocks import ManualClock


class Stage:
    """A summary over what a test sets."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.counted = {"sent": 0, "error": 0}
        self.found: list[Condition] = []
        queue = MemoryQueue(self.clock)
        self.tidier = Tidier(queue, Heartbeat(queue, InFlight(), self.clock, life=60.0), self.clock)
        conditions = Conditions(self.clock, lambda: self.found)
        self.summary = Summary(lambda: dict(self.counted), self.tidier, conditions, self.clock)

    def waiting(self, awaiting: int) -> None:
        self.tidier.stats = QueueStats(
            awaiting=awaiting, due=awaiting, processing=0, sent=0, error=0, unreported=0, oldest_due=7.0
        )
        self.tidier._counted_at = self.clock.monotonic()


def test_says_what_happened_since_the_last_line() -> None:
    stage = Stage()
    stage.counted = {"sent": 7, "error": 1}
    stage.clock.forward(60)
    with capture_logs() as logs:
        stage.summary.last()
        stage.counted = {"sent": 9, "error": 1}
        stage.clock.forward(60)
        stage.summary.last()
    assert [(line["event"], line["sent"], line["error"], line["seconds"]) for line in logs] == [
        ("summary", 7, 1, 60),
        ("summary", 2, 0, 60),
    ]
    assert "waits_for" not in logs[0]


def test_says_nothing_when_nothing_happened_and_nothing_waits() -> None:
    stage = Stage()
    stage.waiting(0)
    stage.clock.forward(60)
    with capture_logs() as logs:
        stage.summary.last()
    assert logs == []


def test_while_letters_wait_it_says_how_many_for_what_and_since_when() -> None:
    stage = Stage()
    stage.waiting(5)
    began = stage.clock.epoch()
    again = began + 100
    stage.found = [Condition(part="relay", text="connection refused", until=again)]
    with capture_logs() as logs:
        stage.summary.last()
        stage.clock.forward(60)
        stage.summary.last()
    for line, age in zip(logs, (0, 60), strict=True):
        assert (line["awaiting"], line["oldest_due"], line["counts_age"]) == (5, 7.0, age)
        (reason,) = line["waits_for"]
        assert reason.startswith("relay: connection refused; since 2023-11-14T22:30:00")
        assert reason.endswith("until 2023-11-14T22:31:40+00:00")


def test_a_condition_that_ends_and_comes_again_is_a_new_one() -> None:
    clock = ManualClock()
    found: list[Condition] = []
    conditions = Conditions(clock, lambda: found)
    since: list[float] = []
    for there in (True, True, False, True):
        found[:] = [Condition(part="kafka", text=f"at {clock.now}")] if there else []
        since += [each.since for each in conditions.now()]
        clock.forward(10)
    begun = ManualClock().epoch()
    assert since == [begun, begun, begun + 30]


@pytest.mark.asyncio
async def test_a_full_queue_is_told_once_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.001)
    stage, stop = Stage(), asyncio.Event()

    async def told(logs: list[dict[str, object]], count: int) -> None:
        async with asyncio.timeout(5):
            while len(logs) < count:  # noqa: ASYNC110  a list tells nobody
                await asyncio.sleep(0.002)

    with capture_logs() as logs:
        running = asyncio.create_task(stage.summary.run(stop))
        stage.found = [Condition(part="queue", text="12 letters wait", trouble=False)]
        await told(logs, 1)
        await asyncio.sleep(0.01)
        stage.found = []
        await told(logs, 2)
        stop.set()
        await running
    assert [line["event"] for line in logs] == ["queue_full", "queue_has_room"]
    assert logs[0]["reason"] == "12 letters wait"
