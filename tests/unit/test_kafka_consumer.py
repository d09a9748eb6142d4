"""The source over a consumer of the test's own: where partitions are read, and what one in trouble costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, LeaderNotAvailableError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata
from structlog.testing import capture_logs

from mailsender.kafka import consumer as kafka_source
from mailsender.kafka import places
from mailsender.kafka.client import KafkaConfig
from mailsender.kafka.consumer import KafkaSource, _record
from mailsender.model.errors import Unavailable
from mailsender.model.history import History, Milestone, digest_of
from mailsender.model.records import Record
from mailsender.queue.memory import MemoryQueue
from tests.clocks import ManualClock

pytestmark = pytest.mark.asyncio

TOPIC = "in"


def at(partition: int) -> TopicPartition:
    return TopicPartition(TOPIC, partition)


class Consumer:
    """A consumer whose logs are lists of values; a value of None is a marker of a transaction."""

    def __init__(self, logs: dict[int, list[bytes | None]]) -> None:
        self.logs = {at(n): log for n, log in logs.items()}
        self.begins = dict.fromkeys(self.logs, 0)
        self.positions: dict[TopicPartition, int] = {}
        self.stopped: set[TopicPartition] = set()
        self.offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        self.asked = 0
        self.headers: tuple[tuple[str, bytes], ...] = ()
        self.leaderless: set[TopicPartition] = set()
        self.now: Callable[[], float] = lambda: 0.0
        self.answered: dict[TopicPartition, float] = {}
        self.leaders = dict.fromkeys(self.logs, 1)
        self._client = SimpleNamespace(cluster=SimpleNamespace(leader_for_partition=self.leaders.get))
        self._coordinator = SimpleNamespace(
            fetch_committed_offsets=self._fetch_committed, _pending_exception=None, _coordination_task=None
        )
        self._subscription = SimpleNamespace(
            subscription=SimpleNamespace(assignment=SimpleNamespace(state_value=self._state))
        )

    def _state(self, partition: TopicPartition) -> Any:
        position = self.positions.get(partition)
        return SimpleNamespace(position=position, has_valid_position=position is not None)

    async def _fetch_committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, Any]:
        return {each: self.offsets[each] for each in partitions if each in self.offsets}

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self.logs)

    def paused(self) -> set[TopicPartition]:
        return set(self.stopped)

    def pause(self, *partitions: TopicPartition) -> None:
        self.stopped |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.stopped -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def _led(self, partition: TopicPartition) -> None:
        if partition in self.leaderless:
            raise LeaderNotAvailableError(partition)

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked += 1
        for each in partitions:
            self._led(each)
        return {each: self.begins[each] for each in partitions}

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {each: len(self.logs[each]) for each in partitions}

    async def getmany(self, *partitions: TopicPartition, max_records: int, timeout_ms: int = 0) -> Any:
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        for each in partitions:
            if each in self.stopped or each not in self.positions or each in self.leaderless:
                continue
            self.answered[each] = self.now()
            position = max(self.positions[each], self.begins[each])
            if position > len(self.logs[each]):
                position = self.begins[each]  # out of range: the library begins anew
            while position < len(self.logs[each]) and len(found.get(each, ())) < max_records:
                value = self.logs[each][position]
                if value is not None:
                    found.setdefault(each, []).append(made(each.partition, position, value, self.headers))
                position += 1
            self.positions[each] = position
        if not partitions and timeout_ms:
            await asyncio.sleep(0)
        return found

    def last_poll_timestamp(self, partition: TopicPartition) -> float:
        return 1000 * self.answered.get(partition, 0.0)

    def partitions_for_topic(self, _: str) -> set[int]:
        return {each.partition for each in self.logs}

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        if not offsets.keys() <= self.logs.keys():
            raise IllegalStateError
        self.offsets.update({each: OffsetAndMetadata(*told) for each, told in offsets.items()})


def made(partition: int, offset: int, value: bytes, headers: Any = ()) -> ConsumerRecord:
    return ConsumerRecord(
        TOPIC, partition, offset, 1000 + offset, 0, b"k", value, None, 1, len(value), headers
    )


class Stage:
    """A source that has such a consumer, to which all its partitions are assigned."""

    def __init__(self, **logs: list[bytes | None]) -> None:
        self.clock = ManualClock()
        self.histories = MemoryQueue(self.clock)
        self.consumer = Consumer({int(name[1:]): log for name, log in logs.items()})
        self.consumer.now = self.clock.epoch
        self.replaced: list[str] = []
        self.source = self._source()

    def _source(self) -> KafkaSource:
        config = KafkaConfig(brokers=("b:1",), timeout=1.0)
        source = KafkaSource(config, TOPIC, clock=self.clock, histories=self.histories)
        keeper: Any = source._keeper
        keeper._client = self.consumer
        keeper.replace = lambda _, why: self.replaced.append(why)
        return source

    def assign(self) -> None:
        self.source._revoked(self.consumer)
        self.source._assigned(self.consumer, set(self.consumer.logs))

    def restart(self) -> None:
        """Another process, with a consumer that has no position yet."""
        self.consumer.positions.clear()
        self.source = self._source()
        self.assign()

    async def take(self, rounds: int = 20) -> list[Record]:
        found: list[Record] = []
        for _ in range(rounds):
            found += await self.source.fetch(0.0)
            await asyncio.sleep(0)
        return found

    async def commit(self, record: Record) -> None:
        digest = digest_of(record.key, record.value, record.timestamp)
        reached = Milestone(offset=record.offset + 1, at=1.0, last=record.offset, digest=digest)
        place = record.topic, record.partition
        assert await self.source.commit({place: reached.offset}, {place: reached.text()})
        known = await self.histories.history(*place)
        await self.histories.note_history(*place, known.reached(reached, since=0.0))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACED_AGAIN", 0.0)


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def letters(count: int, log: str = "") -> list[bytes | None]:
    return [f"{log}{n}".encode() for n in range(count)]


def told(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_partitions_that_come_together_are_asked_for_together() -> None:
    stage = Stage(p0=letters(1), p1=letters(1), p2=letters(1))
    stage.assign()
    assert len(await stage.take()) == 3
    assert stage.consumer.asked == 1


async def test_a_fetch_holds_so_many_records_however_small_they_are_and_the_next_one_goes_on_there() -> None:
    """Nothing else goes on while a fetch is read; `max_bytes` are a hundred thousand records of a byte."""
    count = 2 * kafka_source.MOST + 100
    stage = Stage(p0=[b"x"] * count, p1=[b"y"] * count)
    stage.assign()
    fetches = [found for _ in range(20) if (found := await stage.source.fetch(0.0))]
    assert max(map(len, fetches)) < kafka_source.MOST + 100
    taken = [(record.partition, record.offset) for found in fetches for record in found]
    assert sorted(taken) == [(partition, offset) for partition in (0, 1) for offset in range(count)]
    assert [place for place in taken if place[0] == 0] == [(0, offset) for offset in range(count)]


async def test_headers_count_for_what_they_take_in_memory() -> None:
    stage = Stage(p0=letters(1500))
    stage.consumer.headers = tuple((f"name {n}", b"v%d" % n) for n in range(1000))
    stage.assign()
    fetches = [found for _ in range(30) if (found := await stage.source.fetch(0.0))]
    assert sum(map(len, fetches)) == 1500
    assert max(map(len, fetches)) * 1000 * 200 < stage.source._config.max_bytes


async def test_what_was_committed_is_compared_and_reading_goes_on() -> None:
    stage = Stage(p0=letters(10))
    stage.assign()
    found = await stage.take()
    assert values(found) == letters(10)
    for record in found[:6]:
        await stage.commit(record)
    stage.restart()
    with capture_logs() as logs:
        assert values(await stage.take()) == letters(10)[6:]
    assert told(logs, "log_differs") == []
    assert stage.source.trouble == ""


async def test_a_log_that_was_cut_off_and_grew_again_is_read_from_where_it_agrees() -> None:
    stage = Stage(p0=letters(30))
    stage.assign()
    for record in await stage.take():
        await stage.commit(record)
    stage.consumer.logs[at(0)] = [*letters(20), *letters(15, "other ")]
    stage.restart()
    with capture_logs() as logs:
        assert values(await stage.take()) == letters(15, "other ")
    (entry,) = told(logs, "log_differs")
    assert (entry["committed"], entry["read_from"]) == (30, 20)
    assert "differs from offset 20 on" in stage.source.trouble
    known = await stage.histories.history(TOPIC, 0)
    assert (known.high, known.log) == (20, 1)


async def test_a_topic_that_was_made_anew_while_it_is_read_is_read_from_its_beginning() -> None:
    stage = Stage(p0=letters(30))
    stage.assign()
    for record in await stage.take():
        await stage.commit(record)
    stage.consumer.logs[at(0)] = letters(5, "new ")
    with capture_logs() as logs:
        assert values(await stage.take()) == letters(5, "new ")
    assert len(told(logs, "log_differs")) == 1
    assert (await stage.histories.history(TOPIC, 0)).high == 0


async def test_a_log_that_was_cut_off_by_a_new_leader_while_it_is_read_is_read_from_where_it_agrees() -> None:
    """It has grown beyond our position since, so that no position shows it."""
    stage = Stage(p0=letters(30))
    stage.assign()
    for record in await stage.take():
        await stage.commit(record)
    stage.consumer.logs[at(0)] = [*letters(20), *letters(15, "other ")]
    stage.consumer.leaders[at(0)] = 2
    stage.clock.forward(2)
    with capture_logs() as logs:
        assert values(await stage.take()) == letters(15, "other ")
    assert [entry["read_from"] for entry in told(logs, "log_differs")] == [20]


async def test_a_leader_that_moves_with_its_log_costs_nothing() -> None:
    stage = Stage(p0=letters(30))
    stage.assign()
    for record in await stage.take():
        await stage.commit(record)
    stage.consumer.leaders[at(0)] = 2
    stage.clock.forward(2)
    assert await stage.take() == []
    stage.consumer.logs[at(0)] += [b"more"]
    assert values(await stage.take()) == [b"more"]
    assert stage.source.trouble == ""


async def test_partitions_that_come_or_go_begin_another_generation() -> None:
    stage = Stage(p0=letters(1))
    stage.assign()
    await stage.take()
    first = stage.source.generation
    await stage.take()
    assert stage.source.generation == first
    stage.source._revoked(stage.consumer)  # type: ignore[arg-type]
    gone = stage.source.generation
    stage.source._assigned(stage.consumer, {at(0)})  # type: ignore[arg-type]
    assert len({first, gone, stage.source.generation}) == 3


async def test_a_history_that_cannot_be_asked_for_is_waited_for() -> None:
    stage = Stage(p0=letters(3))
    away = True

    async def history(topic: str, partition: int) -> History:
        if away:
            raise Unavailable("no primary")
        return History()

    stage.histories.history = history  # type: ignore[method-assign]
    stage.assign()
    assert await stage.take() == []
    assert stage.source.trouble == ""  # a moment is no trouble: each rebalance takes one
    stage.clock.forward(6)
    assert "no primary" in stage.source.trouble
    away = False
    assert values(await stage.take()) == letters(3)
    assert stage.source.trouble == ""


async def test_an_assignment_that_is_over_says_nothing_of_the_next_one() -> None:
    stage = Stage(p0=letters(3))
    known, gate, asked = stage.histories.history, asyncio.Event(), 0

    async def history(topic: str, partition: int) -> History:
        nonlocal asked
        asked += 1
        if asked == 1:
            await gate.wait()
            raise Unavailable("no primary")
        return await known(topic, partition)

    stage.histories.history = history  # type: ignore[method-assign]
    stage.assign()
    for _ in range(5):
        await asyncio.sleep(0)
    assert asked == 1
    stage.assign()
    assert values(await stage.take()) == letters(3)
    stage.consumer.logs[at(0)] += [b"more"]
    gate.set()
    assert values(await stage.take()) == [b"more"]
    stage.clock.forward(6)
    assert stage.source.trouble == ""


async def test_an_assignment_that_is_over_cuts_no_history_of_the_next_one() -> None:
    """What it was told of the log's end is older than what another replica took in since."""
    stage = Stage(p0=letters(3))
    known, gate, asked = stage.histories.history, asyncio.Event(), 0

    async def history(topic: str, partition: int) -> History:
        nonlocal asked
        asked += 1
        if asked == 1:
            await gate.wait()
        return await known(topic, partition)

    stage.histories.history = history  # type: ignore[method-assign]
    stage.assign()
    for _ in range(5):
        await asyncio.sleep(0)
    stage.source._revoked(stage.consumer)  # type: ignore[arg-type]
    reached = Milestone(offset=9, at=1.0, last=8, digest="00")
    await stage.histories.note_history(TOPIC, 0, History().reached(reached, since=0.0, first=8))
    gate.set()
    for _ in range(20):
        await asyncio.sleep(0)
    kept = await known(TOPIC, 0)
    assert (kept.log, kept.high) == (0, 9)


