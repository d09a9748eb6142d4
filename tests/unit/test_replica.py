"""A whole replica over parts in memory: what its drain leaves undone, and says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from mailsender.adapters.memory import MemoryQueue, MemorySlotStore
from mailsender.letter import Letter, Recipient
from mailsender.ports import Record, SystemClock
from mailsender.replica import Parts, Replica
from mailsender.settings import Settings
from tests.fakes import FakeSink
from tests.relays import FakeRelay, FakeSession


class QuietSource:
    """A topic on which nothing comes."""

    trouble = ""

    async def open(self) -> None:
        pass

    async def fetch(self, timeout: float) -> list[Record]:
        await asyncio.sleep(timeout)
        return []

    async def close(self) -> None:
        pass


@dataclass
class ForgetfulRelay(FakeRelay):
    """Closes the first session before it is used, and never answers when it is called again."""

    called_again: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> FakeSession:
        if self.connects:
            self.called_again.set()
            await asyncio.Event().wait()
        session = await super().connect()
        session.alive = False
        return session


def replica_over(
    relay: FakeRelay, queue: MemoryQueue, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> Replica:
    for name, value in {
        "SMTP_HOST": "relay.example.test",
        "SMTP_FROM": "robot@example.test",
        "SMTP_MAX_SENDERS": "1",
        "SMTP_RATE_LIMIT_MAX_LETTERS": "0",
        "KAFKA_BROKERS": "nowhere:1",
        "MONGODB_URI": "memory:",
        "HTTP_PORT": "0",
        "DRAIN_TIMEOUT": "1s",
    }.items():
        monkeypatch.setenv(name, value)
    parts = Parts(
        queue=queue, slots=MemorySlotStore(clock), source=QuietSource(), sink=FakeSink(), relay=relay
    )
    return Replica(Settings(), parts, clock)


def letter() -> Letter:
    address = "a@example.test"
    return Letter(
        id="6b03f03e1c3fe5165a363fce",
        addresses=(address,),
        subject="s",
        body="b",
        recipients=(Recipient(address=address),),
    )


@pytest.mark.asyncio
async def test_a_drain_that_leaves_a_letter_in_hand_is_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), ForgetfulRelay()
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.called_again.wait()  # the only worker has the letter, and no session
            replica.drain("test")
            status = await running
    unclean = [event["reason"] for event in events if event["event"] == "drain_unclean"]
    assert status == 1
    assert unclean == ["1 letters are still in hand; their leases give them back"]
    assert relay.sent == []
    assert (await queue.stats()).processing == 1, "its lease has yet to end"


@pytest.mark.asyncio
async def test_a_drain_that_sends_what_is_in_hand_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, relay = SystemClock(), FakeRelay(hold=asyncio.Event())
    queue = MemoryQueue(clock)
    await queue.insert([letter()])
    replica = replica_over(relay, queue, clock, monkeypatch)
    async with asyncio.timeout(30):
        with capture_logs() as events:
            running = asyncio.create_task(replica.run())
            await relay.started.wait()
            replica.drain("test")
            assert relay.hold is not None
            relay.hold.set()
            status = await running
    assert status == 0
    assert [event for event in events if event["event"] == "drain_unclean"] == []
    assert len(relay.sent) == 1
    assert (await queue.stats()).sent == 1
