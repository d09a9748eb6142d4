from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from mailsender.model.letter import Lease, Letter
from mailsender.model.ports import Forbidden, QueueStats, Rejected, Unavailable
from mailsender.queue.inflight import Hand, Health, LeaseKeeper
from tests.clocks import ManualClock


def letter(name: str) -> Letter:
    return Letter(id=name, addresses=("a@example.test",), subject="", body="x" * 100)


def lease(token: str, until: float, *names: str) -> Lease:
    return Lease(token=token, until=until, letters=tuple(letter(name) for name in names))


class TestHand:
    def test_knows_what_it_holds_and_until_when(self) -> None:
        hand = Hand()
        hand.take(lease("t", 50.0, "a", "b"))
        assert len(hand) == 2
        assert hand.lasts("t", "a") == 50.0
        assert hand.token("b") == "t"
        assert {token: sorted(ids) for token, ids in hand.by_token().items()} == {"t": ["a", "b"]}

    def test_a_letter_not_in_hand_has_no_time_left(self) -> None:
        assert Hand().lasts("t", "a") == float("-inf")

    def test_dropping_the_last_letter_forgets_the_token_and_the_bytes(self) -> None:
        hand = Hand()
        hand.take(lease("t", 50.0, "a", "b"))
        hand.drop(["a", "a"])
        hand.drop(["b", "unknown"])
        assert (len(hand), hand.bytes, hand.by_token()) == (0, 0, {})

    def test_a_renewal_of_a_token_that_is_gone_changes_nothing(self) -> None:
        hand = Hand()
        hand.extend(["t"], 99.0)
        assert hand.by_token() == {}


class TestHealth:
    def test_steady_only_after_two_intervals_without_a_break(self) -> None:
        health = Health(10.0)
        assert not health.steady(0.0)
        health.answered(0.0, 1000.0)
        health.answered(10.0, 1010.0)
        assert not health.steady(19.9)
        health.answered(20.0, 1020.0)
        assert health.steady(20.0)

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


