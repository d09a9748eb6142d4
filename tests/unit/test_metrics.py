"""The metrics: each defined once, read once, on its page, and in a form that Prometheus reads."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import prometheus_client
import pytest
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.samples import Sample
from structlog.testing import capture_logs
from typer.testing import CliRunner

from mailsender.admin.operations import ReplicaOperations
from mailsender.admin.readings import readings
from mailsender.app import listen
from mailsender.cli.app import app
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Answer, Letter, Origin, Phase, Recipient, Result, Verdict
from mailsender.observe import metrics
from mailsender.observe.metrics import ALL, PREFIX, Times, reply_class
from mailsender.queue.memory import MemoryQueue
from mailsender.service import Replica
from tests.dispatching import until
from tests.relays import ACCEPTED, FakeRelay
from tests.unit.test_reference import page
from tests.unit.test_replica import letter, replica_over

BEGIN, END = "<!-- metrics:begin -->", "<!-- metrics:end -->"
KEY = "a key of sixteen"


def families(text: str) -> dict[str, Metric]:
    """What Prometheus's own reader finds in the text format, by name without `mailsender_`."""
    return {each.name.removeprefix(PREFIX): each for each in parser.text_string_to_metric_families(text)}


def scraped(replica: Replica) -> dict[str, Metric]:
    text, content_type = ReplicaOperations(replica).metrics("")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return families(text.decode())


