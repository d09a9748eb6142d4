"""Apache Kafka on Java, its jars fetched by Maven; librdkafka's in-memory broker where Java is missing."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mailsender.dev.process import LOOPBACK, ChildError, Part, PartMissing, cache_directory, free_port

KAFKA_VERSION = "4.1.0"
_LOG4J_VERSION = "2.24.3"
_JAVA_NEEDED = 17
_READY_TIMEOUT = 60.0
_CLUSTER = "bWFpbHNlbmRlci1kZXYtMQ"
_CHECKPOINT = "bootstrap.checkpoint"

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>mailsender.dev</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{_LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

_LOG4J = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
"""

# The memory is for a machine that runs everything else, too. Retention is off because tests write records
# with timestamps long past. A short broker session lets a killed broker register again at once.
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={node}@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions={partitions}
auto.create.topics.enable={auto_create}
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=1500
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""

_JVM = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_JVM += ["-XX:-UsePerfData", "-Djava.awt.headless=true"]


@cache
def java_version() -> str:
    """The Java that is found first.

    Raises:
        PartMissing: There is none, or it is too old for Kafka 4.
    """
    java = shutil.which("java")
    if java is None:
        raise PartMissing(
            f"there is no Java (Kafka {KAFKA_VERSION} needs {_JAVA_NEEDED} or later;"
            " on Debian: apt-get install openjdk-17-jre-headless)"
        )
    done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    match = re.search(r'version "(\d+)([^"]*)"', done.stderr + done.stdout)
    if done.returncode != 0 or match is None:
        raise PartMissing(f"{java} does not run")
    if int(match[1]) < _JAVA_NEEDED:
        raise PartMissing(f"Java {match[1]} is too old: Kafka {KAFKA_VERSION} needs {_JAVA_NEEDED} or later")
    return match[1] + match[2]


def kafka_jars() -> Path:
    """The directory of Kafka's jars, complete; fetched by Maven the first time.

    Raises:
        PartMissing: They are not in the cache and Maven is missing or failed.
    """
    wanted = cache_directory() / f"kafka-{KAFKA_VERSION}"
    if not _complete(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with wanted.with_name(f"{wanted.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers of one run of the tests come here at the same time
            if not _complete(wanted):
                _fetch_jars(wanted)
                _archive_classes(wanted)
    return wanted / "lib"


def require_apache_kafka() -> None:
    """Nothing, when this machine can run Apache Kafka; may fetch its jars.

    Raises:
        PartMissing: It cannot; the text says why.
    """
    java_version()
    kafka_jars()


def _listing(lib: Path) -> str:
    return "".join(f"{jar.name} {jar.stat().st_size}\n" for jar in sorted(lib.glob("*.jar")))


def _complete(kept: Path) -> bool:
    """Whether the cache holds exactly the jars that were listed when they had all arrived."""
    try:
        listed = (kept / "complete").read_text("utf-8")
    except OSError:
        return False
    return bool(listed) and listed == _listing(kept / "lib")


def _fetch_jars(wanted: Path) -> None:
    """Fetch into a directory beside the wanted one, then move it there in one step."""
    maven = shutil.which("mvn")
    if maven is None:
        raise PartMissing("there is no Maven to fetch Kafka's jars with (on Debian: apt-get install maven)")
    fresh = Path(tempfile.mkdtemp(prefix=f"{wanted.name}.", dir=wanted.parent))
    try:
        (fresh / "pom.xml").write_text(_POM, "utf-8")
        _run_maven(maven, fresh)
        (fresh / "complete").write_text(_listing(fresh / "lib"), "utf-8")
        if wanted.exists() and not _complete(wanted):
            shutil.rmtree(wanted)
        try:
            fresh.rename(wanted)
        except OSError:
            if not _complete(wanted):  # else another process was faster, and its jars are as good
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _run_maven(maven: str, directory: Path) -> None:
    command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired:
        raise PartMissing("Maven did not fetch Kafka's jars within ten minutes") from None
    if done.returncode != 0 or not any((directory / "lib").glob("kafka_*.jar")):
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("[ERROR]")]
        raise PartMissing(f"Maven could not fetch Kafka's jars: {said[0] if said else done.returncode}")


def _archive(kept: Path) -> Path:
    """Where Kafka's classes lie as this Java has loaded and checked them once."""
    return kept / f"classes-{java_version()}.jsa"


def _archive_classes(kept: Path) -> None:
    """Let a broker run for a moment and keep the classes that it loaded.

    Each later start takes 2 s of CPU in place of 3.3 s. Without the archive, or with one that Java does not
    want any more, all goes well, but slower.
    """
    with tempfile.TemporaryDirectory(prefix="mailsender-kafka-") as directory:
        broker = KafkaBroker(Path(directory))
        made = Path(directory) / "classes.jsa"
        try:
            broker.launch(f"-XX:ArchiveClassesAtExit={made}")
            broker.child.until(lambda: brokers_of(broker.port), _READY_TIMEOUT)
            broker.child.stop(_READY_TIMEOUT)  # it writes them at its end
            _put(made, _archive(kept))
        except (ChildError, OSError):
            broker.kill()


def java_command(directory: Path) -> list[str]:
    """Java with Kafka's classes, which logs into `directory`.

    Raises:
        PartMissing: This machine cannot run Apache Kafka.
    """
    java_version()
    jars = kafka_jars()
    archive = _archive(jars.parent)
    known = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    log = f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}"
    return ["java", *_JVM, *known, log, "-cp", f"{jars}{os.sep}*"]


