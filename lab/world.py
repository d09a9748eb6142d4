"""Drives `mailsender run` as a process of its own, with other programs' clients around it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pymongo import MongoClient

import mailsender
from lab.parts import Topics, extents_of, partitions_of, wait_until
from mailsender.dev.process import Child, free_port

KEY = "an-api-key-of-the-tests"


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: Message | Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class World:
    """Where the service finds its parts; makes replicas of it and looks at what they did."""

    directory: Path
    bootstrap: str
    mongo_uri: str
    database: str
    topics: Topics
    smtp_port: int
    settings: dict[str, str] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(self.smtp_port),
            "SMTP_TLS": "none",
            "SMTP_FROM": "Sender <sender@example.test>",
            "SMTP_RATE_LIMIT_MAX_LETTERS": "0",
            "KAFKA_BROKERS": self.bootstrap,
            "KAFKA_TOPIC_MAILSENDER": self.topics.letters,
            "KAFKA_TOPIC_PROFILE": self.topics.reports,
            "KAFKA_TOPIC_DEAD_LETTER": self.topics.dead,
            "KAFKA_GROUPID": self.topics.group,
            "KAFKA_SESSION_TIMEOUT": "6s",
            "KAFKA_TIMEOUT": "5s",
            "MONGODB_URI": self.mongo_uri,
            "MONGODB_BASE_NAME": self.database,
            "MONGODB_LEASE": "6s",
            "MONGODB_TIMEOUT": "5s",
            "REPORT_SWEEP_AFTER": "5s",
            "HTTP_API_KEY": KEY,
            "HTTP_HOST": "127.0.0.1",
            "DRAIN_TIMEOUT": "20s",
            "LOG_FORMAT": "json",
            **self.settings,
        }

    def replica(self, **settings: str) -> Replica:
        """A replica, not started yet."""
        made = Replica(self, f"service-{len(self.replicas)}", settings)
        self.replicas.append(made)
        return made

    def started(self, **settings: str) -> Replica:
        """A replica that is ready."""
        made = self.replica(**settings)
        made.start()
        made.wait_ready()
        return made

    # --- Kafka, by librdkafka's clients ----------------------------------------------------------

    def create_topics(self, partitions: int = 4) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        names = (self.topics.letters, self.topics.reports, self.topics.dead)
        made = admin.create_topics([NewTopic(name, partitions, 1) for name in names])
        for future in made.values():
            future.result(20)

    def publish(self, values: Iterable[object], *, key: bytes | None = None, **options: Any) -> None:
        """Publish batches; bytes as they are, all else as JSON."""
        producer = Producer({"bootstrap.servers": self.bootstrap, **options})
        failed: list[KafkaError] = []
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
            producer.produce(
                self.topics.letters,
                value=raw,
                key=key,
                on_delivery=lambda error, _message: failed.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(60) == 0
        assert not failed

    def records(self, topic: str) -> list[Any]:
        """All records that lie on a topic now, read by a plain consumer."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            return list(_read_all(consumer, topic))
        finally:
            consumer.close()

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(record.value()) for record in self.records(self.topics.reports)]

    def wait_reports(self, count: int, timeout: float = 60.0) -> list[dict[str, Any]]:
        """Wait until reports of `count` different letters lie on the topic; returns all."""
        reader = Reader(self.bootstrap, self.topics.reports)
        try:
            return reader.until(lambda found: len({r["ID"] for r in found}) >= count, timeout)
        finally:
            reader.close()

    # --- MongoDB ---------------------------------------------------------------------------------

    @contextmanager
    def letters(self) -> Iterator[Any]:
        with MongoClient[dict[str, Any]](self.mongo_uri, unicode_decode_error_handler="replace") as client:
            yield client[self.database]["letters"]

    def by_status(self) -> Counter[str]:
        with self.letters() as letters:
            return Counter(doc["status"] for doc in letters.find({}, {"status": 1}))

    def unreported(self) -> int:
        """Letters whose report is still to come: those that are not final, and those in the outbox."""
        with self.letters() as letters:
            final = {"status": {"$in": ["sent", "error"]}}
            waiting = letters.count_documents({"$nor": [final]})
            return int(waiting + sum(entry["count"] for entry in letters.outbox.find({}, {"count": 1})))

    def close(self) -> None:
        for replica in self.replicas:
            replica.child.kill()


