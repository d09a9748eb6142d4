"""What of fair shares reaches a relay: from the queue through claims and backlog, at a rate."""

from __future__ import annotations

from collections import Counter

import pytest

from mailsender.model.clock import SystemClock
from mailsender.model.handling import Handling
from mailsender.model.letter import Letter
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.ranks import RouteShares
from mailsender.ratelimit.gcra import Allowance
from tests.dispatching import letter, running, until
from tests.relays import FakeRelay

pytestmark = pytest.mark.asyncio

RATE = 20
ALLOWANCE = Allowance(letters=RATE, period=1.0, burst=1)


def batch(stream: str, first: int, count: int) -> list[Letter]:
    handling = Handling(stream=stream)
    return [
        letter(number, f"{stream}@{number}.test", handling=handling) for number in range(first, first + count)
    ]


def streams(relay: FakeRelay) -> list[str]:
    return [envelope.recipients[0].partition("@")[0] for envelope in relay.sent]


async def test_a_single_letter_is_held_up_by_no_more_than_a_seconds_work() -> None:
    relay, queue = FakeRelay(), MemoryQueue(SystemClock())
    queue.share({"default": RouteShares(rate=ALLOWANCE.rate)})
    async with running(relay, allowance=ALLOWANCE, queue=queue, senders=2) as scene:
        await queue.insert(batch("news", 0, 2000))
        scene.dispatcher.nudge()
        await until(lambda: len(relay.sent) > 2 * RATE)
        before = len(relay.sent)
        await queue.insert(batch("code", 5000, 1))
        scene.dispatcher.nudge()
        await until(lambda: "code" in streams(relay))
    assert streams(relay).index("code") - before <= RATE + 2 * scene.route.senders


async def test_two_streams_get_their_shares() -> None:
    relay, queue = FakeRelay(), MemoryQueue(SystemClock())
    queue.share({"default": RouteShares(rate=ALLOWANCE.rate, shares={"large": 3.0})})
    await queue.insert(batch("small", 0, 500))
    await queue.insert(batch("large", 1000, 500))
    async with running(relay, allowance=ALLOWANCE, queue=queue, senders=2):
        await until(lambda: len(relay.sent) >= 80)
    found = Counter(streams(relay)[:80])
    assert abs(found["large"] - 60) <= 6
