"""Letters whose time to be sent is over end with what was said last, wherever they wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.handling import Handling
from mailsender.model.letter import Claim, Letter, Phase, Recipient, Result, Status, Verdict, now_ms
from mailsender.queue.inflight import InFlight
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.retry import RetryPolicy
from mailsender.sending.attempt import NEVER_TRIED, Attempt, after_attempt, as_expired
from mailsender.sending.expiry import Expiry
from mailsender.sending.settler import Settler
from tests.claims import LIFE
from tests.clocks import ManualClock
from tests.dispatching import letter, running, until
from tests.fleet import fleet, route
from tests.relays import FakeRelay

BUSY = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.1", text="too quickly")
TAKEN = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def test_the_reason_has_the_last_reply() -> None:
    late = as_expired(letter(1, "a@b.test").evolve(recipients=(Recipient(address="a@b.test", result=BUSY),)))
    assert (late.status, late.reason) == (Status.ERROR, "expired: the last reply was: 450 4.2.1 too quickly")
    assert late.recipients[0].result == BUSY
    assert not late.recipients[0].open


def test_one_that_was_never_tried_says_so() -> None:
    late = as_expired(letter(1))
    assert (late.status, late.reason) == (Status.ERROR, "expired: it was never tried")
    assert late.recipients[0].result == NEVER_TRIED


def test_whoever_has_it_keeps_it() -> None:
    both = (Recipient(address="a@b.test", result=TAKEN), Recipient(address="c@d.test", result=BUSY))
    late = as_expired(letter(1, "a@b.test", "c@d.test").evolve(recipients=both))
    assert (late.status, late.reason) == (Status.SENT, "")
    assert late.recipients[0] == both[0]
    assert late.recipients[1].closed


@pytest.mark.parametrize(("own", "wait"), [("", 100.0), ("7s, 9s", 7.0), ("not a schedule", 100.0)])
def test_a_letter_is_tried_again_by_its_own_schedule(own: str, wait: float) -> None:
    policy = RetryPolicy(max_attempts=5, delay=100.0)
    attempt = Attempt(results={"r1@example.test": BUSY}, relay="relay:25", message_id="<1@x>")
    sample = letter(1, handling=Handling(retry=own))
    _, delay = after_attempt(sample, attempt, policy, jitter=0.5)
    assert delay == wait


class Scene:
    def __init__(self, queue: MemoryQueue | None = None) -> None:
        self.clock = ManualClock()
        self.queue = queue or MemoryQueue(self.clock)
        self.in_flight = InFlight()
        self.settler = Settler(self.queue, self.in_flight, self.clock, report=self.report)
        self.expiry = Expiry(self.queue, self.in_flight, self.settler)

    async def report(self, letters: Sequence[Letter]) -> None:
        pass

    async def insert(self, *letters: Letter) -> None:
        await self.queue.join(self.in_flight.replica, LIFE)
        self.in_flight.alive_until = self.clock.monotonic() + LIFE
        await self.queue.insert(letters)

    def late(self, number: int, seconds: float = -1.0) -> Letter:
        return letter(number, expires=now_ms(self.clock.epoch()) + timedelta(seconds=seconds))


@pytest.mark.asyncio
async def test_the_sweep_settles_what_is_over_and_nothing_else() -> None:
    scene = Scene()
    await scene.insert(scene.late(1), scene.late(2, 10.0), letter(3))
    with capture_logs() as logs:
        assert await scene.expiry.sweep(10) == 1
    assert [each["event"] for each in logs] == ["letters_expired"]
    assert scene.in_flight.decided(letter(1).id)
    assert not scene.in_flight.decided(letter(2).id)
    assert await scene.expiry.sweep(10) == 0
    scene.clock.forward(11.0)
    assert await scene.expiry.sweep(10) == 1


class LosesReplies(MemoryQueue):
    """Claims what is over and does not say so, the first time."""

    lost = False

    async def claim_expired(self, limit: int, token: str) -> Claim:
        claim = await super().claim_expired(limit, token)
        if not self.lost:
            self.lost = True
            raise Unavailable("lost")
        return claim


@pytest.mark.asyncio
async def test_a_lost_reply_leaves_nothing_undone() -> None:
    queue = LosesReplies(SystemClock())
    async with running(FakeRelay(), queue=queue) as scene:
        await queue.insert([letter(number, expires=PAST, route="gone") for number in range(2)])
        expiry = Expiry(queue, scene.in_flight, scene.settler)
        with pytest.raises(Unavailable):
            await expiry.sweep(10)
        assert scene.in_flight.in_doubt
        assert await scene.dispatcher.lost_claims.give_back() == 2
        await scene.stats_are(awaiting=2)
        assert await expiry.sweep(10) == 2
        await scene.settled(2)


@pytest.mark.asyncio
async def test_a_sender_does_not_send_what_is_over() -> None:
    relay = FakeRelay()
    clock = SystemClock()
    async with running(relay, queue=MemoryQueue(clock)) as scene:
        await scene.queue.insert([letter(1, expires=PAST), letter(2)])
        with capture_logs() as logs:
            scene.dispatcher.nudge()
            await until(lambda: len(scene.reported) == 2)
    (told,) = [each for each in logs if each["event"] == "letters_expired"]
    assert (told["letters"], told["first"], told["log_level"]) == (1, letter(1).id, "warning")
    ended = {each.id: each for each in scene.reported}
    assert ended[letter(1).id].reason == "expired: it was never tried"
    assert ended[letter(2).id].status is Status.SENT
    assert len(relay.sent) == 1


async def sweep_on(expiry: Expiry) -> None:
    while True:
        await expiry.sweep(10)
        await asyncio.sleep(0.1)


@pytest.mark.asyncio
@pytest.mark.parametrize("why", ["rate", "away", "hangs"])
async def test_what_is_over_while_a_relay_keeps_it_waiting_in_hand_ends_too(why: str) -> None:
    """Claimed letters are nobody else's to end."""
    hold = asyncio.Event()
    relay = FakeRelay(away="refused" if why == "away" else "", hold=hold if why == "hangs" else None)
    rate = {"a": Allowance(letters=1, period=3600.0)} if why == "rate" else {}
    soon = now_ms(time.time() + 0.5)
    async with fleet({"a": relay}, [route("default", "a")], allowances=rate) as scene:
        await scene.put(*[letter(number, expires=soon) for number in range(9)])
        with capture_logs() as logs:
            expiry = Expiry(scene.queue, scene.in_flight, scene.settler)
            sweeping = asyncio.create_task(sweep_on(expiry))  # for those that nobody has in hand
            late = 9 - {"rate": 1, "away": 0, "hangs": 2}[why]
            await until(lambda: len([each for each in scene.reported if each.reason]) == late)
            found = scene.reported
            sweeping.cancel()
            hold.set()
    assert Counter(each.reason for each in found if each.reason) == {"expired: it was never tried": late}
    assert [each["event"] for each in logs].count("letters_expired") >= 1