class Reader:
    """Reads a topic from its beginning, on and on."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"reader-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        # Assigned, not subscribed: a group of its own would first have to be balanced.
        partitions = partitions_of(self._consumer, topic)
        self._consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        self.found: list[dict[str, Any]] = []

    def until(self, enough: Any, timeout: float) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout
        while not enough(self.found):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"after {timeout:g} s only {len(self.found)} reports")
            for message in self._consumer.consume(500, timeout=min(0.5, left)):
                if message.error() is None:
                    self.found.append(json.loads(message.value() or b""))
        return self.found

    def close(self) -> None:
        self._consumer.close()


def _read_all(consumer: Consumer, topic: str) -> Iterator[Any]:
    ends = {partition: high for partition, (low, high) in extents_of(consumer, topic).items() if high > low}
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    deadline = time.monotonic() + 30
    while ends:
        assert time.monotonic() < deadline, f"cannot read {topic} to its end"
        for message in consumer.consume(500, timeout=0.5):
            assert message.error() is None, message.error()
            yield message
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            if offset + 1 >= ends.get(partition, 0):
                ends.pop(partition, None)


class Replica:
    """One process of the service."""

    def __init__(self, world: World, name: str, settings: Mapping[str, str]) -> None:
        self.world = world
        self.port = free_port()
        self.settings = {**world.environment(), "HTTP_PORT": str(self.port), **settings}
        self.child = Child(name, world.directory / name)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it logged: one event a line."""
        lines = self.child.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event.get("event") == name]

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}}
        # The form of the service that this process knows itself: plain, or compiled.
        environment["PYTHONPATH"] = str(Path(mailsender.__file__).parent.parent)
        self.child.start([sys.executable, "-m", "mailsender", "run"], env={**environment, **self.settings})

    def compiled_code(self) -> Path | None:
        """Where the running process has its compiled code from, by the kernel's word; None if it has none."""
        for line in Path(f"/proc/{self.child.pid}/maps").read_text().splitlines():
            directory, found, _ = line[line.find("/") :].partition("/mailsender__mypyc.")
            if found:
                return Path(directory)
        return None

    def wait_ready(self, timeout: float = 40.0) -> None:
        self.child.until(lambda: self.get("/readyz").status == 200, timeout)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=body,
            headers={"X-API-KEY": KEY, **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())
        except (urllib.error.URLError, OSError):
            return Answer(0, {}, b"")

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, letters: object) -> Answer:
        raw = letters if isinstance(letters, bytes) else json.dumps(letters, ensure_ascii=False).encode()
        return self.request("POST", "/post", raw)

    def status(self) -> dict[str, Any]:
        answer = self.get("/status").json()
        assert isinstance(answer, dict)
        return answer

    def halt(self) -> Answer:
        return self.request("POST", "/halt", b"")

    def terminate(self) -> None:
        self.child.signal(signal.SIGTERM)

    def wait_exit(self, timeout: float = 40.0) -> int:
        return self.child.wait(timeout)


def letter(number: int, *addresses: str, **more: object) -> dict[str, object]:
    """A letter whose subject tells it from all others."""
    return {
        "Subject": f"letter {number}",
        "Body": f"<p>Body of letter {number}</p>",
        "Addresses": list(addresses) or [f"reader{number}@example.test"],
        "Token": f"token {number}",
        **more,
    }


def batches(count: int, size: int = 10, start: int = 0) -> list[list[dict[str, object]]]:
    """`count` letters in batches of `size`."""
    numbers = range(start, start + count)
    return [[letter(n) for n in numbers[at : at + size]] for at in range(0, count, size)]


def subjects(messages: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How often each subject arrived."""
    return Counter(message["subject"] for message in messages)


def check_all_answered(world: World, count: int, reports: Sequence[Mapping[str, Any]]) -> None:
    """No letter lost, none unreported, each answer always in the same words."""
    words: dict[str, set[str]] = {}
    for report in reports:
        words.setdefault(str(report["ID"]), set()).add(json.dumps(report, sort_keys=True))
    assert len(words) == count
    assert all(len(texts) == 1 for texts in words.values()), "a letter was answered in different words"
    wait_until(lambda: world.unreported() == 0, "letters without a marked report gone", 30)
    assert not {"awaiting", "processing"} & set(world.by_status())
