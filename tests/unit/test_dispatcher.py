"""Claim, slot, worker, settle: the loops over the in-memory queue and a scripted relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import pytest
import uvloop
from structlog.testing import capture_logs

from mailsender.journal.port import NoJournal
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Claim, Letter, Phase, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.backlog import Backlog
from mailsender.routing.route import Pace
from mailsender.sending.reply_rules import ruled
from tests.dispatching import UNLIMITED, PlainComposer, Scene, letter, running, until
from tests.relays import ACCEPTED, FakeRelay


@pytest.mark.asyncio
async def test_letters_are_sent_and_settled() -> None:
    relay = FakeRelay()
    async with running(relay) as scene:
        await scene.queue.insert([letter(n) for n in range(50)])
        scene.dispatcher.nudge()
        done = await scene.settled(50)
    assert {found.status for found in done} == {Status.SENT}
    assert len(relay.sent) == 50
    assert (len(scene.in_flight), scene.in_flight.bytes) == (0, 0)
    stats = await scene.queue.stats()
    assert (stats.awaiting, stats.processing, stats.sent, stats.unreported) == (0, 0, 50, 50)


@pytest.mark.asyncio
async def test_sessions_are_reused_and_opened_only_when_needed() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1) as scene:
        assert relay.connects == 0
        await scene.queue.insert([letter(n) for n in range(20)])
        scene.dispatcher.nudge()
        await scene.settled(20)
        assert relay.connects == 1


@pytest.mark.asyncio
async def test_a_session_is_opened_anew_after_its_share_of_letters() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1, max_letters_per_session=5) as scene:
        await scene.queue.insert([letter(n) for n in range(20)])
        scene.dispatcher.nudge()
        await scene.settled(20)
    assert relay.connects == 4
    assert all(session.closed for session in relay.sessions)


@pytest.mark.asyncio
async def test_an_idle_session_is_closed() -> None:
    relay = FakeRelay()
    async with running(relay, senders=1, session_idle=0.02) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        await until(lambda: relay.sessions[0].closed)
        assert len(scene.known.pool) == 0


@pytest.mark.asyncio
async def test_while_the_relay_is_away_no_attempt_is_counted_and_letters_wait_in_the_queue() -> None:
    relay = FakeRelay(away="connection refused")
    async with running(relay) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.pool.away)
        await scene.stats_are(awaiting=10, processing=0)
        relay.away = ""
        done = await scene.settled(10)
    assert {found.attempts for found in done} == {1}


@pytest.mark.asyncio
async def test_a_letter_for_nobody_is_an_error_whoever_wrote_it() -> None:
    """Another program may write a document that looks like one of ours."""
    async with running(FakeRelay()) as scene:
        nobody = letter(1).evolve(addresses=(), recipients=())
        await scene.queue.insert([nobody])
        scene.dispatcher.nudge()
        (told,) = await scene.settled(1)
    assert (told.status, told.reason) == (Status.ERROR, "addresses: at least one is needed")


@pytest.mark.asyncio
async def test_the_log_of_a_refusal_names_the_letter_and_the_codes_but_nobody() -> None:
    """Relays repeat addresses and more in what they say; reports and `GET /letters/ID` have their words."""
    said = "<r1@example.test>: no such user"
    refused = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text=said)
    with capture_logs() as logs:
        async with running(FakeRelay(answer=lambda _: refused)) as scene:
            await scene.queue.insert([letter(1)])
            scene.dispatcher.nudge()
            (done,) = await scene.settled(1)
    (line,) = [each for each in logs if each["event"] == "letter_failed"]
    assert (line["letter"], line["code"], line["enhanced"]) == (done.id, 550, "5.1.1")
    assert "example.test" not in str({**line, "letter": ""})
    assert done.recipients[0].result == ruled(refused, "default/mailbox")
    assert line["rule"] == "default/mailbox"


@pytest.mark.asyncio
async def test_slices_of_a_large_letter_are_one_attempt_and_each_recipient_is_asked_once() -> None:
    relay = FakeRelay()
    addresses = [f"a{n}@example.test" for n in range(25)]
    async with running(relay, max_recipients=10) as scene:
        await scene.queue.insert([letter(1, *addresses)])
        scene.dispatcher.nudge()
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
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
    assert [envelope.recipients for envelope in relay.sent] == [
        ("a@example.test", "b@example.test"),
        ("b@example.test",),
    ]
    assert (done.status, done.attempts) == (Status.SENT, 2)
    first, second = done.history
    assert (first.result.code, first.asked, first.accepted) == (450, 2, 1)
    assert (second.result, second.asked, second.accepted) == (ACCEPTED, 1, 1)
    for past in done.history:
        assert (past.relay, past.tls) == (relay.name, "TLSv1.3")
        assert past.at is not None
        assert past.seconds is not None
        assert 0 <= past.seconds < 60


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
        scene.dispatcher.nudge()
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
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
    assert done.status is Status.SENT
    assert [r.result.verdict for r in done.recipients if r.result] == [Verdict.ACCEPTED, Verdict.REFUSED]


class Unwritten(MemoryQueue):
    """Nothing can be given back while it is `away`."""

    away = True

    async def release(self, token: str, ids: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("no primary")
        await super().release(token, ids)


@pytest.mark.asyncio
async def test_who_waits_until_outcomes_can_be_written_goes_when_it_is_time_to_stop() -> None:
    queue = Unwritten(SystemClock())
    async with running(FakeRelay(), queue=queue) as scene:
        scene.settler.open.clear()
        await queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.pool.busy)
        scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.finish(2.0), "nobody had to be cut"
        assert not scene.relay.sent
        queue.away = False


@pytest.mark.asyncio
async def test_the_courses_random_refusal() -> None:
    relay = FakeRelay()
    async with running(relay, refuse_probability=1.0) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
    assert done.status is Status.ERROR
    assert relay.sent == []


@pytest.mark.asyncio
async def test_a_stop_gives_back_what_was_not_begun_and_ends_what_was() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=2) as scene:
        await scene.queue.insert([letter(n) for n in range(30)])
        scene.dispatcher.nudge()
        await relay.started.wait()
        scene.dispatcher.stop_claiming()
        assert relay.hold is not None
        relay.hold.set()
        assert await scene.dispatcher.finish(5.0)
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
        scene.dispatcher.nudge()
        await relay.started.wait()
        scene.dispatcher.stop_claiming()
        assert not await scene.dispatcher.finish(0.01)
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
        scene.dispatcher.nudge()
        await relay.started.wait()
        scene.in_flight.drop([letter(2).id])
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(1)
    assert len(relay.sent) == 1


@pytest.mark.asyncio
async def test_nothing_begins_or_gets_its_dot_when_this_replica_may_soon_count_as_dead() -> None:
    relay = FakeRelay(hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await relay.started.wait()
        scene.in_flight.alive_until = SystemClock().monotonic() + 0.5
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
        scene.dispatcher.nudge()
        await relay.started.wait()
        token = scene.in_flight.token(letter(number).id)
        assert token is not None
        await scene.queue.release(token, [letter(number).id])
        scene.dispatcher._take(scene.route, await scene.queue.claim(1, scene.in_flight.new_token()))
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(2)
        await scene.stats_are(sent=2)
        await until(lambda: not len(scene.in_flight))
    assert len(relay.sent) == 2
    assert len(scene.reported) == 2


class SlowQueue(MemoryQueue):
    """Answers claims only when told to."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.answer = asyncio.Event()
        self.claims = 0

    async def claim(self, limit, token, route="default"):  # type: ignore[no-untyped-def]
        found = await super().claim(limit, token, route)
        self.claims += 1
        await self.answer.wait()
        return found


