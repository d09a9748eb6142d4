"""One experiment's world: own topics, own database, own relay; and the history of what happened in it."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from pymongo.errors import PyMongoError

from lab.parts import Certificates, Topics
from lab.world import World
from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod, ReplicaSet
from proof import gather
from proof.cluster import Cluster, Layout
from proof.history import Break, History, Published, Rate, Report
from proof.load import RULES, Publisher
from proof.outage import Outages
from proof.relay import LedgerRelay
from proof.stage import Stage
from proof.watch import Watch

FAST = {
    "MONGODB_LEASE": "2s",
    "REPORT_SWEEP_AFTER": "2s",
    "SMTP_RETRY_DELAY": "200ms",
    "SMTP_UNCERTAIN_RESENDS": "100",
    "KAFKA_MAX_REQUEST_SIZE": "900000",
}
"""Short times, so that many crashes fit into an hour. No attempt is the last one: what a relay defers, or
loses, by chance must not end as an error."""


NO_MORE = 20.0
"""Seconds: longer than it takes to go on with what is there, after whatever an experiment did."""


class Run:
    """One experiment."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        seed: int,
        *,
        settings: Mapping[str, str] | None = None,
        plan: Mapping[str, Any] | None = None,
        replica_set: bool = False,
        mongo: Mongod | ReplicaSet | None = None,
        certificates: Certificates | None = None,
        topics: Mapping[str, Layout] | None = None,
        places: int = 0,
    ) -> None:
        self.stage = stage
        self.name = name
        self.seed = seed
        self.chance = random.Random(f"{name}/{seed}")
        self.directory = stage.directory / f"{name}-{seed}-{time.monotonic_ns()}"
        plan = {"seed": seed, "delay": {"DOT": 0.01}, **(plan or {})}
        plan["script"] = [*RULES, *plan.get("script", ())]
        files: dict[str, Path] = {}
        if certificates:
            files = {"cert": certificates.cert, "key": certificates.key}
        self.relay = LedgerRelay(self.directory / "relay", plan, places=places, **files)
        self.topics = Topics.unique()
        mongo = mongo or (stage.replica_set if replica_set else stage.mongod)
        self.world = World(
            self.directory,
            stage.broker.bootstrap,
            mongo.uri,
            f"proof_{self.topics.group[-12:]}",
            self.topics,
            self.relay.port,
            settings={**FAST, **(settings or {}), "PYTHONPATH": str(stage.tree)},
        )
        _make(stage.broker, self.topics, topics or {})
        self.publisher_name = f"{name}.{seed}"
        self.publisher = Publisher(
            stage.broker.bootstrap, self.topics.letters, self.publisher_name, random.Random(f"load/{seed}")
        )
        self.refused: list[Published] = []
        self.unsure: list[Published] = []
        self.breaks: list[Break] = []
        self.stops: list[Break] = []
        self.faults: list[str] = []
        self._outages = Outages(mongo.uri, self.breaks.append, self.fault)
        self._reader = gather.TopicReader(stage.broker.bootstrap, self.topics.reports)
        self._reports: list[Report] = []
        self._told: set[str] = set()

    # --- breaking --------------------------------------------------------------------------------

    def note_break(self, what: str, start: float | None = None) -> None:
        """Something was broken, from `start` to now."""
        now = time.monotonic()
        self.breaks.append(Break(what=what, start=now if start is None else start, end=now))

    def stopped(self, what: str, since: float) -> None:
        """No replica has run since then, and none does until `starts` is called: nobody may begin anything.

        A process that ended has no session; one that somebody holds on to is a fault, too.
        """
        self.stops.append(Break(what=what, start=since, end=math.inf))
        living = self.relay.living()
        if living:
            self.fault(f"after {what} {living} sessions were still there")

    def starts(self) -> None:
        """A replica is about to be started."""
        if self.stops and self.stops[-1].end == math.inf:
            self.stops[-1] = replace(self.stops[-1], end=time.monotonic())

    @contextlib.contextmanager
    def broken(self, what: str) -> Iterator[None]:
        """For as long as the block takes, something is broken."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.note_break(what, began)

    @contextlib.contextmanager
    def mongodb_away(self, what: str) -> Iterator[None]:
        """The block strikes MongoDB: it is away from now until a write is answered. Nobody waits for that."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._outages.since(what, began)

    def fault(self, text: str) -> None:
        """Something that an experiment saw itself."""
        self.faults.append(text)

    def watch(self) -> Watch:
        """What happens in this world from now on, as it happens; to be closed."""
        return Watch(
            self.world.mongo_uri,
            self.world.database,
            self.stage.broker.bootstrap,
            self.topics.reports,
            self.topics.group,
        )

    # --- looking ---------------------------------------------------------------------------------

    def read_reports(self, seconds: float) -> None:
        """Read what comes within so many seconds, at least what is there."""
        for raw in self._reader.more(seconds):
            report = gather.report_of(raw)
            self._reports.append(report)
            self._told.add(report.mark)

    def accepted_marks(self) -> int:
        """How many different letters the relay has taken over all its lives."""
        return len({each.mark for each in self.relay.read().acceptances})

    def told(self) -> int:
        """How many different letters are reported, as far as the topic was read."""
        return len(self._told)

    def wait_told(self, count: int, timeout: float) -> bool:
        """Wait until so many letters are reported; whether they are."""
        deadline = time.monotonic() + timeout
        while len(self._told) < count and time.monotonic() < deadline:
            self.read_reports(0.2)
        return len(self._told) >= count

    def wait_published(self, timeout: float) -> bool:
        """Wait until every letter that was published is reported, whatever else may be; whether it is."""
        return self.wait_told_of({each.mark for each in self.publisher.published}, timeout)

    def wait_told_of(self, marks: Set[str], timeout: float) -> bool:
        """Wait until each of these letters is reported; whether it is."""
        deadline = time.monotonic() + timeout
        while marks - self._told:
            if time.monotonic() > deadline:
                return False
            self.read_reports(0.2)
        return True

    def wait_done(self, timeout: float) -> bool:
        """Wait until every letter is reported, the outbox empty, every offset committed; whether that is so.

        What is missing when the service has nothing left to do, and no report has come for `NO_MORE` seconds,
        will never come.
        """
        wanted = {each.mark for each in self.publisher.published}
        began = latest = time.monotonic()
        while time.monotonic() < began + timeout:
            if wanted <= self._told and self._settled():
                self.read_reports(0.2)
                return True
            before = len(self._reports)
            self.read_reports(0.2)
            if len(self._reports) > before:
                latest = time.monotonic()
            elif time.monotonic() > latest + NO_MORE:
                if self._settled() and not self._open():
                    return False
                latest = time.monotonic()
        return False

    def _settled(self) -> bool:
        with contextlib.suppress(PyMongoError, KafkaException):
            places = gather.offsets(self.stage.broker.bootstrap, self.topics.group, self.topics.letters)
            committed = all(done == end for done, end in places.values())
            return committed and self.world.unreported() == 0
        return False

    def _open(self) -> bool:
        """Whether a letter waits, or is in somebody's hand."""
        with contextlib.suppress(PyMongoError), self.world.letters() as letters:
            return letters.find_one({"status": {"$in": ["awaiting", "processing"]}}, {"_id": 1}) is not None
        return True

    # --- the end ---------------------------------------------------------------------------------

    def stop_services(self, *, within: float = 40.0) -> None:
        """End all replicas politely; one that does not end with 0 is a fault."""
        alive = [each for each in self.world.replicas if each.child.running]
        for replica in alive:
            replica.terminate()
        for replica in alive:
            status = replica.wait_exit(within)
            if status != 0:
                self.fault(f"{replica.child.name} ended with {status} on SIGTERM")

    def history(self, *, rate: Rate | None = None, poison: tuple[bytes, ...] = ()) -> History:
        """All that is known now."""
        self._outages.wait()
        while (before := len(self._reports)) is not None:
            self.read_reports(0.5)
            if len(self._reports) == before:
                break
        book = self.relay.read()
        with self.world.letters() as letters:
            stored = gather.stored_in(letters)
        bootstrap = self.stage.broker.bootstrap
        return History(
            published=tuple(self.publisher.published),
            refused=tuple(self.refused),
            unsure=tuple(self.unsure),
            acceptances=book.acceptances,
            mails=book.mails,
            live_mails=book.live_mails,
            violations=book.violations,
            doubted=book.doubted,
            reports=tuple(self._reports),
            stored=stored,
            offsets=gather.offsets(bootstrap, self.topics.group, self.topics.letters),
            breaks=tuple(self.breaks),
            stops=tuple(self.stops),
            rate=rate,
            poison=poison,
            dead=self._dead(),
            faults=tuple(self.faults),
        )

    def _dead(self) -> tuple[bytes, ...]:
        return tuple(record.value() or b"" for record in self.world.records(self.topics.dead))

    def close(self) -> None:
        self.world.close()
        self.relay.kill()
        self._reader.close()


def _make(broker: KafkaBroker | Cluster, topics: Topics, layouts: Mapping[str, Layout]) -> None:
    """Make the topics. `layouts` say of some where they are, if there are several brokers."""
    names = {"letters": topics.letters, "reports": topics.reports, "dead": topics.dead}
    if isinstance(broker, Cluster):
        broker.make({name: layouts.get(what, Layout()) for what, name in names.items()})
    else:
        broker.ensure_topics([*names.values()])


@contextlib.contextmanager
def run(stage: Stage, name: str, seed: int, **options: Any) -> Iterator[Run]:
    """An experiment's world, with its relay up; all its processes end with the block."""
    made = Run(stage, name, seed, **options)
    try:
        made.relay.start()
        yield made
    finally:
        made.close()


def rest(seconds: float) -> None:
    """Let the service work for a while: the moment of a blow is a length of time, not an event."""
    time.sleep(seconds)
