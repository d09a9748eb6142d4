"""Letters that a claim brought under our name, and not here: somebody has to give them back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from mailsender.intake.consumer import Intake, IntakeConfig
from mailsender.intake.placing import Placing
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Claim, FreshClaim, Letter, replica_of
from mailsender.model.records import Record
from mailsender.observe.supervision import Supervisor
from mailsender.queue.heartbeat import Health
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.port import Inserted
from mailsender.sending.expiry import Expiry
from tests.claims import token_of
from tests.clocks import ManualClock
from tests.dispatching import letter, running, until
from tests.fakes import FakeSink, FakeSource, record
from tests.fleet import fleet, route
from tests.relays import FakeRelay
from tests.unit.test_intake import letters as value_of

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks come after moments, and MongoDB has always been there."""
    monkeypatch.setattr("mailsender.sending.lost_claims.EVERY", 0.05)
    monkeypatch.setattr("mailsender.sending.lost_claims.SOON", 0.02)
    monkeypatch.setattr(Health, "steady", lambda *_: True)


class HalfHeard(MemoryQueue):
    """The reply of the first claim is lost, and as it is read back only a part is there."""

    heard = False

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        found = await super().claim(limit, token, route)
        if self.heard or not found.letters:
            return found
        self.heard = True
        return replace(found, letters=found.letters[:1], places=found.places[:1])


async def test_what_comes_under_a_claim_after_it_was_read_back_is_sent() -> None:
    queue = HalfHeard(SystemClock())
    await queue.insert([letter(n) for n in range(3)])
    async with running(FakeRelay(), queue=queue) as scene:
        await scene.settled(3)
        assert (await queue.stats()).processing == 0


async def test_what_is_in_flight_is_left_alone() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    queue = Looked(SystemClock())
    await queue.insert([letter(n) for n in range(9)])
    async with running(relay, queue=queue) as scene:
        await relay.started.wait()
        looks = queue.looks
        await until(lambda: queue.looks > looks + 3)
        assert queue.released == []
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(9)
    assert len(relay.sent) == 9


class Looked(MemoryQueue):
    """Counts looks for claims, and notes what is released; holds the answers to claims until told to."""

    def __init__(self, clock: SystemClock, *, answers: bool = True) -> None:
        super().__init__(clock)
        self.looks = 0
        self.released: list[str] = []
        self.claimed = asyncio.Event()
        self.answer = asyncio.Event()
        if answers:
            self.answer.set()

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        found = await super().claim(limit, token, route)
        if found.letters:
            self.claimed.set()
            await self.answer.wait()
        return found

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        self.looks += 1
        return await super().claims_of(replica)

    async def release(self, token: str, ids: Sequence[str]) -> None:
        self.released += ids
        await super().release(token, ids)


async def test_a_claim_under_way_is_left_alone() -> None:
    queue = Looked(SystemClock(), answers=False)
    await queue.insert([letter(n) for n in range(3)])
    async with running(FakeRelay(), queue=queue) as scene:
        await queue.claimed.wait()
        looks = queue.looks
        await until(lambda: queue.looks > looks + 3)
        queue.answer.set()
        await scene.settled(3)
    assert queue.released == []


async def test_what_is_settled_while_the_queue_is_read_is_nothing_that_was_lost() -> None:
    queue = Looked(SystemClock())
    async with running(FakeRelay(), queue=queue) as scene:
        token = token_of(scene.in_flight.replica)
        seen = {token: True}

        async def claims_of(_: str) -> dict[str, list[str]]:
            return {token: [letter(1).id]} if seen.pop(token, None) else {}

        queue.claims_of = claims_of  # type: ignore[method-assign, assignment]
        with capture_logs() as logs:
            assert await scene.dispatcher.lost_claims.give_back() == 0
    assert queue.released == []
    assert [each for each in logs if each["event"] == "lost_claims_returned"] == []


class Unheard(MemoryQueue):
    """Claims without an answer: at first nothing is claimed, the last time it is."""

    def __init__(self, clock: SystemClock, claims: int) -> None:
        super().__init__(clock)
        self.left = claims

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        self.left -= 1
        if self.left > 0:
            raise Unavailable("no server")
        found = await super().claim(limit, token, route)
        if self.left == 0:
            raise Unavailable("no answer")
        return found


async def test_of_many_claims_without_an_answer_none_is_forgotten() -> None:
    """Ten routes and an outage of some minutes are hundreds; the last of them was carried out."""
    queue = Unheard(SystemClock(), 150)
    await queue.insert([letter(1)])
    async with running(FakeRelay(), queue=queue) as scene:
        while queue.left > 0:
            await scene.dispatcher._claim(scene.route, 1)
        await scene.settled(1)


