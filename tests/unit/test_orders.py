"""Orders: what a reply asked for holds here at once, for all from their next lease on, and over restarts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mailsender.model.errors import Rejected, Unavailable
from mailsender.model.letter import Result, Status
from mailsender.ratelimit.gcra import UNLIMITED, Allowance, SlotGrant, SlotRequest
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import (
    HEARD,
    LEAST,
    MIN_STEP,
    MOST_SAID,
    RELAY,
    SLICE,
    Order,
    destination,
    merged,
    obeyed,
    sender,
)
from tests.clocks import ManualClock
from tests.dispatching import letter, until
from tests.dispatching import running as dispatching
from tests.relays import ACCEPTED, FakeRelay

RATE = Allowance(letters=10, period=1.0)
FREE = Allowance(letters=0, period=1.0)
QUOTA = Allowance(letters=0, period=1.0, quota=100_000)


def order(key: str = RELAY, *, until: float = 0.0, **changes: float) -> Order:
    return Order(key=key, rule="r", said="450 4.2.1 slower", until=until, **changes)


class Store(MemorySlotStore):
    """One that can be away, or refuse orders for good."""

    away = refuses = False
    written = 0

    async def order(self, order: Order, now: float) -> None:
        if self.away:
            raise Unavailable("away")
        if self.refuses:
            raise Rejected("no")
        self.written += 1
        await super().order(order, now)


def limiter(store: Store, clock: ManualClock, allowance: Allowance = RATE, **more: bool) -> Limiter:
    return Limiter(store, allowance, clock, backlog=lambda: 3, name="ses", **more)


@asynccontextmanager
async def running(*limiters: Limiter) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runners = [asyncio.create_task(each.run(stop)) for each in limiters]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*runners)


# --- the value ---------------------------------------------------------------------------------


def test_an_order_pauses_then_slows_then_grows_back_in_steps() -> None:
    found = order(until=100.0, factor=0.2, then_until=180.0)
    paces = [found.pace(now) for now in (99.9, 100, 179, 180, 199, 200, 219, 220, 239, 240, 1e9)]
    assert paces == pytest.approx([0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 1, 1])
    assert found.ends == pytest.approx(240)
    assert order(until=100.0).ends == 100


@given(wait=st.floats(0, 1e5), slow=st.floats(0, 1e6), factor=st.floats(LEAST, 1.0), after=st.floats(0, 1e7))
def test_a_pace_never_falls_and_is_full_at_the_end(
    wait: float, slow: float, factor: float, after: float
) -> None:
    found = order(until=wait, factor=factor, then_until=wait + slow).checked()
    assert found.pace(after) <= found.pace(after + 10)
    assert found.pace(found.ends + 0.001) == 1.0
    assert found.step >= MIN_STEP
    assert found.pace(wait) >= LEAST


def test_a_stop_ends_by_hand_alone() -> None:
    stop = order(until=math.inf).checked()
    assert (stop.pace(1e12), stop.left(0.0), stop.later(5.0).until) == (0.0, math.inf, math.inf)


def test_what_is_out_of_bounds_is_cut() -> None:
    found = Order(key="k" * 999, rule="r\ud800", said="x" * 999, until=5, factor=0.0, spacing=-1).checked()
    assert (len(found.key), found.rule, len(found.said)) == (320, "r\ufffd", MOST_SAID)
    assert (found.factor, found.then_until, found.spacing) == (LEAST, 5, 0)


@given(
    first=st.tuples(st.floats(0, 50), st.floats(0.1, 1), st.floats(0, 90)),
    second=st.tuples(st.floats(0, 50), st.floats(0.1, 1), st.floats(0, 90)),
    at=st.floats(0, 300),
    after=st.floats(0, 300),
)
def test_two_orders_are_never_less_than_each_of_them(
    first: tuple[float, float, float], second: tuple[float, float, float], at: float, after: float
) -> None:
    one = order(until=first[0], factor=first[1], then_until=first[0] + first[2]).checked()
    other = order(until=at + second[0], factor=second[1], then_until=at + second[0] + second[2]).checked()
    both, now = merged(one, other, at), at + after
    if now < max(one.until, other.until):
        assert both.pace(now) == 0
    if now < other.then_until:
        assert both.pace(now) <= other.pace(now) or other.pace(now) == 0
    if at < now < one.then_until:
        assert both.pace(now) <= one.pace(now) or one.pace(now) == 0


def test_who_asks_again_after_a_while_gets_less_than_now() -> None:
    first = merged(None, order(factor=0.5, then_until=600.0), 0.0)
    same = merged(first, order(until=2.0, factor=0.5, then_until=602.0), 2.0)
    assert same.factor == 0.5, "that was on its way already"
    again = merged(first, order(until=HEARD, factor=0.5, then_until=610.0), HEARD)
    assert again.factor == 0.25
    assert merged(again, order(until=1e6, factor=0.5), 1e6).factor == 0.5, "the earlier one is over"


def test_of_too_many_the_one_that_would_end_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.order.MOST_ORDERS", 2)
    orders: dict[str, Order] = {}
    for key, ends in ((RELAY, 1.0), ("a", 50.0), ("b", 40.0), ("c", 60.0)):
        orders = obeyed(orders, order(key, until=ends), 0.0)
    assert sorted(orders) == ["a", "c", RELAY]
    assert sorted(obeyed(orders, order("d", until=99.0), 55.0)) == ["c", "d"], "the expired go"


def test_scopes_are_spelt_alike() -> None:
    assert destination("GMail.com") == "destination:gmail.com"
    assert sender("A@b.C") == "sender:a@b.c"


# --- a replica's ---------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_who_waits_is_turned_away_and_what_was_leased_is_not_spent() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = limiter(store, clock)
    async with running(gate):
        await gate.acquire()
        leased = await gate.acquire()
        assert leased.good(leased.earliest)
        gate.order(order(until=clock.epoch() + 30))
        assert not leased.good(leased.earliest), "though it was handed out before"
        assert not gate.goes
        assert gate.blocked_because() == "it asked to wait (r): 450 4.2.1 slower"
        with pytest.raises(NoSlots):
            await gate.acquire()
        clock.forward(30.1)
        assert gate.goes
        slot = await gate.acquire()
        assert slot.earliest >= clock.monotonic() - 0.2, "none from before, and no burst"


@pytest.mark.asyncio
@pytest.mark.parametrize("allowance", [RATE, FREE], ids=["with a rate", "without"])
async def test_every_member_obeys_after_its_next_lease_and_so_does_a_successor(
    allowance: Allowance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.01)
    clock = ManualClock()
    store = Store(clock)
    told, other = (limiter(store, clock, allowance, watch=True) for _ in range(2))
    async with running(told, other):
        await told.acquire()
        await other.acquire()
        told.order(order(until=clock.epoch() + 30))
        told.order(order(destination("gmail.com"), until=clock.epoch() + 60))
        await until(lambda: not other.goes and other.left("destination:gmail.com", clock.monotonic()))
        with pytest.raises(NoSlots):
            await other.acquire()
        successor = limiter(store, clock, allowance, watch=True)
        async with running(successor):
            with pytest.raises(NoSlots):
                await asyncio.wait_for(successor.acquire(), 5)
            clock.forward(31)
            assert await asyncio.wait_for(successor.acquire(), 5)
            held = successor.held("destination:gmail.com", clock.monotonic())
            assert held is not None
            assert held.rule == "r"
            assert successor.left("destination:gmail.com", clock.monotonic()) == pytest.approx(29, abs=0.01)


@pytest.mark.parametrize("allowance", [FREE, QUOTA])
@pytest.mark.asyncio
async def test_who_sends_without_a_rate_hears_of_an_order_soon(
    monkeypatch: pytest.MonkeyPatch, allowance: Allowance
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 3600.0)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_SENDING", 0.01)
    clock = ManualClock()
    store = Store(clock)
    told, other = (limiter(store, clock, allowance, watch=True) for _ in range(2))
    async with running(told, other):
        await until(lambda: told.knows and other.knows)
        await other.acquire()  # of a quota it has some at hand now
        told.order(order(until=clock.epoch() + 30))
        await until(lambda: not other.goes)


@pytest.mark.asyncio
async def test_an_order_holds_here_while_the_store_is_away_and_is_written_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.RETRY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.away = True
    gate = limiter(store, clock, FREE)
    async with running(gate):
        assert await gate.acquire() is UNLIMITED
        gate.order(order(until=clock.epoch() + 5))
        assert gate.at_once() is None
        await until(lambda: gate.condition.text == "away")
        store.away = False
        await until(lambda: store.written == 1)
        await until(lambda: not gate.condition.text)
        clock.forward(5.1)
        assert await gate.acquire() is UNLIMITED
        assert gate.at_once() is UNLIMITED


@pytest.mark.asyncio
async def test_the_log_tells_whenever_something_begins_to_rest() -> None:
    """A relay that stops while it is slowed is one that a person has to be called for."""
    clock = ManualClock()
    gate, start = limiter(Store(clock), clock), clock.epoch()
    slow = order(until=start + 5, factor=0.5, then_until=start + 600)
    stop = replace(order(until=start + 3600), rule="stop")
    with capture_logs() as logs:
        for seconds, each in ((0, slow), (1, slow), (2, replace(slow, rule="other")), (60, stop), (61, stop)):
            clock.forward(start + seconds - clock.epoch())
            gate.order(each)
        clock.forward(3600)
        gate.order(replace(stop, until=clock.epoch() + 60))
        gate.order(replace(stop, until=clock.epoch() + 90))
        gate.order(order(until=clock.epoch() + 120))
    assert [(each["event"], each["rule"]) for each in logs] == [
        ("relay_ordered", rule) for rule in ("r", "stop", "stop", "r")
    ]


@pytest.mark.asyncio
async def test_an_order_that_cannot_be_written_holds_here() -> None:
    clock = ManualClock()
    store = Store(clock)
    store.refuses = True
    gate = limiter(store, clock)
    async with running(gate):
        gate.order(order(until=clock.epoch() + 5))
        with pytest.raises(NoSlots):
            await gate.acquire()


@pytest.mark.asyncio
async def test_what_was_ordered_last_is_written_before_the_end() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = limiter(store, clock)
    gate.order(order(until=clock.epoch() + 5))
    await gate.close()
    assert store.written == 1


class FarAway(Store):
    """One that takes a while for an order, and notes how many it had when somebody leased first."""

    leased_at = -1

    async def order(self, order: Order, now: float) -> None:
        await asyncio.sleep(0)
        await super().order(order, now)

    async def lease(self, request: SlotRequest) -> SlotGrant:
        if request.want and self.leased_at < 0:
            self.leased_at = self.written
        return await super().lease(request)


@pytest.mark.asyncio
async def test_who_waits_for_a_slot_does_not_wait_until_many_orders_are_written() -> None:
    clock = ManualClock()
    store = FarAway(clock)
    gate = limiter(store, clock)
    for number in range(200):
        gate.order(order(destination(f"d{number}.example"), until=clock.epoch() + 60))
    async with running(gate):
        assert await gate.acquire()
        assert 0 <= store.leased_at <= 20
        await until(lambda: store.written == 200)


@pytest.mark.asyncio
async def test_what_holds_the_relay_is_written_first_and_the_rest_without_a_pause() -> None:
    clock = ManualClock()
    store = FarAway(clock)
    gate = limiter(store, clock)
    for number in range(200):
        gate.order(order(destination(f"d{number}.example"), until=clock.epoch() + 60))
    gate.order(order(until=clock.epoch() + 60))
    async with running(gate):
        await until(lambda: store.written)
        assert RELAY in (await store.lease(SlotRequest(want=0, allowance=RATE))).orders
        await until(lambda: store.written == 201)


@pytest.mark.asyncio
async def test_a_relay_without_a_rate_is_slowed_to_a_part_of_what_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = limiter(store, clock, FREE)
    for _ in range(3000):  # at ten a second
        clock.forward(0.1)
        assert gate.at_once() is UNLIMITED
    gate.order(order(until=clock.epoch(), factor=0.5, then_until=clock.epoch() + 100))
    async with running(gate):
        slots = [await gate.acquire() for _ in range(3)]
        gaps = [later.earliest - one.earliest for one, later in pairwise(slots)]
        assert gaps == pytest.approx([0.2, 0.2], rel=0.01)
        clock.forward(200)
        assert await gate.acquire() is UNLIMITED


@pytest.mark.asyncio
async def test_a_relay_with_a_quota_and_no_rate_is_slowed_to_a_part_of_what_it_took() -> None:
    """Its slots lie next to one another: a part of that speed would be felt by nobody."""
    clock = ManualClock()
    gate = limiter(Store(clock), clock, QUOTA)
    async with running(gate):
        for _ in range(3000):  # at ten a second
            clock.forward(0.1)
            await gate.acquire()
        gate.order(order(until=clock.epoch(), factor=0.5, then_until=clock.epoch() + 100))
        slots = [await gate.acquire() for _ in range(3)]
        gaps = [later.earliest - one.earliest for one, later in pairwise(slots)]
        assert gaps == pytest.approx([0.2, 0.2], rel=0.01)
        clock.forward(200)
        at_full_speed = [await gate.acquire() for _ in range(3)]
        assert at_full_speed[-1].earliest - at_full_speed[0].earliest < 0.001


@pytest.mark.asyncio
async def test_a_scope_without_slots_is_open_for_its_part_of_the_time() -> None:
    clock = ManualClock()
    gate = limiter(Store(clock), clock)
    key = destination("gmail.com")
    gate.order(order(key, until=clock.epoch() + 10, factor=0.25, then_until=clock.epoch() + 1000))
    assert gate.left(key, clock.monotonic()) == pytest.approx(10)
    assert gate.left(sender("a@b.example"), clock.monotonic()) == 0
    clock.forward(10)
    looks = [gate.left(key, clock.monotonic() + tick / 100) for tick in range(8000)]
    assert sum(not each for each in looks) == pytest.approx(2000, abs=5)
    assert max(looks) <= SLICE * 0.75 + 1e-6
    assert gate.goes


@pytest.mark.asyncio
async def test_an_order_is_lifted() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = limiter(store, clock)
    async with running(gate):
        gate.order(order(until=math.inf))
        await until(lambda: store.written)
        assert [each.key for each in gate.orders()] == [RELAY]
        assert await gate.lift(RELAY)
        assert gate.orders() == []
        assert await asyncio.wait_for(gate.acquire(), 5)


@pytest.mark.asyncio
async def test_other_rates_hold_from_the_next_lease_on() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = limiter(store, clock)
    async with running(gate):
        await gate.acquire()
        gate.change(Allowance(letters=4, period=1.0))
        one, other = await gate.acquire(), await gate.acquire()
        assert other.earliest - one.earliest == pytest.approx(0.25)
        gate.change(FREE)
        assert await gate.acquire() is UNLIMITED


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "allowance", [Allowance(letters=200, period=1.0, burst=20), FREE], ids=["with a rate", "without"]
)
async def test_no_letter_is_begun_while_an_order_holds_and_none_counts_an_attempt(
    allowance: Allowance,
) -> None:
    relay = FakeRelay()
    async with dispatching(relay, allowance=allowance) as scene:
        limiter = scene.known.limiter

        def answer(_address: str) -> Result:
            if len(relay.sent) == 20:
                limiter.order(order(until=scene.known._clock.epoch() + 0.5))
            return ACCEPTED

        relay.answer = answer
        await scene.queue.insert([letter(number) for number in range(60)])
        scene.dispatcher.nudge()
        await until(limiter.orders)
        assert "450 4.2.1 slower" in scene.route.blocked_because()
        await until(lambda: not relay.under_way)
        sent = len(relay.sent)
        assert sent <= 20 + 3, "those that had begun"
        await asyncio.sleep(0.3)  # nothing is to happen, and nothing tells
        assert len(relay.sent) == sent
        done = await scene.settled(60)
    assert {each.status for each in done} == {Status.SENT}
    assert {each.attempts for each in done} == {1}
