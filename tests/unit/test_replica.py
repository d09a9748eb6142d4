"""A whole replica over parts in memory: what its drain leaves undone, and says so."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from mailsender import service as replica_module
from mailsender.admin import operations
from mailsender.admin.operations import ReplicaOperations
from mailsender.app import listen
from mailsender.intake.batch import read_batch
from mailsender.intake.schema import Limits
from mailsender.journal.port import Journal, NoJournal
from mailsender.journal.record import Trail
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.errors import Forbidden, Unavailable
from mailsender.model.letter import (
    Claim,
    Envelope,
    FreshClaim,
    Letter,
    Origin,
    Outcome,
    Phase,
    Recipient,
    Result,
    Status,
    Verdict,
    now_ms,
)
from mailsender.model.queue_stats import QueueStats
from mailsender.model.records import Landed, Outgoing, Record
from mailsender.queue.heartbeat import Health
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.port import Inserted
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing import pool
from mailsender.routing.breaker import FIRST_WAIT
from mailsender.routing.fleet import RelayParts
from mailsender.service import Parts, Replica
from mailsender.settings.environment import Settings
from mailsender.smtp.port import Permit, RelayAway
from mailsender.web.operations import BadBatch, Refused
from tests.clocks import ManualClock
from tests.dispatching import until
from tests.fakes import FakeSink, record
from tests.relays import FakeRelay, FakeSession


class QuietSource:
    """A topic on which nothing comes."""

    trouble = ""
    lost = 0
    generation = 0

    async def open(self) -> None:
        pass

    async def fetch(self, timeout: float) -> list[Record]:
        await asyncio.sleep(timeout)
        return []

    def lag(self) -> dict[tuple[str, int], int]:
        return {("in", 0): 7}

    async def close(self) -> None:
        pass


class MuteSession(FakeSession):
    """Never says what became of a letter, not even when it is cut."""

    relay: MuteRelay

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        self.relay.turned_to.set()
        await asyncio.Event().wait()
        raise AssertionError


@dataclass
class MuteRelay(FakeRelay):
    """Opens sessions that are of no use."""

    turned_to: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> FakeSession:
        await super().connect()
        self.sessions[-1] = MuteSession(self)
        return self.sessions[-1]


@dataclass
class SilentRelay(FakeRelay):
    """Takes so many calls, the rest are never answered."""

    answers: int = 0
    called_in_vain: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> FakeSession:
        if self.connects >= self.answers:
            self.called_in_vain.set()
            await asyncio.Event().wait()
        session = await super().connect()
        session.usable = False
        return session


def replica_over(
    relay: FakeRelay,
    queue: MemoryQueue,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    journal: Journal | None = None,
    sink: FakeSink | None = None,
    **settings: str,
) -> Replica:
    for name, value in {
        "SMTP_HOST": "relay.example.test",
        "SMTP_FROM": "robot@example.test",
        "SMTP_MAX_SENDERS": "1",
        "SMTP_RATE_LIMIT_MAX_LETTERS": "0",
        "KAFKA_BROKERS": "nowhere:1",
        "MONGODB_URI": "memory:",
        "HTTP_PORT": "0",
        "DRAIN_TIMEOUT": "1s",
        **settings,
    }.items():
        monkeypatch.setenv(name, value)
    parts = Parts(
        queue=queue,
        source=QuietSource(),
        sink=sink or FakeSink(),
        relays={"default": RelayParts(relay, MemorySlotStore(clock))},
        journal=journal or NoJournal(),
    )
    return Replica(Settings(), parts, clock, listen=listen)


def letter() -> Letter:
    address = "a@example.test"
    return Letter(
        id="6b03f03e1c3fe5165a363fce",
        addresses=(address,),
        subject="s",
        body="b",
        recipients=(Recipient(address=address),),
    )


@pytest.mark.asyncio
async def test_a_batch_that_kafka_did_not_confirm_is_neither_taken_nor_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    named = {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"], "ID": letter().id}
    unnamed = {key: value for key, value in named.items() if key != "ID"}
    sink.away = True
    with pytest.raises(Refused, match="may have been stored") as unsure:
        await operations.post(json.dumps([named, unnamed]).encode())
    assert unsure.value.reason == "unconfirmed", "a program has to know it from what is safe to repeat"
    first, second = unsure.value.ids
    assert first == letter().id
    assert re.fullmatch("[0-9a-f]{24}", second), "with it the batch can be repeated"
    sink.trouble = "no broker answers"
    with pytest.raises(Refused, match="nothing of the batch was taken") as refused:
        await operations.post(json.dumps([named]).encode())
    assert (refused.value.reason, refused.value.ids) == ("no-broker", ())
    assert len(sink.calls) == 1


@pytest.mark.asyncio
async def test_a_batch_that_may_not_be_written_is_not_said_to_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)

    async def publish(records: object) -> list[Exception]:
        return [Forbidden("Kafka: TopicAuthorizationFailedError")]

    monkeypatch.setattr(sink, "publish", publish)
    batch = json.dumps([{"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}]).encode()
    with pytest.raises(Refused, match=r"may not write to mts-to-mailsender.*WRITE") as refused:
        await operations.post(batch)
    assert (refused.value.reason, len(refused.value.ids)) == ("forbidden", 1)
    assert "may have been stored" not in str(refused.value)


@pytest.mark.asyncio
async def test_a_posted_batch_may_begin_with_a_byte_order_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    batch = json.dumps([{"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}]).encode()
    await operations.post(b"\xef\xbb\xbf" + batch)
    assert json.loads(sink.published[0].value or b"")[0]["Subject"] == "s"


@pytest.mark.asyncio
async def test_the_trouble_of_a_topic_ends_with_a_post_that_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    batch = json.dumps([{"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}]).encode()
    # Nobody else writes to this topic: were the post not tried, it would be in trouble for ever.
    sink.ailing.add(replica.settings.kafka_topic_mailsender)
    posted = await operations.post(batch)
    assert posted.topic == replica.settings.kafka_topic_mailsender


@pytest.mark.asyncio
async def test_a_posted_batch_avoids_a_partition_in_trouble_unless_its_key_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    batch = json.dumps([{"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}]).encode()
    await operations.post(batch)
    await operations.post(batch, key="customer-7")
    assert [each.anywhere for each in sink.published] == [True, False]


@pytest.mark.asyncio
async def test_not_ready_where_no_report_can_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, replica.opening.text, operations = "running", "", ReplicaOperations(replica)
    assert not any(reason.startswith("kafka: no broker") for reason in operations.ready()[1])
    sink.ailing.add(replica.settings.kafka_topic_profile)
    ready, reasons = operations.ready()
    assert not ready
    assert "kafka: no broker answers" in reasons


@pytest.mark.asyncio
async def test_the_key_of_a_posted_record_can_be_chosen_and_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    batch = json.dumps([{"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}]).encode()
    for key in ("Иван", "", ""):
        await operations.post(batch, key)
    chosen, first, second = (record.key for record in sink.published)
    assert chosen == "Иван".encode()
    assert first != second
    for key in (first, second):
        assert key is not None
        assert re.fullmatch(rb"[A-Za-z0-9_-]{16}", key)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "element",
    [{}, {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}, {"Addresses": ["@"] * 1000}],
    ids=["empty", "good", "many addresses"],
)
async def test_a_long_batch_lets_others_have_their_turn(
    element: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sink = SystemClock(), FakeSink()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.state, operations = "running", ReplicaOperations(replica)
    batch = json.dumps([element]).encode()
    batch = b"[" + b",".join([batch[1:-1]] * min(9_000, 900_000 // len(batch))) + b"]"
    longest = []
    for _ in range(3):  # a busy machine makes any single one of them longer
        posting = asyncio.create_task(operations.post(batch))
        longest.append(0.0)
        before = time.thread_time()
        while not posting.done():
            await asyncio.sleep(0)
            longest[-1], before = max(longest[-1], time.thread_time() - before), time.thread_time()
    # Whoever counts the lines that are covered takes as long again, and more.
    assert min(longest) < (0.3 if sys.gettrace() else 0.1)
    if sink.published:
        assert posting.exception() is None
    else:
        assert isinstance(error := posting.exception(), BadBatch)
        assert len(error.faults) <= 1000, "what is not told is not looked for"
        assert str(error).startswith("At least ")


@pytest.mark.asyncio
async def test_what_does_not_say_good_bye_keeps_no_drain_beyond_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mute(FakeSink):
        async def close(self) -> None:
            await asyncio.Event().wait()

    class Away(MemoryQueue):
        async def close(self) -> None:
            await asyncio.Event().wait()

    clock = SystemClock()
    replica = replica_over(FakeRelay(), Away(clock), clock, monkeypatch, sink=Mute(), KAFKA_TIMEOUT="20s")
    with capture_logs() as events:
        running = asyncio.create_task(replica.run())
        await until(lambda: replica.state == "running")
        began = clock.monotonic()
        replica.drain("test")
        assert await running == 0
    assert clock.monotonic() - began < 5, "a second for the drain, another for both, and some to spare"
    assert {each["part"] for each in events if each["event"] == "close_failed"} == {"producer", "mongodb"}


@pytest.mark.asyncio
async def test_a_drain_that_leaves_a_letter_in_hand_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), MuteRelay()
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.turned_to.wait()
            replica.drain("test")
            status = await running
    unclean = [event["reason"] for event in events if event["event"] == "drain_unclean"]
    assert status == 1
    assert unclean == ["1 letters are still in flight; others give them back"]
    assert relay.sent == []
    assert (await queue.stats()).processing == 1, "this replica has yet to be declared dead"


@pytest.mark.parametrize("answers", [0, 1], ids=["the first session", "the session for the second slice"])
@pytest.mark.asyncio
async def test_a_drain_cuts_what_is_being_opened_and_settles_what_was_accepted(
    monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    clock, relay = SystemClock(), SilentRelay(answers=answers)
    queue = MemoryQueue(clock)
    addresses = ("a@example.test", "b@example.test")
    recipients = tuple(Recipient(address=each) for each in addresses)
    await queue.insert([letter().evolve(addresses=addresses, recipients=recipients)])
    replica = replica_over(relay, queue, clock, monkeypatch, SMTP_MAX_RECIPIENTS="1", DRAIN_TIMEOUT="20s")
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await relay.called_in_vain.wait()
        began = clock.monotonic()
        replica.drain("test")
        assert await running == 0
        assert clock.monotonic() - began < 5
    assert [each.recipients for each in relay.sent] == [("a@example.test",)] * answers
    found = await queue.get(letter().id)
    assert found is not None
    assert (found.status, found.attempts) == (Status.AWAITING, 0)
    assert found.pending == addresses[answers:]


@pytest.mark.asyncio
async def test_a_drain_that_sends_what_is_in_hand_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), FakeRelay(hold=asyncio.Event())
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.started.wait()
            replica.drain("test")
            assert relay.hold is not None
            relay.hold.set()
            status = await running
    assert status == 0
    assert [event for event in events if event["event"] == "drain_unclean"] == []
    assert len(relay.sent) == 1
    assert (await queue.stats()).sent == 1


@pytest.mark.asyncio
async def test_in_a_drain_nothing_is_claimed_and_ended_behind_the_last_settlement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, ended = SystemClock(), {}
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    told = replica._step

    def step(name: str) -> None:
        ended[name] = replica._tasks["tidier"].done()
        told(name)

    monkeypatch.setattr(replica, "_step", step)
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await until(lambda: replica.state == "running" and "tidier" in replica._tasks)
        replica.drain("test")
        assert await running == 0
    assert {name: ended[name] for name in ("senders", "report", "slots")} == {
        "senders": False,
        "report": True,
        "slots": True,
    }


@pytest.mark.asyncio
@pytest.mark.parametrize(("retention", "every"), [("80s", 10.0), ("30d", 3600.0)])
async def test_letters_whose_reports_are_late_are_looked_at_before_their_time_is_over(
    retention: str, every: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, MONGODB_RETENTION=retention)
    (chore,) = [each for each in replica.tidier._chores if each.name == "unreported"]
    assert chore.every == every


class LeftSource(QuietSource):
    """In trouble from its closing on, as a client is that is there no more."""

    async def close(self) -> None:
        self.trouble = "not connected yet"


class LeftSink(FakeSink):
    """The same for reports; lets a test look while it is closed."""

    look: Callable[[], None] = staticmethod(lambda: None)

    async def close(self) -> None:
        self.trouble = "not connected yet"
        self.look()


def waits_of(events: Sequence[Mapping[str, object]]) -> list[str]:
    """What the last summary says that letters wait for."""
    found = [event for event in events if event["event"] == "summary"]
    waits = found[-1].get("waits_for", []) if found else []
    assert isinstance(waits, list)
    return waits


@pytest.mark.asyncio
async def test_a_replica_that_stops_waits_for_nothing_that_it_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sink = SystemClock(), LeftSink()
    relay = FakeRelay(hold=asyncio.Event())
    assert relay.hold is not None
    queue, source = MemoryQueue(clock), LeftSource()
    await queue.insert([letter()])
    monkeypatch.setattr(sys.modules[__name__], "QuietSource", lambda: source)
    replica = replica_over(relay, queue, clock, monkeypatch, sink=sink, DRAIN_TIMEOUT="20s")
    asked, looks = ReplicaOperations(replica), []
    sink.look = lambda: looks.append(asked.ready())
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.started.wait()
            replica.drain("test")
            await until(lambda: source.trouble)
            looks.append(asked.ready())
            status = await asked.status()
            relay.hold.set()
            assert await running == 0
    assert (status["waits_for"], looks) == ([], [(False, ["draining"])] * 2)
    assert asked.ready() == (False, ["stopped"])
    assert waits_of(events) == []


@pytest.mark.asyncio
async def test_a_replica_that_stops_says_that_reports_wait_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink = SystemClock(), FakeSink()
    sink.away, sink.trouble = True, "no broker answers"
    queue, relay = MemoryQueue(clock), FakeRelay()
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch, sink=sink)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await until(lambda: replica.reporter.state.waiting)
            replica.drain("test")
            assert await running == 1
    (wait,) = waits_of(events)
    assert wait.startswith("kafka: no broker answers")


@pytest.mark.asyncio
async def test_a_replica_that_stops_before_it_began_waits_for_neither_kafka_nor_the_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, sink = SystemClock(), FakeSink()
    sink.trouble = "not connected yet"
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, sink=sink)
    replica.opening.text = ""
    replica.drain("test")
    assert ReplicaOperations(replica).ready() == (False, ["draining"])


class Twice:
    """A topic on which a letter comes, and when told to once more from another record."""

    trouble = ""
    lost = 0
    generation = 0

    def __init__(self) -> None:
        one = {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"], "ID": letter().id}
        self.value = json.dumps([one]).encode()
        self.records: asyncio.Queue[Record] = asyncio.Queue()

    def publish(self, offset: int) -> None:
        key = str(offset).encode()
        self.records.put_nowait(
            Record(topic="in", partition=0, offset=offset, timestamp=-1, key=key, value=self.value)
        )

    async def open(self) -> None:
        pass

    async def fetch(self, timeout: float) -> list[Record]:
        with suppress(TimeoutError):
            return [await asyncio.wait_for(self.records.get(), timeout)]
        return []

    async def idle(self, timeout: float) -> None:
        await asyncio.sleep(timeout)

    async def commit(self, offsets: object, notes: object = None) -> bool:
        return True

    async def close(self) -> None:
        pass


class Reports(FakeSink):
    """Lets a test wait for so many reports."""

    def __init__(self) -> None:
        super().__init__()
        self.more = asyncio.Event()

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        answers = await super().publish(records)
        self.more.set()
        return answers

    async def number(self, number: int) -> None:
        while len(self.published) < number:
            self.more.clear()
            await self.more.wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["while it is sent", "after it was sent", "both at once"])
async def test_a_second_publisher_has_its_report_at_once(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink, topic = SystemClock(), Reports(), Twice()
    relay = FakeRelay(hold=asyncio.Event())
    assert relay.hold is not None
    monkeypatch.setattr(sys.modules[__name__], "QuietSource", lambda: topic)
    replica = replica_over(relay, MemoryQueue(clock), clock, monkeypatch, sink=sink)
    noticed, joined = asyncio.Event(), replica.reporter.joined
    monkeypatch.setattr(replica.intake, "_joined", lambda letters: (joined(letters), noticed.set()))
    running = asyncio.create_task(replica.run())
    async with asyncio.timeout(10):  # the sweep comes after 30 seconds
        topic.publish(1)
        if when == "both at once":
            topic.publish(2)
        await relay.started.wait()
        if when == "while it is sent":
            topic.publish(2)
            await noticed.wait()
        relay.hold.set()
        if when == "after it was sent":
            await sink.number(1)
            topic.publish(2)
        await sink.number(2)
        replica.drain("test")
        assert await running == 0
    assert sorted(record.key or b"" for record in sink.published) == [b"1", b"2"]
    assert len(relay.sent) == 1


class Counting(MemoryQueue):
    """Counts how often it is counted, and stops answering when told to."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.counts, self.away, self.silent = 0, False, False

    async def stats(self) -> QueueStats:
        self.counts += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise Unavailable("gone")
        return await super().stats()