class Faulty(MemoryQueue):
    """Once, what was claimed cannot be made letters of."""

    failed = False

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        found = await super().claim(limit, token, route)
        if found.letters and not self.failed:
            self.failed = True
            raise KeyError("a bug")
        return found


async def test_a_fault_of_ours_after_a_claim_strands_nothing() -> None:
    queue = Faulty(SystemClock())
    await queue.insert([letter(1)])
    supervisor = Supervisor(SystemClock(), lambda *_: None)
    with capture_logs():
        async with fleet(
            {"a": FakeRelay()}, [route("default", "a")], queue=queue, keep=supervisor.keep
        ) as scene:
            await scene.settled(1)


class Stuck(MemoryQueue):
    """Stores what is inserted, and the first time nobody hears of it."""

    stuck = False

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        found = await super().insert(letters, claims)
        if not self.stuck:
            self.stuck = True
            assert found == [Inserted.CLAIMED] * len(letters)
            await asyncio.Event().wait()
        return found


class FaultyPlacing(Placing):
    """Fails once, at a letter that is decoded while those before it are stored."""

    def __init__(self) -> None:
        super().__init__(lambda _: "default")
        self.failed = False

    def placed(self, letter: Letter, now: datetime) -> Letter:
        if letter.subject == "c" and not self.failed:
            self.failed = True
            raise KeyError("a bug")
        return super().placed(letter, now)


class Again(FakeSource):
    """Has the same records each time that it is opened."""

    async def open(self) -> None:
        self.fetches.append(RECORDS)

    async def fetch(self, timeout: float) -> list[Record]:
        await asyncio.sleep(0.01)
        return await super().fetch(timeout)


RECORDS = [record(value_of(*["a"] * 100)), record(value_of(*["b"] * 64, "c"), offset=1)]


async def test_a_fault_of_intake_while_its_letters_are_stored_strands_none_of_them() -> None:
    queue, stop, clock = Stuck(SystemClock()), asyncio.Event(), SystemClock()
    supervisor = Supervisor(clock, lambda *_: None)
    with capture_logs():
        async with running(FakeRelay(), queue=queue) as scene:
            await until(lambda: scene.route.dry)
            intake = Intake(
                Again(ManualClock()),
                queue,
                FakeSink(),
                config=IntakeConfig(dead_letter_topic="dead", retention=86400.0, batch=100),
                clock=clock,
                owner=scene.dispatcher,
                placing=FaultyPlacing(),
            )
            taking = asyncio.create_task(supervisor.keep("intake", lambda: intake.run(stop), stop, ""))
            await until(lambda: queue.stuck)
            await scene.settled(165)
            stop.set()
            await taking
            assert (await queue.stats()).processing == 0
    assert Counter(each.subject for each in scene.reported) == {"a": 100, "b": 64, "c": 1}


# --- a name that others do not know ----------------------------------------------------------------


class Joining(MemoryQueue):
    """Joins when it is told to; notes under whose names letters are claimed that are not known yet."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.may_join = asyncio.Event()
        self.may_join.set()
        self.unknown: list[str] = []

    async def join(self, replica: str, life: float) -> None:
        await self.may_join.wait()
        await super().join(replica, life)

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        if replica_of(token) not in await self.living():
            self.unknown.append(token)
        return await super().claim(limit, token, route)


async def test_nothing_is_claimed_under_a_name_that_has_not_joined() -> None:
    """Whoever looks for letters of the dead would find them, and give them to others."""
    queue, relay = Joining(SystemClock()), FakeRelay()
    async with running(relay, queue=queue) as scene:
        await until(lambda: scene.route.dry)
        queue.may_join.clear()
        await queue.leave(scene.in_flight.replica)
        was = scene.in_flight.replica
        with capture_logs():
            beating = asyncio.create_task(scene.heartbeat.beat())
            await until(lambda: scene.in_flight.replica != was)
        assert await scene.dispatcher.fresh_claims([letter(2)]) == []
        queue.unknown.clear()  # of the dead one
        await queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await asyncio.sleep(1.5)  # longer than a look into an empty queue takes to come
        assert queue.unknown == []
        queue.may_join.set()
        await beating
        await scene.settled(1)
    assert len(relay.sent) == 1


async def test_nor_is_what_expired() -> None:
    clock = SystemClock()
    queue, in_flight = MemoryQueue(clock), InFlight()
    expired: list[int] = []

    async def claim_expired(limit: int, token: str) -> Claim:
        expired.append(limit)
        return Claim(token=token)

    queue.claim_expired = claim_expired  # type: ignore[method-assign]
    async with running(FakeRelay()) as scene:
        expiry = Expiry(queue, in_flight, scene.settler)
        assert await expiry.sweep(10) == 0
        assert expired == []
        in_flight.alive_until = clock.monotonic() + 60
        await expiry.sweep(10)
    assert expired == [10]
