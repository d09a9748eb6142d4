"""The suppression list in a whole replica: what is learned, what is reported, what the drain writes."""

from __future__ import annotations

import asyncio
import json

import pytest

from mailsender.admin.operations import ReplicaOperations
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Letter, Phase, Result, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.service import Replica
from tests import dispatching
from tests.dispatching import until
from tests.fakes import FakeSink
from tests.relays import FakeRelay
from tests.unit.test_replica import replica_over

pytestmark = pytest.mark.asyncio

ANN = "ann@example.test"
NO_SUCH = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")


async def sent(replica: Replica, sink: FakeSink, *letters: Letter) -> list[dict[str, object]]:
    """Their reports, in the order in which they came."""
    before = len(sink.published)
    await replica.parts.queue.insert(letters)
    replica.dispatcher.nudge()
    await until(lambda: len(sink.published) >= before + len(letters))
    return [json.loads(each.value or b"") for each in sink.published[before:]]


@pytest.mark.parametrize("learn", [True, False])
async def test_whom_a_relay_does_not_know_gets_one_letter_where_that_is_wanted(
    learn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, sink, relay = SystemClock(), FakeSink(), FakeRelay(answer=lambda _: NO_SUCH)
    wanted = {"SUPPRESSION_LEARN": "true"} if learn else {}
    replica = replica_over(relay, MemoryQueue(clock), clock, monkeypatch, sink=sink, **wanted)
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.state == "running")
    await sent(replica, sink, dispatching.letter(1, ANN))
    if learn:
        await until(lambda: replica.suppression.learned)
    (report,) = await sent(replica, sink, dispatching.letter(2, ANN))
    replica.drain("test")
    assert await running == 0
    assert len(relay.sent) == (1 if learn else 2)
    if learn:
        assert report["Status"] == "error"
        assert report["Reason"] == {
            "Code": None,
            "EnhancedCode": "",
            "Text": "suppressed: 550 5.1.1",
            "Phase": "intake",
        }
        assert (report["Attempts"], report["Relay"]) == (0, "")


async def test_what_was_learned_last_is_written_by_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.suppression.watch.GATHER", 60.0)
    clock, sink, relay = SystemClock(), FakeSink(), FakeRelay(answer=lambda _: NO_SUCH)
    replica = replica_over(relay, MemoryQueue(clock), clock, monkeypatch, sink=sink, SUPPRESSION_LEARN="true")
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.state == "running")
    await sent(replica, sink, dispatching.letter(1, ANN))
    assert await replica.parts.suppressions.empty()
    replica.drain("test")
    assert await running == 0
    assert [each.address for each in await replica.parts.suppressions.find([ANN])] == [ANN]


async def test_an_operator_stops_a_letter_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sink, relay = SystemClock(), FakeSink(), FakeRelay(away="away")
    replica = replica_over(relay, MemoryQueue(clock), clock, monkeypatch, sink=sink)
    operations = ReplicaOperations(replica)
    running = asyncio.create_task(replica.run())
    await until(lambda: replica.relays[0].pool.away)
    await replica.parts.queue.insert([dispatching.letter(1, ANN)])
    entry = operations.suppressions.entry("@example.test", stream="", reason="closed", until="never")
    assert await operations.suppressions.put([entry], by="a test") == 1
    relay.away = ""
    replica.dispatcher.nudge()
    await until(lambda: sink.published)
    replica.drain("test")
    assert await running == 0
    assert relay.sent == []
    report = json.loads(sink.published[0].value or b"")
    assert report["Recipients"][0]["Text"] == "suppressed: closed"
    assert "mailsender_suppressed_total 1.0" in operations.metrics("")[0].decode()
