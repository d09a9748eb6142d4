from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from lab import parts
from lab.parts import KafkaServer, Topics
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.process import free_port
from mailsender.kafka.client import KafkaConfig
from mailsender.kafka.producer import KafkaSink
from mailsender.model.errors import Rejected, TooLarge, Unavailable
from mailsender.model.records import Landed, Outgoing
from tests.kafka_clients import consume, make_topic

pytestmark = pytest.mark.asyncio


def config(bootstrap: str, **changes: object) -> KafkaConfig:
    return KafkaConfig(brokers=(bootstrap,), **{"timeout": 3.0, **changes})  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def sink(kafka: KafkaServer) -> AsyncIterator[KafkaSink]:
    sink = KafkaSink(config(kafka.bootstrap, timeout=10.0))
    await sink.open()
    yield sink
    await sink.close()


async def test_records_land_as_they_are_in_the_order_of_each_key(
    kafka: KafkaServer, topics: Topics, sink: KafkaSink
) -> None:
    records = [
        Outgoing(topic=topics.reports, key=b"\xff\x00", value=f"{i}".encode(), headers=(("why", b"\xfe"),))
        for i in range(500)
    ]
    answers = await sink.publish(records)
    assert [type(answer) for answer in answers] == [Landed] * 500
    assert len({(a.partition, a.offset) for a in answers if isinstance(a, Landed)}) == 500
    found = consume(kafka.bootstrap, topics.reports, 500)
    assert [int(message.value()) for message in found] == list(range(500))
    assert {message.key() for message in found} == {b"\xff\x00"}
    assert found[0].headers() == [("why", b"\xfe")]
    assert sink.trouble == ""


async def test_records_with_neither_key_nor_value(
    kafka: KafkaServer, topics: Topics, sink: KafkaSink
) -> None:
    answers = await sink.publish(
        [
            Outgoing(topic=topics.dead, key=None, value=None, headers=(("why", b"null"), ("none", None))),
            Outgoing(topic=topics.dead, key=None, value=b"x"),
            Outgoing(topic=topics.dead, key=b"k", value=None),
        ]
    )
    assert all(isinstance(answer, Landed) for answer in answers)
    found = {(m.key(), m.value()): m.headers() for m in consume(kafka.bootstrap, topics.dead, 3)}
    assert found.keys() == {(None, None), (None, b"x"), (b"k", None)}
    assert found[None, None] == [("why", b"null"), ("none", None)]


async def test_a_topic_that_nobody_makes_is_called_missing_until_it_is_there(tmp_path: Path) -> None:
    with parts.running(parts.local_kafka(tmp_path / "kafka", auto_create=False)) as broker:
        sink = KafkaSink(config(broker.bootstrap))
        await sink.open()
        try:
            record = Outgoing(topic="reports", key=b"k", value=b"x")
            (answer,) = await sink.publish([record])
            assert "the brokers know no such topic" in str(answer)
            assert sink.trouble_with("reports").startswith("reports: the brokers know no such topic")
            make_topic(broker.bootstrap, "reports")
            async with asyncio.timeout(20):
                while not isinstance((await sink.publish([record]))[0], Landed):
                    pass
            assert sink.trouble_with("reports") == ""
        finally:
            await sink.close()


async def test_what_the_client_finds_too_large_harms_no_neighbour(topics: Topics, sink: KafkaSink) -> None:
    small = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    large = Outgoing(topic=topics.reports, key=b"k", value=b"x" * 1_000_000)
    answers = await sink.publish([small, large, small])
    assert [type(answer) for answer in answers] == [Landed, TooLarge, Landed]


async def test_what_the_broker_finds_too_large_harms_no_neighbour(
    kafka: KafkaServer, topics: Topics, sink: KafkaSink
) -> None:
    """One batch holds them all, so the broker's first answer is about all of them."""
    make_topic(kafka.bootstrap, topics.reports, 1, **{"max.message.bytes": "20000"})
    small = Outgoing(topic=topics.reports, key=b"k", value=b"x" * 9000)
    large = Outgoing(topic=topics.reports, key=b"k", value=b"x" * 30_000)
    answers = await sink.publish([small, small, large, small])
    assert [type(answer) for answer in answers] == [Landed, Landed, TooLarge, Landed]
    assert [type(answer) for answer in await sink.publish([small, small])] == [Landed, Landed]
    assert len(consume(kafka.bootstrap, topics.reports, 5)) == 5


