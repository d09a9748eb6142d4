"""Three brokers that are each other's controllers, of which each can be killed, and lose its disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic

from mailsender.dev.kafka import KafkaBroker, brokers_of
from mailsender.dev.process import LOOPBACK, ChildError

NODES = 3
_UP = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the partitions of a topic are.

    One of them is on `there`, the first of which leads it, all others are on `others`; without these, each is
    on all nodes.
    """

    partition: int = 0
    there: Sequence[int] = ()
    others: Sequence[int] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def nodes(self, partition: int, everywhere: Sequence[int]) -> Sequence[int]:
        """The nodes of a partition."""
        return (self.there if partition == self.partition else self.others) or everywhere


class Node(KafkaBroker):
    """One of them. `number` from 1."""

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(directory)
        self.number = number
        self.others: Sequence[Node] = ()

    @property
    def controller(self) -> str:
        """Its place in the quorum."""
        return f"{self.number}@{LOOPBACK}:{self._controller_port}"

    def start(self) -> None:
        """Start it and wait until it knows itself among the others."""
        self.launch()
        self.child.until(lambda: self.port in brokers_of(self.port), _UP)

    def wipe(self) -> None:
        """Take all that it ever stored; it has to be down."""
        shutil.rmtree(self.directory / "data")

    def _write_configuration(self) -> Path:
        properties = super()._write_configuration()
        told = {
            "controller.quorum.voters": ",".join(each.controller for each in self.others),
            "default.replication.factor": str(NODES),
            "min.insync.replicas": "2",
            "offsets.topic.replication.factor": str(NODES),
            "transaction.state.log.replication.factor": str(NODES),
            "transaction.state.log.min.isr": "2",
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
            "replica.lag.time.max.ms": "3000",
            "unclean.leader.election.interval.ms": "2000",
            "leader.imbalance.check.interval.seconds": "5",
        }
        with properties.open("a", encoding="utf-8") as file:
            file.write("".join(f"{name}={value}\n" for name, value in told.items()))
        return properties


class Cluster:
    """All of them, as one broker in the experiments' eyes."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [Node(directory / f"node{number}", number) for number in range(1, NODES + 1)]
        for each in self.nodes:
            each.others = self.nodes
        self.partitions = 4

    @property
    def bootstrap(self) -> str:
        """What a client connects to."""
        return ",".join(each.bootstrap for each in self.nodes)

    def start(self) -> None:
        for each in self.nodes:
            each.launch()
        self.nodes[0].child.until(lambda: len(brokers_of(self.nodes[0].port)) == NODES, _UP)

    def kill(self) -> None:
        for each in self.nodes:
            each.kill()

    def ensure_topics(self, topics: Sequence[str]) -> None:
        """Make those that are missing, each partition on all nodes."""
        self.make({topic: Layout() for topic in topics})

    def make(self, topics: Mapping[str, Layout]) -> None:
        """Make topics.

        Raises:
            ChildError: one could not be made.
        """
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        numbers = [each.number for each in self.nodes]
        wanted = []
        for topic, layout in topics.items():
            places = [
                [*layout.nodes(number, numbers[number % NODES :] + numbers[: number % NODES])]
                for number in range(self.partitions)
            ]
            config = dict(layout.settings)
            wanted.append(NewTopic(topic, len(places), replica_assignment=places, config=config))
        for topic, done in admin.create_topics(wanted, operation_timeout=20).items():
            try:
                done.result(30)
            except Exception as error:
                raise ChildError(f"topic {topic} could not be made: {error}") from error

    def leader(self, topic: str, partition: int) -> int:
        """Who leads a partition now; -1 for nobody."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return int(admin.list_topics(topic, timeout=20).topics[topic].partitions[partition].leader)

    def wait_leader(self, topic: str, partition: int, among: Sequence[int], timeout: float = 40.0) -> None:
        """Wait until one of these leads it.

        Raises:
            ChildError: none does.
        """
        deadline = time.monotonic() + timeout
        while (found := self.leader(topic, partition)) not in among:
            if time.monotonic() > deadline:
                raise ChildError(f"{topic} {partition} is led by {found}, not one of {list(among)}")
            time.sleep(0.1)

    def wait_in_sync(self, topic: str, partition: int, count: int, timeout: float = 60.0) -> None:
        """Wait until so many have all of a partition.

        Raises:
            ChildError: they have not.
        """
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deadline = time.monotonic() + timeout
        while len(admin.list_topics(topic, timeout=20).topics[topic].partitions[partition].isrs) != count:
            if time.monotonic() > deadline:
                raise ChildError(f"{topic} {partition} is not with {count} nodes after {timeout:g} s")
            time.sleep(0.1)
