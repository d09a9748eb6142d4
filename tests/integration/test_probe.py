"""What `mailsender check` finds out, on the real parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from mailsender.adapters.kafka import KafkaConfig
from mailsender.adapters.probe import probe_mongo, probe_relay
from mailsender.adapters.probe_kafka import KafkaWish, probe_kafka
from mailsender.adapters.smtp import SmtpConfig, SmtpRelay
from mailsender.dev.kafka import MockBroker
from mailsender.dev.mongod import Mongod
from mailsender.findings import Finding, worst
from mailsender.ports import SystemClock
from tests import parts
from tests.parts import Certificates, KafkaServer, MongoServer, Topics
from tests.scripted import ScriptedRelay, stall
from tests.sessions import SENDER, server_tls

WISH = KafkaWish(letters="letters", reports="reports", dead_letters="dead", record_bytes=1_000_000)


def texts(findings: list[Finding], level: str) -> str:
    return "\n".join(f"{finding.part}: {finding.text}" for finding in findings if finding.level == level)


def config(bootstrap: str, timeout: float = 10.0) -> KafkaConfig:
    return KafkaConfig(brokers=(bootstrap,), timeout=timeout)


async def create(bootstrap: str, *topics: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(list(topics))
    finally:
        await admin.close()


def wish(topics: Topics) -> KafkaWish:
    return KafkaWish(
        letters=topics.letters, reports=topics.reports, dead_letters=topics.dead, record_bytes=1_000_000
    )


@pytest.mark.asyncio
async def test_a_cluster_that_suits(kafka: KafkaServer, topics: Topics) -> None:
    wanted = [NewTopic(name, 3, 1) for name in (topics.letters, topics.reports, topics.dead)]
    await create(kafka.bootstrap, *wanted)
    findings = await probe_kafka(config(kafka.bootstrap), wish(topics))
    assert worst(findings) == "ok"
    assert "kafka: 1 broker in" in texts(findings, "ok")
    assert f"topic {topics.letters}: 3 partitions" in texts(findings, "ok")


@pytest.mark.asyncio
async def test_topics_that_are_missing_compacted_or_too_narrow(kafka: KafkaServer, topics: Topics) -> None:
    compacted = {"cleanup.policy": "compact"}
    narrow = {"max.message.bytes": "50000"}
    await create(
        kafka.bootstrap,
        NewTopic(topics.letters, 1, 1, topic_configs=compacted),
        NewTopic(topics.reports, 1, 1, topic_configs={**narrow, **compacted}),
    )
    findings = await probe_kafka(config(kafka.bootstrap), wish(topics))
    warnings = texts(findings, "warning")
    assert worst(findings) == "warning"
    assert f"topic {topics.letters}: is compacted" in warnings
    assert f"topic {topics.reports}: takes records of 50000 bytes only" in warnings
    assert f"topic {topics.reports}: is compacted, so it refuses records without a key" in warnings
    assert f"topic {topics.dead}: does not exist" in warnings
    again = await probe_kafka(config(kafka.bootstrap), wish(topics))
    assert f"topic {topics.dead}: does not exist" in texts(again, "warning"), "asking must create nothing"


@pytest.mark.asyncio
async def test_a_dead_letter_topic_that_is_compacted(kafka: KafkaServer, topics: Topics) -> None:
    compacted = {"cleanup.policy": "compact"}
    await create(kafka.bootstrap, NewTopic(topics.dead, 1, 1, topic_configs=compacted))
    warnings = texts(await probe_kafka(config(kafka.bootstrap), wish(topics)), "warning")
    assert f"topic {topics.dead}: is compacted, so it refuses records without a key" in warnings


@pytest.mark.asyncio
async def test_a_broker_that_tells_nobody_its_settings(tmp_path: Path) -> None:
    with parts.running(MockBroker(tmp_path / "mock")) as broker:
        broker.ensure_topics([WISH.letters])
        findings = await probe_kafka(config(broker.bootstrap), WISH)
    assert [finding.level for finding in findings] == [*["ok"] * 2, *["warning"] * 3]
    assert "DESCRIBE_CONFIGS" in findings[2].text


@pytest.mark.asyncio
async def test_no_broker(unused_tcp_port: int) -> None:
    findings = await probe_kafka(config(f"127.0.0.1:{unused_tcp_port}", timeout=2), WISH)
    assert [finding.level for finding in findings] == ["error"]
    assert "KAFKA_BROKERS" in findings[0].text


@asynccontextmanager
async def mute() -> AsyncIterator[int]:
    """A server that takes connections and never says a word."""
    gone = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        gone.set()
        server.close()
        await server.wait_closed()


@pytest.mark.asyncio
@pytest.mark.parametrize("part", ["kafka", "mongodb", "relay"])
async def test_a_part_that_hangs_does_not_hang_the_check(part: str) -> None:
    async with mute() as port, asyncio.timeout(30):
        if part == "kafka":
            findings = await probe_kafka(config(f"127.0.0.1:{port}", timeout=1), WISH)
        elif part == "mongodb":
            findings = await probe_mongo(f"mongodb://127.0.0.1:{port}/", "db", "letters", timeout=1)
        else:
            relay = SmtpRelay(SmtpConfig(host="127.0.0.1", port=port, tls="none"), SystemClock())
            findings = await probe_relay(relay, SENDER, timeout=0.5)
    assert [finding.level for finding in findings] == ["error"]


@pytest.mark.asyncio
async def test_a_replica_set(mongod: MongoServer, database: str) -> None:
    findings = await probe_mongo(mongod.uri, database, "letters", timeout=10)
    assert worst(findings) == "ok"
    assert "replica set" in texts(findings, "ok")


@pytest.mark.asyncio
async def test_a_mongod_that_is_gone(own_mongod: Mongod) -> None:
    uri = own_mongod.uri
    own_mongod.kill()
    findings = await probe_mongo(uri, "db", "letters", timeout=1)
    assert [finding.level for finding in findings] == ["error"]
    assert "MONGODB_URI" in findings[0].text
    assert "Topology" not in findings[0].text


@pytest.mark.asyncio
async def test_a_connection_string_that_is_none() -> None:
    findings = await probe_mongo("mongodb://u:p@ss@host/", "db", "letters", timeout=1)
    assert [finding.level for finding in findings] == ["error"]
    assert "p@ss" not in findings[0].text


@pytest.mark.asyncio
async def test_a_relay_that_takes_sessions() -> None:
    async with ScriptedRelay() as there:
        relay = SmtpRelay(SmtpConfig(host="127.0.0.1", port=there.port, tls="none"), SystemClock())
        findings = await probe_relay(relay, SENDER, timeout=5)
    assert [finding.level for finding in findings] == ["ok"]
    assert "offers 8BITMIME" in findings[0].text


@pytest.mark.asyncio
async def test_a_relay_that_never_answers_to_the_sender() -> None:
    async with ScriptedRelay({"MAIL": stall}) as there:
        relay = SmtpRelay(SmtpConfig(host="127.0.0.1", port=there.port, tls="none"), SystemClock())
        findings = await probe_relay(relay, SENDER, timeout=0.5)
    assert [finding.level for finding in findings] == ["error"]
    assert f"MAIL FROM:<{SENDER}> within 0.5 s" in findings[0].text


@pytest.mark.asyncio
async def test_a_relay_with_an_unknown_certificate(certificates: Certificates) -> None:
    async with ScriptedRelay(tls=server_tls(certificates), implicit=True) as there:
        relay = SmtpRelay(SmtpConfig(host="127.0.0.1", port=there.port, tls="implicit"), SystemClock())
        findings = await probe_relay(relay, SENDER, timeout=5)
    assert [finding.level for finding in findings] == ["error"]
    assert "certificate" in findings[0].text