@pytest.mark.asyncio
async def test_a_claim_that_is_answered_during_the_stop_goes_back() -> None:
    queue = SlowQueue(SystemClock())
    await queue.insert([letter(n) for n in range(5)])
    async with running(FakeRelay(), queue=queue) as scene:
        await until(lambda: queue.claims)
        scene.dispatcher.stop_claiming()
        assert not await scene.dispatcher.claimed_out(0.01)
        queue.answer.set()
        assert await scene.dispatcher.claimed_out(5.0)
        await scene.dispatcher.finish(5.0)
        assert await scene.settler.flush(5.0)
        stats = await queue.stats()
    assert (stats.awaiting, stats.processing) == (5, 0)


@pytest.mark.asyncio
async def test_a_claim_that_is_answered_after_this_replica_was_declared_dead_is_nobodys_to_send() -> None:
    """It was asked for under the old name: whoever finds that dead gives its letters to others."""
    relay, queue = FakeRelay(), SlowQueue(SystemClock())
    await queue.insert([letter(n) for n in range(2)])
    async with running(relay, queue=queue) as scene:
        await until(lambda: queue.claims)
        scene.in_flight.begin_anew()
        scene.in_flight.alive_until = SystemClock().monotonic() + 60
        queue.answer.set()
        await queue.insert([letter(9)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        assert (await queue.stats()).processing == 2
    assert len(relay.sent) == 1


@pytest.mark.asyncio
async def test_the_rate_holds_and_a_stop_does_not_wait_for_slots() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=1, period=30.0)) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        began = asyncio.get_running_loop().time()
        scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.finish(5.0)
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
            scene.dispatcher.nudge()
            await scene.settled(40)
        assert relay.not_begun == 0

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.asyncio
async def test_a_used_up_quota_sends_letters_back_to_the_queue() -> None:
    relay = FakeRelay()
    async with running(relay, allowance=Allowance(letters=0, period=1.0, quota=3)) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatcher.nudge()
        await scene.stats_are(processing=0, sent=len(relay.sent) or 3)
        assert len(relay.sent) <= 3
        assert scene.known.limiter.exhausted_until is not None


