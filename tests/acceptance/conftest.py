from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.parts import KafkaServer, MongoServer, Topics
from lab.world import World
from mailsender.dev.catcher import Catcher


@pytest.fixture
def world(
    tmp_path: Path,
    kafka: KafkaServer,
    mongod: MongoServer,
    database: str,
    topics: Topics,
    catcher: Catcher,
) -> Iterator[World]:
    """The shared broker and mongod, a catcher of the test's own, and topics that exist."""
    made = World(
        directory=tmp_path,
        bootstrap=kafka.bootstrap,
        mongo_uri=mongod.uri,
        database=database,
        topics=topics,
        smtp_port=catcher.port,
    )
    made.create_topics()
    yield made
    made.close()
