"""A session that idles while its sender waits for a slow rate may be closed when the slot comes."""

from __future__ import annotations

import time

import pytest

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.ratelimit.gcra import Allowance
from mailsender.smtp.port import NotBegun, Permit
from tests.dispatching import letter, running
from tests.relays import FakeRelay, FakeSession

pytestmark = pytest.mark.asyncio

PATIENCE = 0.4
"""Seconds after which this relay closes a session that idles."""


class Impatient(FakeRelay):
    """Closes sessions that idle; slots go by the second, so those who wait for one idle for too long."""

    async def connect(self) -> FakeSession:
        await super().connect()
        self.sessions[-1] = ImpatientSession(self)
        return self.sessions[-1]


class ImpatientSession(FakeSession):
    """See `Impatient`. That it is closed nobody sees before it is used, or asked."""

    def __init__(self, relay: FakeRelay) -> None:
        super().__init__(relay)
        self.used, self.carried = time.monotonic(), False

    @property
    def over(self) -> bool:
        return time.monotonic() - self.used > PATIENCE

    async def check_alive(self, *, ask: bool = False) -> bool:
        return not self.over and await super().check_alive(ask=ask)

    async def transact(self, envelope: Envelope, message: bytes, permit: Permit) -> Outcome:
        if self.over and self.carried:
            raise NotBegun
        if self.over:
            permit.begin()
            lost = Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, code=421)
            return Outcome(results=dict.fromkeys(envelope.recipients, lost), session_usable=False)
        self.used, self.carried = time.monotonic(), True
        return await super().transact(envelope, message, permit)


@pytest.mark.parametrize("recipients", [1, 3])
async def test_who_waited_long_for_a_slot_sees_whether_its_session_is_there_still(
    recipients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailsender.sending.sender.IDLES", PATIENCE / 2)
    relay = Impatient()
    to = [[f"r{n}-{place}@example.test" for place in range(recipients)] for n in range(6 // recipients)]
    async with running(
        relay, senders=2, allowance=Allowance(letters=1, period=0.7), max_recipients=1
    ) as scene:
        began = time.monotonic()
        await scene.queue.insert([letter(n, *each) for n, each in enumerate(to)])
        scene.dispatcher.nudge()
        done = await scene.settled(len(to))
        assert time.monotonic() - began < 0.7 * 6 + 1, "no slot is lost with a session"
        assert not scene.known.refusing_since
    assert {each.attempts for each in done} == {1}
    assert len(relay.sent) == 6