def sample(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The value of the one sample of this name with these labels."""
    every: list[Sample] = [each for metric in found.values() for each in metric.samples]
    (one,) = [each for each in every if each.name == PREFIX + name and each.labels == labels]
    return one.value


def from_record(number: int, timestamp: int) -> Letter:
    origin = Origin(topic="in", partition=0, offset=number, index=0, timestamp=timestamp)
    return letter().evolve(answers=(Answer(key=b"k", origin=origin),))


# --- times ---------------------------------------------------------------------------------------


def test_times_fall_into_the_buckets_that_they_are_not_over() -> None:
    times = Times((0.1, 1.0))
    for seconds in (-3.0, 0.1, 0.11, 1.0, 1.01):
        times.note(seconds)
    times.note(0.5, times=10)
    assert times.buckets() == [("0.1", 2), ("1.0", 14), ("+Inf", 15)]
    assert times.total == pytest.approx(0.1 + 0.11 + 1.0 + 1.01 + 5.0)
    assert len(times) == 15


def test_letters_of_one_record_took_as_long_and_those_of_none_are_left_out() -> None:
    times = Times((1.0, 10.0))
    first, second = from_record(1, 1_000_000), from_record(2, 1_008_000)
    untimed = from_record(3, -1)
    times.note_since_records([first, first, letter(), second, untimed, first], 1010.0)
    assert times.buckets() == [("1.0", 0), ("10.0", 4), ("+Inf", 4)]
    assert times.total == pytest.approx(10 + 10 + 2 + 10)


@pytest.mark.parametrize(
    ("code", "expected"), [(250, "2xx"), (451, "4xx"), (550, "5xx"), (354, "other"), (None, "none")]
)
def test_replies_are_told_by_their_class(code: int | None, expected: str) -> None:
    assert reply_class(code) == expected
    assert expected in metrics.REPLIES


# --- definitions ---------------------------------------------------------------------------------


def test_the_page_has_all_metrics_and_no_others() -> None:
    text = page("metrics.md")
    assert text.count(BEGIN) == text.count(END) == 1
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    made = CliRunner().invoke(app, ["metrics-table"]).stdout.strip()
    assert shown == made, "run `mailsender metrics-table` and put what it prints between the two markers"


def test_names_say_the_unit_where_it_is_one_of_prometheus() -> None:
    for each in ALL.values():
        assert each.meaning.endswith("."), each.name
        for unit in ("seconds", "bytes"):
            assert (each.unit == unit) == each.name.endswith(f"_{unit}"), each.name
        assert not each.name.endswith("_total"), each.name
        assert each.kind != "histogram" or (each.unit == "seconds" and not each.labels), each.name


# --- a replica -----------------------------------------------------------------------------------


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, relay: FakeRelay, *letters: Letter, **settings: str
) -> AsyncIterator[Replica]:
    clock = SystemClock()
    queue = MemoryQueue(clock)
    await queue.insert(letters)
    replica = replica_over(relay, queue, clock, monkeypatch, **settings)
    async with asyncio.timeout(30):
        task = asyncio.create_task(replica.run())
        try:
            await until(lambda: replica.state == "running")
            yield replica
        finally:
            replica.drain("test")
            await task


@pytest.mark.asyncio
async def test_each_metric_is_read_once_with_labels_that_its_definition_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quota = {"SMTP_DAILY_QUOTA": "9"}
    async with running(monkeypatch, FakeRelay(away="refused"), letter(), **quota) as replica:
        await replica.tidier.count()
        await until(
            lambda: bool(replica.relays[0].pool.refused) and replica.relays[0].limiter.used_today == 0
        )
        assert [definition for definition, _ in readings(replica)] == list(ALL.values())
        found = scraped(replica)
    assert set(found) == set(ALL)
    names = {relay.name for relay in replica.relays}
    for name, definition in ALL.items():
        assert found[name].type == definition.kind
        assert found[name].documentation == definition.meaning
        for each in found[name].samples:
            labels = {key: told for key, told in each.labels.items() if key != "le"}
            assert set(labels) == set(definition.labels), each
            for label, told in labels.items():
                allowed = definition.labels[label]
                if isinstance(allowed, tuple):
                    assert told in allowed, each
                elif allowed == metrics.ANY_RELAY:
                    assert told in names, each
                else:
                    assert (label, told) in {("topic", "in"), ("partition", "0")}, each
    assert sample(found, "consumer_lag", topic="in", partition="0") == 7
    assert sample(found, "quota_left", relay="default") == 9
    stats = replica.tidier.stats
    assert stats is not None
    assert sample(found, "letters_waiting", reason="due") == stats.due
    assert sample(found, "sessions_refused_total", relay="default", stage="connect") >= 1
    assert sample(found, "condition", part="relay") == 1
    assert sample(found, "relay_goes", relay="default") == 0
    assert sample(found, "condition", part="mongodb") == 0
    assert sample(found, "ready") == 0


@pytest.mark.asyncio
async def test_metrics_say_what_the_status_says(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no")
    relay = FakeRelay(answer=lambda address: refused if address.startswith("no") else ACCEPTED)
    made = int(time.time() * 1000) - 2000
    good = from_record(1, made)
    address = "no@example.test"
    bad = letter().evolve(
        id="6b03f03e1c3fe5165a363fcf", addresses=(address,), recipients=(Recipient(address=address),)
    )
    async with running(monkeypatch, relay, good, bad) as replica:
        await until(lambda: replica.reporter.state.marked == 2)
        found, status = scraped(replica), await ReplicaOperations(replica).status()
    since_start = status["since_start"]
    for outcome in ("sent", "error", "deferred", "uncertain"):
        assert sample(found, "outcomes_total", outcome=outcome) == since_start[outcome]
    assert (since_start["sent"], since_start["error"]) == (1, 1)
    assert sample(found, "attempts_total", relay="default", stage="dot", reply="2xx") == 1
    assert sample(found, "attempts_total", relay="default", stage="rcpt", reply="5xx") == 1
    assert sample(found, "reports_total", result="published") == status["reports"]["published"] == 2
    assert sample(found, "sessions_open", relay="default") == status["sessions"]["open"] == 1
    assert sample(found, "relay_goes", relay="default") == 1
    assert sample(found, "ready") == 1
    for name in ("claim_seconds", "settle_seconds", "report_seconds"):
        assert sample(found, f"{name}_count") >= 1
    for name in ("record_to_acceptance_seconds", "record_to_report_seconds"):
        assert sample(found, f"{name}_count") == 1
        assert 2 <= sample(found, f"{name}_sum") < 30


@pytest.mark.asyncio
async def test_replicas_of_one_process_count_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, FakeRelay(), letter()) as one, running(monkeypatch, FakeRelay()) as other:
        await until(lambda: one.settler.tally.sent == 1)
        assert sample(scraped(one), "outcomes_total", outcome="sent") == 1
        assert sample(scraped(other), "outcomes_total", outcome="sent") == 0
    assert PREFIX not in prometheus_client.generate_latest().decode()


# --- over HTTP -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.asyncio
async def test_a_scraper_gets_the_form_that_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    async with (
        running(monkeypatch, FakeRelay(), HTTP_PORT=str(port), HTTP_API_KEY=KEY, HTTP_HOST="127.0.0.1"),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        async with client.get("/metrics") as answer:
            assert answer.status == 401
        asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        for accept, content_type, read in (
            (asked, "application/openmetrics-text", openmetrics.text_string_to_metric_families),
            ("*/*", "text/plain", parser.text_string_to_metric_families),
        ):
            headers = {"X-API-KEY": KEY, "Accept": accept}
            async with client.get("/metrics", headers=headers) as answer:
                assert (answer.status, answer.content_type) == (200, content_type)
                names = {each.name for each in read(await answer.text())}
            assert {PREFIX + name for name in ALL} == names


@pytest.mark.asyncio
async def test_a_port_of_their_own_has_the_metrics_without_a_key_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, beside = free_port(), free_port()
    settings = {"HTTP_API_KEY": KEY, "HTTP_HOST": "127.0.0.1", "HTTP_METRICS_PORT": str(beside)}
    async with (
        running(monkeypatch, FakeRelay(), HTTP_PORT=str(port), **settings),
        aiohttp.ClientSession() as client,
    ):
        async with client.get(f"http://127.0.0.1:{beside}/metrics") as answer:
            assert answer.status == 200
            assert families(await answer.text())["ready"].samples[0].value == 1
        for path in ("/status", "/readyz", "/", "/letters/6b03f03e1c3fe5165a363fce"):
            async with client.get(f"http://127.0.0.1:{beside}{path}") as answer:
                assert answer.status == 404, path
        async with client.get(f"http://127.0.0.1:{beside}/metrics", headers={"Host": "a.example"}) as answer:
            assert answer.status == 421
        async with client.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 401
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", beside)


@pytest.mark.asyncio
async def test_a_taken_port_for_metrics_ends_the_start_and_leaves_no_port_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port, clock = free_port(), SystemClock()
        settings = {"HTTP_PORT": str(port), "HTTP_METRICS_PORT": str(taken.getsockname()[1])}
        replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch, **settings)
        with capture_logs() as logs:
            assert await listen(replica) is None
    (line,) = [each for each in logs if each["event"] == "http_cannot_listen"]
    assert line["advice"] == "set HTTP_HOST and HTTP_METRICS_PORT to a free address"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.asyncio
async def test_a_scrape_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, FakeRelay()) as replica:
        lag = {("in", partition): partition for partition in range(1000)}
        monkeypatch.setattr(replica.parts.source, "lag", lambda: lag)
        took = []
        for _ in range(20):
            began = time.thread_time()
            found = scraped_text(replica)
            took.append(time.thread_time() - began)
    told = [each.labels["partition"] for each in families(found)["consumer_lag"].samples]
    assert told == [str(each) for each in range(999, 999 - metrics.PARTITIONS, -1)]
    assert min(took) < 0.010


def scraped_text(replica: Replica) -> str:
    return ReplicaOperations(replica).metrics("")[0].decode()
