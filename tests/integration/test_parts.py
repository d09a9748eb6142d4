"""The embedded parts themselves: they start, keep their data over an ending, and die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lab.parts import (
    Certificates,
    KafkaServer,
    MongoServer,
    SmtpSink,
    extents_of,
    partitions_of,
    wait_until,
)
from mailsender.dev.kafka import KafkaBroker, MockBroker, brokers_of
from mailsender.dev.mongod import Mongod, ReplicaSet
from mailsender.dev.process import Child, ChildError, free_port, listens


def test_mongod_is_a_replica_set_with_transactions(mongod: MongoServer, database: str) -> None:
    with MongoClient(mongod.uri) as client:
        client[database].things.insert_one({"_id": 0})
        with client.start_session() as session, session.start_transaction():
            client[database].things.insert_one({"_id": 1}, session=session)
        assert client[database].things.count_documents({}) == 2


def test_mongod_keeps_its_data_over_a_kill(own_mongod: Mongod) -> None:
    with MongoClient(own_mongod.uri, w="majority") as client:
        client.test.things.insert_one({"_id": 1})
    own_mongod.kill()
    assert not listens(own_mongod.port)
    own_mongod.start()
    with MongoClient(own_mongod.uri) as client:
        assert client.test.things.count_documents({}) == 1


def test_mongod_takes_its_data_to_another_port(tmp_path: Path, own_mongod: Mongod) -> None:
    with MongoClient(own_mongod.uri, w="majority") as client:
        client.test.things.insert_one({"_id": 1})
    own_mongod.stop()
    moved = Mongod(own_mongod.directory)
    try:
        moved.start()
        with MongoClient(moved.uri) as client:
            assert client.test.things.count_documents({}) == 1
    finally:
        moved.kill()


def test_frozen_mongod_answers_nothing_until_thawed(own_mongod: Mongod) -> None:
    own_mongod.freeze()
    with own_mongod.client(timeout=0.3) as client, pytest.raises(PyMongoError):
        client.admin.command("ping")
    own_mongod.thaw()
    with own_mongod.client() as client:
        assert client.admin.command("ping")["ok"] == 1


def test_replica_set_elects_another_primary(replica_set: ReplicaSet) -> None:
    def primary() -> Mongod | None:
        try:
            return replica_set.primary
        except ChildError:
            return None  # an election is under way, or a member is slow to answer

    wait_until(primary, "a primary")
    first = primary()
    assert first is not None
    assert len([member for member in replica_set.members if member is not first]) == 2
    first.kill()

    wait_until(lambda: primary() not in {first, None}, "new primary")


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"},
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            values.append(message.value())
    consumer.close()
    return values


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def test_kafka_takes_and_gives(kafka: KafkaServer) -> None:
    produce(kafka.bootstrap, "test-parts", b"one")
    assert consume(kafka.bootstrap, "test-parts", 1) == [b"one"]


def test_kafka_keeps_its_data_over_kill_and_stop(own_kafka: KafkaBroker) -> None:
    for end in (own_kafka.kill, own_kafka.stop):
        produce(own_kafka.bootstrap, "kept", end.__name__.encode())
        end()
        assert not listens(own_kafka.port)
        own_kafka.start()
    assert sorted(consume(own_kafka.bootstrap, "kept", 2)) == [b"kill", b"stop"]


def test_frozen_kafka_answers_nothing_until_thawed(own_kafka: KafkaBroker) -> None:
    own_kafka.freeze()
    assert brokers_of(own_kafka.port) == []
    own_kafka.thaw()
    wait_until(lambda: brokers_of(own_kafka.port) == [own_kafka.port], "answer")


def test_mock_broker_takes_and_gives(tmp_path: Path) -> None:
    broker = MockBroker(tmp_path)
    broker.start()
    try:
        broker.ensure_topics(["made"])
        assert "made" in Producer({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
        produce(broker.bootstrap, "test", b"one")
        assert consume(broker.bootstrap, "test", 1) == [b"one"]
    finally:
        broker.stop()
    assert broker.child.returncode == 0


def test_smtp_sink_greets(smtp_sink: SmtpSink) -> None:
    assert listens(smtp_sink.port)


def test_certificates_are_written(certificates: Certificates) -> None:
    assert "BEGIN CERTIFICATE" in certificates.ca.read_text()
    assert "PRIVATE KEY" in certificates.key.read_text()


PARENT = """
import sys, time
from pathlib import Path
from mailsender.dev.process import Child
child = Child("sleeper", Path(sys.argv[1]))
child.start(["sleep", "600"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        os.kill(pid, signal.SIGSTOP)  # even a frozen one
        parent.kill()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{pid}/stat")  # ours to bury only if nobody else does: a zombie is gone enough
        return status.exists() and status.read_text().split()[2] == "Z"

    wait_until(gone, "end of the child", 10)


def test_child_that_ends_too_early_says_its_last_words(tmp_path: Path) -> None:
    child = Child("quitter", tmp_path)
    child.start([sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"])
    with pytest.raises(ChildError, match=r"(?s)quitter ended with status 3.*no such luck"):
        child.until(lambda: False, 10)
    assert child.wait() == 3


def test_stop_ends_a_frozen_child(tmp_path: Path) -> None:
    child = Child("sleeper", tmp_path)
    child.start(["sleep", "600"])
    child.freeze()
    child.stop(5)
    assert child.returncode == -signal.SIGTERM


def test_a_frozen_child_does_nothing_any_more(tmp_path: Path) -> None:
    child = Child("counter", tmp_path)
    many = "from threading import *\n[Thread(target=Event().wait).start() for _ in range(20)]"
    child.start([sys.executable, "-c", f"{many}\nopen('ready', 'w')\nwhile True: sum(range(1000))"])
    child.until((tmp_path / "ready").exists, 10)
    try:
        for _ in range(50):
            child.freeze()
            threads = Path(f"/proc/{child.pid}/task").glob("*/stat")
            assert {each.read_text().rpartition(")")[2].split()[0] for each in threads} == {"T"}
            child.thaw()
    finally:
        child.kill()


def test_stop_kills_a_child_that_will_not_end(tmp_path: Path) -> None:
    child = Child("stubborn", tmp_path)
    ready = tmp_path / "ready"
    child.start(["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"])
    child.until(ready.exists, 5)
    child.stop(0.2)
    assert child.returncode == -signal.SIGKILL


def test_free_ports_lie_below_the_ephemeral_ones() -> None:
    assert 20_000 <= free_port() < 32_000


class Slow:
    """A client whose first look at a topic comes before that is made."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._client = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "slow"})
        self.looks = 0

    def list_topics(self, topic: str, timeout: float) -> Any:
        found = self._client.list_topics(topic, timeout=timeout)
        if not self.looks:
            assert not found.topics[topic].partitions
            self._broker.ensure_topics([topic])
        self.looks += 1
        return found


def test_a_topic_that_the_broker_does_not_know_yet_is_waited_for(own_kafka: KafkaBroker) -> None:
    client = Slow(own_kafka)
    assert partitions_of(client, "late") == [0, 1, 2, 3]
    assert client.looks > 1


def test_a_topic_that_never_comes_is_told(own_kafka: KafkaBroker) -> None:
    client = Consumer({"bootstrap.servers": own_kafka.bootstrap, "group.id": "never"})
    with pytest.raises(TimeoutError, match="never"):
        partitions_of(client, "never", timeout=0.1)


def test_a_broker_that_stood_still_is_asked_again(own_kafka: KafkaBroker) -> None:
    own_kafka.ensure_topics(["one"])
    producer = Producer({"bootstrap.servers": own_kafka.bootstrap})
    producer.produce("one", b"x", partition=2)
    assert producer.flush(20) == 0
    client = Consumer({"bootstrap.servers": own_kafka.bootstrap, "group.id": "asks"})
    asked: list[int] = []

    class Deposed:
        """Leads nothing when it is asked first."""

        list_topics = client.list_topics

        def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
            asked.append(place.partition)
            if len(asked) == 1:
                raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
            return client.get_watermark_offsets(place, timeout=timeout)

    assert extents_of(Deposed(), "one") == {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (0, 0)}
    assert asked == [0, 0, 1, 2, 3]


def test_topics_are_made_once(own_kafka: KafkaBroker) -> None:
    for _ in range(2):
        own_kafka.ensure_topics(["one", "two"])
    topics = Producer({"bootstrap.servers": own_kafka.bootstrap}).list_topics(timeout=10).topics
    assert {name: len(topics[name].partitions) for name in ("one", "two")} == {"one": 4, "two": 4}
