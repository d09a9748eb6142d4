"""Outcomes are gathered, written until they are durable, and handed on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from mailsender.journal.port import NoJournal
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Letter, Phase, Recipient, Result, Settlement, Status, Verdict
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.sending.attempt import as_error
from mailsender.sending.settler import BATCH, BATCH_BYTES, GATHER, GATHER_JOURNALED, UNSETTLED, Settler
from tests.dispatching import Scene, letter, running, until
from tests.relays import ACCEPTED, FakeRelay


class Ending(NoJournal):
    """Remembers what it was told as done."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:  # type: ignore[override]
        for ids in ended.values():
            self.ended += ids


class FlakyQueue(MemoryQueue):
    """Away for the next `away` calls of settle and claim."""

    away = 0

    async def settle(self, settlements):  # type: ignore[no-untyped-def]
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        return await super().settle(settlements)


@pytest.mark.asyncio
async def test_settling_is_repeated_until_mongodb_is_back() -> None:
    queue = FlakyQueue(SystemClock())
    queue.away = 3
    async with running(FakeRelay(), queue=queue) as scene:
        await queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await scene.settled(1)
    assert queue.away == 0


@pytest.mark.asyncio
async def test_while_outcomes_cannot_be_written_no_letter_is_begun() -> None:
    """Each would be sent again if the process died then."""
    queue = FlakyQueue(SystemClock())
    queue.away = 1_000_000
    relay = FakeRelay()
    async with running(relay, queue=queue, senders=2) as scene:
        await queue.insert([letter(n) for n in range(100)])
        scene.dispatcher.nudge()
        await until(lambda: scene.settler.condition.text)
        begun = len(relay.sent)
        await asyncio.sleep(0.3)  # nothing is to happen, and nothing tells
        assert len(relay.sent) - begun <= 2
        queue.away = 0
        await scene.settled(100)
    assert len(relay.sent) == 100


@asynccontextmanager
async def in_an_outage(relay: FakeRelay) -> AsyncIterator[tuple[FlakyQueue, Scene]]:
    """Four letters with slots to come, and an outcome that cannot be written."""
    queue = FlakyQueue(SystemClock())
    queue.away = 1_000_000
    async with running(relay, queue=queue, allowance=Allowance(letters=10, period=1.0)) as scene:
        await queue.insert([letter(n) for n in range(4)])
        scene.dispatcher.nudge()
        await until(lambda: scene.settler.condition.text)
        yield queue, scene


@pytest.mark.asyncio
async def test_a_letter_that_waited_for_its_slot_is_not_begun_either() -> None:
    """Its worker took it while outcomes could be written still, and slots are leased ahead."""
    relay = FakeRelay()
    async with in_an_outage(relay) as (queue, scene):
        begun = len(relay.sent)
        await asyncio.sleep(0.5)  # the slots of all workers come and go, and nothing is to happen
        assert len(relay.sent) == begun
        queue.away = 0
        await scene.settled(4)
    assert len(relay.sent) == 4


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_outcomes_that_cannot_be_written() -> None:
    relay = FakeRelay()
    async with in_an_outage(relay) as (queue, scene):
        await asyncio.sleep(0.3)  # until the workers have had their slots
        scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.finish(5.0)
        queue.away = 0
        assert await scene.settler.flush(5.0)
        stats = await queue.stats()
    assert (stats.processing, stats.awaiting + len(relay.sent)) == (0, 4)


