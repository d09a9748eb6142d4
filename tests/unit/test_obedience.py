"""P14: what a relay said to one letter holds for all that have not begun, whoever has session and slot."""

from __future__ import annotations

import asyncio
import time

import pytest

from mailsender.model.letter import Claim, Phase, Result, Status, Verdict
from mailsender.queue.inflight import InFlight
from mailsender.ratelimit.gcra import UNLIMITED, Allowance
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.order import RELAY, Order
from mailsender.routing import breaker
from mailsender.routing.breaker import Breaker
from mailsender.routing.pool import Held
from mailsender.sending.permit import Margins, Means, Permit
from mailsender.sending.sender import _let_go
from tests.clocks import ManualClock
from tests.dispatching import known_relay, letter, until
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay, FakeSession

THROTTLED = Result(verdict=Verdict.DEFERRED, phase=Phase.DOT, code=454, text="Maximum sending rate exceeded")
NOBODY = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")


def permit(clock: ManualClock, *, limiter: Limiter | None = None, stands: Breaker | None = None) -> Permit:
    """One that nothing else forbids."""
    ours, mine = InFlight(), letter(1, "r@example.test")
    ours.take(Claim(token="t", letters=(mine,)))
    ours.alive_until = float("inf")
    return Permit(
        Means(clock, ours, Margins.of(60.0)),
        token="t",
        letter_id=mine.id,
        runs=((0, 1),),
        recipients=("r@example.test",),
        relay="relay.example.test:25",
        slot=UNLIMITED,
        held=Held(FakeSession(FakeRelay()), 0),
        limiter=limiter,
        breaker=stands,
    )


def test_nothing_begins_over_a_relay_that_refused_everybody_meanwhile_but_the_one_that_tries_it() -> None:
    clock, stands = ManualClock(), Breaker()
    ready, trial = permit(clock, stands=stands), permit(clock)
    assert ready.begin()
    stands.trip("535", Phase.MAIL, clock.monotonic())
    assert not ready.begin()
    assert trial.begin()
    stands.close()
    assert ready.begin()


def test_nothing_begins_over_a_relay_that_ordered_a_wait_meanwhile_without_a_rate_neither() -> None:
    clock = ManualClock()
    limiter = known_relay(FakeRelay(), clock).limiter
    ready = permit(clock, limiter=limiter)
    assert ready.begin()
    limiter.order(Order(key=RELAY, rule="r", said="450", until=clock.epoch() + 60.0))
    assert not ready.begin()
    clock.forward(61.0)
    assert ready.begin()


@pytest.mark.asyncio
@pytest.mark.parametrize("by_recipient", [False, True])
@pytest.mark.parametrize("begins", [False, True])
async def test_a_slot_is_spent_by_who_began_and_goes_back_where_nothing_was_said(
    begins: bool, by_recipient: bool
) -> None:
    """A session that had ended takes no slot; one that ended at MAIL does, though nobody may know more."""
    clock = ManualClock()
    allowance = Allowance(letters=100, period=1.0, burst=10, by_recipient=by_recipient)
    relay = known_relay(FakeRelay(), clock, allowance=allowance)
    stop = asyncio.Event()
    leasing = asyncio.create_task(relay.limiter.run(stop))
    mine = permit(clock, limiter=relay.limiter)
    mine.slot = await relay.limiter.acquire()
    if begins:
        assert mine.begin()
    _let_go(relay, mine)
    assert list(relay.limiter._spare) == ([] if begins else [mine.slot])
    stop.set()
    relay.limiter.shut()
    leasing.cancel()


@pytest.mark.asyncio
async def test_who_waits_for_a_session_when_the_relay_refuses_everybody_does_not_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.3)
    told: list[float] = []

    def throttle(address: str) -> Result:
        told.append(time.monotonic())
        return THROTTLED

    relay = FakeRelay(answer=throttle, hold=asyncio.Event())
    async with fleet({"a": relay}, [route("default", "a")], sessions=1) as stage:
        await stage.put(letter(1), letter(2), letter(3))
        await until(lambda: relay.under_way == 1)
        assert relay.hold is not None
        relay.hold.set()
        await until(lambda: len(told) >= 2)
    assert told[1] - told[0] >= 0.3


@pytest.mark.asyncio
async def test_a_relay_that_says_slower_rests_though_it_took_others() -> None:
    told = [ACCEPTED, THROTTLED]
    relay = FakeRelay(answer=lambda _: told.pop(0) if told else ACCEPTED)
    async with fleet({"a": relay}, [route("default", "a")], max_recipients=1) as stage:
        await stage.put(letter(1, "one@example.test", "two@example.test"))
        await until(lambda: stage.relays["a"].breaker.open)
        (done,) = await stage.settled(1)
    assert (done.status, done.attempts) == (Status.SENT, 2), "the attempt counts: it may be the letter"


@pytest.mark.asyncio
async def test_what_was_on_its_way_before_a_refusal_is_no_sign_that_it_is_over() -> None:
    relay = FakeRelay(answer=lambda each: NOBODY if each.startswith("nobody") else THROTTLED)
    relay.hold = asyncio.Event()
    async with fleet({"a": relay}, [route("default", "a")], sessions=2) as stage:
        await stage.put(letter(1), letter(2, "nobody@example.test"))
        await until(lambda: relay.under_way == 2)
        relay.hold.set()
        (done,) = await stage.settled(1)
        assert done.addresses == ("nobody@example.test",)
        assert stage.relays["a"].breaker.open


@pytest.mark.asyncio
async def test_the_first_relay_is_not_pressed_while_the_others_are_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.3)
    refused = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=535, enhanced="5.7.8")
    begun: list[float] = []

    def refuse(address: str) -> Result:
        begun.append(time.monotonic())
        return refused

    fakes = {"a": FakeRelay(name="a:25", answer=refuse), "b": FakeRelay(name="b:25", away="refused")}
    async with fleet(fakes, [route("default", "a", "b")], sessions=1) as stage:
        await stage.put(*[letter(n) for n in range(20)])
        await until(lambda: len(begun) >= 3)
    assert begun[1] - begun[0] >= 0.3
    assert begun[2] - begun[1] >= 0.6
