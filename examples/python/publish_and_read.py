"""Publishes a batch of letters, and reads what became of them."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092")
LETTERS = os.environ.get("KAFKA_TOPIC_MAILSENDER", "mts-to-mailsender")
REPORTS = os.environ.get("KAFKA_TOPIC_PROFILE", "mts-to-profile")
PATIENCE = 60.0

BATCH = [
    {
        "Subject": "Your order",
        "Body": "<p>Thank you, Ann: it is on its way.</p>",
        "Addresses": ["ann@example.test"],
        "Token": {"order": 1},
    },
    {
        "Subject": "Your order",
        "Body": "<p>Thank you, Bob and Carol: it is on its way.</p>",
        "Addresses": ["bob@example.test", "carol@example.test"],
        "Token": {"order": 2},
    },
]


def publish(key: bytes) -> None:
    """Publish the batch as one record; return when the broker has it."""
    producer = Producer({"bootstrap.servers": BROKERS, "acks": "all"})
    failed: list[object] = []
    producer.produce(LETTERS, json.dumps(BATCH), key, on_delivery=lambda error, _: failed.append(error))
    if producer.flush(PATIENCE) or failed != [None]:
        sys.exit(f"the batch was not published: {failed}")


def begin_at_the_end(consumer: Consumer) -> None:
    """Read all partitions of reports from where they end now."""
    numbers = consumer.list_topics(REPORTS, PATIENCE).topics[REPORTS].partitions
    places = [TopicPartition(REPORTS, number) for number in numbers]
    for place in places:
        _, place.offset = consumer.get_watermark_offsets(place, PATIENCE)
    consumer.assign(places)


def reports(consumer: Consumer, key: bytes) -> Iterator[dict[str, Any]]:
    """The reports of records with this key."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        record = consumer.poll(1)
        if record is not None and not record.error() and record.key() == key:
            yield json.loads(record.value())


def main() -> None:
    """Publish, and wait for a report on each letter."""
    key = f"example-{uuid.uuid4()}".encode()
    consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": "examples", "enable.auto.commit": False})
    begin_at_the_end(consumer)
    publish(key)
    found: dict[str, str] = {}  # by ID: a report may come twice
    for report in reports(consumer, key):
        if report["ID"] in found:
            continue
        found[report["ID"]] = report["Status"]
        for recipient in report["Recipients"]:
            print("order", report["Token"]["order"], recipient["Address"], recipient["Status"])  # noqa: T201
        if len(found) == len(BATCH):
            break
    consumer.close()
    if list(found.values()) != ["sent"] * len(BATCH):
        sys.exit(f"not all were sent: {found}")


if __name__ == "__main__":
    main()