class Broker(Part):
    """What both brokers have in common."""

    @property
    def bootstrap(self) -> str:
        """What a client connects to, `host:port`."""
        return f"{LOOPBACK}:{self.port}"

    @abstractmethod
    def ensure_topics(self, topics: Sequence[str]) -> None:
        """Make those topics that are missing.

        Raises:
            ChildError: The broker did not make one.
        """


class KafkaBroker(Broker):
    """Apache Kafka, one node as broker and controller; its data stays over stop and start.

    `auto_create` says whether topics come into being when they are first asked for.
    """

    def __init__(
        self, directory: Path, port: int = 0, *, partitions: int = 4, auto_create: bool = True
    ) -> None:
        super().__init__("kafka", directory, port)
        self.number = 1
        self.partitions = partitions
        self._auto_create = auto_create
        self._controller_port = free_port()

    def start(self) -> None:
        """Start it and wait until it serves metadata that name it."""
        self.launch()
        self.child.until(lambda: brokers_of(self.port) == [self.port], _READY_TIMEOUT)

    def launch(self, *options: str) -> None:
        """Start the process alone, Java with these options."""
        java = java_command(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        properties = self._write_configuration()
        if not (self.directory / "data" / "meta.properties").exists():
            self._format(java, properties)
        self.child.start([*java, *options, "kafka.Kafka", properties])

    def ensure_topics(self, topics: Sequence[str]) -> None:
        """Make those topics that are missing, with the broker's number of partitions."""
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - slow to load
        from confluent_kafka.admin import AdminClient, NewTopic  # noqa: PLC0415

        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        wanted = [NewTopic(topic, self.partitions, 1) for topic in topics]
        for topic, done in admin.create_topics(wanted, operation_timeout=20).items():
            try:
                done.result(30)
            except (KafkaException, TimeoutError) as error:
                code = error.args[0].code() if isinstance(error, KafkaException) else None
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise ChildError(f"topic {topic} could not be made: {error}") from error

    def _write_configuration(self) -> Path:
        log4j = _LOG4J.format(log=self.directory / "kafka.log")
        (self.directory / "log4j2.properties").write_text(log4j, "utf-8")
        properties = self.directory / "server.properties"
        text = _PROPERTIES.format(
            node=self.number,
            port=self.port,
            controller_port=self._controller_port,
            data=self.directory / "data",
            partitions=self.partitions,
            auto_create=str(self._auto_create).lower(),
        )
        properties.write_text(text, "utf-8")
        return properties

    def _format(self, java: list[str], properties: Path) -> None:
        """Give the data directory its identity, as Kafka wants it done once before the first start.

        Kafka's tool does it the first time. What it made is the same for every broker but two lines, so it is
        kept, and a start takes 1.5 s less.
        """
        data, kept = self.directory / "data", kafka_jars().parent / _CHECKPOINT
        if not kept.exists():
            self._run_storage_tool(java, properties)
            with contextlib.suppress(OSError):  # a cache that cannot be written makes starts slower, no more
                _put(data / _CHECKPOINT, kept)
            return
        data.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, data / _CHECKPOINT)
        directory = base64.urlsafe_b64encode(b"\x01" + secrets.token_bytes(15)).decode().rstrip("=")
        identity = f"version=1\ncluster.id={_CLUSTER}\nnode.id={self.number}\ndirectory.id={directory}\n"
        (data / "meta.properties").write_text(identity, "ascii")

    def _run_storage_tool(self, java: list[str], properties: Path) -> None:
        command: list[str | Path] = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            "-t",
            _CLUSTER,
            "-c",
            properties,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-500:]
            raise ChildError(f"Kafka's data directory could not be made: {said}")


