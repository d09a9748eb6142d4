from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lab import parts, scripted


@pytest.fixture(autouse=True)
def _collected(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect what aiokafka drops within the test that dropped it, where a mark may speak about it.

    Now and then, under load, the library loses a connection that it was making while it was stopped. The
    collector closes it and complains, in whatever test happens to run then.
    """
    yield
    if {"kafka", "own_kafka"} & set(request.fixturenames):
        gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the collector's complaints about aiokafka's connections pass, in tests that meet a broker only."""
    for item in items:
        if {"kafka", "own_kafka"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(params=["PIPELINING", ""], ids=["pipelined", "one by one"])
def pipelined(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Scripted relays offer PIPELINING, or they do not: what a reply means is the same."""
    monkeypatch.setattr(scripted, "ALSO_OFFERED", [request.param] if request.param else [])
    return bool(request.param)


@pytest.fixture(scope="module")
def lone_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[parts.LoneMongod]:
    """A standalone mongod with a user."""
    directory = tmp_path_factory.mktemp("lone-mongod")
    with parts.running(parts.local_lone_mongod(directory, auth=True)) as mongod:
        yield mongod
