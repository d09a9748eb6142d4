"""What came out, read by clients that are not the service's: librdkafka, and PyMongo's own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from pymongo.collection import Collection

from lab.parts import extents_of, partitions_of
from proof.history import Report, Stored, Told


class TopicReader:
    """Reads a topic from its beginning, on and on; a plain consumer that commits nothing."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"judge-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        # Assigned, not subscribed: a group of its own would first have to be balanced.
        partitions = partitions_of(self._consumer, topic)
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])

    def more(self, seconds: float) -> list[bytes]:
        """The values that came within so many seconds; comes back as soon as some are there."""
        found = self._consumer.consume(1000, timeout=seconds)
        return [message.value() or b"" for message in found if message.error() is None]

    def close(self) -> None:
        self._consumer.close()


def report_of(raw: bytes) -> Report:
    """The judge's view of a report."""
    value = json.loads(raw)
    told = {
        each["Address"]: Told(status=each["Status"], uncertain=each["Uncertain"], phase=each["Phase"])
        for each in value["Recipients"]
    }
    return Report(
        letter=value["ID"],
        mark=value["Token"] if isinstance(value["Token"], str) else json.dumps(value["Token"]),
        status=value["Status"],
        message_id=value["MessageID"],
        recipients=told,
        uncertain=value["Uncertain"],
        words=blake2b(raw, digest_size=12).hexdigest(),
        key=value.get("KafkaKey") or "",
        omitted="Recipients" in value.get("Omitted", ()),
    )


def stored_in(collection: Collection[dict[str, Any]]) -> tuple[Stored, ...]:
    """All letters of the collection: the original service's fields, and whether its report is out."""
    wanted = {"status": 1, "outbox": 1, "subject": 1, "token": 1}
    left = {str(entry["_id"]) for entry in collection.outbox.find({}, {"_id": 1})}
    return tuple(
        Stored(
            letter=str(document["_id"]),
            mark=_mark_of(document),
            status=str(document.get("status")),
            # The entry goes with the last report of all that were settled together.
            reported=str(document.get("outbox")) not in left,
        )
        for document in collection.find({}, wanted)
    )


def _mark_of(document: Mapping[str, Any]) -> str:
    """The token of a letter is its mark; where that was not kept its subject may tell."""
    token = document.get("token")
    if isinstance(token, str) and token:
        return token
    return str(document.get("subject", "")).partition("[")[2].partition("]")[0]


def offsets(bootstrap: str, group: str, topic: str) -> dict[int, tuple[int, int]]:
    """For each partition that holds something: what the group committed, 0 for nothing, and its end."""
    reader = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"judge-{time.monotonic_ns()}", "log_level": 0}
    )
    try:
        ends = {partition: end for partition, (_, end) in extents_of(reader, topic).items() if end}
    finally:
        reader.close()
    found = _committed(AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}), group)
    committed = {place.partition: max(0, place.offset) for place in found}
    return {partition: (committed.get(partition, 0), end) for partition, end in ends.items()}


def _committed(admin: AdminClient, group: str, *, timeout: float = 30.0) -> list[TopicPartition]:
    """What a group committed; for a while after a broker's start or end nobody may know."""
    passing = {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
    deadline = time.monotonic() + timeout
    while True:
        try:
            asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
            return list(asked[group].result(20).topic_partitions)
        except KafkaException as error:
            if error.args[0].code() not in passing or time.monotonic() > deadline:
                raise
        time.sleep(0.1)
