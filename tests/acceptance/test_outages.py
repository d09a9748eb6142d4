"""Parts that go away and come back, or stop answering, in mid-flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.parts import KafkaServer, MongoServer, Topics, local_kafka, running, wait_until
from lab.world import World, batches, check_all_answered, letter, subjects
from mailsender.dev.catcher import Catcher
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod, ReplicaSet

LETTERS = 400


@pytest.fixture
def mongo_world(
    tmp_path: Path, kafka: KafkaServer, own_mongod: Mongod, topics: Topics, catcher: Catcher
) -> Iterator[World]:
    made = World(tmp_path, kafka.bootstrap, own_mongod.uri, "mts", topics, catcher.port)
    made.create_topics()
    yield made
    made.close()


@pytest.fixture
def kafka_world(
    tmp_path: Path,
    own_kafka: KafkaBroker,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    catcher: Catcher,
) -> Iterator[World]:
    made = World(tmp_path, own_kafka.bootstrap, mongod.uri, database, topics, catcher.port)
    made.create_topics()
    yield made
    made.close()


def slowly(world: World) -> None:
    """A rate at which a part can go away in the middle."""
    world.settings = {"SMTP_RATE_LIMIT_MAX_LETTERS": "100", "SMTP_RATE_LIMIT_PERIOD": "1s"}


def all_arrived(world: World, catcher: Catcher, *, duplicates: int) -> None:
    check_all_answered(world, LETTERS, world.wait_reports(LETTERS, 90))
    arrived = subjects(catcher.messages())
    assert len(arrived) == LETTERS
    assert sum(arrived.values()) - LETTERS <= duplicates


def test_mongod_stopped_and_started(mongo_world: World, own_mongod: Mongod, catcher: Catcher) -> None:
    slowly(mongo_world)
    service = mongo_world.started()
    mongo_world.publish(batches(LETTERS // 2))
    wait_until(lambda: catcher.counts()["received"] >= 50, "50 letters arrived", 60)
    own_mongod.stop()
    mongo_world.publish(batches(LETTERS // 2, start=LETTERS // 2))
    wait_until(lambda: service.get("/readyz").status == 503, "unready")
    own_mongod.start()
    wait_until(lambda: service.get("/readyz").status == 200, "ready again", 60)
    all_arrived(mongo_world, catcher, duplicates=0)
    assert len(service.events("mongodb_away")) <= 2


def test_mongod_frozen_for_a_while(mongo_world: World, own_mongod: Mongod, catcher: Catcher) -> None:
    slowly(mongo_world)
    service = mongo_world.started()
    mongo_world.publish(batches(LETTERS))
    wait_until(lambda: catcher.counts()["received"] >= 50, "50 letters arrived", 60)
    own_mongod.freeze()
    # Longer than the leases of six seconds: none of them may be reclaimed from a replica that still has it.
    wait_until(lambda: service.get("/readyz").status == 503, "unready", 30)
    own_mongod.thaw()
    all_arrived(mongo_world, catcher, duplicates=0)


def test_the_broker_stopped_and_started(kafka_world: World, own_kafka: KafkaBroker, catcher: Catcher) -> None:
    slowly(kafka_world)
    service = kafka_world.started()
    kafka_world.publish(batches(LETTERS // 2))
    wait_until(lambda: catcher.counts()["received"] >= 50, "50 letters arrived", 60)
    own_kafka.stop()
    wait_until(lambda: service.get("/readyz").status == 503, "unready", 60)
    lines = len(service.log)
    own_kafka.start()
    kafka_world.publish(batches(LETTERS // 2, start=LETTERS // 2))
    all_arrived(kafka_world, catcher, duplicates=0)
    assert lines < 200, "an outage is said once, not a thousand times"


def test_the_broker_killed(kafka_world: World, own_kafka: KafkaBroker, catcher: Catcher) -> None:
    slowly(kafka_world)
    kafka_world.started()
    kafka_world.publish(batches(LETTERS))
    wait_until(lambda: catcher.counts()["received"] >= 50, "50 letters arrived", 60)
    own_kafka.kill()
    own_kafka.start()
    all_arrived(kafka_world, catcher, duplicates=0)


def test_the_broker_frozen_for_a_while(kafka_world: World, own_kafka: KafkaBroker, catcher: Catcher) -> None:
    slowly(kafka_world)
    service = kafka_world.started()
    kafka_world.publish(batches(LETTERS))
    wait_until(lambda: catcher.counts()["received"] >= 50, "50 letters arrived", 60)
    own_kafka.freeze()
    # Sending goes on meanwhile: what was taken in needs no broker.
    wait_until(lambda: service.get("/readyz").status == 503, "unready", 60)
    own_kafka.thaw()
    all_arrived(kafka_world, catcher, duplicates=0)


def test_the_relay_away_at_the_start_and_in_between(world: World, catcher: Catcher) -> None:
    catcher.stop()
    service = world.replica()
    service.start()
    world.publish(batches(20))
    wait_until(lambda: service.events("relay_away"), "a word about the relay")
    assert service.get("/readyz").status == 503
    assert service.status()["relay"]["state"] == "away"
    catcher.start()
    service.wait_ready(90)
    reports = world.wait_reports(20)
    assert {report["Attempts"] for report in reports} == {1}, "waiting for a relay is no attempt"
    catcher.stop()
    catcher.start()
    world.publish(batches(20, start=20))
    reports = world.wait_reports(40, 120)
    assert {report["Status"] for report in reports} == {"sent"}


def test_a_secondary_away_while_intake_inserts(
    tmp_path: Path, kafka: KafkaServer, replica_set: ReplicaSet, topics: Topics, catcher: Catcher
) -> None:
    world = World(tmp_path, kafka.bootstrap, replica_set.uri, "mts", topics, catcher.port)
    world.create_topics()
    try:
        service = world.started()
        one, other = replica_set.secondaries
        one.kill()
        other.freeze()
        world.publish([[letter(n)] for n in range(50)])
        # No majority: nothing is durable, so nothing may be committed nor sent.
        wait_until(lambda: service.status()["intake"]["status"].startswith("waiting"), "intake waiting", 60)
        assert committed(world) == 0
        assert catcher.counts()["received"] == 0
        other.thaw()
        check_all_answered(world, 50, world.wait_reports(50, 90))
        assert max(subjects(catcher.messages()).values()) == 1
    finally:
        world.close()


def test_a_topic_created_late(
    tmp_path: Path, mongod: MongoServer, database: str, topics: Topics, catcher: Catcher
) -> None:
    with running(local_kafka(tmp_path / "kafka", auto_create=False)) as broker:
        world = World(tmp_path, broker.bootstrap, mongod.uri, database, topics, catcher.port)
        try:
            service = world.replica()
            service.start()
            wait_until(lambda: service.events("kafka_reading_trouble"), "a word about the missing topic")
            assert topics.letters in service.events("kafka_reading_trouble")[0]["reason"]
            world.create_topics()
            world.publish(batches(10))
            check_all_answered(world, 10, world.wait_reports(10))
        finally:
            world.close()


def committed(world: World) -> int:
    """How many records the group has committed."""
    from confluent_kafka import ConsumerGroupTopicPartitions
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    group = ConsumerGroupTopicPartitions(world.topics.group)
    found = admin.list_consumer_group_offsets([group])[world.topics.group].result(20)
    return sum(max(0, place.offset) for place in found.topic_partitions)
