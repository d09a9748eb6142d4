"""mailsender: from the first fetch of a preloaded topic until the last report is acknowledged and noted.

Nothing is switched off: all validation, majority and journaled writes, claims, reports with bodies, the log
at its default level. The settings are the defaults, but for the rate (none) and the number of sessions.

The clock starts with the service's own event `partitions_assigned`, which the first fetch follows at once. It
stops when the last report was noted as published: at the last write to what is kept of letters, by MongoDB's
own log of writes, read afterwards. In between the harness asks the broker for the profile topic's end five
times a second, and once all reports lie there, MongoDB whether any is still to be noted. Afterwards, off the
clock, it checks that the sink took each letter once, that each is `sent`, and that no report is to come.

The service is known by what it is started with, logs and stores alone, so that of another commit is measured
likewise, wherever its modules lie. Builds before the outbox noted reports in the letters and in `marks`;
where they may be measured both are looked at, and what a build does not have is empty.

Two replicas share a topic, two partitions each, and the letters lie in it before they may see them: in a
transaction, which readers of committed records wait for. The clock starts when it is committed.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from pymongo import MongoClient

from benchmarks.letters import SENDER, batches
from benchmarks.measure import Meter, Round, poll
from benchmarks.parts import Stage, Way, is_compiled_form
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
PARTITIONS = 4

KEPT = ("letters", "letters.outbox", "letters.marks")
"""The collections to which a letter's way leads, in this build or an earlier one."""

TIMEOUT = 300.0


class Mailsender:
    """The service itself, with batches of one size.

    In `plain` Python although its hot path is compiled; into the sink that all share, or by another `way`;
    with further `settings`.
    """

    def __init__(
        self,
        name: str,
        batch: int,
        letters: int,
        *,
        plain: bool = False,
        way: Way | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.letters = name, letters
        self._batch, self._plain, self._way, self._settings = batch, plain, way, settings or {}

    def run(self, stage: Stage, letters: int) -> Round:
        way = self._way or stage.way
        with world(stage, way, plain=self._plain, **self._settings) as here:
            here.publish(batches(letters, self._batch))
            return measured(stage, here, letters, way=way)


class Replicas:
    """Several replicas on one topic, with batches of 100."""

    def __init__(self, name: str, count: int, letters: int) -> None:
        self.name, self.count, self.letters = name, count, letters

    def run(self, stage: Stage, letters: int) -> Round:
        with world(stage) as here:
            return together(stage, here, self.count, letters)


@contextlib.contextmanager
def world(stage: Stage, way: Way | None = None, *, plain: bool = False, **settings: str) -> Iterator[World]:
    """Fresh topics and a fresh database for one round; both are thrown away after it.

    The service is that of the stage's tree. It has its compiled form, as the image has it, where there is one
    and `plain` does not say else. It sends into the sink that all share, or by another `way`.
    """
    way = way or stage.way
    name = f"bench{uuid4().hex[:8]}"
    made = World(
        stage.room("ours"), stage.broker.bootstrap, stage.mongod.uri, name, Topics.unique(), way.port
    )
    made.settings = {
        **SETTINGS,
        **way.settings,
        "MAILSENDER_STATE_DIR": str(stage.room("notes") / name),
        "PYTHONPATH": str(stage.tree.code(plain=plain)),
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


def measured(stage: Stage, here: World, letters: int, *, way: Way | None = None) -> Round:
    """Start the service on what lies in its topic, and measure until all is done."""
    sink = (way or stage.way).sink
    sunk = sink.received()
    service = here.replica()
    service.start()
    first_fetch(service)
    stores = [stage.broker.child.pid, stage.mongod.child.pid]
    meter = Meter([service.child.pid], stores, [sink.child.pid])
    began = assigned_at(service)
    await_answers(here, letters)
    result = meter.round(letters, began=began, ended=last_write(here))
    end(service)
    check(here, letters, sink.received() - sunk)
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
        meter = Meter([each.child.pid for each in running], stores, [stage.sink.child.pid])
        began = time.time()
        let_go()
    await_answers(here, letters)
    result = meter.round(letters, began=began, ended=last_write(here))
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
    """Until every letter's report was published and noted."""
    consumer = Consumer({"bootstrap.servers": here.bootstrap, "group.id": "bench-end"})
    topic = here.topics.reports

    def published() -> bool:
        return sum(end for _, end in extents_of(consumer, topic).values()) >= letters

    try:
        poll(published, f"{letters} reports", timeout=timeout, pause=0.2)
    finally:
        consumer.close()
    with here.letters() as collection:
        poll(lambda: not _owes(collection), "notes of reports", timeout=60, pause=0.05)


def _owes(letters: Any) -> bool:
    """Whether a report is still to be noted; asks small collections alone."""
    return bool(letters.outbox.find_one({}, {"_id": 1}) or letters.marks.find_one({"reported": False}))


def last_write(here: World) -> float:
    """When something that is kept of letters was written last, by MongoDB's clock, in seconds since 1970.

    mongod may log several writes as one command (`applyOps`).

    Raises:
        ChildError: its log of writes does not know.
    """
    names = {"$in": [f"{here.database}.{name}" for name in KEPT]}
    with MongoClient[dict[str, Any]](here.mongo_uri) as client:
        written = client["local"]["oplog.rs"].find_one(
            {"$or": [{"ns": names}, {"o.applyOps.ns": names}]}, {"wall": 1}, sort=[("$natural", -1)]
        )
    if written is None:
        raise ChildError(f"MongoDB knows of no write to {here.database}")
    at: datetime = written["wall"]
    return at.replace(tzinfo=UTC).timestamp()


def end(service: Replica) -> None:
    """Stop it politely; it has nothing left to do. Which form it had is not for us to believe."""
    wanted = Path(service.settings["PYTHONPATH"])
    compiled = wanted if is_compiled_form(wanted) else None
    if service.compiled_code() != compiled:
        raise ChildError(f"the service has not the form that was to be measured, that of {wanted}")
    service.terminate()
    status = service.wait_exit()
    if status != 0:
        raise ChildError(f"the service ended with {status}, see {service.child.log}")


def check(here: World, letters: int, sunk: int) -> None:
    """No letter lost, none sent twice, each answered: a fast sender that cheats is not fast."""
    with here.letters() as collection:
        good = collection.count_documents({"status": "sent"})
        owed = collection.count_documents({"reported": False})
        owes = owed or _owes(collection)
    if (good, sunk, bool(owes)) != (letters, letters, False):
        reported = "not all reports are noted" if owes else "all reports are noted"
        raise ChildError(f"of {letters} letters {good} are sent, {sunk} reached the sink, and {reported}")


def ready(here: World, timeout: float = 60.0, **settings: str) -> Replica:
    """A replica that has its partitions and waits."""
    made = here.replica(**settings)
    made.start()
    first_fetch(made, timeout)
    made.wait_ready()
    time.sleep(0.5)
    return made
