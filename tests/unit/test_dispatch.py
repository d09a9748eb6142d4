"""Claim, slot, worker, settle: the loops over the in-memory queue and a scripted relay."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest
import uvloop

from mailsender.adapters.memory import MemoryQueue, MemorySlotStore
from mailsender.dispatch import FRESH, PATIENCE, Dispatch, LetterBasket, Pace
from mailsender.gate import SlotGate
from mailsender.leases import Hand, LeaseKeeper
from mailsender.letter import Answer, Letter, Origin, Phase, Recipient, Result, Settlement, Status, Verdict
from mailsender.limiter import Allowance
from mailsender.notebook import NoNotes, Notes
from mailsender.ports import Rejected, SystemClock, Unavailable
from mailsender.retry import RetryPolicy, as_error
from mailsender.settle import BATCH, BATCH_BYTES, GATHER, GATHER_NOTED, UNSETTLED, Settler
from mailsender.worker import SendPolicy
from tests.relays import ACCEPTED, FakeRelay

UNLIMITED = Allowance(letters=0, period=1.0)


def letter(number: int, *addresses: str, **more: object) -> Letter:
    origin = Origin(topic="t", partition=0, offset=number, index=0, timestamp=1_700_000_000_000)
    wanted = addresses or (f"r{number}@example.test",)
    return Letter(
        id=origin.letter_id(),
        addresses=wanted,
        subject=f"letter {number}",
        body="b",
        answers=(Answer(origin=origin),),
        recipients=tuple(Recipient(address=address) for address in wanted),
        **more,  # type: ignore[arg-type]
    )


async def until(check: Callable[[], object]) -> None:
    """Let the loops run until `check` holds; what is asked for has no event of its own."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class PlainComposer:
    def compose(self, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        if letter.subject == "raises":
            raise RuntimeError("a bug")
        if letter.subject == "bad header":
            raise ValueError("Subject: holds a control character")
        return letter.body.encode()

    def message_id(self, letter_id: str) -> str:
        return f"<{letter_id}@example.test>"


@dataclass
class Scene:
    queue: MemoryQueue
    relay: FakeRelay
    dispatch: Dispatch
    settler: Settler
    hand: Hand
    keeper: LeaseKeeper
    gate: SlotGate
    reported: list[Letter] = field(default_factory=list)

    async def settled(self, count: int) -> list[Letter]:
        await until(lambda: len(self.reported) >= count)
        return self.reported

    async def stats_are(self, **wanted: int) -> None:
        async with asyncio.timeout(10):
            while True:
                stats = await self.queue.stats()
                if all(getattr(stats, name) == value for name, value in wanted.items()):
                    return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    relay: FakeRelay,
    *,
    allowance: Allowance = UNLIMITED,
    senders: int = 3,
    queue: MemoryQueue | None = None,
    notes: Notes | None = None,
    max_recipients: int = 100,
    max_attempts: int = 2,
    delay: float = 0.02,
    lease: float = 60.0,
    **policy: float,
) -> AsyncIterator[Scene]:
    clock = SystemClock()
    queue = queue or MemoryQueue(clock)
    hand = Hand(notes)
    keeper = LeaseKeeper(queue, hand, clock, lease=lease)
    basket = LetterBasket()
    gate = SlotGate(MemorySlotStore(clock), allowance, clock, backlog=basket.__len__)
    reported: list[Letter] = []

    async def report(letters: Sequence[Letter]) -> None:
        reported.extend(letters)

    settler = Settler(queue, hand, clock, report=report)
    dispatch = Dispatch(
        queue=queue,
        relay=relay,
        composer=PlainComposer(),
        gate=gate,
        hand=hand,
        keeper=keeper,
        settler=settler,
        policy=SendPolicy(
            reverse_path="s@example.test",
            max_recipients=max_recipients,
            max_letters_per_session=int(policy.get("max_letters_per_session", 0)),
            session_idle=policy.get("session_idle", 30.0),
            refuse_probability=policy.get("refuse_probability", 0.0),
            retry=RetryPolicy(max_attempts=max_attempts, delay=delay),
            lease=lease,
        ),
        senders=senders,
        clock=clock,
        basket=basket,
        chance=random.Random(1),
    )
    scene = Scene(queue, relay, dispatch, settler, hand, keeper, gate, reported)
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        settling = group.create_task(settler.run())
        group.create_task(dispatch.run())
        group.create_task(gate.run(stop))
        try:
            yield scene
        finally:
            dispatch.stop_claiming()
            await dispatch.finish(1.0)
            await settler.flush(5.0)
            stop.set()
            settling.cancel()