@pytest.mark.asyncio
async def test_the_queue_is_counted_for_who_looks_and_says_how_old_the_counts_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "FRESH", 0.01)
    clock = SystemClock()
    queue = Counting(clock)
    replica = replica_over(FakeRelay(), queue, clock, monkeypatch)
    asked = ReplicaOperations(replica)
    assert (await asked.status())["queue"]["awaiting"] == 0
    await queue.insert([letter()])
    await asyncio.sleep(0.02)
    counts = queue.counts
    looks = await asyncio.gather(*(asked.status() for _ in range(20)))
    assert {look["queue"]["awaiting"] for look in looks} == {1}, "not only at the next beat"
    assert queue.counts == counts + 1, "many who look at once are one count"
    queue.away = True
    await asyncio.sleep(0.2)
    old = (await asked.status())["queue"]
    assert old["awaiting"] == 1
    assert old["age_seconds"] >= 0.2
    queue.silent = True
    async with asyncio.timeout(5):
        assert (await asked.status())["queue"]["age_seconds"] >= 0.2, "nobody waits for ever"


@pytest.mark.asyncio
async def test_a_full_queue_and_a_used_quota_stand_on_top_and_leave_it_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SystemClock()
    queue = MemoryQueue(clock)
    replica = replica_over(FakeRelay(), queue, clock, monkeypatch)
    replica.settings = replica.settings.model_copy(update={"queue_max_letters": 1})
    asked = ReplicaOperations(replica)
    replica.state, replica.opening.text = "running", ""
    replica.heartbeat.health.answered(clock.monotonic(), clock.epoch())
    replica.relays[0].pool.reach.ever = True
    first = letter()
    await queue.insert([first, first.evolve(id="7" * 24)])
    replica.relays[0].limiter.exhausted_until = clock.epoch() + 100
    status = await asked.status()
    assert next(iter(status)) == "waits_for"
    found = {each["part"]: each for each in status["waits_for"]}
    assert found["queue"]["text"] == "2 letters wait, more than QUEUE_MAX_LETTERS (1)"
    assert found["quota"]["until"] is not None
    assert asked.ready() == (True, [])
    with pytest.raises(Refused, match="2 letters wait already") as refused:
        asked.accepting()
    assert refused.value.reason == "queue-full"


