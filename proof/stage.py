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

Some = TypeVar("Some", KafkaBroker, Mongod, ReplicaSet)


@dataclass(eq=False)
class Stage:
    """Parts come up when they are first asked for, and go with the stage."""

    directory: Path
    parts: contextlib.ExitStack

    @cached_property
    def broker(self) -> KafkaBroker:
        """Apache Kafka, one node."""
        return self._started(KafkaBroker(self.directory / "kafka"))

    @cached_property
    def mongod(self) -> Mongod:
        """A mongod that is a replica set by itself: enough where MongoDB is not what is broken."""
        return self._started(Mongod(self.directory / "mongod"))

    @cached_property
    def replica_set(self) -> ReplicaSet:
        """Three members, of which the primary can be killed."""
        return self._started(ReplicaSet(self.directory / "replica-set"))

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
