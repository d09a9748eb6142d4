"""A client that is kept: whatever goes wrong while one is made, it is said, and tried again."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from structlog.testing import capture_logs

from mailsender.kafka import client as kafka
from mailsender.kafka.client import KafkaConfig, Keeper

pytestmark = pytest.mark.asyncio

CONFIG = KafkaConfig(brokers=("127.0.0.1:1",), timeout=1.0)


class Client:
    """A client that starts and stops as it is told to."""

    def __init__(self, starts: Exception | None = None, stops: Exception | None = None) -> None:
        self.starts = starts
        self.stops = stops

    async def start(self) -> None:
        if self.starts is not None:
            raise self.starts

    async def stop(self) -> None:
        if self.stops is not None:
            raise self.stops


class Stage:
    """A keeper whose clients come from a list of clients and of errors that their making raises."""

    def __init__(self, *made: Client | Exception, begun: Exception | None = None) -> None:
        self.made = list(made)
        self.refuses = begun
        self.abandons: list[Exception] = []
        self.keeper: Keeper[Client] = Keeper(
            CONFIG, make=self._make, begun=self._begun, abandon=self._abandon
        )

    def _make(self) -> Client:
        found = self.made.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def _begun(self, _: Client) -> None:
        refuses, self.refuses = self.refuses, None
        if refuses is not None:
            raise refuses

    async def _abandon(self, _: Client) -> None:
        if self.abandons:
            raise self.abandons.pop()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(kafka, "LONGEST_PAUSE", 0.002)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/tls/ca.pem"),
        ssl.SSLError("a file is no PEM"),
        ValueError("a mistake of a library"),
        AssertionError(),
    ],
)
async def test_a_client_that_cannot_be_made_is_made_again(error: Exception) -> None:
    good = Client()
    stage = Stage(error, error, error, good)
    with capture_logs() as logs:
        stage.keeper.open()
        assert await stage.keeper.get(5.0) is good
    await stage.keeper.close()
    told = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in told] == ["kafka_client_not_started"]
    assert type(error).__name__ in told[0]["reason"]
    assert not any("exc_info" in entry for entry in logs)


async def test_the_fault_says_what_is_missing_while_it_is() -> None:
    stage = Stage(*[FileNotFoundError(2, "No such file or directory", "/tls/ca.pem")] * 1000)
    stage.keeper.open()
    assert await stage.keeper.get(0.05) is None
    assert "/tls/ca.pem" in stage.keeper.fault
    await stage.keeper.close()


async def test_what_goes_wrong_after_the_start_or_at_the_end_of_a_client_ends_no_task() -> None:
    first, second = Client(stops=RuntimeError("while it stops")), Client()
    stage = Stage(Client(starts=ValueError("while it starts")), first, second, begun=KeyError("as it begins"))
    stage.abandons = [RuntimeError("while it is freed")] * 2
    stage.keeper.open()
    assert await stage.keeper.get(5.0) is second
    await stage.keeper.close()


class Joining(Client):
    """One whose `stop` waits for what does not come."""

    async def stop(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("holds", "most", "least"), [(False, 0.5, 0.0), (True, 5.0, 0.9)])
async def test_a_client_that_holds_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, holds: bool, most: float, least: float
) -> None:
    """A stop while it joins a group would take as long as the join."""
    monkeypatch.setattr(kafka, "IDLE_STOP", 0.01)
    stage = Stage(Joining())
    stage.keeper._holds = lambda: holds
    stage.keeper.open()
    assert await stage.keeper.get(5.0) is not None
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stage.keeper.close()
    assert least <= loop.time() - began < most