class RenewingQueue:
    """Answers renewals from a script; everything else of the port is not needed here."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.ahead = 0.0
        self.by = 0.0
        self.counts = 0
        self.counting = 0.0
        self.lost: frozenset[str] = frozenset()
        self.away = False
        self.error: Exception | None = None
        self.reclaims = 0
        self.outage = 0.0
        self.forgettable = 0
        self.refuses = False
        self.forgets = 0
        self.renewals: list[Mapping[str, Sequence[str]]] = []

    async def renew(self, leases: Mapping[str, Sequence[str]], lease: float) -> frozenset[str]:
        if self.away:
            raise Unavailable("away")
        self.renewals.append(leases)
        return self.lost

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

    async def forget(self) -> int:
        if self.away:
            raise Unavailable("away")
        if self.refuses:
            raise Rejected("not allowed to remove")
        self.forgets += 1
        some = min(self.forgettable, 100)
        self.forgettable -= some
        return some


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


async def both(keeper: LeaseKeeper, clock: ManualClock, seconds: float, steps: int) -> None:
    """The two loops, a turn of each at a time."""
    for _ in range(steps):
        beat_at, still = clock.now, SteppingEvent(clock, 0.0, 1)
        await keeper.run(still)
        assert clock.now == beat_at
        await keeper.tidy(SteppingEvent(clock, seconds, 1))


@pytest.mark.asyncio
async def test_renewal_counts_from_before_it_was_sent() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    hand.take(lease("t", 1010.0, "a"))
    await keeper.renew()
    assert hand.lasts("t", "a") == 1060.0


@pytest.mark.asyncio
async def test_a_lost_letter_leaves_the_hand() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    hand.take(lease("t", 1010.0, "a", "b"))
    queue.lost = frozenset({"a"})
    await keeper.renew()
    assert (hand.lasts("t", "a"), hand.lasts("t", "b"), keeper.lost) == (float("-inf"), 1060.0, 1)


@pytest.mark.asyncio
async def test_nothing_is_reclaimed_until_mongodb_was_there_for_two_intervals() -> None:
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await both(keeper, clock, 10.0, 2)
    assert queue.reclaims == 0
    await both(keeper, clock, 10.0, 2)
    assert queue.reclaims == 2


@pytest.mark.asyncio
async def test_after_an_outage_the_wait_begins_again() -> None:
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await both(keeper, clock, 10.0, 3)
    before = queue.reclaims
    queue.away = True
    await both(keeper, clock, 10.0, 3)
    queue.away = False
    await both(keeper, clock, 10.0, 2)
    assert queue.reclaims == before
    await both(keeper, clock, 10.0, 1)
    assert queue.reclaims == before + 1


@pytest.mark.asyncio
async def test_a_reclaim_that_had_to_wait_for_mongodb_is_given_up() -> None:
    """A driver waits for the next primary by itself, and owners could not renew while it did."""
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await both(keeper, clock, 10.0, 3)
    before = queue.reclaims
    assert before
    queue.outage = 20.5
    await both(keeper, clock, 10.0, 1)
    queue.outage = 0.0
    await both(keeper, clock, 10.0, 2)
    assert queue.reclaims == before
    await both(keeper, clock, 10.0, 1)
    assert queue.reclaims == before + 1


@pytest.mark.asyncio
async def test_a_clock_of_mongodbs_that_was_set_ahead_gives_no_live_claim_away() -> None:
    """Between the step and the next beat only leases count that ended by the clock as it was."""
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await both(keeper, clock, 10.0, 3)
    before = queue.reclaims
    queue.ahead = 60.0
    await keeper.tidy(SteppingEvent(clock, 10.0, 1))
    assert (queue.reclaims, queue.by) == (before + 1, clock.epoch() - 10.0)
    with capture_logs() as logs:
        await both(keeper, clock, 10.0, 2)
    assert queue.reclaims == before + 1
    assert [each["seconds"] for each in logs if each["event"] == "mongodb_clock_set"] == [60.0]
    await both(keeper, clock, 10.0, 1)
    assert (queue.reclaims, queue.by) == (before + 2, clock.epoch() - 10.0 + 60.0)


@pytest.mark.asyncio
async def test_a_queue_too_long_to_be_counted_keeps_nothing_from_its_turn() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    queue.counting = 12.0
    hand.take(lease("t", clock.monotonic() + 60.0, "a"))
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    with capture_logs() as logs:
        await keeper.run(SteppingEvent(clock, 10.0, 3))
        assert len(queue.renewals) == 3
        assert queue.counts == 0, "renewal waits for nothing else"
        await keeper.tidy(SteppingEvent(clock, 1.0, 5))
    assert queue.reclaims >= 1
    assert queue.forgets >= 1
    assert keeper.health.good
    assert (queue.counts, keeper.stats) == (1, None)
    assert [each["event"] for each in logs].count("counting_fails") == 1


@pytest.mark.asyncio
async def test_what_may_be_forgotten_is_forgotten_at_once_and_looked_for_seldom() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    queue.forgettable = 250
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    await keeper.run(SteppingEvent(clock, 0.0, 1))
    await keeper.tidy(SteppingEvent(clock, 1.0, 1))
    assert (queue.forgettable, queue.forgets) == (0, 4)
    await keeper.tidy(SteppingEvent(clock, 1.0, 25))
    assert queue.forgets == 4 + 3  # at 0, 10 and 20 seconds


@pytest.mark.asyncio
async def test_nothing_is_forgotten_while_mongodb_is_away() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    queue.away = True
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    await both(keeper, clock, 1.0, 25)
    assert queue.forgets == 0


@pytest.mark.asyncio
async def test_a_server_that_comes_back_and_lets_us_in_no_more_is_told() -> None:
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await keeper.run(SteppingEvent(clock, 10.0, 2))
    with capture_logs() as logs:
        for error in (Unavailable("away"), Unavailable("away"), Forbidden("password"), Forbidden("password")):
            queue.error = error
            await keeper.run(SteppingEvent(clock, 10.0, 1))
        queue.error = None
        await keeper.run(SteppingEvent(clock, 10.0, 1))
    told = [each["error"] for each in logs if each["event"] == "mongodb_away"]
    assert told == ["away", "password"]
    assert [each["event"] for each in logs][-1] == "mongodb_answers"


@pytest.mark.asyncio
async def test_leases_are_kept_although_nothing_may_be_removed() -> None:
    clock = ManualClock()
    queue, hand = RenewingQueue(clock), Hand()
    queue.refuses = True
    hand.take(lease("t", clock.monotonic() + 60.0, "a"))
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)  # type: ignore[arg-type]
    with capture_logs() as logs:
        await both(keeper, clock, 10.0, 3)
        await keeper.tidy(SteppingEvent(clock, 1.0, 25))
    assert len(queue.renewals) == 3
    assert [each["event"] for each in logs].count("forgetting_refused") == 1


@pytest.mark.asyncio
async def test_whoever_meets_an_outage_first_has_it_told_once() -> None:
    clock = ManualClock()
    queue = RenewingQueue(clock)
    keeper = LeaseKeeper(queue, Hand(), clock, lease=60.0)  # type: ignore[arg-type]
    await keeper.run(SteppingEvent(clock, 10.0, 2))
    with capture_logs() as logs:
        keeper.away(Unavailable("a claim found nobody"))
        queue.error = Unavailable("nor did a beat")
        await keeper.run(SteppingEvent(clock, 10.0, 2))
        queue.error = None
        await keeper.run(SteppingEvent(clock, 10.0, 1))
    assert [(each["event"], each.get("error")) for each in logs] == [
        ("mongodb_away", "a claim found nobody"),
        ("mongodb_answers", None),
    ]
    assert logs[-1]["after_seconds"] > 0