@pytest.mark.asyncio
async def test_letters_are_sent_and_settled() -> None:
    relay = FakeRelay()
    async with running(relay) as scene:
        await scene.queue.insert([letter(n) for n in range(50)])
        scene.dispatch.nudge()
        done = await scene.settled(50)
    assert {found.status for found in done} == {Status.SENT}
    assert len(relay.sent) == 50
    assert (len(scene.hand), scene.hand.bytes) == (0, 0)
    stats = await scene.queue.stats()
    assert (stats.awaiting, stats.processing, stats.sent, stats.unreported) == (0, 0, 50, 50)


@pytest.mark.asyncio
async def test_sessions_are_reused_and_opened_only_when_needed() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1) as scene:
        assert relay.connects == 0
        await scene.queue.insert([letter(n) for n in range(20)])
        scene.dispatch.nudge()
        await scene.settled(20)
        assert relay.connects == 1


@pytest.mark.asyncio
async def test_a_session_is_opened_anew_after_its_share_of_letters() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1, max_letters_per_session=5) as scene:
        await scene.queue.insert([letter(n) for n in range(20)])
        scene.dispatch.nudge()
        await scene.settled(20)
    assert relay.connects == 4
    assert all(session.closed for session in relay.sessions)


@pytest.mark.asyncio
async def test_an_idle_session_is_closed() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1, session_idle=0.02) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatch.nudge()
        await scene.settled(1)
        await until(lambda: relay.sessions[0].closed)
        assert scene.dispatch.relay.open_sessions == 0


@pytest.mark.asyncio
async def test_while_the_relay_is_away_no_attempt_is_counted_and_letters_wait_in_the_queue() -> None:
    relay = FakeRelay(away="connection refused")
    async with running(relay) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatch.nudge()
        await until(lambda: scene.dispatch.relay.away)
        await scene.stats_are(awaiting=10, processing=0)
        relay.away = ""
        done = await scene.settled(10)
    assert {found.attempts for found in done} == {1}


@pytest.mark.asyncio
async def test_slices_of_a_large_letter_are_one_attempt_and_each_recipient_is_asked_once() -> None:
    relay = FakeRelay()
    addresses = [f"a{n}@example.test" for n in range(25)]
    async with running(relay, max_recipients=10) as scene:
        await scene.queue.insert([letter(1, *addresses)])
        scene.dispatch.nudge()
        (done,) = await scene.settled(1)
    assert [len(envelope.recipients) for envelope in relay.sent] == [10, 10, 5]
    assert sorted(a for envelope in relay.sent for a in envelope.recipients) == sorted(addresses)
    assert (done.status, done.attempts) == (Status.SENT, 1)


@pytest.mark.asyncio
async def test_a_retry_reaches_only_the_deferred() -> None:
    answers = {"b@example.test": [Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450), ACCEPTED]}

    def answer(address: str) -> Result:
        return answers.get(address, [ACCEPTED]).pop(0) if address in answers else ACCEPTED

    relay = FakeRelay(answer=answer)
    async with running(relay) as scene:
        await scene.queue.insert([letter(1, "a@example.test", "b@example.test")])
        scene.dispatch.nudge()
        (done,) = await scene.settled(1)
    assert [envelope.recipients for envelope in relay.sent] == [
        ("a@example.test", "b@example.test"),
        ("b@example.test",),
    ]
    assert (done.status, done.attempts) == (Status.SENT, 2)


@pytest.mark.asyncio
async def test_a_letter_that_raises_ends_as_error_and_its_neighbours_are_sent() -> None:
    relay = FakeRelay()
    letters = [
        letter(1),
        letter(2).evolve(subject="raises"),
        letter(3).evolve(subject="bad header"),
        letter(4),
    ]
    async with running(relay, senders=1) as scene:
        await scene.queue.insert(letters)
        scene.dispatch.nudge()
        done = {found.subject: found for found in await scene.settled(4)}
    assert done["raises"].status is Status.ERROR
    assert "RuntimeError" in done["raises"].reason
    assert done["bad header"].reason == "Subject: holds a control character"
    assert {done["letter 1"].status, done["letter 4"].status} == {Status.SENT}