@pytest.mark.asyncio
@pytest.mark.parametrize("allowance", [UNLIMITED, Allowance(letters=1000, period=1.0, burst=100)])
async def test_a_session_that_takes_two_at_once_gets_two_with_a_rate_too(allowance: Allowance) -> None:
    relay = FakeRelay(hold=asyncio.Event(), depth=2)
    async with running(relay, senders=1, allowance=allowance) as scene:
        await scene.queue.insert([letter(n) for n in range(10)])
        scene.dispatcher.nudge()
        await until(lambda: relay.under_way == 2)
        assert (relay.connects, scene.known.pool.busy) == (1, 1)
        assert relay.hold is not None
        relay.hold.set()
        await scene.settled(10)
        assert relay.most_under_way == 2


@pytest.mark.asyncio
async def test_a_worn_session_is_replaced_when_both_lanes_are_through() -> None:
    relay = FakeRelay(depth=2)
    async with running(relay, senders=1, max_letters_per_session=5) as scene:
        await scene.queue.insert([letter(n) for n in range(50)])
        scene.dispatcher.nudge()
        await scene.settled(50)
    assert relay.connects >= 9
    assert not relay.cut_short


@pytest.mark.asyncio
async def test_whoever_waited_in_vain_is_forgotten() -> None:
    backlog = Backlog()
    waiting = [asyncio.create_task(backlog.reserve()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    await asyncio.wait(waiting[1:2])
    backlog.put(Claim(token="t", letters=(letter(1), letter(2))))
    assert [await each for each in (waiting[0], waiting[2])] == [True, True]
    assert not backlog._waiters


@pytest.mark.asyncio
async def test_a_letter_that_is_reserved_is_nobody_elses_until_it_is_given_up() -> None:
    backlog = Backlog()
    backlog.put(Claim(token="t", letters=(letter(1), letter(2))))
    assert backlog.reserve_at_once()
    assert backlog.reserve_at_once()
    assert not backlog.reserve_at_once()
    waits = asyncio.create_task(backlog.reserve())
    await asyncio.sleep(0)
    backlog.cancel()
    assert await waits
    assert [backlog.take(), backlog.take()] == [("t", letter(1)), ("t", letter(2))]
    assert backlog.reserve_at_once() is False
    backlog.put(Claim(token="t", letters=(letter(3),)))
    assert backlog.reserve_at_once()
    assert backlog.drain() == [("t", letter(3))]
    assert backlog.take() is None
    backlog.close()
    assert not await backlog.reserve()


@pytest.mark.asyncio
async def test_to_ask_for_room_changes_nothing() -> None:
    async with running(FakeRelay(away="no")) as scene:
        scene.known.pool.reach.trouble = "no"
        scene.dispatcher._take(scene.route, await _claimed(scene, letter(1)))
        assert scene.dispatcher._room(scene.route) == 0
        assert len(scene.route.backlog) == 1


async def _claimed(scene: Scene, *letters: Letter) -> Claim:
    await scene.queue.insert(letters)
    return await scene.queue.claim(len(letters), scene.in_flight.new_token())


class TestPace:
    def test_follows_what_leaves(self) -> None:
        pace = Pace()
        for second in range(60):
            pace.note(100, float(second))
        assert pace.rate == pytest.approx(100, rel=0.01)
        for second in range(60, 80):
            pace.note(0, float(second))
        assert pace.rate < 1


class FullDisk(NoJournal):
    """A journal that cannot be written until `room` is set; keeps the order of what was written."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.refused = asyncio.Event()
        self.written: list[tuple[str, int, int, str]] = []
        self.trouble = ""

    def dot(self, token: str, letter_id: str, start: int, count: int, relay: str) -> bool:
        self.trouble = "" if self.room.is_set() else "full"
        if self.trouble:
            self.refused.set()
        else:
            self.written.append((letter_id, start, count, relay))
        return not self.trouble

    def writable(self) -> bool:
        self.trouble = "" if self.room.is_set() else self.trouble
        return not self.trouble


@pytest.mark.asyncio
async def test_without_a_record_no_dot_and_no_attempt_is_lost() -> None:
    queue, disk, relay = MemoryQueue(SystemClock()), FullDisk(), FakeRelay()
    await queue.insert([letter(1, "a@example.test", "b@example.test", "c@example.test")])
    async with running(relay, queue=queue, journal=disk, max_recipients=2) as scene:
        await disk.refused.wait()
        await scene.stats_are(awaiting=1)
        assert relay.sent == []
        disk.room.set()
        [sent] = await scene.settled(1)
    assert sent.attempts == 1
    assert disk.written == [(sent.id, 0, 2, relay.name), (sent.id, 2, 1, relay.name)]
