"""Another program's clients of Kafka (librdkafka's), as tests drive and check the service with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


def make_topic(bootstrap: str, topic: str, partitions: int = 1, **settings: str) -> None:
    """Make a topic and wait until it can be written to."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, partitions, 1, config=settings)]).values():
        future.result(20)


def delete_topic(bootstrap: str, topic: str) -> None:
    """Delete a topic, and wait until nobody knows it any more."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic]).values():
        future.result(20)
    deadline = time.monotonic() + 20
    while topic in admin.list_topics(timeout=10).topics:
        if time.monotonic() > deadline:
            pytest.fail(f"{topic} is still there", pytrace=False)
        time.sleep(0.1)


def delete_records(bootstrap: str, topic: str, partition: int, *, before: int) -> None:
    """Have the broker delete what lies before an offset."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        future.result(20)


def transact(bootstrap: str, topic: str, *values: bytes, abort: bool = False) -> None:
    """Publish records in a transaction."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": uuid4().hex})
    producer.init_transactions(20)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(20)
    if abort:
        producer.abort_transaction(20)
    else:
        producer.commit_transaction(20)


def produce(
    bootstrap: str,
    topic: str,
    *records: Mapping[str, Any],
    codec: str = "none",
) -> list[tuple[int, int]]:
    """Publish records of `value`, `key`, `headers`, `partition`, `timestamp`; where they landed."""
    landed: dict[int, tuple[int, int]] = {}
    settings = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 20}
    producer = Producer({**settings, "message.max.bytes": 10_000_000})
    for number, record in enumerate(records):

        def note(error: object, message: Message, number: int = number) -> None:
            assert error is None, error
            landed[number] = (message.partition() or 0, message.offset() or 0)

        producer.produce(topic, on_delivery=note, **record)
    assert producer.flush(30) == 0
    return [landed[number] for number in range(len(records))]


def consume(bootstrap: str, topic: str, count: int, timeout: float = 20.0) -> list[Message]:
    """The first `count` records of a topic, in order within each partition."""
    found: list[Message] = []
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + timeout
    try:
        while len(found) < count:
            if time.monotonic() > deadline:
                pytest.fail(f"{len(found)} of {count} records on {topic} after {timeout:g} s", pytrace=False)
            found += [m for m in consumer.consume(count - len(found), 0.2) if not m.error()]
    finally:
        consumer.close()
    return found


def committed(bootstrap: str, group: str, topic: str, partition: int) -> int:
    """The offset that the group has committed; -1001 where it has none."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    try:
        (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=10)
    finally:
        consumer.close()
    return int(found.offset)


@contextmanager
def foreign_member(bootstrap: str, group: str, topic: str, **settings: str) -> Iterator[None]:
    """Another program is in a group, with partitions, while the block lasts. Underlines stand for dots."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "client.id": "billing",
            "log_level": 0,
            **{name.replace("_", "."): value for name, value in settings.items()},
        }
    )
    assigned, over = threading.Event(), threading.Event()
    consumer.subscribe([topic], on_assign=lambda *_: assigned.set())

    def poll() -> None:
        while not over.is_set():
            consumer.poll(0.1)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        assert assigned.wait(30)
        yield
    finally:
        over.set()
        thread.join()
        consumer.close()