class HangingQueue(MemoryQueue):
    """Settles only when told to."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.answer = asyncio.Event()

    async def settle(self, settlements):  # type: ignore[no-untyped-def]
        await self.answer.wait()
        return await super().settle(settlements)


@pytest.mark.asyncio
async def test_only_so_many_outcomes_wait_for_a_store_that_hangs() -> None:
    queue = HangingQueue(SystemClock())
    relay = FakeRelay()
    async with running(relay, queue=queue, senders=2) as scene:
        await queue.insert([letter(n) for n in range(UNSETTLED + 500)])
        scene.dispatcher.nudge()
        await until(lambda: not scene.settler.open.is_set())
        await asyncio.sleep(0.1)  # as above
        assert len(relay.sent) <= UNSETTLED + 2
        queue.answer.set()
        await scene.settled(UNSETTLED + 500)


class HalfAnsweringQueue(MemoryQueue):
    """Settles and releases at once, and says so only when told to: a majority does not have it yet."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.written, self.answer = asyncio.Event(), asyncio.Event()

    async def settle(self, settlements):  # type: ignore[no-untyped-def]
        late = await super().settle(settlements)
        self.written.set()
        await self.answer.wait()
        return late

    async def release(self, token, ids):  # type: ignore[no-untyped-def]
        await super().release(token, ids)
        self.written.set()
        await self.answer.wait()


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.asyncio
async def test_what_is_written_back_is_in_flight_until_it_is_durable(sent: bool) -> None:
    """Told as done before, it would be sent again if it was rolled back and we died."""
    clock, journal = SystemClock(), Ending()
    queue, in_flight = HalfAnsweringQueue(clock), InFlight(journal)
    settler = Settler(queue, in_flight, clock, report=ignore)
    await queue.insert([letter(1)])
    claimed = await queue.claim(1, "t")
    in_flight.take(claimed)
    writing = asyncio.create_task(settler.run())
    if sent:
        settler.put(Settlement(token="t", letter=as_error(claimed.letters[0], "no address")))
    else:
        settler.release("t", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        assert (len(in_flight), journal.ended) == (1, [])
        queue.answer.set()
        assert await settler.flush(10)
    assert (len(in_flight), journal.ended) == (0, [letter(1).id])
    writing.cancel()
    await asyncio.wait({writing})


async def ignore(letters: Sequence[Letter]) -> None:
    """A report nobody reads."""


@pytest.mark.asyncio
async def test_what_goes_back_while_others_of_its_claim_do_is_written_too() -> None:
    clock = SystemClock()
    queue, in_flight = HalfAnsweringQueue(clock), InFlight()
    settler = Settler(queue, in_flight, clock, report=ignore)
    await queue.insert([letter(1), letter(2)])
    in_flight.take(await queue.claim(2, "t"))
    writing = asyncio.create_task(settler.run())
    settler.release("t", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        settler.release("t", [letter(2).id])
        queue.answer.set()
        assert await settler.flush(10)
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing, len(in_flight), settler.tally.released) == (2, 0, 0, 2)
    writing.cancel()
    await asyncio.wait({writing})


class ForgetfulQueue(MemoryQueue):
    """Gives a letter back and says that it does not know: the reply was lost, as in a failover."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.written = asyncio.Event()

    async def release(self, token, ids):  # type: ignore[no-untyped-def]
        await super().release(token, ids)
        if not self.written.is_set():
            self.written.set()
            raise Unavailable("away")


@pytest.mark.asyncio
async def test_a_write_that_is_repeated_does_not_end_a_newer_claim() -> None:
    """Nobody would send its letter as long as this replica lives."""
    clock = SystemClock()
    queue, in_flight = ForgetfulQueue(clock), InFlight()
    settler = Settler(queue, in_flight, clock, report=ignore)
    await queue.insert([letter(1)])
    in_flight.take(await queue.claim(1, "old"))
    writing = asyncio.create_task(settler.run())
    settler.release("old", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        in_flight.take(await queue.claim(1, "new"))
        assert await settler.flush(10)
    assert (len(in_flight), in_flight.token(letter(1).id)) == (1, "new")
    writing.cancel()
    await asyncio.wait({writing})


class TimedQueue(MemoryQueue):
    """Remembers when outcomes were written."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.times: list[float] = []

    async def settle(self, settlements):  # type: ignore[no-untyped-def]  as the port has it
        self.times.append(time.monotonic())
        return await super().settle(settlements)


@pytest.mark.parametrize(("replica", "gather"), [("", GATHER), ("ab" * 8, GATHER_JOURNALED)])
@pytest.mark.asyncio
async def test_outcomes_gather_for_longer_where_a_journal_knows_them(replica: str, gather: float) -> None:
    clock, journal = SystemClock(), NoJournal()
    journal.replica = replica
    queue, in_flight = TimedQueue(clock), InFlight(journal)
    settler = Settler(queue, in_flight, clock, report=ignore)
    await queue.insert([letter(1), letter(2), letter(3)])
    lease = await queue.claim(3, "t")
    in_flight.take(lease)
    writing = asyncio.create_task(settler.run())
    for one in lease.letters:
        settler.put(Settlement(token="t", letter=as_error(one, "no address")))
        await until(lambda: queue.times)
    async with asyncio.timeout(10):
        assert await settler.flush(10)
    first, second = queue.times
    assert second - first >= 0.9 * gather  # timers and the way to the queue take and give a little
    writing.cancel()
    await asyncio.wait({writing})


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.asyncio
async def test_a_full_write_waits_for_no_more(large: bool) -> None:
    clock, journal = SystemClock(), NoJournal()
    count, body = (3, "x" * (BATCH_BYTES // 2)) if large else (BATCH + 1, "")
    journal.replica = "ab" * 8
    queue, in_flight = TimedQueue(clock), InFlight(journal)
    settler = Settler(queue, in_flight, clock, report=ignore)
    settler._pause = 3600.0
    await queue.insert([letter(n).evolve(body=body) for n in range(count)])
    lease = await queue.claim(count, "t")
    in_flight.take(lease)
    writing = asyncio.create_task(settler.run())
    settler.put(Settlement(token="t", letter=as_error(lease.letters[0], "no address")))
    await until(lambda: queue.times)
    for one in lease.letters[1:]:
        settler.put(Settlement(token="t", letter=as_error(one, "no address")))
    async with asyncio.timeout(10):
        assert await settler.flush(10)
    assert len(queue.times) == 2
    writing.cancel()
    await asyncio.wait({writing})


class FussyQueue(MemoryQueue):
    """Never stores an outcome whose text holds ``unstorable``."""

    async def settle(self, settlements):  # type: ignore[no-untyped-def]
        if "unstorable" in repr(settlements):
            raise Rejected("cannot be stored")
        return await super().settle(settlements)


@pytest.mark.asyncio
async def test_an_outcome_that_cannot_be_stored_harms_no_other_and_is_kept_in_plainer_words() -> None:
    bad = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, text="unstorable")
    relay = FakeRelay(answer=lambda address: bad if address.startswith("r3@") else ACCEPTED)
    async with running(relay, queue=FussyQueue(SystemClock())) as scene:
        await scene.queue.insert([letter(n) for n in range(8)])
        scene.dispatcher.nudge()
        await scene.settled(8)
        stats = await scene.queue.stats()
    assert (stats.sent, stats.error, stats.processing) == (7, 1, 0)


class SlowProgress(MemoryQueue):
    """Writes what is known of slices when told to, and says when it was asked."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.calls = 0
        self.fails = 0

    async def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> bool:
        self.calls += 1
        self.asked.set()
        await self.go.wait()
        if self.fails:
            self.fails -= 1
            raise Unavailable("no primary")
        return await super().progress(token, letter_id, changed)


class TakesLong(MemoryQueue):
    """Takes a while to write what is known of slices."""

    async def progress(self, token: str, letter_id: str, changed: Mapping[int, Recipient]) -> bool:
        await asyncio.sleep(0.02)
        return await super().progress(token, letter_id, changed)


@pytest.mark.asyncio
async def test_slices_of_large_letters_keep_no_other_outcome_from_being_written() -> None:
    queue = TakesLong(SystemClock())
    fifty = [f"r{n}@example.test" for n in range(50)]
    async with running(FakeRelay(), queue=queue, senders=5, max_recipients=1) as scene:
        await queue.insert([letter(n, *fifty) for n in range(6)])
        scene.dispatcher.nudge()
        await until(lambda: scene.settler._progress)
        await queue.insert([letter(99)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        assert [each.id for each in scene.reported] == [letter(99).id]


SIX = tuple(f"r{n}@example.test" for n in range(6))


@pytest.mark.asyncio
async def test_no_slice_is_begun_before_the_one_before_it_is_written() -> None:
    queue, relay = SlowProgress(SystemClock()), FakeRelay()
    await queue.insert([letter(1, *SIX)])
    async with running(relay, queue=queue, max_recipients=2, senders=1) as scene:
        await queue.asked.wait()
        assert [each.recipients for each in relay.sent] == [SIX[:2]]
        queue.fails = 1
        queue.go.set()
        [done] = await scene.settled(1)
        assert queue.calls == 3, "one of them twice, and none for the last slice"
    assert (done.status, done.attempts) == (Status.SENT, 1)
    assert len(relay.sent) == 3


@pytest.mark.asyncio
async def test_what_is_written_of_slices_is_not_sent_again_by_the_next_owner() -> None:
    """The process dies in the third slice: nobody but its recipients may get the letter twice."""

    def answer(address: str) -> Result:
        if address == SIX[3]:
            relay.hold = asyncio.Event()  # the third one stays under way
        return ACCEPTED

    queue, relay = MemoryQueue(SystemClock()), FakeRelay(answer=answer)
    await queue.insert([letter(1, *SIX)])
    async with running(relay, queue=queue, max_recipients=2, senders=1) as scene:
        await until(lambda: len(relay.sent) == 2 and relay.under_way)
        found = await queue.get(letter(1).id)
        assert found is not None
        assert (found.status, found.pending) == (Status.PROCESSING, SIX[4:])
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1)


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_what_cannot_be_written() -> None:
    queue, relay = SlowProgress(SystemClock()), FakeRelay()
    await queue.insert([letter(1, *SIX)])
    async with running(relay, queue=queue, max_recipients=2, senders=1) as scene:
        await queue.asked.wait()
        scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.finish(2.0)
        queue.go.set()
        assert await scene.settler.flush(5.0)
        found = await queue.get(letter(1).id)
    assert found is not None
    assert (found.status, found.pending, len(relay.sent)) == (Status.AWAITING, SIX[2:], 1)


@pytest.mark.asyncio
async def test_an_ordinary_letter_pays_nothing() -> None:
    queue, relay = SlowProgress(SystemClock()), FakeRelay()
    await queue.insert([letter(1), letter(2, *SIX)])
    async with running(relay, queue=queue) as scene:
        await scene.settled(2)
    assert queue.calls == 0


class StrictQueue(MemoryQueue):
    """Stores only outcomes that `takes` likes."""

    def __init__(self, clock: SystemClock, takes: Callable[[Letter], bool]) -> None:
        super().__init__(clock)
        self.takes = takes

    async def settle(self, settlements):  # type: ignore[no-untyped-def]
        if not all(self.takes(each.letter) for each in settlements):
            raise Rejected("cannot be stored")
        return await super().settle(settlements)


def has_text(letter: Letter) -> bool:
    return any(each.result is not None and each.result.text for each in letter.recipients)


def has_results(letter: Letter) -> bool:
    return any(each.result is not None for each in letter.recipients)


def partly(letter: Letter) -> Letter:
    """One has it, the other waits."""
    said = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, text="later")
    got = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, text="ok")
    recipients = (Recipient(address="a@b.test", result=got), Recipient(address="c@d.test", result=said))
    return letter.evolve(addresses=("a@b.test", "c@d.test"), recipients=recipients, status=Status.AWAITING)


@pytest.mark.parametrize(
    ("refuses", "kept", "status"),
    [(has_text, True, Status.AWAITING), (has_results, False, Status.SENT)],
    ids=["without texts", "without results"],
)
@pytest.mark.asyncio
async def test_what_is_reported_is_what_was_written(
    refuses: Callable[[Letter], bool], kept: bool, status: Status
) -> None:
    """An outcome in plainer words is reported in these; one of which nothing can be kept ends the letter."""
    clock, in_flight = SystemClock(), InFlight()
    reported: list[Letter] = []

    async def report(letters: Sequence[Letter]) -> None:
        reported.extend(letters)

    queue = StrictQueue(clock, lambda each: not refuses(each))
    settler = Settler(queue, in_flight, clock, report=report)
    await queue.insert([partly(letter(n)).evolve(recipients=()) for n in range(3)])
    lease = await queue.claim(3, "t")
    in_flight.take(lease)
    writing = asyncio.create_task(settler.run())
    one, other, third = lease.letters
    settler.put(Settlement(token="t", letter=partly(one)))
    settler.put(Settlement(token="t", letter=as_error(other, "no address")))
    settler.put(Settlement(token="t", letter=partly(third).evolve(status=Status.SENT)))
    assert await settler.flush(10)
    stored = {each.id: await queue.get(each.id) for each in lease.letters}
    assert reported
    assert all(stored[each.id] == each for each in reported)
    found = stored[one.id]
    assert found is not None
    assert (found.status, has_results(found)) == (status, kept)
    assert len(in_flight) == 0
    writing.cancel()
    await asyncio.wait({writing})


@pytest.mark.asyncio
async def test_what_can_be_written_in_no_words_is_neither_reported_nor_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stays in hand, so that its lease is renewed, until the store takes it."""
    monkeypatch.setattr("mailsender.sending.settler.REPEAT_UNWRITTEN", 0.05)
    clock, in_flight = SystemClock(), InFlight()
    reported: list[str] = []

    async def report(letters: Sequence[Letter]) -> None:
        reported.extend(each.id for each in letters)

    queue = StrictQueue(clock, lambda each: each.id != letter(1).id)
    settler = Settler(queue, in_flight, clock, report=report)
    await queue.insert([letter(n) for n in range(3)])
    lease = await queue.claim(3, "t")
    in_flight.take(lease)
    writing = asyncio.create_task(settler.run())
    with capture_logs() as logs:
        for each in lease.letters:
            settler.put(Settlement(token="t", letter=as_error(each, "no address")))
        assert await settler.flush(10)
        assert sorted(reported) == sorted([letter(0).id, letter(2).id])
        assert (len(in_flight), in_flight.token(letter(1).id)) == (1, "t")
        assert settler.open.is_set()
        assert (settler.tally.error, (await queue.stats()).processing) == (2, 1)
        queue.takes = lambda _: True
        await until(lambda: len(reported) == 3)
    assert len(in_flight) == 0
    assert [each["event"] for each in logs].count("outcome_not_written") == 1
    writing.cancel()
    await asyncio.wait({writing})


@pytest.mark.asyncio
async def test_a_letter_that_cannot_be_given_back_holds_up_no_other() -> None:
    clock, in_flight = SystemClock(), InFlight()

    class Keeps(MemoryQueue):
        async def release(self, token, ids):  # type: ignore[no-untyped-def]
            if letter(1).id in ids:
                raise Rejected("no")
            await super().release(token, ids)

    queue = Keeps(clock)
    settler = Settler(queue, in_flight, clock, report=ignore)
    await queue.insert([letter(n) for n in range(4)])
    in_flight.take(await queue.claim(4, "t"))
    writing = asyncio.create_task(settler.run())
    settler.release("t", [letter(n).id for n in range(4)])
    assert await settler.flush(10)
    assert ((await queue.stats()).awaiting, len(in_flight), settler.tally.released) == (3, 0, 3)
    writing.cancel()
    await asyncio.wait({writing})