@pytest.mark.asyncio
async def test_that_slots_lapse_is_told_and_makes_it_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    asked = ReplicaOperations(replica)
    replica.state, replica.opening.text = "running", ""
    replica.heartbeat.health.answered(clock.monotonic(), clock.epoch())
    replica.relays[0].pool.reach.ever = True
    assert asked.ready() == (True, [])
    replica.relays[0].limiter.lapsing.set("hardly any can be used", clock.epoch())
    assert asked.ready() == (False, ["slots: hardly any can be used"])
    found = {each["part"]: each for each in (await asked.status())["waits_for"]}
    assert found["slots"]["text"] == "hardly any can be used"


@pytest.mark.asyncio
@pytest.mark.parametrize(("letters", "told"), [(120, False), (121, True)])
async def test_letters_that_wait_for_the_rate_are_told_with_the_time_they_take(
    letters: int, monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    replica.relays[0].limiter.allowance = replace(replica.relays[0].limiter.allowance, letters=2, period=1.0)
    asked = ReplicaOperations(replica)
    await replica.parts.queue.insert([letter().evolve(id=f"{number:024x}") for number in range(letters)])
    began = clock.epoch()
    status = await asked.status()
    found = {each["part"]: each for each in status["waits_for"]}
    assert ("rate" in found) is told
    if told:
        assert found["rate"]["text"] == "121 letters are due, and the rate is 2 in 1s"
        assert not found["rate"]["trouble"]
        until = datetime.fromisoformat(found["rate"]["until"]).timestamp()
        assert 60 <= until - began < 70


@pytest.mark.asyncio
async def test_letters_that_failed_at_intake_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    stop = asyncio.Event()
    bad = Record(topic="in", partition=0, offset=0, timestamp=-1, key=b"k", value=b'[{"Subject": 1}]')
    await replica.intake._insert(
        list(read_batch(bad.value, bad.key, Limits(), origin=origin_of(bad), now=now_ms(0))), stop
    )
    status = await ReplicaOperations(replica).status()
    assert status["since_start"]["error"] == 1
    assert replica.counted()["error"] == 1


def origin_of(record: Record) -> Callable[[int], Origin]:
    return lambda index: Origin(
        topic=record.topic, partition=record.partition, offset=record.offset, index=index, timestamp=-1
    )


@pytest.mark.asyncio
async def test_at_the_end_it_says_how_many_are_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), FakeRelay(hold=asyncio.Event(), before_dot=False)
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    replica.settler.tally.uncertain = 3  # before the drain
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.started.wait()
            replica.drain("test")
            assert await running == 0
    (stopped,) = [event for event in events if event["event"] == "stopped"]
    assert (stopped["clean"], stopped["uncertain"], stopped["uncertain_since_start"]) == (True, 1, 4)


