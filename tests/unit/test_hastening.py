"""Letters that were put off for what holds no more are due again soon, however far ahead their time was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import Clock, SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Phase, Recipient, Result, Settlement, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.destinations import Destinations
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import Order
from mailsender.routing.relay import Relay
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import Route
from mailsender.sending import hastening
from mailsender.sending.hastening import Hastener, freed
from tests.claims import LIFE, REPLICA, token_of
from tests.clocks import ManualClock
from tests.dispatching import PlainComposer, Scene, known_relay, letter, running, until
from tests.relays import ACCEPTED, FakeRelay

SLOW = (Allowance(letters=40, period=60.0),)
FAST = (Allowance(letters=6000, period=60.0),)


@asynccontextmanager
async def limited(relay: FakeRelay | None = None) -> AsyncIterator[Scene]:
    """A relay that has 40 letters a minute for slow.test, of which 60 wait for their turn."""
    async with running(relay or FakeRelay()) as scene:
        known, clock, stop = scene.known, SystemClock(), asyncio.Event()
        store = MemorySlotStore(clock)
        known.destinations = Destinations(
            known.limiter,
            lambda name, rates: Limiter(store.beside(name), rates[0], clock, backlog=int, name=name),
            clock,
        )
        known.destinations.change({"slow.test": SLOW})
        task = asyncio.create_task(known.destinations.run(stop))
        await scene.queue.insert([letter(number, f"r{number}@slow.test") for number in range(61)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        await scene.stats_are(processing=0)
        assert await last_due(scene) > 60
        yield scene
        stop.set()
        known.destinations.shut()
        await task


async def last_due(scene: Scene) -> float:
    """Seconds until the last of the letters that wait is due."""
    found = [await scene.queue.look_up(letter(number).id) for number in range(61)]
    dues = [each.due.timestamp() for each in found if each is not None and each.due is not None]
    return max(dues, default=0.0) - SystemClock().epoch()


@pytest.mark.asyncio
@pytest.mark.parametrize("limits", [{"slow.test": FAST}, {}], ids=["raised", "gone"])
async def test_after_a_change_of_limits_letters_go_by_the_new_ones(
    limits: dict[str, tuple[Allowance, ...]],
) -> None:
    async with limited() as scene:
        assert scene.known.destinations is not None
        scene.known.destinations.change(limits)
        scene.dispatcher.change([scene.route], scene.dispatcher._tools.table)
        done = await scene.settled(61)
    assert {each.status for each in done} == {Status.SENT}
    assert {each.attempts for each in done} == {1}


@pytest.mark.asyncio
async def test_that_letters_wait_for_their_turn_is_no_warning() -> None:
    with capture_logs() as logs:
        async with limited() as scene:
            assert (await scene.queue.stats()).awaiting > 50
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == []
    assert sum(each["event"] == "letter_waits" for each in logs) > 50


@pytest.mark.asyncio
async def test_one_of_whom_the_relay_put_off_somebody_is_told_although_another_one_waits() -> None:
    slowly = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.1", text="slowly")
    with capture_logs() as logs:
        async with limited(
            FakeRelay(answer=lambda each: slowly if each == "a@else.test" else ACCEPTED)
        ) as scene:
            await scene.queue.insert([letter(99, "b@slow.test", "a@else.test")])
            scene.dispatcher.nudge()
            await until(lambda: any(each["log_level"] == "warning" for each in logs))
    told = next(each for each in logs if each["log_level"] == "warning")
    assert (told["event"], told["letter"], told["code"]) == ("letter_deferred", letter(99).id, 450)


# --- which of them ---------------------------------------------------------------------------------


def put_off(text: str, address: str = "a@slow.test", *, code: int | None = None, **more: object) -> Recipient:
    result = Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, text=text, code=code)
    return Recipient(address=address, result=result, **more)  # type: ignore[arg-type]


def relay_with(limits: dict[str, tuple[Allowance, ...]]) -> Relay:
    relay, clock = known_relay(FakeRelay(), SystemClock()), SystemClock()
    relay.destinations = Destinations(
        relay.limiter, lambda _, rates: Limiter(MemorySlotStore(clock), rates[0], clock, backlog=int), clock
    )
    relay.destinations.change(limits)
    return relay


IN_TURN = "waits for its turn: the limits of its destination are reached (40 in 1m)"
RESTS = "rests by the rule r, after the relay said: 450"


@pytest.mark.parametrize(
    ("recipients", "limits", "ordered", "expected"),
    [
        ([put_off(IN_TURN)], {"slow.test": SLOW}, "", False),
        ([put_off(IN_TURN)], {"slow.test": FAST}, "", True),
        ([put_off(IN_TURN)], {"*.test": SLOW}, "", False),
        ([put_off(IN_TURN)], {"*.test": FAST}, "", True),
        ([put_off(IN_TURN)], {}, "", True),
        ([put_off("waits for its turn: the limits of its destination are reached")], {}, "", True),
        ([put_off(RESTS)], {}, "slow.test", False),
        ([put_off(RESTS)], {}, "other.test", True),
        ([put_off(RESTS, code=450)], {}, "", False),
        ([put_off(RESTS), put_off("slowly", "b@c.test", code=450)], {}, "", False),
        ([put_off(RESTS), Recipient(address="b@c.test")], {}, "", False),
        ([put_off(RESTS), put_off(RESTS, "b@c.test")], {}, "c.test", True),
        ([put_off(IN_TURN, closed=True), put_off(RESTS, "b@c.test")], {}, "c.test", False),
    ],
)
def test_it_is_seen_from_what_was_told_whether_it_holds(
    recipients: list[Recipient], limits: dict[str, tuple[Allowance, ...]], ordered: str, expected: bool
) -> None:
    relay = relay_with(limits)
    if ordered:
        order = Order(key="", rule="r", said="450", until=SystemClock().epoch() + 60)
        assert relay.destinations is not None
        relay.destinations.order(ordered, order)
    one = letter(1, *[each.address for each in recipients]).evolve(recipients=tuple(recipients))
    assert freed(one, [relay], None, SystemClock().monotonic()) is expected


class Stage:
    """A queue in which letters were put off, and a relay without limits."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.queue = MemoryQueue(self.clock)
        self.relay = relay_with({})
        self.moved: list[str] = []
        route = Route("default", [self.relay], retry=RetryPolicy(max_attempts=2, delay=1.0), clock=self.clock)
        self.hastener = Hastener(
            self.queue,
            self.clock,
            PlainComposer(),  # type: ignore[arg-type]
            routes=lambda: [route],
            moved=self.moved.append,
        )

    async def put(self, texts: Mapping[int, str], delay: float) -> None:
        await self.queue.join(REPLICA, LIFE)
        await self.queue.insert([letter(number, "a@slow.test") for number in texts])
        token = token_of()
        claim = await self.queue.claim(len(texts), token)
        await self.queue.settle(
            [
                Settlement(
                    token=token,
                    letter=each.evolve(status=Status.AWAITING, recipients=(put_off(text),)),
                    delay=delay + number,
                )
                for number, (each, text) in enumerate(zip(claim.letters, texts.values(), strict=True))
            ]
        )

    async def due(self) -> int:
        return (await self.queue.stats()).due