@pytest.mark.parametrize("error", [ValueError("Subject: no"), RuntimeError("a bug")])
@pytest.mark.asyncio
async def test_a_fault_in_a_later_slice_does_not_deny_what_was_accepted(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    made = PlainComposer.compose
    calls: list[str] = []

    def compose(self: PlainComposer, letter: Letter, *, eight_bit: bool, date: datetime) -> bytes:
        calls.append(letter.id)
        if len(calls) > 1:
            raise error
        return made(self, letter, eight_bit=eight_bit, date=date)

    monkeypatch.setattr(PlainComposer, "compose", compose)
    async with running(FakeRelay(), max_recipients=1) as scene:
        await scene.queue.insert([letter(1, "a@example.test", "b@example.test")])
        scene.dispatch.nudge()
        (done,) = await scene.settled(1)
    assert done.status is Status.SENT
    assert [r.result.verdict for r in done.recipients if r.result] == [Verdict.ACCEPTED, Verdict.REFUSED]


@pytest.mark.asyncio
async def test_the_courses_random_refusal() -> None:
    relay = FakeRelay()
    async with running(relay, refuse_probability=1.0) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatch.nudge()
        (done,) = await scene.settled(1)
    assert done.status is Status.ERROR
    assert relay.sent == []


@pytest.mark.asyncio
async def test_a_stop_gives_back_what_was_not_begun_and_ends_what_was() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=2) as scene:
        await scene.queue.insert([letter(n) for n in range(30)])
        scene.dispatch.nudge()
        await relay.started.wait()
        scene.dispatch.stop_claiming()
        assert relay.hold is not None
        relay.hold.set()
        assert await scene.dispatch.finish(5.0)
        assert await scene.settler.flush(5.0)
        stats = await scene.queue.stats()
    assert stats.processing == 0
    assert stats.sent == len(relay.sent)
    assert stats.sent + stats.awaiting == 30


@pytest.mark.parametrize("before_dot", [True, False])
@pytest.mark.asyncio
async def test_a_cut_before_the_dot_counts_no_attempt_after_it_is_uncertain(before_dot: bool) -> None:
    relay = FakeRelay(hold=asyncio.Event(), before_dot=before_dot)
    async with running(relay, senders=1) as scene:
        mine = letter(1)
        await scene.queue.insert([mine])
        scene.dispatch.nudge()
        await relay.started.wait()
        scene.dispatch.stop_claiming()
        assert not await scene.dispatch.finish(0.01)
        assert await scene.settler.flush(5.0)
        found = await scene.queue.get(mine.id)
    assert found is not None
    assert found.status is Status.AWAITING
    assert found.attempts == (0 if before_dot else 1)
    assert found.recipients[0].uncertain is not before_dot


@pytest.mark.asyncio
async def test_a_letter_whose_lease_was_lost_is_not_begun() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(1), letter(2)])
        scene.dispatch.nudge()
        await relay.started.wait()
        scene.hand.drop([letter(2).id])
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1)
    assert len(relay.sent) == 1


@pytest.mark.asyncio
async def test_nothing_begins_or_gets_its_dot_on_a_lease_about_to_end() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatch.nudge()
        await relay.started.wait()
        for token in scene.hand.by_token():
            scene.hand.extend([token], SystemClock().monotonic() + 0.5)
        assert relay.hold is not None
        relay.hold.set()
        await scene.stats_are(awaiting=1)
        assert relay.sent == []


@pytest.mark.parametrize("number", [1, 2], ids=["begun", "in the basket"])
@pytest.mark.asyncio
async def test_a_letter_that_came_back_under_a_new_claim_is_sent_once(number: int) -> None:
    """Frozen past its lease, a process may claim again what it has in a worker, or in its basket, still."""
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(1), letter(2)])
        scene.dispatch.nudge()
        await relay.started.wait()
        token = scene.hand.token(letter(number).id)
        assert token is not None
        await scene.queue.release(token, [letter(number).id])
        scene.dispatch.take_fresh(await scene.queue.claim(1, 60.0, "new"))
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(2)
        await scene.stats_are(sent=2)
        await until(lambda: not len(scene.hand))
    assert len(relay.sent) == 2
    assert len(scene.reported) == 2


class DoneNotes(NoNotes):
    """Remembers what was noted as done."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def done(self, ended: Mapping[str, Iterable[str]]) -> None:  # type: ignore[override]
        for ids in ended.values():
            self.ended += ids


class SlowQueue(MemoryQueue):
    """Answers claims only when told to."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.answer = asyncio.Event()
        self.claims = 0

    async def claim(self, limit, lease, token=""):  # type: ignore[no-untyped-def]
        found = await super().claim(limit, lease, token)
        self.claims += 1
        await self.answer.wait()
        return found