async def test_records_that_were_deleted_unread_are_counted_and_told_until_the_next_start() -> None:
    stage = Stage(p0=letters(10))
    stage.assign()
    await stage.commit((await stage.take())[1])
    stage.consumer.begins[at(0)] = 7
    stage.restart()
    with capture_logs() as logs:
        assert values(await stage.take()) == letters(10)[7:]
    (entry,) = told(logs, "records_lost")
    assert (entry["records"], entry["first"], entry["last"]) == (5, 2, 6)
    assert stage.source.lost == 5
    assert "5 records of partition 0" in stage.source.trouble


async def test_records_that_are_deleted_while_reading_stands_still_are_counted() -> None:
    stage = Stage(p0=letters(10))
    stage.assign()
    await stage.take()
    stage.consumer.logs[at(0)] += letters(10)
    stage.consumer.begins[at(0)] = 15
    with capture_logs() as logs:
        assert len(await stage.take()) == 5
    assert [entry["records"] for entry in told(logs, "records_lost")] == [5]


# --- a partition in trouble ----------------------------------------------------------------------


async def test_a_partition_without_a_leader_waits_alone() -> None:
    stage = Stage(p0=letters(3), p1=letters(3), p2=letters(3))
    stage.consumer.leaderless = {at(1)}
    stage.assign()
    found = await stage.take()
    assert {record.partition for record in found} == {0, 2}
    troubles = set()
    for _ in range(20):
        stage.clock.forward(30)
        stage.consumer.logs[at(0)].append(b"more")
        assert values(await stage.take(3)) == [b"more"]
        troubles.add(stage.source.trouble)
    assert len(troubles) == 1
    assert "partition 1 of in waits" in troubles.pop()
    assert stage.replaced == []
    stage.consumer.leaderless.clear()
    assert {record.partition for record in await stage.take()} == {1}
    assert stage.source.trouble == ""


