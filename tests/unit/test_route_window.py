"""Routes that send at some hours only, on a clock whose wall time a test sets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from mailsender.model.handling import Handling
from mailsender.model.letter import Claim, Phase, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Match
from mailsender.routing.routes import change, made
from mailsender.routing.window import hours_of
from mailsender.sending import dispatcher, sender
from tests.dispatching import known_relay, letter, until
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay

WINDOW = "Mon-Fri 08:00-20:00 Europe/Moscow"
NIGHT, DAY = datetime(2026, 11, 30, 4, 59, tzinfo=UTC), datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
EVENING = datetime(2026, 11, 30, 16, 59, 50, tzinfo=UTC)
DEFERRED = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")


@dataclass
class Wall:
    """Its wall time is what a test says, and stands still; it is monotonic as every clock is."""

    at: datetime

    def monotonic(self) -> float:
        return time.monotonic()

    def epoch(self) -> float:
        return self.at.timestamp()


class Asked(MemoryQueue):
    """Notes for which routes letters were claimed."""

    def __init__(self, clock: Wall) -> None:
        super().__init__(clock)
        self.claimed: list[str] = []

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        self.claimed.append(route)
        return await super().claim(limit, token, route)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL", 0.01)
    monkeypatch.setattr(sender, "LOOK", 0.01)


async def looks(count: int = 10) -> None:
    """Let the claiming loops look so often."""
    await asyncio.sleep(0.01 * count)


def test_what_was_said_holds_until_the_next_change_and_no_longer() -> None:
    hours = hours_of(WINDOW)
    for at, closed in ((NIGHT, True), (DAY, False), (EVENING, False), (NIGHT, True)):
        assert hours.closed(at.timestamp()) is closed
    edge = datetime(2026, 11, 30, 5, 0, tzinfo=UTC).timestamp()
    assert (hours.closed(edge - 0.001), hours.closed(edge)) == (True, False)
    assert hours.opens(NIGHT.timestamp()) == edge
    assert not hours_of("").closed(edge)


def test_what_was_said_is_asked_once() -> None:
    hours = hours_of(WINDOW)
    hours.closed(NIGHT.timestamp())
    hours.window = hours_of("Sun").window
    assert hours.closed((NIGHT + timedelta(seconds=59)).timestamp())
    hours.window = hours_of("Mon").window
    assert hours.closed((NIGHT + timedelta(seconds=59)).timestamp()), "what was said is over"


@pytest.mark.asyncio
async def test_nothing_is_claimed_while_it_is_closed_and_all_goes_when_it_opens() -> None:
    clock = Wall(NIGHT)
    queue = Asked(clock)
    relays = {"a": FakeRelay()}
    async with fleet(relays, [route("default", "a", window=WINDOW)], clock=clock, queue=queue) as scene:
        await scene.put(letter(1), letter(2))
        await looks()
        assert (queue.claimed, scene.sent()) == ([], {"a": 0})
        why = scene.routes["default"].blocked_because()
        assert why == "its sending window is closed until 2026-11-30T08:00+03:00"
        assert await scene.dispatcher.fresh_claims([letter(3)]) == []
        clock.at = DAY
        await scene.settled(2)
        assert scene.routes["default"].blocked_because() == ""


@pytest.mark.asyncio
async def test_what_is_at_hand_when_it_closes_is_not_sent_and_goes_back() -> None:
    clock = Wall(EVENING)
    relay = FakeRelay(hold=asyncio.Event())
    async with fleet({"a": relay}, [route("default", "a", window=WINDOW)], sessions=1, clock=clock) as scene:
        await scene.put(*[letter(number) for number in range(20)])
        await relay.started.wait()
        clock.at += timedelta(seconds=10)
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1)
        await until(lambda: not scene.in_flight.bytes)
        assert len(relay.sent) == 1, "that had begun"
        assert (await scene.queue.stats()).awaiting == 19


@pytest.mark.asyncio
async def test_a_letter_whose_slot_comes_after_the_end_is_not_begun() -> None:
    clock = Wall(EVENING)
    relay = FakeRelay()
    async with fleet(
        {"a": relay},
        [route("default", "a", window=WINDOW)],
        clock=clock,
        allowances={"a": Allowance(letters=5, period=1.0)},
    ) as scene:
        await scene.put(*[letter(number) for number in range(20)])
        await until(lambda: len(relay.sent) >= 1)
        clock.at += timedelta(seconds=10)
        sent = len(relay.sent)
        await until(lambda: not scene.in_flight.bytes)
        assert len(relay.sent) == sent


@pytest.mark.asyncio
async def test_the_rest_of_a_large_letter_waits_for_the_next_window() -> None:
    clock = Wall(EVENING)
    relay = FakeRelay()

    def answer(address: str) -> Result:
        clock.at = datetime(2026, 11, 30, 17, 0, tzinfo=UTC)
        return ACCEPTED

    relay.answer = answer
    async with fleet(
        {"a": relay}, [route("default", "a", window=WINDOW)], max_recipients=1, clock=clock
    ) as scene:
        await scene.put(letter(1, "a@x.test", "b@x.test"))
        await until(lambda: relay.sent and not scene.in_flight.bytes)
        await looks()
        assert len(relay.sent) == 1
        clock.at += timedelta(hours=12)
        (found,) = await scene.settled(1)
        assert [each.recipients for each in relay.sent] == [("a@x.test",), ("b@x.test",)]
        assert all(each.accepted for each in found.recipients)


@pytest.mark.asyncio
async def test_a_retry_waits_for_the_next_window() -> None:
    clock = Wall(EVENING)
    answers = iter([DEFERRED])
    relay = FakeRelay(answer=lambda _: next(answers, ACCEPTED))
    async with fleet({"a": relay}, [route("default", "a", window=WINDOW)], clock=clock) as scene:
        await scene.put(letter(1))
        await until(lambda: relay.sent and not scene.in_flight.bytes)
        clock.at += timedelta(hours=11, minutes=59)
        await looks()
        assert len(relay.sent) == 1
        clock.at += timedelta(minutes=2)
        (found,) = await scene.settled(1)
        assert (found.status, found.attempts) == (Status.SENT, 2)


@pytest.mark.asyncio
async def test_one_that_expires_while_it_is_closed_is_never_sent() -> None:
    clock = Wall(NIGHT)
    relay = FakeRelay()
    async with fleet({"a": relay}, [route("default", "a", window=WINDOW)], clock=clock) as scene:
        await scene.put(letter(1, expires=NIGHT + timedelta(seconds=30)))
        await looks()
        clock.at = DAY
        (found,) = await scene.settled(1)
        assert (found.status, found.reason[:7], relay.sent) == (Status.ERROR, "expired", [])


@pytest.mark.asyncio
async def test_a_route_that_is_closed_holds_up_no_other_one() -> None:
    clock = Wall(NIGHT)
    relay = FakeRelay()
    plans = [
        route("office", "a", window=WINDOW, match=Match(streams=("office",))),
        route("default", "a"),
    ]
    async with fleet({"a": relay}, plans, sessions=1, clock=clock) as scene:
        office = Handling(stream="office")
        closed = [letter(number, route="office", handling=office) for number in range(50)]
        await scene.put(*closed, letter(99))
        (found,) = await scene.settled(1)
        assert found.id == letter(99).id


@pytest.mark.asyncio
async def test_another_window_is_taken_while_it_runs() -> None:
    clock = Wall(NIGHT)
    relay = FakeRelay()
    async with fleet({"a": relay}, [route("default", "a", window=WINDOW)], clock=clock) as scene:
        await scene.put(letter(1))
        await looks()
        assert relay.sent == []
        change(scene.routes["default"], route("default", "a", window="Mon"), scene.relays)
        await scene.settled(1)
        change(scene.routes["default"], route("default", "a", window="Tue"), scene.relays)
        await scene.put(letter(2))
        await looks()
        assert len(relay.sent) == 1
        change(scene.routes["default"], route("default", "a"), scene.relays)
        await scene.settled(2)


def test_a_window_of_the_file_is_the_routes_and_another_one_is_taken_at_a_reload() -> None:
    relays = {"a": known_relay(FakeRelay(), Wall(NIGHT))}
    made_route = made(route("default", "a", window=WINDOW), relays, Wall(NIGHT))
    assert made_route.closed
    change(made_route, route("default", "a", window="Mon"), relays)
    assert not made_route.closed
