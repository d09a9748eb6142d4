"""A relay that refuses sessions is left alone for as long as its rules say, on all replicas (P14)."""

from __future__ import annotations

import asyncio
import random

import pytest

from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import RELAY
from mailsender.routing.pool import PoolLimits
from mailsender.routing.presets import rules_of
from mailsender.routing.relay import Relay, RelayPolicy
from mailsender.smtp.of_file import OfFile
from mailsender.smtp.port import RelayAway
from mailsender.smtp.replies import Reply
from tests.clocks import ManualClock
from tests.dispatching import until
from tests.relays import FakeRelay, FakeSession

pytestmark = pytest.mark.asyncio

HOUR = 3600.0


class Refusing(FakeRelay):
    """Refuses each session at its login, in these words."""

    said = "535 Authentication Credentials Invalid"

    async def connect(self) -> FakeSession:
        self.connects += 1
        reply = Reply.of(int(self.said[:3]), [self.said[4:]])
        raise RelayAway("see SMTP_PASSWORD", phase="auth", code=reply.code, permanent=True, reply=reply)


class Marked(FakeRelay):
    """Takes one password alone, and is asked who is barred before."""

    good = "new"

    def __init__(self, password: str) -> None:
        super().__init__()
        self.password = password

    async def connect(self) -> FakeSession:
        if why := self.barred(f"mark-of-{self.password}"):
            raise RelayAway(why, phase="auth", permanent=True)
        if self.password == self.good:
            return await super().connect()
        self.connects += 1
        reply = Reply.of(535, ["Authentication Credentials Invalid"])
        raise RelayAway(
            "no", phase="auth", code=535, permanent=True, reply=reply, login=f"mark-of-{self.password}"
        )


def relay_of(fake: FakeRelay, clock: ManualClock, store: MemorySlotStore) -> Relay:
    """A relay of a file, as a replica has it."""
    return Relay(
        "ses",
        OfFile("ses", fake),
        Limiter(store, Allowance(letters=0, period=1.0), clock, backlog=lambda: 0, watch=True),
        clock,
        policy=RelayPolicy(reverse_path="s@example.test", max_recipients=50, sessions=PoolLimits(sessions=3)),
        chance=random.Random(1),
        stopping=asyncio.Event(),
        rules=rules_of((), "ses"),
    )


async def ask(relay: Relay) -> None:
    """Somebody wants a session, and gets none."""
    with pytest.raises(RelayAway):
        await relay.pool.place(wait=False)


async def look(relay: Relay) -> None:
    """Let the limiter tell the store, and look what it says."""
    stop = asyncio.Event()
    task = asyncio.create_task(relay.limiter.run(stop))
    await until(lambda: relay.limiter.knows)
    stop.set()
    await task


async def test_a_login_that_was_refused_is_tried_again_when_the_rule_says() -> None:
    clock = ManualClock()
    fake = Refusing()
    relay = relay_of(fake, clock, MemorySlotStore(clock))
    await look(relay)
    await ask(relay)
    assert fake.connects == 1
    clock.forward(HOUR - 1)
    await ask(relay)
    assert fake.connects == 1
    assert relay.next_try == clock.epoch() + 1
    clock.forward(2)
    await ask(relay)
    assert fake.connects == 2


async def test_a_refused_password_rests_everywhere_and_another_one_is_tried_at_once() -> None:
    """The operator who mended it, and started anew, is not to wait for an hour."""
    clock = ManualClock()
    store = MemorySlotStore(clock)
    first = relay_of(old := Marked("old"), clock, store)
    await look(first)
    await ask(first)
    assert old.connects == 1
    assert [each.key for each in first.limiter.orders()] == ["login:mark-of-old"]
    clock.forward(HOUR / 2)
    await ask(first)
    await first.limiter.close()  # it writes down what was ordered
    second = relay_of(same := Marked("old"), clock, store)
    await look(second)
    await ask(second)
    assert (old.connects, same.connects) == (1, 0)
    assert "ses/login: 535 Authentication Credentials Invalid" in second.reason
    mended = relay_of(new := Marked("new"), clock, store)
    await look(mended)
    assert await mended.pool.place(wait=False)
    assert new.connects == 1
    clock.forward(HOUR / 2 + 60)
    await ask(second)
    assert same.connects == 1


async def test_another_replica_does_not_try_it_either_nor_one_that_starts() -> None:
    clock = ManualClock()
    store = MemorySlotStore(clock)
    first = relay_of(Refusing(), clock, store)
    await look(first)
    await ask(first)
    await first.limiter.close()  # it writes down what was ordered
    fake = FakeRelay()
    second = relay_of(fake, clock, store)
    await ask(second)  # it does not know yet what was ordered
    await look(second)
    await ask(second)
    assert fake.connects == 0
    assert "ses/login" in second.reason
    await second.limiter.lift(RELAY)
    assert await second.pool.place(wait=False)
    assert fake.connects == 1
