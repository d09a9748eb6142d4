"""mailsender: from the first fetch of a preloaded topic until the last report is acknowledged and marked.

Nothing is switched off: all validation, majority and journaled writes, leases, reports with bodies, the log
at its default level. The settings are the defaults, but for the rate (none) and the number of sessions.

The clock starts with the service's own event `partitions_assigned`, which the first fetch follows at once. It
stops at the server time of the last mark, read from the documents afterwards (`expire_at` is that time plus
the retention). In between the harness asks the broker for the profile topic's end five times a second, and
once all reports lie there, MongoDB for three counts of partial indexes. Afterwards, off the clock, it checks
that the sink took each letter once, and that each is `sent`, reported and marked.

Two replicas share a topic, two partitions each, and the letters lie in it before they may see them: in a
transaction, which readers of committed records wait for. The clock starts when it is committed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from benchmarks.letters import SENDER, batches
from benchmarks.measure import Meter, Round, poll
from benchmarks.parts import COMPILED, ROOT, Stage, is_compiled
from benchmarks.peers import SESSIONS
from lab.parts import Topics, extents_of
from lab.world import Replica, World
from mailsender.dev.process import ChildError

SETTINGS = {
    "SMTP_MAX_SENDERS": str(SESSIONS),
    "SMTP_FROM": f"Sender <{SENDER}>",
    # The tests' world has short times, to see failures soon; here the service's defaults stand again.
    "KAFKA_SESSION_TIMEOUT": "10s",
    "KAFKA_TIMEOUT": "10s",
    "MONGODB_LEASE": "60s",
    "MONGODB_TIMEOUT": "10s",
    "REPORT_SWEEP_AFTER": "30s",
}
RETENTION = 30 * 86_400
"""Seconds: the default of `MONGODB_RETENTION`."""

PARTITIONS = 4

TIMEOUT = 300.0


class Mailsender:
    """The service itself, with batches of one size; in `plain` Python although its hot path is compiled."""

    def __init__(self, name: str, batch: int, letters: int, *, plain: bool = False) -> None:
        self.name, self.batch, self.letters, self.plain = name, batch, letters, plain

    def run(self, stage: Stage, letters: int) -> Round:
        with world(stage, plain=self.plain) as here:
            here.publish(batches(letters, self.batch))
            return measured(stage, here, letters)


class Replicas:
    """Several replicas on one topic, with batches of 100."""

    def __init__(self, name: str, count: int, letters: int) -> None:
        self.name, self.count, self.letters = name, count, letters

    def run(self, stage: Stage, letters: int) -> Round:
        with world(stage) as here:
            return together(stage, here, self.count, letters)


@contextlib.contextmanager
def world(stage: Stage, smtp_port: int = 0, *, plain: bool = False, **settings: str) -> Iterator[World]:
    """Fresh topics and a fresh database for one round; both are thrown away after it.

    The service has its compiled form, as the image has it, where there is one and `plain` does not say else.
    """
    port = smtp_port or stage.sink.port
    name = f"bench{uuid4().hex[:8]}"
    made = World(stage.room("ours"), stage.broker.bootstrap, stage.mongod.uri, name, Topics.unique(), port)
    made.settings = {
        **SETTINGS,
        "MAILSENDER_STATE_DIR": str(stage.room("notes") / name),
        "PYTHONPATH": str(COMPILED if is_compiled() and not plain else ROOT),
        **settings,
    }
    made.create_topics(PARTITIONS)
    try:
        yield made
    finally:
        made.close()
        with contextlib.suppress(Exception):  # what is not tidied up harms no measurement
            stage.mongod.client().drop_database(name)
        topics = [made.topics.letters, made.topics.reports, made.topics.dead]
        admin = AdminClient({"bootstrap.servers": made.bootstrap, "log_level": 0})
        for gone in admin.delete_topics(topics).values():
            with contextlib.suppress(Exception):  # what is not tidied up harms no measurement
                gone.result(10)


def measured(stage: Stage, here: World, letters: int, timeout: float = TIMEOUT) -> Round:
    """Start the service on what lies in its topic, and measure until all is done."""
    sunk = stage.sink.received()
    service = here.replica()
    service.start()
    first_fetch(service)
    meter = Meter([service.child.pid], [stage.broker.child.pid, stage.mongod.child.pid])
    began = assigned_at(service)
    await_answers(here, letters, timeout)
    result = meter.round(letters, began=began, ended=last_mark(here))
    end(service)
    check(here, letters, stage.sink.received() - sunk)
    return result


def together(stage: Stage, here: World, replicas: int, letters: int) -> Round:
    """Start that many replicas, let them see the letters when each has its partitions, and measure."""
    sunk = stage.sink.received()
    with held_back(here, batches(letters, 100)) as let_go:
        running = [here.replica() for _ in range(replicas)]
        for each in running:
            each.start()
        await_shares(running)
        stores = [stage.broker.child.pid, stage.mongod.child.pid]
        meter = Meter([each.child.pid for each in running], stores)
        began = time.time()
        let_go()
    await_answers(here, letters)
    result = meter.round(letters, began=began, ended=last_mark(here))
    for each in running:
        end(each)
    check(here, letters, stage.sink.received() - sunk)
    return result


@contextlib.contextmanager
def held_back(here: World, values: Iterable[object]) -> Iterator[Callable[[], None]]:
    """Publish batches, evenly over the partitions, that no consumer sees before what is yielded is called."""
    options = {"transactional.id": here.topics.group, "transaction.timeout.ms": int(TIMEOUT * 1000)}
    producer = Producer({"bootstrap.servers": here.bootstrap, **options})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number, value in enumerate(values):
        raw = json.dumps(value, ensure_ascii=False).encode()
        producer.produce(here.topics.letters, value=raw, partition=number % PARTITIONS)
        producer.poll(0)
    if producer.flush(60):
        raise TimeoutError("the broker did not take the letters in 60 s")
    yield lambda: producer.commit_transaction(30)


def await_shares(running: list[Replica]) -> None:
    """Until every replica is ready and the group has given it as many partitions as the others."""
    for each in running:
        each.wait_ready()

    def shared() -> bool:
        latest = [each.events("partitions_assigned")[-1:] for each in running]
        return all(each and len(each[0]["partitions"]) == PARTITIONS // len(running) for each in latest)

    poll(shared, "balanced group", timeout=60, pause=0.1)


def first_fetch(service: Replica, timeout: float = 60.0) -> None:
    """Return some milliseconds after the service was given its partitions."""

    def seen() -> bool:
        if not service.child.running:
            raise ChildError(f"the service ended with {service.child.returncode}, see {service.child.log}")
        return b'"partitions_assigned"' in service.child.log.read_bytes()

    poll(seen, "partitions", timeout=timeout, pause=0.005)


def assigned_at(service: Replica) -> float:
    """When the service was given its partitions first, in seconds since 1970."""
    return datetime.fromisoformat(service.events("partitions_assigned")[0]["time"]).timestamp()


def await_answers(here: World, letters: int, timeout: float = TIMEOUT) -> None:
    """Until every letter's report was published and marked."""
    consumer = Consumer({"bootstrap.servers": here.bootstrap, "group.id": "bench-end"})
    topic = here.topics.reports

    def published() -> bool:
        return sum(end for _, end in extents_of(consumer, topic).values()) >= letters

    try:
        poll(published, f"{letters} reports", timeout=timeout, pause=0.2)
    finally:
        consumer.close()
    with here.letters() as collection:
        poll(lambda: _all_marked(collection), "marks", timeout=60, pause=0.05)


