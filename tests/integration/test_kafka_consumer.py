from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import codec as aiokafka_codec
from aiokafka.record.util import calc_crc32c
from structlog.testing import capture_logs

from lab.parts import KafkaServer, Topics
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.process import free_port
from mailsender.kafka.client import KafkaConfig
from mailsender.kafka.consumer import KafkaSource
from mailsender.model.clock import SystemClock
from mailsender.model.history import Milestone, digest_of
from mailsender.model.records import Record
from mailsender.queue.memory import MemoryQueue
from tests.kafka_clients import (
    committed,
    delete_records,
    delete_topic,
    foreign_member,
    make_topic,
    produce,
    transact,
)

pytestmark = pytest.mark.asyncio


def config(bootstrap: str, topics: Topics, **changes: Any) -> KafkaConfig:
    settings = {"timeout": 3.0, "session_timeout": 6.0, "metadata_max_age": 1.0, **changes}
    return KafkaConfig(brokers=(bootstrap,), group=topics.group, **settings)


@asynccontextmanager
async def opened(bootstrap: str, topics: Topics, **changes: Any) -> AsyncIterator[KafkaSource]:
    histories = changes.pop("histories", None)
    source = KafkaSource(config(bootstrap, topics, **changes), topics.letters, histories=histories)
    await source.open()
    try:
        yield source
    finally:
        await source.close()


async def take(source: KafkaSource, count: int, timeout: float = 30.0) -> list[Record]:
    """Fetch until `count` records came."""
    found: list[Record] = []
    async with asyncio.timeout(timeout):
        while len(found) < count:
            found += await source.fetch(0.5)
    return found


async def fetch_until(
    source: KafkaSource, check: Callable[[], object], timeout: float = 30.0
) -> list[Record]:
    """Go on fetching until it holds; what came meanwhile."""
    found: list[Record] = []
    async with asyncio.timeout(timeout):
        while not check():
            found += await source.fetch(0.2)
    return found


def values(records: list[Record]) -> list[bytes]:
    return [record.value or b"" for record in records]


async def test_records_come_as_they_are_from_the_earliest_on(kafka: KafkaServer, topics: Topics) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    record = {"value": b"\x00[]", "key": b"\xff", "headers": [("h", b"\xfe"), ("h", None)]}
    produce(kafka.bootstrap, topics.letters, {**record, "timestamp": 1_666_000_000_123}, {"value": None})
    async with opened(kafka.bootstrap, topics) as source:
        first, second = await take(source, 2)
        assert source.trouble == ""
    assert first == Record(
        topic=topics.letters,
        partition=0,
        offset=0,
        timestamp=1_666_000_000_123,
        key=b"\xff",
        value=b"\x00[]",
        headers=(("h", b"\xfe"), ("h", None)),
    )
    assert (second.offset, second.key, second.value) == (1, None, None)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_the_four_codecs_as_librdkafka_writes_them(
    kafka: KafkaServer, topics: Topics, codec: str
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    sent = [f"Тема {i} ".encode() * 50 for i in range(200)]
    produce(kafka.bootstrap, topics.letters, *({"value": value} for value in sent), codec=codec)
    async with opened(kafka.bootstrap, topics) as source:
        assert values(await take(source, 200)) == sent


async def test_a_committed_record_is_not_read_again_an_uncommitted_one_is(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % i} for i in range(3)))
    async with opened(kafka.bootstrap, topics) as source:
        await take(source, 3)
        assert await source.commit({(topics.letters, 0): 2})
    assert committed(kafka.bootstrap, topics.group, topics.letters, 0) == 2
    async with opened(kafka.bootstrap, topics) as source:
        assert values(await take(source, 1)) == [b"2"]


async def test_bytes_in_hand_are_bounded(kafka: KafkaServer, topics: Topics) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    sent = [{"value": b"%04d" % i * 2500, "partition": i % 2} for i in range(600)]  # 6 MB
    produce(kafka.bootstrap, topics.letters, *sent)
    found: list[Record] = []
    async with opened(kafka.bootstrap, topics, max_bytes=1024 * 1024) as source:
        async with asyncio.timeout(30):
            while len(found) < 600:
                records = await source.fetch(0.5)
                assert sum(len(record.value or b"") for record in records) < 512 * 1024 + 64 * 10_000
                found += records
    for partition in (0, 1):
        assert [r.offset for r in found if r.partition == partition] == list(range(300))