@pytest.mark.asyncio
async def test_a_claim_that_is_answered_during_the_stop_goes_back() -> None:
    queue = SlowQueue(SystemClock())
    await queue.insert([letter(n) for n in range(5)])
    async with running(FakeRelay(), queue=queue) as scene:
        await until(lambda: queue.claims)
        scene.dispatch.stop_claiming()
        assert not await scene.dispatch.claimed_out(0.01)
        queue.answer.set()
        assert await scene.dispatch.claimed_out(5.0)
        await scene.dispatch.finish(5.0)
        assert await scene.settler.flush(5.0)
        stats = await queue.stats()
    assert (stats.awaiting, stats.processing) == (5, 0)


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
        scene.dispatch.nudge()
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
        scene.dispatch.nudge()
        await until(lambda: scene.settler.trouble)
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
        scene.dispatch.nudge()
        await until(lambda: scene.settler.trouble)
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
        scene.dispatch.stop_claiming()
        assert await scene.dispatch.finish(5.0)
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
        scene.dispatch.nudge()
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
async def test_what_is_being_written_back_is_not_taken_for_lost(sent: bool) -> None:
    """Noted as done before it is durable, it would be sent again if it was rolled back and we died."""
    clock, notes = SystemClock(), DoneNotes()
    queue, hand = HalfAnsweringQueue(clock), Hand(notes)
    keeper = LeaseKeeper(queue, hand, clock, lease=60.0)
    settler = Settler(queue, hand, clock, report=ignore)
    await queue.insert([letter(1)])
    lease = await queue.claim(1, 60.0, "t")
    hand.take(lease)
    writing = asyncio.create_task(settler.run())
    if sent:
        settler.put(Settlement(token="t", letter=as_error(lease.letters[0], "no address")))
    else:
        settler.release("t", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        await keeper.renew()
        assert (keeper.lost, len(hand), notes.ended) == (0, 1, [])
        queue.answer.set()
        assert await settler.flush(10)
    assert (len(hand), notes.ended) == (0, [letter(1).id])
    writing.cancel()
    await asyncio.wait({writing})


async def ignore(letters: Sequence[Letter]) -> None:
    """A report nobody reads."""


@pytest.mark.asyncio
async def test_what_goes_back_while_others_of_its_claim_do_is_written_too() -> None:
    clock = SystemClock()
    queue, hand = HalfAnsweringQueue(clock), Hand()
    settler = Settler(queue, hand, clock, report=ignore)
    await queue.insert([letter(1), letter(2)])
    hand.take(await queue.claim(2, 60.0, "t"))
    writing = asyncio.create_task(settler.run())
    settler.release("t", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        settler.release("t", [letter(2).id])
        queue.answer.set()
        assert await settler.flush(10)
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing, len(hand), settler.tally.released) == (2, 0, 0, 2)
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
async def test_a_write_that_is_repeated_does_not_take_a_newer_claim_out_of_our_hand() -> None:
    """Nobody would renew it, nor send its letter, until its lease ran out."""
    clock = SystemClock()
    queue, hand = ForgetfulQueue(clock), Hand()
    settler = Settler(queue, hand, clock, report=ignore)
    await queue.insert([letter(1)])
    hand.take(await queue.claim(1, 60.0, "old"))
    writing = asyncio.create_task(settler.run())
    settler.release("old", [letter(1).id])
    async with asyncio.timeout(10):
        await queue.written.wait()
        hand.take(await queue.claim(1, 60.0, "new"))
        assert await settler.flush(10)
    assert hand.by_token() == {"new": [letter(1).id]}
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


@pytest.mark.parametrize(("run", "gather"), [("", GATHER), ("ab" * 8, GATHER_NOTED)])
@pytest.mark.asyncio
async def test_outcomes_gather_for_longer_where_notes_know_them(run: str, gather: float) -> None:
    clock, notes = SystemClock(), NoNotes()
    notes.run = run
    queue, hand = TimedQueue(clock), Hand(notes)
    settler = Settler(queue, hand, clock, report=ignore)
    await queue.insert([letter(1), letter(2), letter(3)])
    lease = await queue.claim(3, 60.0, "t")
    hand.take(lease)
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
    clock, notes = SystemClock(), NoNotes()
    count, body = (3, "x" * (BATCH_BYTES // 2)) if large else (BATCH + 1, "")
    notes.run = "ab" * 8
    queue, hand = TimedQueue(clock), Hand(notes)
    settler = Settler(queue, hand, clock, report=ignore)
    settler._pause = 3600.0
    await queue.insert([letter(n).evolve(body=body) for n in range(count)])
    lease = await queue.claim(count, 60.0, "t")
    hand.take(lease)
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
        scene.dispatch.nudge()
        await scene.settled(8)
        stats = await scene.queue.stats()
    assert (stats.sent, stats.error, stats.processing) == (7, 1, 0)


@pytest.mark.asyncio
async def test_the_rate_holds_and_a_stop_does_not_wait_for_slots() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=1, period=30.0)) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatch.nudge()
        await scene.settled(1)
        began = asyncio.get_running_loop().time()
        scene.dispatch.stop_claiming()
        assert await scene.dispatch.finish(5.0)
        assert await scene.settler.flush(5.0)
        assert asyncio.get_running_loop().time() - began < 2
        stats = await scene.queue.stats()
    assert (stats.sent, stats.awaiting, stats.processing) == (1, 9, 0)


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_no_slot_is_lost_to_a_timer_that_ends_early(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def scenario() -> None:
        relay = FakeRelay()
        # A burst gives slots a long life, so that none lapses on a busy machine.
        async with running(relay, allowance=Allowance(letters=20, period=1.0, burst=20)) as scene:
            await scene.queue.insert([letter(n) for n in range(40)])
            scene.dispatch.nudge()
            await scene.settled(40)
        assert relay.not_begun == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.asyncio
async def test_a_used_up_quota_sends_letters_back_to_the_queue() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=0, period=1.0, quota=3)) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatch.nudge()
        await scene.stats_are(processing=0, sent=len(relay.sent) or 3)
        assert len(relay.sent) <= 3
        assert scene.gate.exhausted_until is not None