async def test_a_partition_that_loses_its_leader_waits_alone() -> None:
    stage = Stage(p0=letters(1), p1=letters(1))
    stage.assign()
    await stage.take()
    stage.consumer.leaderless = {at(1)}
    for _ in range(20):
        stage.clock.forward(1.5)
        stage.consumer.answered[at(0)] = stage.clock.epoch()
        await stage.take(3)
    assert stage.replaced == []
    assert "partition 1 of in waits: nobody answers for it" in stage.source.trouble


# --- markers of transactions ---------------------------------------------------------------------


async def test_the_position_behind_markers_is_committed_when_all_before_it_is() -> None:
    stage = Stage(p0=[b"a", b"b", None, None, None])
    stage.assign()
    first, second = await stage.take()
    assert stage.consumer.offsets == {}
    await stage.commit(first)
    await stage.take()
    assert stage.consumer.offsets[at(0)].offset == 1
    await stage.commit(second)
    await stage.take()
    committed = stage.consumer.offsets[at(0)]
    assert committed.offset == 5
    stage.consumer.logs[at(0)].append(b"c")
    stage.restart()
    assert values(await stage.take()) == [b"c"]


async def test_no_position_is_committed_over_a_record_that_nobody_has_yet() -> None:
    stage = Stage(p0=[b"a"])
    stage.assign()
    (only,) = await stage.take()
    await stage.commit(only)

    async def poll() -> dict[TopicPartition, list[ConsumerRecord]]:
        stage.consumer.positions[at(0)] = 2
        return {at(0): [made(0, 1, b"b")]}

    stage.source._poll = asyncio.create_task(poll())
    await asyncio.wait({stage.source._poll})
    stage.source._commit_positions(stage.consumer)
    await asyncio.sleep(0)
    assert stage.consumer.offsets[at(0)].offset == 1