async def test_the_lag_of_each_partition_is_what_is_there_and_not_handed_out(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    sent = [{"value": b"%04d" % i * 2500, "partition": int(i >= 400)} for i in range(600)]  # 6 MB
    produce(kafka.bootstrap, topics.letters, *sent)
    async with opened(kafka.bootstrap, topics, max_bytes=1024 * 1024) as source:
        assert source.lag() == {}
        left = {(topics.letters, 0): 400, (topics.letters, 1): 200}
        told = []
        async with asyncio.timeout(30):
            while any(left.values()):
                for record in await source.fetch(0.5):
                    left[record.topic, record.partition] -= 1
                # Nothing is known of a partition before its first answer.
                lag = source.lag()
                assert lag == {place: left[place] for place in lag}
                told.append(sum(lag.values()))
        assert source.lag() == left
        assert max(told) > 100
        produce(kafka.bootstrap, topics.letters, {"value": b"{}", "partition": 1})
        await take(source, 1)
        assert source.lag() == left


async def test_without_a_broker_it_opens_and_says_so(topics: Topics) -> None:
    began = time.monotonic()
    async with opened(f"127.0.0.1:{free_port()}", topics, timeout=1.0) as source:
        assert await source.fetch(0.5) == []
        await source.idle(0.1)
        assert await source.commit({(topics.letters, 0): 1})  # nothing is ours
        assert source.trouble
    assert time.monotonic() - began < 4


async def test_a_topic_that_is_made_late_is_picked_up(tmp_path: Path, topics: Topics) -> None:
    broker = KafkaBroker(tmp_path / "kafka")
    await asyncio.to_thread(broker.start)
    try:
        async with opened(broker.bootstrap, topics) as source:
            other = Topics.unique()
            make_topic(broker.bootstrap, other.letters, 1)  # so that metadata of something came
            for _ in range(4):
                assert await source.fetch(0.3) == []
            produce(broker.bootstrap, topics.letters, {"value": b"late"})
            assert values(await take(source, 1)) == [b"late"]
            assert source.trouble == ""
    finally:
        broker.kill()


async def test_idle_takes_nothing_and_stays_in_the_group(kafka: KafkaServer, topics: Topics) -> None:
    """Far beyond `max_poll_interval`, another member comes and goes, and the pause holds."""
    make_topic(kafka.bootstrap, topics.letters, 4)
    async with opened(kafka.bootstrap, topics, max_poll_interval=1.0) as source:
        produce(kafka.bootstrap, topics.letters, {"value": b"a", "partition": 0})
        assert values(await take(source, 1)) == [b"a"]
        assert await source.commit({(topics.letters, 0): 1})
        produce(kafka.bootstrap, topics.letters, *({"value": b"b", "partition": i} for i in range(4)))
        idling = asyncio.create_task(_idle_for(source, 6.0))
        async with opened(kafka.bootstrap, topics) as other:
            shared = await take(other, 2)
            assert len(shared) == 2
        await idling
        assert source.trouble == ""
        assert sorted(r.partition for r in await take(source, 4)) == [0, 1, 2, 3]
        assert await source.commit({(topics.letters, 0): 2})
    assert committed(kafka.bootstrap, topics.group, topics.letters, 0) == 2


async def _idle_for(source: KafkaSource, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        await source.idle(0.5)


async def test_two_members_share_and_a_commit_leaves_out_what_went_away(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    produce(kafka.bootstrap, topics.letters, *({"value": b"x", "partition": i} for i in (0, 1)))
    async with opened(kafka.bootstrap, topics) as first:
        assert len(await take(first, 2)) == 2
        async with opened(kafka.bootstrap, topics) as second:
            joined = asyncio.create_task(take(second, 1))
            await fetch_until(first, joined.done)
            (theirs,) = await joined
            ours = 1 - theirs.partition
            assert await first.commit({(topics.letters, 0): 1, (topics.letters, 1): 1})
            assert committed(kafka.bootstrap, topics.group, topics.letters, ours) == 1
            assert committed(kafka.bootstrap, topics.group, topics.letters, theirs.partition) < 0
            assert await second.commit({(topics.letters, theirs.partition): 1})
        assert committed(kafka.bootstrap, topics.group, topics.letters, theirs.partition) == 1


async def test_a_member_with_a_name_comes_back_to_its_partitions_at_once(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    produce(kafka.bootstrap, topics.letters, {"value": b"x"})
    async with opened(kafka.bootstrap, topics, instance_id="pod-1", session_timeout=30.0) as source:
        await take(source, 1)
    began = time.monotonic()
    async with opened(kafka.bootstrap, topics, instance_id="pod-1", session_timeout=30.0) as source:
        await take(source, 1)
    assert time.monotonic() - began < 10


# --- records that cannot be decoded --------------------------------------------------------------


def damage(broker: KafkaBroker, topic: str, partition: int, marker: bytes, by: bytes) -> None:
    """Change the bytes of a record on the broker's disk, which sends them as they lie there."""
    segment = broker.directory / "data" / f"{topic}-{partition}" / f"{0:020}.log"
    raw = segment.read_bytes()
    assert raw.count(marker) == 1
    with segment.open("r+b") as file:
        file.seek(raw.index(marker))
        file.write(by)


async def test_a_damaged_record_stops_its_partition_alone(own_kafka: KafkaBroker, topics: Topics) -> None:
    make_topic(own_kafka.bootstrap, topics.letters, 3)
    for i in range(4):  # one call is one batch, and a damaged batch is unreadable as a whole
        for partition in range(3):
            value = b"MARK-%d-%d" % (partition, i)
            produce(own_kafka.bootstrap, topics.letters, {"value": value, "partition": partition})
    damage(own_kafka, topics.letters, 1, b"MARK-1-2", b"XXXX-1-2")
    with capture_logs() as logs:
        async with opened(own_kafka.bootstrap, topics, retry_unreadable=1.0) as source:
            found = await fetch_until(source, lambda: "cannot be read" in source.trouble)
            found += await take(source, 4 + 4 + 2 - len(found)) if len(found) < 10 else []
            assert f"partition 1 of {topics.letters} at offset 2" in source.trouble
            by_partition = {n: [r.offset for r in found if r.partition == n] for n in range(3)}
            assert by_partition == {0: [0, 1, 2, 3], 1: [0, 1], 2: [0, 1, 2, 3]}

            produce(own_kafka.bootstrap, topics.letters, {"value": b"more", "partition": 0})
            assert values(await take(source, 1)) == [b"more"]
            assert "cannot be read" in source.trouble

            damage(own_kafka, topics.letters, 1, b"XXXX-1-2", b"MARK-1-2")  # mended
            assert values(await take(source, 2)) == [b"MARK-1-2", b"MARK-1-3"]
            await fetch_until(source, lambda: source.trouble == "")
    events = [entry["event"] for entry in logs]
    assert events.count("partition_unreadable") == 1
    assert events.count("partition_readable") == 1


async def test_a_codec_that_nobody_can_read_stops_its_partition_alone(
    kafka: KafkaServer, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    produce(kafka.bootstrap, topics.letters, {"value": b"z" * 500, "partition": 0}, codec="zstd")
    produce(kafka.bootstrap, topics.letters, {"value": b"a", "partition": 1})
    monkeypatch.setattr(aiokafka_codec, "has_zstd", lambda: False)
    async with opened(kafka.bootstrap, topics) as source:
        found = await fetch_until(source, lambda: "UnsupportedCodec" in source.trouble)
        found += await take(source, 1) if not found else []
        produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % i, "partition": 1} for i in range(5)))
        found += await take(source, 5)
        assert values(found) == [b"a", b"0", b"1", b"2", b"3", b"4"]


async def test_a_name_that_is_not_utf8_and_what_unpacks_to_too_much_hold_up_nothing(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    produce(kafka.bootstrap, topics.letters, {"value": b"first"})
    await publish_raw(kafka.bootstrap, topics.letters, b"second", name="na\udcffe")
    produce(kafka.bootstrap, topics.letters, {"value": b"0" * 8_000_000}, codec="gzip")
    produce(kafka.bootstrap, topics.letters, {"value": b"last"})
    async with opened(kafka.bootstrap, topics, max_bytes=4 * 1024 * 1024) as source:
        first, second, large, last = await take(source, 4)
        assert source.trouble == ""
    assert (first.value, second.value, last.value) == (b"first", b"second", b"last")
    assert second.headers == (("na\\xffe", b"v"),)
    assert "INTAKE_MAX_BYTES" in large.fault
    assert len(large.value or b"") < 100_000


async def publish_raw(bootstrap: str, topic: str, value: bytes, *, name: str) -> None:
    """Publish a record with a header whose name is any bytes, which clients keep one from."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        builder = producer.create_batch()
        builder.append(timestamp=None, key=None, value=value, headers=[("xxxx", b"v")])
        original = builder._build

        def build() -> bytearray:
            raw = original()
            raw[:] = raw.replace(b"xxxx", name.encode("utf-8", "surrogateescape"))
            struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
            return raw

        builder._build = build
        await (await producer.send_batch(builder, topic, partition=0))
    finally:
        await producer.stop()


# --- where reading goes on -----------------------------------------------------------------------


async def take_and_commit(
    bootstrap: str, topics: Topics, histories: MemoryQueue, count: int, *, milestones: bool = True
) -> None:
    """Take records in one by one as intake does: a note beside each offset, and milestones in the queue."""
    async with opened(bootstrap, topics, histories=histories) as source:
        for record in await take(source, count):
            offset = record.offset + 1
            digest = digest_of(record.key, record.value, record.timestamp)
            reached = Milestone(offset=offset, at=1.0, last=record.offset, digest=digest)
            place = topics.letters, record.partition
            assert await source.commit({place: offset}, {place: reached.text()})
            if milestones:
                known = await histories.history(*place)
                await histories.note_history(*place, known.reached(reached, since=0.0))


def events(logs: list[Any], name: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == name]


async def test_where_all_is_as_it_was_nothing_is_read_twice_and_nothing_said(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    histories = MemoryQueue(SystemClock())
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(6)))
    await take_and_commit(kafka.bootstrap, topics, histories, 6)
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(6, 9)))
    with capture_logs() as logs:
        async with opened(kafka.bootstrap, topics, histories=histories) as source:
            assert values(await take(source, 3)) == [b"6", b"7", b"8"]
            assert (source.trouble, source.lost) == ("", 0)
    assert events(logs, "log_differs") == events(logs, "records_lost") == []


async def test_records_that_were_deleted_unread_are_told_until_the_next_start(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    histories = MemoryQueue(SystemClock())
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(10)))
    async with opened(kafka.bootstrap, topics, histories=histories) as source:
        await take(source, 10)
        assert await source.commit({(topics.letters, 0): 2})
    delete_records(kafka.bootstrap, topics.letters, 0, before=7)
    with capture_logs() as logs:
        async with opened(kafka.bootstrap, topics, histories=histories) as source:
            assert values(await take(source, 3)) == [b"7", b"8", b"9"]
            assert source.lost == 5
            assert "5 records of partition 0" in source.trouble
            assert await source.commit({(topics.letters, 0): 10})
    (told,) = events(logs, "records_lost")
    assert (told["records"], told["first"], told["last"]) == (5, 2, 6)
    async with opened(kafka.bootstrap, topics, histories=histories) as source:
        await fetch_until(source, lambda: source._places._next)
        assert source.trouble == ""


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning_and_said(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    histories = MemoryQueue(SystemClock())
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(5)))
    await take_and_commit(kafka.bootstrap, topics, histories, 5)
    delete_topic(kafka.bootstrap, topics.letters)
    make_topic(kafka.bootstrap, topics.letters, 1)
    produce(kafka.bootstrap, topics.letters, *({"value": b"new %d" % n} for n in range(8)))
    with capture_logs() as logs:
        async with opened(kafka.bootstrap, topics, histories=histories) as source:
            assert values(await take(source, 8)) == [b"new %d" % n for n in range(8)]
            assert "differs from offset 0 on" in source.trouble
    assert len(events(logs, "log_differs")) == 1
    assert (await histories.history(topics.letters, 0)).high == 0


async def test_a_log_that_was_cut_off_is_read_again_from_where_it_agrees(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    histories = MemoryQueue(SystemClock())
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(3)))
    await take_and_commit(kafka.bootstrap, topics, histories, 3)
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(3, 9)))
    async with opened(kafka.bootstrap, topics, histories=histories) as source:
        await take(source, 6)
        other = Milestone(offset=6, at=1.0, last=5, digest="of what lay there before")
        assert await source.commit({(topics.letters, 0): 6}, {(topics.letters, 0): other.text()})
    with capture_logs() as logs:
        async with opened(kafka.bootstrap, topics, histories=histories) as source:
            assert values(await take(source, 6)) == [b"%d" % n for n in range(3, 9)]
    (told,) = events(logs, "log_differs")
    assert (told["committed"], told["read_from"]) == (6, 3)


async def test_a_topic_that_is_made_anew_while_it_is_read(kafka: KafkaServer, topics: Topics) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    histories = MemoryQueue(SystemClock())
    produce(kafka.bootstrap, topics.letters, *({"value": b"%d" % n} for n in range(5)))
    async with opened(kafka.bootstrap, topics, histories=histories) as source:
        await take(source, 5)
        assert await source.commit({(topics.letters, 0): 5})
        delete_topic(kafka.bootstrap, topics.letters)
        make_topic(kafka.bootstrap, topics.letters, 1)
        produce(kafka.bootstrap, topics.letters, *({"value": b"new %d" % n} for n in range(3)))
        assert values(await take(source, 3, timeout=60)) == [b"new %d" % n for n in range(3)]


async def test_markers_of_transactions_are_committed_too(kafka: KafkaServer, topics: Topics) -> None:
    make_topic(kafka.bootstrap, topics.letters, 1)
    transact(kafka.bootstrap, topics.letters, b"a", b"b")
    transact(kafka.bootstrap, topics.letters, b"never", abort=True)
    async with opened(kafka.bootstrap, topics) as source:
        assert values(await take(source, 2)) == [b"a", b"b"]
        await fetch_until(source, lambda: source._poll is None)
        assert committed(kafka.bootstrap, topics.group, topics.letters, 0) < 0  # nothing before its records
        assert await source.commit({(topics.letters, 0): 2}, {(topics.letters, 0): "note"})
        async with asyncio.timeout(20):
            while committed(kafka.bootstrap, topics.group, topics.letters, 0) != 5:
                await source.fetch(0.2)


async def test_two_members_of_one_name_do_not_throw_each_other_out_for_ever(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    with capture_logs() as logs:
        async with (
            opened(kafka.bootstrap, topics, instance_id="same") as first,
            opened(kafka.bootstrap, topics, instance_id="same") as second,
        ):

            def both_read() -> bool:
                # Who was thrown out knows only when it asks again; until then it, too, looks as if it read.
                return bool(
                    events(logs, "kafka_instance_id_taken") and first._places._next and second._places._next
                )

            other = asyncio.create_task(fetch_until(second, both_read, timeout=90))
            await fetch_until(first, other.done, timeout=90)
            await other
    (told,) = events(logs, "kafka_instance_id_taken")
    assert told["instance_id"] == "same"


@pytest.mark.parametrize(
    "settings", [{"partition_assignment_strategy": "roundrobin"}, {"group_protocol": "consumer"}]
)
async def test_another_program_that_shares_our_group_is_named(
    kafka: KafkaServer, topics: Topics, settings: dict[str, str]
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    other = foreign_member(kafka.bootstrap, topics.group, topics.letters, **settings)
    with capture_logs() as logs:
        async with opened(kafka.bootstrap, topics) as source:
            await fetch_until(source, lambda: source._member)
            joining = asyncio.create_task(asyncio.to_thread(other.__enter__))
            await fetch_until(source, lambda: joining.done() and events(logs, "kafka_group_shared"), 60)
            leaving = asyncio.create_task(asyncio.to_thread(other.__exit__, None, None, None))
            await fetch_until(source, lambda: leaving.done() and events(logs, "kafka_group_ours"), 60)
    (told,) = events(logs, "kafka_group_shared")
    assert told["members"].startswith("billing at ")


async def test_another_program_that_keeps_us_out_of_our_group_is_told(
    kafka: KafkaServer, topics: Topics
) -> None:
    make_topic(kafka.bootstrap, topics.letters, 2)
    other = foreign_member(
        kafka.bootstrap, topics.group, topics.letters, partition_assignment_strategy="cooperative-sticky"
    )
    with capture_logs() as logs:
        with other:
            source = KafkaSource(config(kafka.bootstrap, topics), topics.letters)
            await source.open()
            await fetch_until(source, lambda: events(logs, "kafka_reading_trouble"))
            assert "another program is a member of the group" in source.trouble
        try:
            await fetch_until(source, lambda: source._member and not source.trouble, 60)
        finally:
            await source.close()
    reasons = [each["reason"] for each in events(logs, "kafka_reading_trouble")]
    assert any(f"another program is a member of the group {topics.group}" in each for each in reasons)


async def test_what_a_poll_brought_before_partitions_were_taken_away_is_nobodys(topics: Topics) -> None:
    source = KafkaSource(config("127.0.0.1:1", topics), topics.letters)
    consumer: Any = object()
    source._keeper._client = consumer

    async def poll() -> dict[Any, Any]:
        return {}

    source._poll = asyncio.create_task(poll())
    await asyncio.wait({source._poll})
    source._revoked(consumer)
    assert source._poll is None
    source._poll = under_way = asyncio.create_task(asyncio.sleep(60))  # type: ignore[assignment]
    source._revoked(consumer)
    assert source._poll is under_way  # it brings what is read after that
    under_way.cancel()


# --- brokers that go, hang and come back ---------------------------------------------------------


async def test_a_broker_that_is_killed_and_comes_back(own_kafka: KafkaBroker, topics: Topics) -> None:
    produce(own_kafka.bootstrap, topics.letters, {"value": b"before"})
    with capture_logs() as logs:
        async with opened(own_kafka.bootstrap, topics) as source:
            (record,) = await take(source, 1)
            own_kafka.kill()
            began = time.monotonic()
            assert not await source.commit({(topics.letters, record.partition): 1})
            assert time.monotonic() - began < 4
            assert await source.fetch(0.5) == []
            assert source.trouble
            await asyncio.to_thread(own_kafka.start)
            produce(own_kafka.bootstrap, topics.letters, {"value": b"after"})
            assert b"after" in values(await take(source, 1, timeout=60))
            async with asyncio.timeout(30):
                while not await source.commit({(topics.letters, record.partition): 1}):
                    await source.fetch(0.2)
            await fetch_until(source, lambda: source.trouble == "")
    assert committed(own_kafka.bootstrap, topics.group, topics.letters, record.partition) == 1
    assert len([entry for entry in logs if entry["log_level"] != "debug"]) < 15, logs


async def test_a_broker_that_hangs_and_comes_back(own_kafka: KafkaBroker, topics: Topics) -> None:
    produce(own_kafka.bootstrap, topics.letters, {"value": b"before"})
    async with opened(own_kafka.bootstrap, topics, timeout=2.0) as source:
        (record,) = await take(source, 1)
        own_kafka.freeze()
        try:
            for _ in range(2):
                began = time.monotonic()
                assert not await source.commit({(topics.letters, record.partition): 1})
                await source.idle(0.2)
                assert await source.fetch(0.2) == []
                assert time.monotonic() - began < 4.5
            assert source.trouble
        finally:
            own_kafka.thaw()
        produce(own_kafka.bootstrap, topics.letters, {"value": b"after"})
        assert b"after" in values(await take(source, 1, timeout=60))
        await fetch_until(source, lambda: source.trouble == "", timeout=40)


async def test_closing_while_the_broker_hangs_keeps_its_deadline(
    own_kafka: KafkaBroker, topics: Topics
) -> None:
    produce(own_kafka.bootstrap, topics.letters, {"value": b"x"})
    before = asyncio.all_tasks()
    source = KafkaSource(config(own_kafka.bootstrap, topics, timeout=2.0), topics.letters)
    await source.open()
    (record,) = await take(source, 1)
    own_kafka.freeze()
    committing = asyncio.create_task(source.commit({(topics.letters, record.partition): 1}))
    await asyncio.sleep(0.1)  # the commit is on its way to a broker that tells nothing
    began = time.monotonic()
    await source.close()
    assert time.monotonic() - began < 6
    own_kafka.thaw()
    assert await committing is False
    await asyncio.sleep(0.1)  # what was cancelled ends by itself
    assert asyncio.all_tasks() == before


async def test_a_client_from_which_nothing_comes_is_replaced(kafka: KafkaServer, topics: Topics) -> None:
    produce(kafka.bootstrap, topics.letters, {"value": b"a"})
    async with opened(kafka.bootstrap, topics, stall=3.0) as source:
        (first,) = await take(source, 1)
        assert await source.commit({(topics.letters, first.partition): 1})
        assert source._keeper.client is not None
        source._keeper.client._fetcher._fetch_task.cancel()  # as if it had died of an error of its own
        produce(kafka.bootstrap, topics.letters, {"value": b"b", "partition": first.partition})
        assert values(await take(source, 1)) == [b"b"]
