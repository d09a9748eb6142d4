"""Parts that are away at the start, or come late. Those that go away in the middle are in `make proof`."""

from __future__ import annotations

from pathlib import Path

from lab.parts import KafkaServer, MongoServer, Topics, local_kafka, running, wait_until
from lab.world import World, batches, check_all_answered, letter, subjects
from mailsender.dev.catcher import Catcher
from mailsender.dev.mongod import ReplicaSet


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