async def test_a_fault_in_a_task_of_the_group_is_no_record_that_cannot_be_read() -> None:
    stage = Stage(p0=letters(2))
    stage.assign()
    assert len(await stage.take(1)) == 2
    stage.consumer._coordinator._pending_exception = RuntimeError("a library's")
    with capture_logs() as logs:
        await stage.take(2)
    assert set(stage.replaced) == {"RuntimeError: a library's"}
    assert told(logs, "partition_unreadable") == []


# --- a commit that hangs -------------------------------------------------------------------------


async def test_a_client_that_never_confirms_a_commit_is_replaced() -> None:
    stage = Stage(p0=letters(2))
    stage.assign()
    first, second = await stage.take()
    hangs = asyncio.get_running_loop().create_future()

    async def commit(_: object) -> None:
        await hangs

    stage.consumer.commit = commit  # type: ignore[method-assign]
    assert not await stage.source.commit({(TOPIC, 0): first.offset + 1})
    stage.clock.forward(stage.source._config.stall - 1)
    await stage.take()
    assert stage.replaced == []
    assert not await stage.source.commit({(TOPIC, 0): second.offset + 1}), "it is the same that hangs"
    stage.clock.forward(2)
    await stage.take()
    assert set(stage.replaced) == {"the broker does not confirm the commit of offsets"}
    hangs.cancel()


