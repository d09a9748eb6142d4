"""A replica over relays of the file, in memory but for SMTP: who gets which letter, and what reloads do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lab.scripted import GREETING, ScriptedRelay
from mailsender.admin.reloading import Reloading
from mailsender.app import build
from mailsender.model.clock import SystemClock
from mailsender.model.records import Record
from mailsender.service import Replica
from mailsender.settings.environment import load
from tests.dispatching import until
from tests.fakes import FakeSink

TEXT = """\
[relays.first]
host = "127.0.0.1"
port = {first}
tls = "none"
[relays.second]
host = "127.0.0.1"
port = {second}
tls = "none"
[routes.news]
match = {{ stream = "news" }}
relays = ["second"]
[routes.chosen]
open = true
relays = ["second"]
[routes.default]
relays = ["first"]
fallback = ["second"]
"""


class Topic:
    """The in-topic, to which a test publishes."""

    trouble = ""
    lost = 0
    generation = 0

    def __init__(self) -> None:
        self._records: asyncio.Queue[Record] = asyncio.Queue()
        self._offset = 0

    def publish(self, *letters: Mapping[str, object]) -> None:
        value = json.dumps([{"Addresses": ["ann@example.test"], **each} for each in letters]).encode()
        self._records.put_nowait(
            Record(topic="in", partition=0, offset=self._offset, timestamp=1, key=None, value=value)
        )
        self._offset += 1

    async def open(self) -> None:
        pass

    async def fetch(self, timeout: float) -> list[Record]:
        try:
            async with asyncio.timeout(timeout):
                return [await self._records.get()]
        except TimeoutError:
            return []

    async def idle(self, timeout: float) -> None:
        await asyncio.sleep(timeout)

    async def commit(self, offsets: object, notes: object = None) -> bool:
        return True

    def lag(self) -> dict[tuple[str, int], int]:
        return {}

    async def close(self) -> None:
        pass


def subjects(relay: ScriptedRelay) -> list[str]:
    lines = [line for message in relay.messages for line in message.decode().splitlines()]
    return [line.removeprefix("Subject: ") for line in lines if line.startswith("Subject: ")]


@asynccontextmanager
async def running(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Replica, Topic, FakeSink]]:
    for name, value in {
        "SMTP_FROM": "robot@example.test",
        "KAFKA_BROKERS": "127.0.0.1:1",
        "MONGODB_URI": "memory:",
        "MAILSENDER_CONFIG": str(file),
        "DRAIN_TIMEOUT": "5s",
    }.items():
        monkeypatch.setenv(name, value)
    settings, clock, topic, sink = load(), SystemClock(), Topic(), FakeSink()
    parts = replace(build(settings, clock), source=topic, sink=sink)
    replica = Replica(settings, parts, clock, listen=front)
    task = asyncio.create_task(replica.run())
    try:
        await until(lambda: replica.state == "running")
        yield replica, topic, sink
    finally:
        replica.drain("test")
        async with asyncio.timeout(30):
            await task


class Front:
    """Listens to nobody."""

    async def close(self) -> None:
        pass


async def front(_: Replica) -> Front:
    return Front()


@pytest.mark.asyncio
async def test_letters_take_their_routes_and_a_reload_gives_them_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedRelay() as first, ScriptedRelay() as second:
        file = tmp_path / "relays.toml"
        text = TEXT.format(first=first.port, second=second.port)
        file.write_text(text)
        async with running(file, monkeypatch) as (replica, topic, _):
            topic.publish({"Subject": "plain"}, {"Subject": "news", "Stream": "news"})
            topic.publish({"Subject": "chosen", "Route": "chosen"}, {"Subject": "other", "Stream": "other"})
            await until(lambda: len(first.messages) + len(second.messages) == 4)
            assert sorted(subjects(first)) == ["other", "plain"]
            assert sorted(subjects(second)) == ["chosen", "news"]
            changed = text.replace(
                'stream = "news" }\nrelays = ["second"]', 'stream = "other" }\nrelays = ["second"]'
            )
            assert changed != text
            file.write_text(changed)
            found = await Reloading(replica).reload("a test")
            assert (found.taken, found.left) == (("routes.news",), ())
            topic.publish({"Subject": "news 2", "Stream": "news"}, {"Subject": "other 2", "Stream": "other"})
            await until(lambda: len(first.messages) + len(second.messages) == 6)
            assert sorted(subjects(first)) == ["news 2", "other", "plain"]
            assert sorted(subjects(second)) == ["chosen", "news", "other 2"]


@pytest.mark.asyncio
async def test_where_one_relay_is_away_the_fallback_takes_the_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedRelay() as second:
        file = tmp_path / "relays.toml"
        file.write_text(TEXT.format(first=1, second=second.port))
        async with running(file, monkeypatch) as (_, topic, sink):
            topic.publish(*({"Subject": str(number)} for number in range(5)))
            await until(lambda: len(second.messages) == 5)
            assert sorted(subjects(second)) == [str(number) for number in range(5)]
            await until(lambda: len(sink.published) == 5)
            reports = [json.loads(each.value) for each in sink.published]
            assert {each["Recipients"][0]["Relay"] for each in reports} == {"second"}


@pytest.mark.asyncio
async def test_a_letter_cannot_choose_a_route_that_is_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedRelay() as first, ScriptedRelay() as second:
        file = tmp_path / "relays.toml"
        file.write_text(TEXT.format(first=first.port, second=second.port))
        async with running(file, monkeypatch) as (_, topic, sink):
            topic.publish({"Subject": "closed", "Route": "news"}, {"Subject": "none", "Route": "nowhere"})
            topic.publish({"Subject": "good"})
            await until(lambda: len(sink.published) == 3)
            assert subjects(first) == ["good"]
            assert second.messages == []
            reports = [json.loads(each.value) for each in sink.published]
            refused = [each for each in reports if each["Status"] == "error"]
            assert sorted(each["Subject"] for each in refused) == ["closed", "none"]
            assert all("Route" in json.dumps(each["Reason"]) for each in refused)


@pytest.mark.asyncio
@pytest.mark.parametrize("stood_in_for", [True, False])
async def test_a_relay_in_trouble_leaves_a_replica_ready_where_others_take_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stood_in_for: bool
) -> None:
    async with ScriptedRelay({GREETING: "421 4.3.2 Not now"}) as first, ScriptedRelay() as second:
        file = tmp_path / "relays.toml"
        text = TEXT.format(first=first.port, second=second.port)
        file.write_text(text if stood_in_for else text.replace('fallback = ["second"]', ""))
        async with running(file, monkeypatch) as (replica, topic, _):
            topic.publish({"Subject": "news", "Stream": "news"})
            await until(lambda: len(second.messages) == 1)
            await until(lambda: any("421 4.3.2" in each.text for each in replica.conditions.now()))
            assert bool(replica.not_ready_because()) is not stood_in_for
