"""The stage: a real broker and a real MongoDB that several experiments use one after the other."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from mailsender.dev.kafka import KafkaBroker
from mailsender.dev.mongod import Mongod, ReplicaSet
from mailsender.dev.process import LOOPBACK, free_port
from proof.cluster import Cluster
from proof.proxy import Proxy

Some = TypeVar("Some", "TwoFaced", Mongod, ReplicaSet, Cluster)


class TwoFaced(KafkaBroker):
    """A broker with a second listener, which tells its clients to come through a proxy."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._second = free_port()
        self.proxy = Proxy(self._second)

    def _write_configuration(self) -> Path:
        properties = super()._write_configuration()
        text = properties.read_text("utf-8")
        for name, port in (("listeners", self._second), ("advertised.listeners", self.proxy.port)):
            text = text.replace(f"\n{name}=", f"\n{name}=PROXIED://{LOOPBACK}:{port},")
        protocols = "listener.security.protocol.map="
        properties.write_text(text.replace(protocols, f"{protocols}PROXIED:PLAINTEXT,"), "utf-8")
        return properties


@dataclass(eq=False)
class Stage:
    """Parts come up when they are first asked for, and go with the stage."""

    directory: Path
    parts: contextlib.ExitStack
    tree: Path = Path(__file__).parents[1]
    """Where the package lies that is tried, whatever may be installed."""

    def with_broker(self, broker: KafkaBroker | Cluster) -> Stage:
        """The same stage with another broker, or several, which are up."""
        other = Stage(self.directory, self.parts, self.tree)
        other.__dict__ |= {"mongod": self.mongod, "broker": broker}
        return other

    def knows(self, setting: str) -> bool:
        """Whether the service that is tried has such a setting: not every one has every one yet."""
        sources = (self.tree / "mailsender" / "settings").rglob("*.py")
        return any(setting.lower() in each.read_text("utf-8").lower() for each in sources)

    @cached_property
    def broker(self) -> TwoFaced:
        """Apache Kafka, one node."""
        broker = TwoFaced(self.directory / "kafka")
        self.parts.callback(broker.proxy.close)
        return self._started(broker)

    @property
    def broker_proxy(self) -> Proxy:
        """The way to the broker that can be cut."""
        return self.broker.proxy

    @cached_property
    def mongod(self) -> Mongod:
        """A mongod that is a replica set by itself: enough where MongoDB is not what is broken."""
        return self._started(Mongod(self.directory / "mongod"))

    @cached_property
    def replica_set(self) -> ReplicaSet:
        """Three members, of which the primary can be killed, and one can be held back."""
        directory, testing = self.directory / "replica-set", {"enableTestCommands": "1"}
        return self._started(ReplicaSet(directory, parameters=testing))

    @cached_property
    def cluster(self) -> Cluster:
        """Three brokers."""
        return self._started(Cluster(self.directory / "cluster"))

    def _started(self, part: Some) -> Some:
        self.parts.callback(part.kill)
        part.start()
        return part


@contextlib.contextmanager
def open_stage(directory: Path) -> Iterator[Stage]:
    """A stage in `directory`, whose data are thrown away at the end; logs stay."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as parts:
        try:
            yield Stage(directory, parts)
        finally:
            parts.close()
            for data in directory.rglob("data"):
                shutil.rmtree(data, ignore_errors=True)
