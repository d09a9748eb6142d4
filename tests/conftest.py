"""Fixtures: real parts, names that no other test uses, and an environment without the service's variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import hypothesis
import pytest
from pymongo import MongoClient

from lab import parts
from lab.parts import Certificates, KafkaServer, MongoServer, SmtpSink, Topics
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod, ReplicaSet
from mailsender.dev.process import take_ports

if TYPE_CHECKING:
    from mailsender.dev.catcher import Catcher


UNCOVERED = ("acceptance", "proof")
"""Here the service is a process of its own, or gets its inputs by the thousand. To count lines takes long,
and other tests go through them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Coverage is for tests that call the code themselves."""
    for item in items:
        if item.path.parent.name in UNCOVERED:
            item.add_marker(pytest.mark.no_cover)


def pytest_configure(config: pytest.Config) -> None:
    """Where workers run side by side each takes ports of its own; how fast a machine is fails no example."""
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        take_ports(int(worker["workerid"].removeprefix("gw")), worker["workercount"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells which parts it met."""
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["met"] = parts.met


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """See `pytest_sessionfinish`."""
    parts.met.update(getattr(node, "workeroutput", {}).get("met", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which parts the run met."""
    terminalreporter.write_line("parts: " + (", ".join(parts.met.values()) or "none met"))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if parts.is_service_variable(name)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """A MongoDB for the whole run, a replica set of one: `.uri`."""
    with parts.mongo_server(tmp_path_factory.mktemp("mongod")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka for the whole run: `.bootstrap`. Topics come into being when used, with four partitions."""
    with parts.kafka_server(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def database(mongod: MongoServer) -> Iterator[str]:
    """The name of a database that no other test uses."""
    name = f"test_{uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        client.drop_database(name)


@pytest.fixture
def topics() -> Topics:
    """Names of topics and of a group that no other test uses."""
    return Topics.unique()


@pytest.fixture
def own_mongod(tmp_path: Path) -> Iterator[Mongod]:
    """A mongod of the test's own, to stop, kill or freeze."""
    with parts.running(parts.local_mongod(tmp_path / "mongod")) as mongod:
        yield mongod


@pytest.fixture
def replica_set(tmp_path: Path) -> Iterator[ReplicaSet]:
    """Three mongods of the test's own."""
    with parts.running(parts.local_replica_set(tmp_path / "replica-set")) as members:
        yield members


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of the test's own, to stop, kill or freeze."""
    with parts.running(parts.local_kafka(tmp_path / "kafka")) as broker:
        yield broker


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[Catcher]:
    """A fresh mail catcher in a process of its own: `.host`, `.port`, `.messages()`."""
    from mailsender.dev.catcher import Catcher

    parts.note_catcher()
    with parts.running(Catcher(tmp_path / "catcher")) as catcher:
        yield catcher


@pytest.fixture
def smtp_sink(tmp_path: Path) -> Iterator[SmtpSink]:
    """Postfix's smtp-sink: `.host`, `.port`."""
    with parts.running(parts.local_smtp_sink(tmp_path / "smtp-sink")) as sink:
        yield sink


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A private CA and what it, and another one, signed."""
    return parts.make_certificates(tmp_path_factory.mktemp("certificates"))