# --- fresh letters -----------------------------------------------------------------------------


async def hand_over(scene: Scene, letters: Sequence[Letter]) -> int:
    """As intake does it; returns how many were owned from the start."""
    claim = await scene.dispatch.claim_fresh(len(letters))
    if claim is None:
        await scene.queue.insert(letters)
        scene.dispatch.nudge()
        return 0
    _, lease = await scene.queue.insert_claimed(letters, claim)
    scene.dispatch.take_fresh(lease)
    if len(lease.letters) < len(letters):
        scene.dispatch.nudge()
    return len(lease.letters)


class CountingQueue(MemoryQueue):
    """Counts the claims that found letters."""

    found = 0

    async def claim(self, limit, lease, token=""):  # type: ignore[no-untyped-def]
        claimed = await super().claim(limit, lease, token)
        self.found += bool(claimed.letters)
        return claimed


@pytest.mark.asyncio
async def test_fresh_letters_are_sent_without_a_claim() -> None:
    queue = CountingQueue(SystemClock())
    async with running(FakeRelay(), queue=queue) as scene:
        await until(lambda: scene.dispatch._dry)
        assert await hand_over(scene, [letter(n) for n in range(50)]) == 50
        done = await scene.settled(50)
    assert {found.status for found in done} == {Status.SENT}
    assert queue.found == 0
    assert len(scene.hand) == 0


@pytest.mark.asyncio
async def test_fresh_letters_wait_their_turn_behind_older_ones() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(n) for n in range(1000)])
        scene.dispatch.nudge()
        await relay.started.wait()
        assert await hand_over(scene, [letter(2000)]) == 0
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1001)
        await until(lambda: scene.dispatch._dry)
        assert await hand_over(scene, [letter(2001)]) == 1


@pytest.mark.asyncio
async def test_with_a_rate_only_so_many_come_fresh_as_it_lets_out_soon() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=1, period=1.0)) as scene:
        await until(lambda: scene.dispatch._dry)
        began = asyncio.get_running_loop().time()
        owned = await hand_over(scene, [letter(n) for n in range(100)])
        assert asyncio.get_running_loop().time() - began < 0.3  # nothing is waited for
        assert 1 <= owned <= 4
        assert await hand_over(scene, [letter(200)]) == 0


@pytest.mark.asyncio
async def test_what_waits_in_the_queue_does_not_starve_behind_fresh_letters() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await until(lambda: scene.dispatch._dry)
        await hand_over(scene, [letter(n) for n in range(1000)])
        await relay.started.wait()
        await scene.queue.insert([letter(5000)])  # a retry that became due, say: nobody is told
        waiting = letter(5000).id
        await until(lambda: scene.hand.token(waiting))