def _put(made: Path, wanted: Path) -> None:
    """Copy in one step: who looks finds all of it or nothing."""
    fresh = wanted.with_name(f"{wanted.name}.{secrets.token_hex(4)}")
    shutil.copy(made, fresh)
    fresh.rename(wanted)


class MockBroker(Broker):
    """librdkafka's in-memory broker, for machines without Java.

    It keeps nothing over a stop, chooses its port itself at each start, and its rebalancing is not Kafka's.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__("mock-broker", directory)

    def start(self) -> None:
        """Start it and wait until it serves metadata."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise PartMissing("there is no in-memory broker: confluent-kafka is not installed")
        told = self.directory / "port"
        told.unlink(missing_ok=True)
        self.child.start([sys.executable, "-m", "mailsender.dev.mock_broker", told])
        self.child.until(told.exists, _READY_TIMEOUT)
        self.port = int(told.read_text("utf-8"))
        self.child.until(lambda: brokers_of(self.port) == [self.port], _READY_TIMEOUT)

    def ensure_topics(self, topics: Sequence[str]) -> None:
        """Ask about each, for that is how this broker makes topics; told to make one it never answers."""
        from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - not on every platform

        client = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for topic in topics:
            try:
                client.list_topics(topic, timeout=10)
            except KafkaException as error:
                raise ChildError(f"topic {topic} could not be made: {error}") from error


def brokers_of(port: int) -> list[int]:
    """The ports of the brokers that the one on `port` knows of; empty while it does not answer.

    One Metadata request of version 1 for no topic, in Kafka's protocol: no client library starts as quickly
    or fails as quietly.
    """
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2.0) as connection:
            connection.settimeout(2.0)
            connection.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", _exactly(connection, 4))[0]
            return _broker_ports(_exactly(connection, size))
    except (OSError, struct.error):
        return []


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the broker closed the connection")
        data += more
    return data


def _broker_ports(response: bytes) -> list[int]:
    """The ports in a Metadata response of version 1: correlation id, brokers of id, host, port, rack."""
    count = struct.unpack_from(">i", response, 4)[0]
    place, ports = 8, []
    for _ in range(count):
        host_length = struct.unpack_from(">h", response, place + 4)[0]
        place += 6 + host_length
        port, rack_length = struct.unpack_from(">ih", response, place)
        place += 6 + max(rack_length, 0)
        ports.append(port)
    return ports