def _all_marked(letters: Any) -> bool:
    """Whether all letters have ended, and each is marked as reported: by itself, or with others."""
    unfinished = ({"reported": False}, {"status": "awaiting"}, {"status": "processing"})
    return not any(letters.count_documents(query, limit=1) for query in unfinished) and not (
        letters.marks.count_documents({"reported": False}, limit=1)
    )


def last_mark(here: World) -> float:
    """When the last report was marked, by MongoDB's clock, in seconds since 1970."""
    with here.letters() as letters:
        alone = letters.find_one({"expire_at": {"$exists": True}}, sort=[("expire_at", -1)]) or {}
        shared = letters.marks.find_one({"reported": True}, sort=[("forget_at", -1)]) or {}
    ends: list[datetime] = [alone.get("expire_at"), shared.get("forget_at")]
    return max(at.replace(tzinfo=UTC).timestamp() for at in ends if at) - RETENTION


def end(service: Replica) -> None:
    """Stop it politely; it has nothing left to do. Which form it had is not for us to believe."""
    if service.compiled() != (service.settings["PYTHONPATH"] == str(COMPILED)):
        raise ChildError("the service has not the form that was to be measured")
    service.terminate()
    status = service.wait_exit()
    if status != 0:
        raise ChildError(f"the service ended with {status}, see {service.child.log}")


def check(here: World, letters: int, sunk: int) -> None:
    """No letter lost, none sent twice, each answered: a fast sender that cheats is not fast."""
    with here.letters() as collection:
        good = collection.count_documents({"status": "sent", "reported": True})
        for mark in collection.marks.find({"reported": True}):
            together = {"_id": {"$in": mark["letters"]}, "mark": mark["_id"], "reported": {"$exists": False}}
            good += collection.count_documents({"status": "sent", **together})
    if (good, sunk) != (letters, letters):
        raise ChildError(f"of {letters} letters {good} were sent and reported, and {sunk} reached the sink")


def ready(here: World, timeout: float = 60.0, **settings: str) -> Replica:
    """A replica that has its partitions and waits."""
    made = here.replica(**settings)
    made.start()
    first_fetch(made, timeout)
    made.wait_ready()
    time.sleep(0.5)
    return made
