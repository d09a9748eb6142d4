from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from lab.parts import or_missing
from mailsender.dev.kafka import require_apache_kafka
from mailsender.dev.mongod import mongod_binary
from proof.stage import Stage, open_stage
from proof.steps import Options


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A broker and MongoDB for all experiments of the run."""
    with or_missing():
        require_apache_kafka()
        mongod_binary()
    with open_stage(tmp_path_factory.mktemp("proof")) as made:
        yield made


@pytest.fixture(scope="session")
def short() -> Options:
    """The short form, from a seed that a failure names; PROOF_SEED repeats one."""
    seed = os.environ.get("PROOF_SEED")
    return Options(seed=int(seed) if seed else random.SystemRandom().randrange(10**6), short=True)
