"""Intake on real Kafka and real MongoDB: what is published ends in the queue, once, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from lab.parts import KafkaServer, MongoServer, Topics
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod
from mailsender.intake.consumer import Intake, IntakeConfig
from mailsender.kafka.client import KafkaConfig
from mailsender.kafka.consumer import KafkaSource
from mailsender.kafka.producer import KafkaSink
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Letter
from mailsender.queue.mongo.client import connect
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.reports.publisher import Reporter, ReporterConfig
from tests.kafka_clients import committed, consume, make_topic, produce

pytestmark = pytest.mark.asyncio


@dataclass
class Parts:
    """The addresses of the parts, and the names of this test in them."""

    kafka: str
    mongo: str
    database: str
    topics: Topics

    def queue(self) -> MongoQueue:
        client = connect(self.mongo, timeout=2.0, app_name="test")
        return MongoQueue(
            client,
            database=self.database,
            collection="letters",
            retention=86400,
            clock=SystemClock(),
            timeout=2.0,
        )

    def config(self) -> KafkaConfig:
        return KafkaConfig(
            brokers=(self.kafka,),
            group=self.topics.group,
            timeout=3.0,
            session_timeout=6.0,
            metadata_max_age=1.0,
            max_request_size=2_000_000,
        )


@asynccontextmanager
async def taking_in(
    parts: Parts, final: Callable[[Sequence[Letter]], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[Intake, MongoQueue]]:
    """An intake that runs, and its queue."""
    queue, sink = parts.queue(), KafkaSink(parts.config())
    await queue.open()
    await sink.open()
    stop = asyncio.Event()
    intake = Intake(
        KafkaSource(parts.config(), parts.topics.letters),
        queue,
        sink,
        config=IntakeConfig(dead_letter_topic=parts.topics.dead, retention=86400, longest_wait=1.0),
        clock=SystemClock(),
        final=final,
    )
    task = asyncio.create_task(intake.run(stop))
    try:
        yield intake, queue
        stop.set()
        await asyncio.wait_for(task, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await sink.close()
        await queue.close()


async def until(check: Callable[[], Awaitable[object]], timeout: float = 60.0) -> None:
    async with asyncio.timeout(timeout):
        while not await check():  # noqa: ASYNC110  what is waited for lies in other processes
            await asyncio.sleep(0.1)


def batch(*subjects: str) -> bytes:
    return json.dumps([{"Subject": s, "Addresses": ["a@b.test"]} for s in subjects]).encode()


@pytest.fixture
def parts(kafka: KafkaServer, mongod: MongoServer, database: str, topics: Topics) -> Parts:
    return Parts(kafka.bootstrap, mongod.uri, database, topics)


async def test_good_letters_among_poison_of_every_kind(parts: Parts) -> None:
    topics = parts.topics
    make_topic(parts.kafka, topics.letters, 1)
    make_topic(parts.kafka, topics.dead, 1)
    poison = [b"{", b"[1]", b"\xff", b"[" * 5000, b'[{"Token":NaN}]', None]
    bad = [
        b'[{"Subject":"\\ud800"}]',
        b'[{"Subject":7,"Addresses":["a@b.test"],"a\\u0000":1}]',
        b"[{}]",
        b'[{"a":' + b"9" * 5000 + b"}]",
        b'[{"Token":' + b"[" * 5000 + b"]" * 5000 + b"}]",
    ]
    values = [batch("one"), *poison, *bad, batch("two", "three")]
    produce(parts.kafka, topics.letters, *({"value": v, "key": b"\xff%d" % i} for i, v in enumerate(values)))
    offered: list[Letter] = []

    async def final(letters: Sequence[Letter]) -> None:
        offered.extend(letters)

    async with taking_in(parts, final) as (intake, queue):

        async def all_in() -> bool:
            state = intake.state  # records count when they are read, letters when they are stored
            return (state.records, state.letters) == (len(values), 3 + len(bad))

        await until(all_in)
        stats = await queue.stats()
        assert (stats.awaiting, stats.error) == (3, len(bad))
    assert committed(parts.kafka, topics.group, topics.letters, 0) == len(values)
    dead = consume(parts.kafka, topics.dead, len(poison))
    assert [(m.key(), m.value()) for m in dead] == [(b"\xff%d" % i, v) for i, v in enumerate(poison, 1)]
    assert len(offered) == len(bad)


async def test_a_record_that_its_topic_takes_and_the_dead_letter_topic_does_not(parts: Parts) -> None:
    """Its own headers and ours make it too large; it is kept whole, and the topic says where."""
    topics = parts.topics
    make_topic(parts.kafka, topics.letters, 1)
    make_topic(parts.kafka, topics.dead, 1)
    value = b"x" * 1_048_400
    produce(parts.kafka, topics.letters, {"value": value}, {"value": batch("after")})
    async with taking_in(parts) as (intake, queue):

        async def all_in() -> bool:
            counted = intake.state.records == 2 and intake.state.dead_letters == 1
            return counted and (await queue.stats()).awaiting == 1

        await until(all_in)
        (pointer,) = consume(parts.kafka, topics.dead, 1)
        headers = dict(pointer.headers() or [])
        assert headers["mailsender-reason"] == b"not-a-batch"
        assert headers["mailsender-kept-in"]
    assert committed(parts.kafka, topics.group, topics.letters, 0) == 2


async def test_mongod_and_the_broker_go_and_come_back_and_everything_is_in_once(
    own_kafka: KafkaBroker, own_mongod: Mongod, topics: Topics
) -> None:
    parts = Parts(own_kafka.bootstrap, own_mongod.uri, "mts", topics)
    make_topic(parts.kafka, topics.letters, 2)

    def publish(names: range) -> None:
        produce(parts.kafka, topics.letters, *({"value": batch(f"{n}"), "partition": n % 2} for n in names))

    publish(range(100))
    async with taking_in(parts) as (intake, queue):

        async def waiting(count: int) -> bool:
            return (await queue.stats()).awaiting == count

        await until(lambda: waiting(100))
        own_mongod.kill()
        publish(range(100, 150))

        async def waits() -> bool:
            return intake.state.status.startswith("waiting: MongoDB")

        await until(waits)
        await asyncio.to_thread(own_mongod.start)
        await until(lambda: waiting(150))
        own_kafka.kill()
        await asyncio.to_thread(own_kafka.start)
        publish(range(150, 200))
        await until(lambda: waiting(200))
        assert intake.state.status == "running"
    assert sum(committed(parts.kafka, topics.group, topics.letters, n) for n in (0, 1)) == 200


async def test_reports_of_bad_letters_come_back_under_their_key(parts: Parts) -> None:
    topics = parts.topics
    produce(parts.kafka, topics.letters, {"value": b'[{"Subject":7},{"Body":[]}]', "key": b"\xfe"})
    sink, stop = KafkaSink(parts.config()), asyncio.Event()
    await sink.open()
    ended: asyncio.Queue[Sequence[Letter]] = asyncio.Queue()
    async with taking_in(parts, ended.put) as (_, queue):
        reporter = Reporter(queue, sink, config=ReporterConfig(topic=topics.reports), clock=SystemClock())
        reporting = asyncio.create_task(reporter.run(stop))
        await reporter.offer(await ended.get())
        reports = await asyncio.to_thread(consume, parts.kafka, topics.reports, 2)

        async def marked() -> bool:
            return reporter.state.marked == 2

        await until(marked)
        assert (await queue.stats()).unreported == 0
        stop.set()
        assert await reporting == 0
    await sink.close()
    assert {message.key() for message in reports} == {b"\xfe"}
    first = json.loads(reports[0].value() or b"")
    assert list(first)[:7] == ["ID", "Addresses", "Subject", "Body", "Token", "Status", "KafkaKey"]
    assert (first["Status"], first["KafkaKey"]) == ("error", "\ufffd")
    assert "Subject must be a string" in first["Reason"]["Text"]