@pytest.mark.asyncio
async def test_all_of_them_are_found_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hastening, "MOST", 10)
    monkeypatch.setattr(hastening, "PAGE", 4)
    stage = Stage()
    order = Order(key="", rule="r", said="450", until=SystemClock().epoch() + 3600)
    assert stage.relay.destinations is not None
    stage.relay.destinations.order("slow.test", order)
    await stage.put({number: RESTS if number % 2 else IN_TURN for number in range(55)}, 3600.0)
    with capture_logs() as logs:
        await stage.hastener.look()
    assert (await stage.due(), stage.moved) == (28, ["default"])
    stage.relay.destinations.change({})
    await stage.relay.destinations.lift("slow.test")
    with capture_logs() as more:
        await stage.hastener.look()
        await stage.hastener.look()
    assert await stage.due() == 55
    assert sum(each["letters"] for each in [*logs, *more] if each["event"] == "letters_hastened") == 55


@pytest.mark.asyncio
async def test_who_comes_next_after_a_change_does_not_stand_behind_those_who_were_told_their_turns() -> None:
    clock = ManualClock()
    slow = Limiter(MemorySlotStore(clock), SLOW[0], clock, backlog=int)
    relay = known_relay(FakeRelay(), clock)
    limits = Destinations(relay.limiter, lambda *_: slow, clock)
    for then in ({"slow.test": FAST}, {}):
        limits.change({"slow.test": SLOW})
        for _ in range(100):
            slow.turn(clock.monotonic())
        assert slow.promised(clock.monotonic()) > 90
        limits.change(then)
        assert slow.promised(clock.monotonic()) == 0
        assert slow.next_turn(clock.monotonic()) - clock.monotonic() < 3


@pytest.mark.asyncio
async def test_it_looks_when_the_queue_answers_and_again_when_other_replicas_have_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hastening, "SOON", 0.0)
    stage, stop, looks = Stage(SystemClock()), asyncio.Event(), list[bool]()

    async def look() -> None:
        looks.append(True)
        if len(looks) == 1:
            raise Unavailable("away")

    monkeypatch.setattr(stage.hastener, "look", look)
    task = asyncio.create_task(stage.hastener.run(stop))
    await until(lambda: len(looks) == 2)
    stage.hastener.ask(heard=0.1)
    await until(lambda: len(looks) == 4)
    stop.set()
    await task
    assert len(looks) == 4