@pytest.mark.asyncio
async def test_a_full_basket_is_waited_for_but_not_for_long() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await until(lambda: scene.dispatch._dry)
        assert await hand_over(scene, [letter(n) for n in range(FRESH)]) == FRESH
        await relay.started.wait()
        began = asyncio.get_running_loop().time()
        assert await hand_over(scene, [letter(n) for n in range(5000, 5100)]) <= 1
        assert asyncio.get_running_loop().time() - began < 2 * PATIENCE
        began = asyncio.get_running_loop().time()
        assert await hand_over(scene, [letter(n) for n in range(6000, 6100)]) == 0
        assert asyncio.get_running_loop().time() - began < PATIENCE / 2  # and not twice
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(FRESH + 200)


@pytest.mark.parametrize("why", ["away", "stopping"])
@pytest.mark.asyncio
async def test_no_fresh_letters_while_nothing_can_be_sent(why: str) -> None:
    relay = FakeRelay()
    async with running(relay) as scene:
        await until(lambda: scene.dispatch._dry)
        if why == "away":
            scene.dispatch.relay.trouble = "connection refused"
        else:
            scene.dispatch.stop_claiming()
        assert await scene.dispatch.claim_fresh(1) is None


@pytest.mark.asyncio
async def test_fresh_letters_that_come_after_the_stop_go_back() -> None:
    async with running(FakeRelay()) as scene:
        await until(lambda: scene.dispatch._dry)
        claim = await scene.dispatch.claim_fresh(5)
        assert claim is not None
        _, lease = await scene.queue.insert_claimed([letter(n) for n in range(5)], claim)
        scene.dispatch.stop_claiming()
        scene.dispatch.take_fresh(lease)
        await scene.dispatch.finish(1.0)
        assert await scene.settler.flush(5.0)
        stats = await scene.queue.stats()
    assert (stats.awaiting, stats.processing) == (5, 0)


# --- two lanes ---------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_session_that_takes_two_at_once_gets_two_with_a_rate_one() -> None:
    for allowance, expected in ((UNLIMITED, 2), (Allowance(letters=1000, period=1.0, burst=100), 1)):
        relay = FakeRelay(hold=asyncio.Event(), depth=2)
        async with running(relay, senders=1, allowance=allowance) as scene:
            await scene.queue.insert([letter(n) for n in range(10)])
            scene.dispatch.nudge()
            await until(lambda r=relay, n=expected: r.under_way == n)
            assert (relay.connects, scene.dispatch.relay.busy) == (1, 1)
            assert relay.hold is not None
            relay.hold.set()
            await scene.settled(10)
            assert relay.most_under_way == expected


@pytest.mark.asyncio
async def test_a_worn_session_is_replaced_when_both_lanes_are_through() -> None:
    relay = FakeRelay(depth=2)
    async with running(relay, senders=1, max_letters_per_session=5) as scene:
        await scene.queue.insert([letter(n) for n in range(50)])
        scene.dispatch.nudge()
        await scene.settled(50)
    assert relay.connects >= 9
    assert not relay.cut_short


class TestPace:
    def test_follows_what_leaves(self) -> None:
        pace = Pace()
        for second in range(60):
            pace.note(100, float(second))
        assert pace.rate == pytest.approx(100, rel=0.01)
        for second in range(60, 80):
            pace.note(0, float(second))
        assert pace.rate < 1


class FullDisk(NoNotes):
    """Notes that cannot be written until `room` is set; keeps the order of what was noted."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.refused = asyncio.Event()
        self.noted: list[tuple[str, int, int]] = []
        self.trouble = ""

    def dot(self, token: str, letter_id: str, start: int, count: int) -> bool:  # type: ignore[override]
        self.trouble = "" if self.room.is_set() else "full"
        if self.trouble:
            self.refused.set()
        else:
            self.noted.append((letter_id, start, count))
        return not self.trouble

    def writable(self) -> bool:
        self.trouble = "" if self.room.is_set() else self.trouble
        return not self.trouble


@pytest.mark.asyncio
async def test_without_a_note_no_dot_and_no_attempt_is_lost() -> None:
    queue, disk, relay = MemoryQueue(SystemClock()), FullDisk(), FakeRelay()
    await queue.insert([letter(1, "a@example.test", "b@example.test", "c@example.test")])
    async with running(relay, queue=queue, notes=disk, max_recipients=2) as scene:
        await disk.refused.wait()
        await scene.stats_are(awaiting=1)
        assert relay.sent == []
        disk.room.set()
        [sent] = await scene.settled(1)
    assert sent.attempts == 1
    assert disk.noted == [(sent.id, 0, 2), (sent.id, 2, 1)]
