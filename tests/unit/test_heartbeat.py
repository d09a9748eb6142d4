from __future__ import annotations

import asyncio
import math

import pytest
from structlog.testing import capture_logs

from mailsender.model.errors import Forbidden, Unavailable
from mailsender.model.queue_stats import QueueStats
from mailsender.queue.heartbeat import Health, Heartbeat
from mailsender.queue.inflight import InFlight
from mailsender.queue.tidier import Tidier
from tests.clocks import ManualClock
from tests.unit.test_inflight import claimed


class TestHealth:
    def test_steady_only_after_two_intervals_without_a_break(self) -> None:
        health = Health(10.0)
        assert not health.steady(0.0)
        health.answered(0.0, 1000.0)
        health.answered(10.0, 1010.0)
        assert not health.steady(19.9)
        assert health.steady_in(19.0) == pytest.approx(1.0)
        health.answered(20.0, 1020.0)
        assert health.steady(20.0)
        assert health.steady_in(25.0) == 0.0
        assert health.steady_in(41.0) == 20.0  # the last answer is too long ago

    def test_a_failure_starts_the_wait_again(self) -> None:
        health = Health(10.0)
        for now in (0.0, 10.0, 20.0):
            health.answered(now, now)
        health.failed()
        health.answered(30.0, 30.0)
        assert not health.steady(30.0)
        health.answered(40.0, 40.0)
        health.answered(50.0, 50.0)
        assert health.steady(50.0)

    def test_a_process_that_was_stopped_has_had_a_break(self) -> None:
        health = Health(10.0)
        for now in (0.0, 10.0, 20.0):
            health.answered(now, now)
        assert not health.steady(300.0)
        health.answered(300.0, 300.0)
        assert not health.steady(300.0)

    @pytest.mark.parametrize("step", [60.0, -60.0, 3600.0])
    def test_a_clock_that_was_set_starts_the_wait_again(self, step: float) -> None:
        health = Health(10.0)
        for now in (0.0, 10.0, 20.0):
            assert health.answered(now, now + 0.4) == 0.0
        assert health.server(25.0) == pytest.approx(25.4)
        assert health.answered(30.0, 30.4 + step) == pytest.approx(step)
        assert not health.steady(30.0)
        assert health.answered(40.0, 40.0 + step) == 0.0
        assert health.answered(50.0, 50.0 + step) == 0.0
        assert health.steady(50.0)
        assert health.server(55.0) == pytest.approx(55.0 + step)

    def test_a_clock_that_was_set_during_an_outage_shows_after_it(self) -> None:
        health = Health(10.0)
        health.answered(0.0, 0.0)
        health.failed()
        assert health.answered(10.0, 100.0) == pytest.approx(90.0)
        assert not health.steady(10.0)


