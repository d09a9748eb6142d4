"""Loops that fail: begun again, told, and given up where that does not help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.admin.operations import ReplicaOperations
from mailsender.app import listen
from mailsender.journal.port import NoJournal
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Outcome
from mailsender.model.records import Landed, Outgoing, Record
from mailsender.observe import supervision
from mailsender.observe.supervision import FAILURES, Supervisor, once
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.fleet import RelayParts
from mailsender.sending import dispatcher
from mailsender.service import Parts, Replica
from mailsender.settings.environment import Settings
from tests.clocks import ManualClock
from tests.fakes import FakeSink
from tests.relays import FakeRelay, FakeSession


class GivenUp(list[tuple[str, str]]):
    def __call__(self, name: str, reason: str) -> None:
        self.append((name, reason))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.001)


@pytest.mark.asyncio
async def test_a_loop_that_raises_is_begun_again_and_told(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "CALM", 0.02)
    stop, begun_well, begun, given_up = asyncio.Event(), asyncio.Event(), 0, GivenUp()
    keeper = Supervisor(ManualClock(), given_up)

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise LookupError("what the letter to ivan@example.test holds")
        begun_well.set()
        await stop.wait()

    with capture_logs() as events:
        running = asyncio.create_task(keeper.keep("counting", loop, stop, "nothing is counted"))
        async with asyncio.timeout(5):
            await begun_well.wait()
            assert keeper.troubles == ["the counting loop failed and is begun again: LookupError"]
            await asyncio.sleep(0.04)  # longer than what counts as calm
        assert keeper.troubles == []
        stop.set()
        await running
    failed = [each for each in events if each["event"] == "loop_failed"]
    assert [each["failures"] for each in failed] == [1, 2]
    assert {(each["loop"], each["error"], each["meanwhile"]) for each in failed} == {
        ("counting", "LookupError", "nothing is counted")
    }
    assert [each["event"] for each in events].count("loop_goes_on") == 1
    assert [(state.name, state.failures, state.state) for state in keeper.states] == [
        ("counting", 2, "running")
    ]
    assert given_up == []


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["raises", "ends", "is cancelled from within"])
async def test_a_loop_that_never_goes_is_given_up_with_the_reason(how: str, soon: None) -> None:
    stop, begun, given_up = asyncio.Event(), 0, GivenUp()

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if how == "raises":
            raise ExceptionGroup("of tasks", [KeyError("x")])
        if how != "ends":
            raise asyncio.CancelledError

    keeper = Supervisor(ManualClock(), given_up)
    with capture_logs() as events:
        await keeper.keep("counting", loop, stop, "nothing is counted")
    reasons = {"raises": "KeyError", "ends": "it ended by itself"}
    assert begun == FAILURES == len(events)
    assert given_up == [("counting", reasons.get(how, "RuntimeError"))]
    assert events[-1]["action"] == "the service drains and exits"
    assert keeper.troubles == [f"the counting loop failed and is given up: {given_up[0][1]}"]


@pytest.mark.asyncio
async def test_failures_far_apart_do_not_add_up(soon: None) -> None:
    clock, stop, begun, given_up = ManualClock(), asyncio.Event(), 0, GivenUp()

    async def loop() -> None:
        nonlocal begun
        begun += 1
        clock.forward(supervision.CALM)
        if begun > 3 * FAILURES:
            stop.set()
            return
        raise RuntimeError

    with capture_logs():
        await Supervisor(clock, given_up).keep("counting", loop, stop, "")
    assert given_up == []


@pytest.mark.asyncio
async def test_a_loop_that_was_to_end_is_not_begun_again(soon: None) -> None:
    stop, begun, given_up = asyncio.Event(), 0, GivenUp()

    async def loop() -> None:
        nonlocal begun
        begun += 1
        stop.set()
        raise RuntimeError

    with capture_logs():
        await Supervisor(ManualClock(), given_up).keep("counting", loop, stop, "")
    assert (begun, given_up) == (1, [("counting", "RuntimeError")])


@pytest.mark.asyncio
async def test_of_loops_with_one_name_the_gravest_state_is_told(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "CALM", 0.01)
    stop, goes_on, tries = asyncio.Event(), asyncio.Event(), 0
    keeper = Supervisor(SystemClock(), GivenUp())

    async def waits() -> None:
        if not stop.is_set():
            monkeypatch.setattr(supervision, "FIRST_BACKOFF", 60)
            raise KeyError

    async def recovers() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.001)
            raise LookupError
        await asyncio.sleep(0.02)  # longer than what counts as calm
        goes_on.set()
        await stop.wait()

    with capture_logs():
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for loop in (waits, recovers):
                group.create_task(keeper.keep("sending", loop, stop, ""))
            await goes_on.wait()
            assert [each.state for each in keeper.states] == ["waiting"]
            stop.set()


@pytest.mark.asyncio
async def test_the_reason_that_is_told_is_that_of_the_gravest(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, waiting = asyncio.Event(), asyncio.Event()
    keeper, tries = Supervisor(SystemClock(), GivenUp()), 0

    async def waits() -> None:
        if not stop.is_set():
            monkeypatch.setattr(supervision, "FIRST_BACKOFF", 60)
            waiting.set()
            raise KeyError

    async def begun_again() -> None:
        nonlocal tries
        await waiting.wait()
        monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.001)
        tries += 1
        if tries == 1:
            raise LookupError
        told = [each.error for each in keeper.states], [each.failures for each in keeper.states]
        assert told == (["KeyError"], [2])
        stop.set()

    with capture_logs():
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for loop in (waits, begun_again):
                group.create_task(keeper.keep("sending", loop, stop, ""))
    assert tries == 2, "the assertion within was met"


@pytest.mark.asyncio
async def test_what_waits_for_its_turn_while_another_is_given_up_changes_nothing(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FAILURES", 2)
    stop, waits = asyncio.Event(), asyncio.Event()
    keeper = Supervisor(ManualClock(), lambda *_: stop.set())

    async def fails_once() -> None:
        if not waits.is_set():
            monkeypatch.setattr(supervision, "FIRST_BACKOFF", 60)  # it waits until the drain wakes it
            waits.set()
            raise LookupError

    async def fails() -> None:
        await waits.wait()
        monkeypatch.setattr(supervision, "FIRST_BACKOFF", 0.001)
        raise KeyError

    with capture_logs():
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(keeper.keep("sending", fails_once, stop, ""))
            group.create_task(keeper.keep("sending", fails, stop, ""))
    assert keeper.troubles == ["the sending loop failed and is given up: KeyError"]


@pytest.mark.asyncio
async def test_a_cancellation_that_was_asked_for_ends_it() -> None:
    given_up, stop = GivenUp(), asyncio.Event()
    keeper = Supervisor(ManualClock(), given_up)
    running = asyncio.create_task(keeper.keep("counting", asyncio.Event().wait, stop, ""))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert given_up == []


@pytest.mark.asyncio
async def test_where_nobody_watches_errors_go_to_the_caller() -> None:
    async def loop() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await once("counting", loop, asyncio.Event(), "")


# --- a whole replica -----------------------------------------------------------------------------


class Topic:
    """A topic with one record, which comes again until it is committed."""

    trouble = ""
    lost = 0
    generation = 0

    def __init__(self) -> None:
        letter = {"Subject": "s", "Body": "b", "Addresses": ["a@example.test"]}
        value = json.dumps([letter]).encode()
        self.record = Record(topic="in", partition=0, offset=0, timestamp=-1, key=b"k", value=value)
        self.read, self.committed = False, False

    async def open(self) -> None:
        self.read = self.committed

    async def fetch(self, timeout: float) -> list[Record]:
        if not self.read:
            self.read = True
            return [self.record]
        await asyncio.sleep(timeout)
        return []

    async def idle(self, timeout: float) -> None:
        await asyncio.sleep(timeout)

    async def commit(self, offsets: Mapping[tuple[str, int], int], notes: object = None) -> bool:
        self.committed = True
        return True

    async def close(self) -> None:
        pass


class ReportTopic(FakeSink):
    """Says when there is a report."""

    def __init__(self) -> None:
        super().__init__()
        self.reported = asyncio.Event()

    async def publish(self, records: Sequence[Outgoing]) -> list[Landed | Exception]:
        answers = await super().publish(records)
        self.reported.set()
        return answers


def replica_with(monkeypatch: pytest.MonkeyPatch) -> Replica:
    for name, value in {
        "SMTP_HOST": "relay.example.test",
        "SMTP_FROM": "robot@example.test",
        "SMTP_MAX_SENDERS": "2",
        "SMTP_RATE_LIMIT_MAX_LETTERS": "1000",
        "KAFKA_BROKERS": "nowhere:1",
        "MONGODB_URI": "memory:",
        "HTTP_PORT": "0",
        "DRAIN_TIMEOUT": "2s",
        "MONGODB_LEASE": "2s",
    }.items():
        monkeypatch.setenv(name, value)
    clock = SystemClock()
    parts = Parts(
        queue=MemoryQueue(clock),
        source=Topic(),
        sink=ReportTopic(),
        relays={"default": RelayParts(FakeRelay(), MemorySlotStore(clock))},
        journal=NoJournal(),
    )
    return Replica(Settings(), parts, clock, listen=listen)


BROKEN = {
    "intake": (
        lambda replica: replica.parts.source,
        ("open", "fetch"),
    ),
    "settling": (lambda replica: replica.parts.queue, ("settle",)),
    "handing on": (lambda replica: replica.settler, ("_report",)),
    "reporter": (lambda replica: replica.parts.queue, ("unreported", "acknowledge")),
    "limiter default": (lambda replica: replica.parts.relays["default"].slots, ("lease",)),
    "heartbeat": (lambda replica: replica.parts.queue, ("now", "beat")),
    "tidier": (lambda replica: replica.parts.queue, ("stats", "reclaim")),
    "claiming": (lambda replica: replica.parts.queue, ("claim",)),
    "sessions": (lambda replica: replica.parts.relays["default"].transport, ("connect",)),
}
CASES = [(loop, method) for loop, (_, methods) in BROKEN.items() for method in methods]


def break_(replica: Replica, loop: str, method: str, times: float) -> asyncio.Event:
    """Have what a loop calls raise what nobody expects, so often; what is returned says when it does not."""
    part, calls, again = BROKEN[loop][0](replica), 0, asyncio.Event()
    joined = False
    whole: Callable[..., Any] = getattr(part, method)

    async def broken(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, joined
        if method == "now" and (args != (0.0,) or not joined):
            joined = joined or args == (0.0,)  # the start asks once, before there is a loop
            return await whole(*args, **kwargs)  # intake asks, too, for no reading of this very moment
        calls += 1
        if calls <= times:
            raise AssertionError("nobody expects this")
        again.set()
        return await whole(*args, **kwargs)

    setattr(part, method, broken)
    return again


@pytest.mark.asyncio
@pytest.mark.parametrize(("loop", "method"), CASES)
async def test_what_fails_once_goes_on(
    loop: str, method: str, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_with(monkeypatch)
    again = break_(replica, loop, method, 1)
    queue, sink = replica.parts.queue, replica.parts.sink
    assert isinstance(queue, MemoryQueue)
    assert isinstance(sink, ReportTopic)
    if loop == "handing on":
        monkeypatch.setattr(replica.reporter, "_config", replica.reporter._config)
        object.__setattr__(replica.reporter._config, "sweep_age", 0.05)
        object.__setattr__(replica.reporter._config, "sweep_every", 0.05)
    with capture_logs() as events:
        running = asyncio.create_task(replica.run())
        if loop == "handing on":
            again.set()  # it is called for a letter, and there is one, whose report the sweep finds
        works = asyncio.gather(again.wait(), sink.reported.wait())
        await asyncio.wait({running, works}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert works.done(), events
        status = await ReplicaOperations(replica).status()
        assert [(state["name"], state["failures"]) for state in status["loops"]] == [(loop, 1)]
        replica.drain("test")
        assert await running == 0, events
    assert [each["loop"] for each in events if each["event"] == "loop_failed"] == [loop]
    assert (await queue.stats()).sent == 1
    assert len(replica.parts.relays["default"].transport.sent) == 1  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_a_letter_whose_sending_a_library_cancels_is_answered(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replica_with(monkeypatch)
    transact = FakeSession.transact
    cancelled: list[bool] = []

    async def cancels(self: FakeSession, *arguments: Any) -> Outcome:
        if not cancelled:
            cancelled.append(True)
            raise asyncio.CancelledError
        return await transact(self, *arguments)

    monkeypatch.setattr(FakeSession, "transact", cancels)
    sink = replica.parts.sink
    assert isinstance(sink, ReportTopic)
    with capture_logs() as events:
        running = asyncio.create_task(replica.run())
        async with asyncio.timeout(20):
            await sink.reported.wait()
            replica.drain("test")
            assert await running == 0, events
    assert len(replica.in_flight) == 0
    assert [each["letter"] for each in events if each["event"] == "letter_raised"] != []


@pytest.mark.asyncio
@pytest.mark.parametrize(("loop", "method"), CASES)
async def test_what_fails_for_ever_drains_with_the_reason(
    loop: str, method: str, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FAILURES", 3)
    replica = replica_with(monkeypatch)
    break_(replica, loop, method, float("inf"))
    if loop == "handing on":  # a letter for each of its failures
        monkeypatch.setattr(supervision, "FAILURES", 1)
    if method == "acknowledge":
        monkeypatch.setattr(supervision, "FAILURES", 2)
    if loop == "sessions":
        monkeypatch.setattr(dispatcher, "PIPELINED", 0)  # no sender: they fail of it, too, and as soon
    with capture_logs() as events:
        async with asyncio.timeout(30):
            status = await replica.run()
    assert status == 1
    reasons = [each["reason"] for each in events if each["event"] == "drain_unclean"]
    assert f"the {loop} loop failed: AssertionError" in reasons
    assert [each["reason"] for each in events if each["event"] == "drain_begins"] == [f"{loop} failed"]
    troubles = ReplicaOperations(replica).ready()[1]
    assert f"the {loop} loop failed and is given up: AssertionError" in troubles