async def test_a_commit_that_comes_late_costs_nothing() -> None:
    stage = Stage(p0=letters(1))
    stage.assign()
    (only,) = await stage.take()
    hangs, real = asyncio.get_running_loop().create_future(), stage.consumer.commit

    async def commit(offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        await hangs
        await real(offsets)

    stage.consumer.commit = commit  # type: ignore[method-assign]
    assert not await stage.source.commit({(TOPIC, 0): only.offset + 1})
    hangs.set_result(None)
    assert await stage.source.commit({(TOPIC, 0): only.offset + 1})
    stage.clock.forward(2 * stage.source._config.stall)
    stage.consumer.answered[at(0)] = stage.clock.epoch()
    await stage.take()
    assert stage.replaced == []
    assert stage.source.trouble == ""


async def test_that_an_earlier_commit_came_late_is_not_held_against_the_next_one() -> None:
    stage = Stage(p0=letters(2))
    stage.assign()
    first, second = await stage.take()
    loop, real = asyncio.get_running_loop(), stage.consumer.commit
    hangs = [loop.create_future(), loop.create_future()]
    waits = iter(hangs)

    async def commit(offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        await next(waits)
        await real(offsets)

    stage.consumer.commit = commit  # type: ignore[method-assign]
    assert not await stage.source.commit({(TOPIC, 0): first.offset + 1})
    hangs[0].set_result(None)
    await stage.take()  # while nothing is read it is seen that the commit is through
    stage.clock.forward(2 * stage.source._config.stall)
    stage.consumer.answered[at(0)] = stage.clock.epoch()
    assert not await stage.source.commit({(TOPIC, 0): second.offset + 1})
    await stage.take()
    assert stage.replaced == []
    hangs[1].cancel()


# --- the group -----------------------------------------------------------------------------------


async def test_what_a_poll_brought_before_partitions_were_taken_away_is_nobodys() -> None:
    stage = Stage(p0=letters(3))
    stage.assign()

    async def poll() -> dict[TopicPartition, list[ConsumerRecord]]:
        return {at(0): [made(0, 2, b"2")]}

    stage.source._poll = asyncio.create_task(poll())
    await asyncio.wait({stage.source._poll})
    stage.assign()
    assert values(await stage.take()) == letters(3)


async def test_partitions_that_go_in_the_moment_in_which_a_poll_ends_are_no_fault() -> None:
    stage = Stage(p0=letters(3))
    stage.assign()

    async def poll() -> dict[TopicPartition, list[ConsumerRecord]]:
        return {at(0): [made(0, 2, b"2")]}

    stage.source._poll = asyncio.create_task(poll())
    stage.source._poll.add_done_callback(lambda _: stage.assign())
    assert values([*await stage.take(), *await stage.take()]) == letters(3)


async def test_a_member_whose_name_another_one_has_goes_on_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_source, "AIOKafkaConsumer", SimpleNamespace)
    stage = Stage(p0=letters(1))
    stage.source._config = KafkaConfig(brokers=("b:1",), instance_id="same")
    with capture_logs() as logs:
        stage.source._give_up(stage.consumer, KafkaError("FencedInstanceIdError()"))
        stage.source._give_up(stage.consumer, KafkaError("FencedInstanceIdError()"))
    assert len(told(logs, "kafka_instance_id_taken")) == 1
    assert len(stage.replaced) == 2
    assert stage.source._make().group_instance_id is None


async def test_a_member_that_is_thrown_out_again_and_again_goes_on_without_its_name() -> None:
    stage = Stage(p0=letters(1))
    stage.source._config = KafkaConfig(brokers=("b:1",), instance_id="same")
    stage.source._log.thrown_out.clear()
    stage.source._log.thrown_out += [stage.clock.monotonic()] * 2
    stage.source._watch()
    assert stage.source._named
    stage.source._log.thrown_out.append(stage.clock.monotonic())
    with capture_logs() as logs:
        stage.source._watch()
    assert len(told(logs, "kafka_instance_id_taken")) == 1
    assert not stage.source._named
    stage.source._log.thrown_out.clear()


async def test_a_header_of_null_stays_null() -> None:
    """A dead letter has its record's own headers."""
    found = ConsumerRecord(TOPIC, 0, 1, 1000, 0, b"k", b"v", None, 1, 1, (("a", None), ("b", b"")))
    assert _record(found).headers == (("a", None), ("b", b""))
