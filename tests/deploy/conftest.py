"""The exercises of what is shipped: `make ship` runs them, and `make test` leaves them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import parts
from tests.deploy import engine as engines
from tests.deploy.engine import Engine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deploy: exercises what is shipped; run by `make ship`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out of a run that does not ask for them: they install and build for minutes."""
    if "deploy" in str(config.getoption("markexpr")):
        return
    left_out = [item for item in items if item.get_closest_marker("deploy")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("deploy")]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The container engine of this machine, or Podman's, started for this run."""
    with engines.running() as engine:
        parts.met["engine"] = engine.name
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The service's image, built from this checkout."""
    return engine.build_image("localhost/mailsender/mailsender:under-test")


@pytest.fixture(scope="session")
def checkers() -> Path:
    """Where hadolint, shellcheck and Compose's loader lie."""
    return engines.installed("tools")