class BeatingQueue:
    """Answers beats from a script; of the rest of the port there is what a tidier asks for."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.ahead = 0.0
        self.by = 0.0
        self.counts = 0
        self.counting = 0.0
        self.away = False
        self.error: Exception | None = None
        self.reclaims = 0
        self.outage = 0.0
        self.takes = 0.0
        self.joined: list[str] = []
        self.beats: list[str] = []
        self.dead: set[str] = set()

    async def join(self, replica: str, life: float) -> None:
        if self.away:
            raise Unavailable("away")
        self.joined.append(replica)

    async def beat(self, replica: str, life: float) -> bool:
        self.clock.forward(self.takes)
        if self.away:
            raise Unavailable("away")
        self.beats.append(replica)
        return replica not in self.dead

    async def leave(self, replica: str) -> None:
        self.joined.remove(replica)

    async def stats(self) -> QueueStats:
        self.counts += 1
        self.clock.forward(self.counting)
        if self.away or self.counting > 10:
            raise Unavailable("away")
        return QueueStats(awaiting=0, due=0, processing=0, sent=0, error=0, unreported=0, oldest_due=0.0)

    async def now(self, age: float = 10.0) -> float:
        if self.away:
            raise Unavailable("away")
        if self.error is not None:
            raise self.error
        return self.clock.epoch() + self.ahead

    async def reclaim(self, limit: int, within: float = math.inf, by: float = math.inf) -> int:
        if self.outage > within:
            raise Unavailable("away")
        self.reclaims += 1
        self.by = by
        return 0


class SteppingEvent(asyncio.Event):
    """A stop that moves the clock at each wait instead of waiting, and ends the loop after `steps`."""

    def __init__(self, clock: ManualClock, seconds: float, steps: int) -> None:
        super().__init__()
        self._clock, self._seconds, self._steps = clock, seconds, steps

    async def wait(self) -> bool:  # type: ignore[override]
        self._clock.forward(self._seconds)
        self._steps -= 1
        if self._steps <= 0:
            self.set()
        return True


class Heart:
    """A heartbeat and a tidier over such a queue."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.queue = BeatingQueue(self.clock)
        self.flight = InFlight()
        self.heartbeat = Heartbeat(self.queue, self.flight, self.clock, life=60.0)  # type: ignore[arg-type]
        self.tidier = Tidier(self.queue, self.heartbeat, self.clock)  # type: ignore[arg-type]

    async def beats(self, steps: int, seconds: float = 10.0) -> None:
        await self.heartbeat.run(SteppingEvent(self.clock, seconds, steps))

    async def tidies(self, steps: int, seconds: float = 1.0) -> None:
        await self.tidier.run(SteppingEvent(self.clock, seconds, steps))

    async def both(self, seconds: float, steps: int) -> None:
        """The two loops, a turn of each at a time."""
        for _ in range(steps):
            beat_at = self.clock.now
            await self.beats(1, 0.0)
            assert self.clock.now == beat_at
            await self.tidies(1, seconds)


@pytest.mark.asyncio
async def test_a_life_counts_from_before_the_beat_was_sent() -> None:
    heart = Heart()
    await heart.heartbeat.begin()
    assert heart.flight.alive_until == heart.clock.monotonic() + 60.0
    began = heart.clock.monotonic()
    heart.queue.takes = 5.0
    await heart.heartbeat.beat()
    assert heart.flight.alive_until == began + 60.0


@pytest.mark.asyncio
async def test_a_beat_that_fails_lets_the_time_that_is_left_run_out() -> None:
    heart = Heart()
    await heart.heartbeat.begin()
    until = heart.flight.alive_until
    heart.queue.away = True
    with pytest.raises(Unavailable):
        await heart.heartbeat.beat()
    assert heart.flight.alive_until == until


@pytest.mark.asyncio
async def test_whoever_was_declared_dead_loses_its_letters_and_joins_under_another_name() -> None:
    heart = Heart()
    await heart.heartbeat.begin()
    was = heart.flight.replica
    heart.flight.take(claimed(heart.flight.new_token(), "a", "b"))
    heart.queue.dead.add(was)
    with capture_logs() as logs:
        await heart.heartbeat.beat()
    assert heart.flight.replica != was
    assert heart.queue.joined == [was, heart.flight.replica]
    assert (len(heart.flight), heart.heartbeat.lost) == (0, 2)
    assert heart.flight.alive_until == heart.clock.monotonic() + 60.0
    assert [(each["event"], each["letters"]) for each in logs] == [("declared_dead", 2)]


@pytest.mark.asyncio
async def test_whoever_ends_is_among_the_living_no_more() -> None:
    heart = Heart()
    await heart.heartbeat.begin()
    await heart.heartbeat.end()
    assert heart.queue.joined == []


@pytest.mark.asyncio
async def test_nothing_is_reclaimed_until_mongodb_was_there_for_two_intervals() -> None:
    heart = Heart()
    queue = heart.queue
    await heart.both(10.0, 2)
    assert queue.reclaims == 0
    await heart.both(10.0, 2)
    assert queue.reclaims == 2