class Unlucky(NoJournal):
    """A journal that brings the recovery down, or never lets it end."""

    def __init__(self, *, endless: bool = False) -> None:
        self.endless = endless

    def left_behind(self) -> tuple[dict[bytes, Trail], list[str]]:
        if not self.endless:
            raise RuntimeError("a bug")
        return {}, ["a" * 16]


class Absent(MemoryQueue):
    """Opens, and answers nothing about claims."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.asked = asyncio.Event()

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        self.asked.set()
        raise Unavailable("gone again")


class Refusing(MemoryQueue):
    """Answers all questions and takes nothing in, as where a quota of space is used up."""

    async def now(self, age: float = 10.0) -> float:
        raise Unavailable("the quota is used up")


@pytest.mark.asyncio
async def test_it_is_not_ready_while_the_queue_takes_no_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one(_: QuietSource, __: float) -> list[Record]:
        return [record(b"[]")]

    async def idle(_: QuietSource, timeout: float) -> None:
        await asyncio.sleep(timeout)

    monkeypatch.setattr(QuietSource, "fetch", one)
    monkeypatch.setattr(QuietSource, "idle", idle, raising=False)
    clock = SystemClock()
    replica = replica_over(FakeRelay(), Refusing(clock), clock, monkeypatch)
    replica.state, replica.opening.text = "running", ""
    replica.heartbeat.health.answered(clock.monotonic(), clock.epoch())
    replica.relays[0].pool.reach.ever = True
    asked, stop = ReplicaOperations(replica), asyncio.Event()
    assert asked.ready() == (True, [])
    taking = asyncio.create_task(replica.intake.run(stop))
    await until(lambda: asked.ready() == (False, ["mongodb: the quota is used up"]))
    stop.set()
    await asyncio.wait({taking})


class Unheard(MemoryQueue):
    """Claims letters, and its answer is lost; `away` says whether it answers nothing else either."""

    away = False

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.claimed = asyncio.Event()

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        await super().claim(limit, token, route)
        self.claimed.set()
        raise Unavailable("no answer")

    async def claims_of(self, replica: str) -> dict[str, list[str]]:
        if self.away:
            raise Unavailable("no answer")
        return await super().claims_of(replica)


@pytest.mark.parametrize("state", ["away", "back", "steady"])
@pytest.mark.asyncio
async def test_letters_of_a_claim_without_an_answer_go_back_or_the_drain_is_not_clean(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = Unheard(clock)
    queue.away = state == "away"
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    if state == "steady":
        monkeypatch.setattr(Health, "steady", lambda *_: True)
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await queue.claimed.wait()
        replica.drain("test")
        status = await running
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing) == ((0, 1) if state == "away" else (1, 0))
    assert status == (0 if state == "steady" else 1)
    assert relay.sent == []


@pytest.mark.parametrize(
    ("lease", "timeout", "signals", "status"), [("6s", "20s", 0, 0), ("120s", "300s", 1, 1)]
)
@pytest.mark.asyncio
async def test_a_drain_waits_until_a_claim_without_an_answer_can_be_settled_or_a_second_signal(
    monkeypatch: pytest.MonkeyPatch, lease: str, timeout: str, signals: int, status: int
) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = Unheard(clock)
    await queue.insert([letter()])
    settings = {"MONGODB_LEASE": lease, "DRAIN_TIMEOUT": timeout}
    replica = replica_over(relay, queue, clock, monkeypatch, **settings)
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await queue.claimed.wait()
        replica.drain("test")
        for _ in range(signals):
            await until(lambda: replica.progress.step == "settle")
            replica.on_signal("SIGTERM")
        assert await running == status
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing) == (1, 0)


class UnheardInserts(Unheard):
    """Stores letters as claimed, and its answer is lost."""

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        return await MemoryQueue.claim(self, limit, token, route)

    async def insert(self, letters: Sequence[Letter], claims: Sequence[FreshClaim] = ()) -> list[Inserted]:
        await super().insert(letters, claims)
        self.claimed.set()
        raise Unavailable("no answer")


@pytest.mark.parametrize("state", ["away", "back", "steady"])
@pytest.mark.asyncio
async def test_letters_of_an_insert_without_an_answer_go_back_or_the_drain_is_not_clean(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    clock, relay, asked = SystemClock(), FakeRelay(), asyncio.Event()
    queue = UnheardInserts(clock)
    queue.away = state == "away"
    value = json.dumps([{"Addresses": ["a@example.test"]}]).encode()
    record = Record(topic="in", partition=0, offset=0, timestamp=1, key=None, value=value)

    async def fetch(self: QuietSource, timeout: float) -> list[Record]:
        await asked.wait()
        return [record]

    async def idle(self: QuietSource, timeout: float) -> None:
        await asyncio.sleep(timeout)

    monkeypatch.setattr(QuietSource, "fetch", fetch)
    monkeypatch.setattr(QuietSource, "idle", idle, raising=False)
    replica = replica_over(relay, queue, clock, monkeypatch)
    if state == "steady":
        monkeypatch.setattr(Health, "steady", lambda *_: True)
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await until(lambda: replica.dispatcher._fresh_room(replica.routes[0]) > 0)
        asked.set()
        await queue.claimed.wait()
        replica.drain("test")
        status = await running
    stats = await queue.stats()
    assert (stats.awaiting, stats.processing) == ((0, 1) if state == "away" else (1, 0))
    assert status == (0 if state == "steady" else 1)
    assert relay.sent == []


class HalfHeard(MemoryQueue):
    """Claims letters, and the reply is lost; as the claim is read back one of them is there."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.claimed = asyncio.Event()

    async def claim(self, limit: int, token: str, route: str = "default") -> Claim:
        found = await super().claim(limit, token, route)
        if found.letters:
            self.claimed.set()
        return replace(found, letters=found.letters[:1], places=found.places[:1])


