"""Brokers that want TLS, a login or a certificate: what is right works, what is wrong is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import ResourceType

from lab.guarded_kafka import PASSWORD, USER, GuardedKafka
from lab.parts import Certificates, MongoServer, Topics, local_kafka, running, wait_until
from lab.world import World, batches, subjects
from mailsender.dev.catcher import Catcher
from mailsender.dev.process import LOOPBACK

WAYS = {
    "SASL_SSL, PLAIN": ("SASL_SSL", "PLAIN"),
    "SASL_SSL, SCRAM-SHA-512": ("SASL_SSL", "SCRAM-SHA-512"),
    "SASL_PLAINTEXT, SCRAM-SHA-256": ("SASL_PLAINTEXT", "SCRAM-SHA-256"),
    "SSL": ("SSL", ""),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[GuardedKafka]:
    directory = tmp_path_factory.mktemp("guarded-kafka")
    local_kafka(directory)  # a skip where there is none
    with running(GuardedKafka(directory, certificates)) as broker:
        yield broker


@pytest.fixture
def world(
    tmp_path: Path,
    guarded: GuardedKafka,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    catcher: Catcher,
) -> Iterator[World]:
    """The tests' own clients come in by the open door."""
    world = World(tmp_path, guarded.bootstrap, mongod.uri, database, topics, catcher.port)
    world.create_topics()
    yield world
    world.close()


def settings(
    broker: GuardedKafka, certificates: Certificates, protocol: str, mechanism: str
) -> dict[str, str]:
    """What is right."""
    port = {"SASL_SSL": broker.sasl_ssl, "SASL_PLAINTEXT": broker.sasl, "SSL": broker.ssl}[protocol]
    found = {"KAFKA_BROKERS": f"{LOOPBACK}:{port}", "KAFKA_SECURITY_PROTOCOL": protocol}
    if protocol.endswith("SSL"):
        found["KAFKA_TLS_CA_FILE"] = str(certificates.ca)
    if protocol == "SSL":
        found |= {"KAFKA_TLS_CERT_FILE": str(certificates.cert), "KAFKA_TLS_KEY_FILE": str(certificates.key)}
    if mechanism:
        found |= {
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD": PASSWORD,
        }
    return found


@pytest.mark.parametrize("way", WAYS)
def test_letters_go_out_and_are_answered(
    world: World, guarded: GuardedKafka, certificates: Certificates, catcher: Catcher, way: str
) -> None:
    world.settings = settings(guarded, certificates, *WAYS[way])
    service = world.started()
    world.publish(batches(5))
    assert len(subjects(catcher.wait_for(5))) == 5
    world.wait_reports(5)
    assert service.get("/readyz").status == 200


def check(world: World, part: str = "kafka", **changes: str) -> tuple[int, str, str]:
    """Exit status, the finding about a part, and all that was written."""
    done = subprocess.run(
        [sys.executable, "-m", "mailsender", "check"],
        env={**os.environ, **world.environment(), **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = [line for line in done.stdout.splitlines() if f" {part}: " in line]
    return done.returncode, (lines or [""])[0], done.stdout + done.stderr


OTHER = "another KAFKA_SECURITY_PROTOCOL"
UNTRUSTED = "{untrusted_ca}"
WRONG = {
    "the password": ("SASL_SSL", "SCRAM-SHA-512", {"KAFKA_SASL_PASSWORD": "hunter2"}, "KAFKA_SASL_PASSWORD"),
    "the CA": ("SASL_SSL", "PLAIN", {"KAFKA_TLS_CA_FILE": UNTRUSTED}, "KAFKA_TLS_CA_FILE"),
    "no TLS": ("SASL_SSL", "PLAIN", {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, OTHER),
    "TLS where none is": ("SASL_PLAINTEXT", "PLAIN", {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, OTHER),
    "no login": ("SASL_PLAINTEXT", "PLAIN", {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, OTHER),
    "no certificate": (
        "SSL",
        "",
        {"KAFKA_TLS_CERT_FILE": "", "KAFKA_TLS_KEY_FILE": ""},
        "KAFKA_TLS_CERT_FILE",
    ),
}
"""What is asked, what is changed for the worse, and which words have to come."""


@pytest.mark.parametrize("wrong", WRONG)
def test_check_names_what_is_wrong(
    world: World, guarded: GuardedKafka, certificates: Certificates, wrong: str
) -> None:
    protocol, mechanism, changes, words = WRONG[wrong]
    world.settings = settings(guarded, certificates, protocol, mechanism)
    changes = {name: value.format(untrusted_ca=certificates.untrusted_ca) for name, value in changes.items()}
    status, line, output = check(world, **changes)
    assert (status, line.split()[0]) == (1, "error")
    assert words in line
    assert ": )" not in line, "the reason is empty"
    assert "hunter2" not in output


def test_a_service_that_is_not_let_in_says_why(
    world: World, guarded: GuardedKafka, certificates: Certificates
) -> None:
    world.settings = settings(guarded, certificates, "SASL_SSL", "SCRAM-SHA-256")
    service = world.replica(KAFKA_SASL_PASSWORD="hunter2")
    service.start()
    wait_until(lambda: service.events("kafka_reading_trouble"), "a word about Kafka")
    assert "SaslAuthenticationFailed" in service.events("kafka_reading_trouble")[0]["reason"]
    assert service.get("/readyz").status == 503
    reasons = service.get("/status").json()["not_ready_because"]
    assert any("SaslAuthenticationFailed" in reason for reason in reasons)
    service.terminate()
    assert service.wait_exit() in {0, 1}, "it has to end, whether Kafka lets it in or not"
    assert "hunter2" not in service.child.log.read_text("utf-8")


def test_check_finds_nothing_wrong_where_nothing_is(
    world: World, guarded: GuardedKafka, certificates: Certificates
) -> None:
    world.settings = settings(guarded, certificates, "SASL_SSL", "SCRAM-SHA-256")
    assert check(world)[0] == 0


@pytest.mark.parametrize("what", ["letters", "reports", "dead", "group"])
def test_check_names_a_right_that_is_missing(
    world: World, guarded: GuardedKafka, certificates: Certificates, topics: Topics, what: str
) -> None:
    world.settings = settings(guarded, certificates, "SASL_PLAINTEXT", "SCRAM-SHA-512")
    name = str(getattr(topics, what))
    kind, part = (ResourceType.GROUP, "group") if what == "group" else (ResourceType.TOPIC, "topic")
    guarded.keep_for_others(kind, name)
    status, line, _ = check(world, f"{part} {name}")
    assert (status, line.split()[0]) == (1, "error")
    assert "no right" in line
    assert ("READ" in line) == (what in {"letters", "group"})
    assert ("WRITE" in line) == (what != "group")


def test_reports_wait_for_the_right_to_publish_them(
    world: World, guarded: GuardedKafka, certificates: Certificates, catcher: Catcher, topics: Topics
) -> None:
    world.settings = settings(guarded, certificates, "SASL_PLAINTEXT", "PLAIN")
    guarded.keep_for_others(ResourceType.TOPIC, topics.reports)
    service = world.replica()
    service.start()
    world.publish(batches(5))
    assert len(subjects(catcher.wait_for(5))) == 5
    wait_until(lambda: service.events("reporting_fails"), "a word about reports")
    assert "TopicAuthorizationFailed" in service.events("reporting_fails")[0]["reason"]
    assert service.get("/readyz").status == 503
    assert len(service.events("kafka_password_in_clear")) == 1
    guarded.keep_no_more(ResourceType.TOPIC, topics.reports)
    world.wait_reports(5)
    service.wait_ready()