async def test_what_a_compacted_topic_refuses_harms_no_neighbour(
    kafka: KafkaServer, topics: Topics, sink: KafkaSink
) -> None:
    make_topic(kafka.bootstrap, topics.reports, 1, **{"cleanup.policy": "compact"})
    good = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    keyless = Outgoing(topic=topics.reports, key=None, value=b"x")
    answers = await sink.publish([good, keyless, good, keyless])
    assert [type(answer) for answer in answers] == [Landed, Rejected, Landed, Rejected]
    assert sink.trouble_with(topics.reports) == ""


async def test_a_broker_that_refuses_our_time_gets_records_without_one(
    kafka: KafkaServer, topics: Topics, sink: KafkaSink
) -> None:
    make_topic(kafka.bootstrap, topics.reports, 1, **{"message.timestamp.before.max.ms": "0"})
    record = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    # One after another: what the broker appends within the millisecond in which it was made is not refused.
    answers = [(await sink.publish([record]))[0] for _ in range(30)]
    assert [type(answer) for answer in answers] == [Landed] * 30
    *_, last = consume(kafka.bootstrap, topics.reports, 30)
    assert last.timestamp()[1] == -1


async def test_a_producer_that_is_given_up_leaves_no_complaint_of_python(
    own_kafka: KafkaBroker, topics: Topics
) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    sink = KafkaSink(config(own_kafka.bootstrap, timeout=1.0))
    await sink.open()
    record = Outgoing(topic=topics.reports, key=b"k", value=b"x" * 200_000)
    assert isinstance((await sink.publish([record]))[0], Landed)
    own_kafka.kill()
    assert isinstance((await sink.publish([record] * 3))[0], Unavailable)
    assert isinstance((await sink.publish([record] * 3))[0], Unavailable)
    await sink.close()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_without_a_broker_it_opens_and_answers_within_its_deadline(tmp_path: object) -> None:
    sink = KafkaSink(config(f"127.0.0.1:{free_port()}", timeout=1.0))
    await sink.open()
    began = time.monotonic()
    answers = await sink.publish([Outgoing(topic="t", key=None, value=b"x")])
    assert time.monotonic() - began < 2.0
    assert isinstance(answers[0], Unavailable)
    assert sink.trouble
    await sink.close()


async def test_a_broker_that_is_killed_and_comes_back(own_kafka: KafkaBroker, topics: Topics) -> None:
    record = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    sink = KafkaSink(config(own_kafka.bootstrap))
    await sink.open()
    with capture_logs() as logs:
        assert isinstance((await sink.publish([record]))[0], Landed)
        own_kafka.kill()
        began = time.monotonic()
        assert isinstance((await sink.publish([record]))[0], Unavailable)
        assert time.monotonic() - began < 4.0
        assert sink.trouble
        await asyncio.to_thread(own_kafka.start)
        await _until_published(sink, record)
    await sink.close()
    assert sink_events(logs) == ["kafka_publishing_trouble", "kafka_publishing_well"]
    assert len(logs) < 12, logs


async def test_a_broker_that_hangs_and_comes_back(own_kafka: KafkaBroker, topics: Topics) -> None:
    record = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    sink = KafkaSink(config(own_kafka.bootstrap, timeout=2.0))
    await sink.open()
    assert isinstance((await sink.publish([record]))[0], Landed)
    own_kafka.freeze()
    try:
        for _ in range(2):
            began = time.monotonic()
            assert isinstance((await sink.publish([record]))[0], Unavailable)
            assert time.monotonic() - began < 3.0
    finally:
        own_kafka.thaw()
    await _until_published(sink, record)
    await sink.close()


async def test_closing_while_the_broker_hangs_keeps_its_deadline(
    own_kafka: KafkaBroker, topics: Topics
) -> None:
    before = asyncio.all_tasks()
    sink = KafkaSink(config(own_kafka.bootstrap, timeout=2.0))
    await sink.open()
    record = Outgoing(topic=topics.reports, key=b"k", value=b"x")
    assert isinstance((await sink.publish([record]))[0], Landed)
    own_kafka.freeze()
    publishing = asyncio.create_task(sink.publish([record]))
    await asyncio.sleep(0.2)  # the record is on its way to a broker that tells nothing
    began = time.monotonic()
    await sink.close()
    assert time.monotonic() - began < 5.0
    assert isinstance((await publishing)[0], Unavailable)
    own_kafka.thaw()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def _until_published(sink: KafkaSink, record: Outgoing) -> None:
    async with asyncio.timeout(40):
        while not isinstance((await sink.publish([record]))[0], Landed):
            pass
    assert sink.trouble == ""


def sink_events(logs: object) -> list[str]:
    return [e["event"] for e in logs if str(e["event"]).startswith("kafka_publishing")]  # type: ignore[attr-defined]