@pytest.mark.asyncio
async def test_what_came_under_a_claim_that_was_answered_in_part_goes_back_in_the_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = HalfHeard(clock)
    await queue.insert([letter().evolve(id=f"{number:024x}") for number in range(3)])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await queue.claimed.wait()
        replica.drain("test")
        assert await running == 0
    stats = await queue.stats()
    assert (stats.awaiting + stats.sent, stats.processing) == (3, 0)


class Closed(MemoryQueue):
    """Opens at the fifth try: at first nobody is there, then nobody is let in."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.tries = 0

    async def open(self) -> None:
        self.tries += 1
        if self.tries <= 2:
            raise Unavailable("nobody is there")
        if self.tries <= 4:
            raise Forbidden("MONGODB_PASSWORD is wrong")


@pytest.mark.asyncio
async def test_a_login_that_is_refused_is_told_once_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "FIRST_BACKOFF", 0.01)
    clock, relay = SystemClock(), FakeRelay()
    queue = Closed(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.started.wait()
            replica.drain("test")
            assert await running == 0
    told = [each["error"] for each in events if each["event"] == "mongodb_not_there"]
    assert told == ["nobody is there", "MONGODB_PASSWORD is wrong"]


@pytest.mark.asyncio
async def test_a_journal_that_cannot_be_dealt_with_does_not_keep_it_from_sending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch, journal=Unlucky())
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            begun = asyncio.create_task(relay.started.wait())
            await asyncio.wait({running, begun}, return_when=asyncio.FIRST_COMPLETED)
            assert begun.done()
            replica.drain("test")
            assert await running == 0
    assert len(relay.sent) == 1
    assert [each["error"] for each in events if each["event"] == "recovery_failed"] == ["RuntimeError"]


class Building(MemoryQueue):
    """Builds an index for as long as anybody waits, once it is there."""

    def __init__(self, clock: SystemClock) -> None:
        super().__init__(clock)
        self.begun = asyncio.Event()
        self.called_off = False

    async def open(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.called_off = True


@pytest.mark.asyncio
async def test_a_stop_is_heard_while_the_queue_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = Building(clock)
    replica = replica_over(relay, queue, clock, monkeypatch)
    running = asyncio.create_task(replica.run())
    try:
        async with asyncio.timeout(10):
            await queue.begun.wait()
        replica.drain("SIGTERM")
        async with asyncio.timeout(2):
            assert await asyncio.shield(running) == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert queue.called_off
    assert not relay.connects


@pytest.mark.asyncio
async def test_a_stop_ends_a_recovery_that_waits_for_mongodb(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), FakeRelay()
    queue = Absent(clock)
    replica = replica_over(relay, queue, clock, monkeypatch, journal=Unlucky(endless=True))
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await queue.asked.wait()
            replica.drain("test")
            assert await running == 0
    assert [each["event"] for each in events].count("recovery_waits") == 1
    assert not relay.connects


@pytest.mark.asyncio
async def test_it_says_when_a_relay_that_refuses_letters_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    replica.state, replica.opening.text = "running", ""
    replica.heartbeat.health.answered(clock.monotonic(), clock.epoch())
    replica.relays[0].pool.reach.ever = True
    refusal = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=550, text="Account suspended")
    replica.relays[0].hold(letter().id, refusal)
    asked = ReplicaOperations(replica)
    status = await asked.status()
    again = now_ms(clock.epoch() + FIRST_WAIT).isoformat()
    (waits,) = status["waits_for"]
    assert (waits["part"], waits["until"]) == ("relay", again)
    assert (status["relay"]["state"], status["relay"]["again"]) == ("refuses", again)
    clock.forward(FIRST_WAIT)
    assert (await asked.status())["relay"]["again"] is None, "a letter is tried as soon as there is one"


@dataclass
class Locked(FakeRelay):
    """Refuses the password until `open`; says when it was turned to."""

    open: bool = False
    turned_to: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> FakeSession:
        self.turned_to.set()
        if not self.open:
            raise RelayAway("535 5.7.8 Bad credentials; see SMTP_PASSWORD", phase="auth", code=535)
        return await super().connect()


@pytest.mark.asyncio
async def test_the_relay_is_asked_before_the_service_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(pool, "LAST_BACKOFF", 0.02)
    clock, relay = SystemClock(), Locked()
    replica = replica_over(relay, MemoryQueue(clock), clock, monkeypatch, SMTP_MAX_SENDERS="5")
    operations = ReplicaOperations(replica)
    assert "relay: not asked yet" in operations.ready()[1]
    async with asyncio.timeout(30):
        running = asyncio.create_task(replica.run())
        await relay.turned_to.wait()
        await until(lambda: replica.relays[0].pool.away)
        assert any("SMTP_PASSWORD" in reason for reason in operations.ready()[1])
        assert not operations.ready()[0]
        relay.open = True
        await until(lambda: operations.ready() == (True, []))
        assert (await operations.status())["relay"]["state"] == "answers"
        replica.drain("test")
        assert await running == 0
    assert relay.connects <= 5