@pytest.mark.asyncio
async def test_after_an_outage_the_wait_begins_again() -> None:
    heart = Heart()
    queue = heart.queue
    await heart.both(10.0, 3)
    before = queue.reclaims
    queue.away = True
    await heart.both(10.0, 3)
    queue.away = False
    await heart.both(10.0, 2)
    assert queue.reclaims == before
    await heart.both(10.0, 1)
    assert queue.reclaims == before + 1


@pytest.mark.asyncio
async def test_a_reclaim_that_had_to_wait_for_mongodb_is_given_up() -> None:
    """A driver waits for the next primary by itself, and the living could not beat while it did."""
    heart = Heart()
    queue = heart.queue
    await heart.both(10.0, 3)
    before = queue.reclaims
    assert before
    queue.outage = 20.5
    await heart.both(10.0, 1)
    queue.outage = 0.0
    await heart.both(10.0, 2)
    assert queue.reclaims == before
    await heart.both(10.0, 1)
    assert queue.reclaims == before + 1


@pytest.mark.asyncio
async def test_a_clock_of_mongodbs_that_was_set_ahead_declares_nobody_dead_who_lives() -> None:
    """Between the step and the next beat only lives count that ended by the clock as it was."""
    heart = Heart()
    queue, clock = heart.queue, heart.clock
    await heart.both(10.0, 3)
    before = queue.reclaims
    queue.ahead = 60.0
    await heart.tidies(1, 10.0)
    assert (queue.reclaims, queue.by) == (before + 1, clock.epoch() - 10.0)
    with capture_logs() as logs:
        await heart.both(10.0, 2)
    assert queue.reclaims == before + 1
    assert [each["seconds"] for each in logs if each["event"] == "mongodb_clock_set"] == [60.0]
    await heart.both(10.0, 1)
    assert (queue.reclaims, queue.by) == (before + 2, clock.epoch() - 10.0 + 60.0)


@pytest.mark.asyncio
async def test_a_queue_too_long_to_be_counted_keeps_nothing_from_its_turn() -> None:
    heart = Heart()
    queue = heart.queue
    queue.counting = 12.0
    with capture_logs() as logs:
        await heart.beats(3)
        assert len(queue.beats) == 3
        assert queue.counts == 0, "a beat waits for nothing else"
        await heart.tidies(5, 1.0)
    assert queue.reclaims >= 1
    assert heart.heartbeat.health.good
    assert (queue.counts, heart.tidier.stats) == (1, None)
    assert [each["event"] for each in logs].count("counting_fails") == 1


@pytest.mark.asyncio
async def test_a_server_that_comes_back_and_lets_us_in_no_more_is_told() -> None:
    heart = Heart()
    queue = heart.queue
    await heart.beats(2)
    with capture_logs() as logs:
        for error in (Unavailable("away"), Unavailable("away"), Forbidden("password"), Forbidden("password")):
            queue.error = error
            await heart.beats(1)
        queue.error = None
        await heart.beats(1)
    told = [each["error"] for each in logs if each["event"] == "mongodb_away"]
    assert told == ["away", "password"]
    assert [each["event"] for each in logs][-1] == "mongodb_answers"


@pytest.mark.asyncio
async def test_whoever_meets_an_outage_first_has_it_told_once() -> None:
    heart = Heart()
    queue = heart.queue
    await heart.beats(2)
    with capture_logs() as logs:
        heart.heartbeat.away(Unavailable("a claim found nobody"))
        queue.error = Unavailable("nor did a beat")
        await heart.beats(2)
        queue.error = None
        await heart.beats(1)
    assert [(each["event"], each.get("error")) for each in logs] == [
        ("mongodb_away", "a claim found nobody"),
        ("mongodb_answers", None),
    ]
    assert logs[-1]["after_seconds"] > 0
