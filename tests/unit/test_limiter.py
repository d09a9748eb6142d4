from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.errors import Rejected, Unavailable
from mailsender.ratelimit.gcra import (
    AGREEMENT,
    AHEAD,
    QUOTA_ONLY_LIFE,
    UNLIMITED,
    Allowance,
    Cursor,
    SlotGrant,
    SlotRequest,
    give_back,
    grant_of,
    take,
)
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.memory import MemorySlotStore
from tests.clocks import ManualClock
from tests.dispatching import until


class Store:
    """A slot store on the test's clock that notes what it was asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.cursor = Cursor()
        self.asked: list[int] = []
        self.returned = 0
        self.away = False
        self.takes = 0.0
        self.behind = 0.0

    async def lease(self, request: SlotRequest) -> SlotGrant:
        if self.away:
            raise Unavailable("away")
        self.asked.append(request.want)
        now = self.clock.epoch() - self.behind
        self.cursor, first, count = take(self.cursor, now, request)
        asked = self.clock.monotonic()
        self.clock.forward(self.takes)
        if self.takes:
            await asyncio.sleep(0)
        return grant_of(
            cursor=self.cursor,
            first=first,
            count=count,
            now=now,
            request=request,
            asked=asked,
            answered=self.clock.monotonic(),
        )

    async def give_back(self, grant: SlotGrant, unspent: int) -> None:
        self.returned += unspent
        self.cursor = give_back(self.cursor, grant, unspent)


def gate_of(clock: ManualClock, store: Store, *, backlog: int = 0, **allowance: int) -> Limiter:
    wish = Allowance(**{"letters": 10, "period": 1.0, **allowance})  # type: ignore[arg-type]
    return Limiter(store, wish, clock, backlog=lambda: backlog)


@asynccontextmanager
async def running(*gates: Limiter) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runners = [asyncio.create_task(gate.run(stop)) for gate in gates]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*runners)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_without_a_rate_nothing_is_leased() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, letters=0)
    assert await gate.acquire() is UNLIMITED
    assert store.asked == []


@pytest.mark.asyncio
async def test_waiters_get_slots_in_order_from_one_lease() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, backlog=2)
    async with running(gate):
        waiters = [asyncio.create_task(gate.acquire()) for _ in range(3)]
        slots = await asyncio.gather(*waiters)
        assert [slot.earliest for slot in slots] == sorted(slot.earliest for slot in slots)
        assert len({slot.earliest for slot in slots}) == 3
        assert store.asked == [5]
        extra = await gate.acquire()
        assert extra.earliest > slots[-1].earliest
        assert store.asked == [5]


@pytest.mark.asyncio
async def test_a_slot_that_lapsed_in_the_buffer_is_not_handed_out() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, backlog=3)
    async with running(gate):
        await gate.acquire()
        clock.forward(60)
        slot = await gate.acquire()
        assert slot.latest > clock.monotonic()
        assert gate.lapsed >= 1


@pytest.mark.asyncio
async def test_what_is_left_goes_back() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, backlog=4)
    async with running(gate):
        first = await gate.acquire()
    await gate.close()
    assert store.returned == 4
    assert store.cursor.next == pytest.approx(
        first.earliest + gate.allowance.step - clock.monotonic() + clock.epoch()
    )


@pytest.mark.asyncio
async def test_a_quota_that_is_used_up_turns_everybody_away_and_says_until_when() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, quota=2)
    gate.name = "ses"
    async with running(gate):
        await gate.acquire()
        await gate.acquire()
        with capture_logs() as logs, pytest.raises(NoSlots):
            await gate.acquire()
        assert [(each["event"], each["relay"]) for each in logs] == [("daily_quota_used_up", "ses")]
        assert gate.exhausted_until is not None
        assert gate.exhausted_until > clock.epoch()
        with pytest.raises(NoSlots):
            await gate.acquire()


@pytest.mark.asyncio
async def test_a_gate_that_nobody_asks_knows_what_the_others_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.01)
    clock = ManualClock()
    store = Store(clock)
    gate, other = gate_of(clock, store, quota=3), gate_of(clock, store, quota=3)
    assert gate.used_today is None
    async with running(gate, other):
        await turns()
        assert gate.used_today == 0
        for _ in range(3):
            await other.acquire()
        await until(lambda: gate.exhausted_until is not None)
        assert gate.used_today == 3
        with pytest.raises(NoSlots):
            await gate.acquire()
        assert sum(store.asked) == 3, "to look takes no slot"


@pytest.mark.asyncio
async def test_slots_in_hand_are_handed_out_though_the_quota_is_all_leased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the last lease brought would be sent by nobody."""
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.01)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_SENDING", 0.01)
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, letters=0, quota=10, backlog=9)
    async with running(gate):
        await gate.acquire()
        assert store.asked[0] == 10, "one lease takes all"
        await until(lambda: store.asked.count(0) > 2)
        assert gate.goes
        for _ in range(9):
            await gate.acquire()
        async with asyncio.timeout(1):  # it does not wait out the day before it finds that out
            with pytest.raises(NoSlots):
                await gate.acquire()
        assert gate.exhausted == 1


@pytest.mark.asyncio
async def test_slots_that_lapsed_in_hand_do_not_hide_that_the_quota_is_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.01)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_SENDING", 0.01)
    clock = ManualClock()
    gate = gate_of(clock, Store(clock), letters=0, quota=10, backlog=9)
    async with running(gate):
        await gate.acquire()
        clock.forward(QUOTA_ONLY_LIFE + 1)
        await until(lambda: gate.exhausted_until is not None)
        assert not gate.goes


@pytest.mark.asyncio
async def test_a_slot_that_comes_back_is_handed_out_though_the_quota_is_used_up() -> None:
    clock = ManualClock()
    gate = gate_of(clock, Store(clock), letters=0, quota=1)
    async with running(gate):
        slot = await gate.acquire()
        with pytest.raises(NoSlots):
            await gate.acquire()
        gate.put_back(slot)
        assert gate.goes
        assert await gate.acquire() is slot
        assert not gate.goes


@pytest.mark.asyncio
async def test_a_gate_without_a_quota_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store)
    async with running(gate):
        await asyncio.sleep(0.02)  # nothing is to happen, and nothing tells
        assert store.asked == []


@pytest.mark.asyncio
async def test_what_is_used_stays_unknown_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.RETRY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.away = True
    gate = gate_of(clock, store, quota=3)
    async with running(gate):
        await turns()
        assert (gate.used_today, gate.condition.text) == (None, "away")
        store.away = False
        await until(lambda: gate.used_today is not None)
        assert not gate.condition.text


@pytest.mark.asyncio
async def test_trouble_that_a_look_met_is_over_as_soon_as_the_store_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.RETRY", 0.001)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.01)
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store, quota=3)
    async with running(gate):
        await until(lambda: gate.used_today == 0)
        store.away = True
        await until(lambda: gate.condition.text)
        monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 3600.0)
        store.away = False
        await until(lambda: not gate.condition.text)


@pytest.mark.asyncio
async def test_while_the_store_s_clock_is_behind_nobody_looks_on_and_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.cursor = Cursor(next=clock.epoch() + 3600)
    gate = gate_of(clock, store, quota=3)
    async with running(gate):
        await until(lambda: store.asked)
        await asyncio.sleep(0.02)  # nothing is to happen, and nothing tells
        assert store.asked == [0]


@pytest.mark.asyncio
@pytest.mark.parametrize("quiet", [0, 2], ids=["all hungry", "two want little"])
async def test_replicas_share_a_rate_evenly_and_leave_nothing(quiet: int) -> None:
    clock, rate = SystemClock(), 300
    store = MemorySlotStore(clock)
    taken = dict.fromkeys("abc", 0)
    begins = clock.monotonic() + 1.5  # who came first has the first second's slots
    ends = begins + 3.0

    async def send(name: str, gate: Limiter) -> None:
        while clock.monotonic() < ends:
            slot = await gate.acquire()
            await asyncio.sleep(max(0.0, slot.earliest - clock.monotonic()))
            taken[name] += begins <= clock.monotonic() < ends
            if name in "bc"[:quiet]:
                await asyncio.sleep(0.5)

    async with AsyncExitStack() as stack:
        senders = []
        for name in taken:
            backlog = 0 if name in "bc"[:quiet] else 500
            allowance = Allowance(letters=rate, period=1.0)
            gate = Limiter(store, allowance, clock, backlog=lambda backlog=backlog: backlog, member=name)
            await stack.enter_async_context(running(gate))
            senders += [send(name, gate) for _ in range(1 if backlog == 0 else 5)]
        await asyncio.gather(*senders)
    assert sum(taken.values()) >= 0.85 * rate * 3
    if not quiet:
        assert max(taken.values()) < 2 * min(taken.values()), taken
    else:
        assert taken["a"] > 0.75 * rate * 3, f"what the others do not want is not lost: {taken}"


@pytest.mark.asyncio
async def test_shutting_the_gate_tells_those_who_wait() -> None:
    clock = ManualClock()
    store = Store(clock)
    store.away = True
    gate = gate_of(clock, store)
    async with running(gate):
        waiter = asyncio.create_task(gate.acquire())
        await turns()
        assert gate.condition.text == "away"
        gate.shut()
        with pytest.raises(NoSlots):
            await waiter
        with pytest.raises(NoSlots):
            await gate.acquire()


# --- a store that is far away ----------------------------------------------------------------------


def far_away(monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Limiter]:
    """A store whose answers take longer than a slot is good for, and a gate with a quota."""
    monkeypatch.setattr("mailsender.ratelimit.limiter.VAIN_RETRY", 0.001)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.takes = 0.06
    gate = gate_of(clock, store, letters=100, quota=1000, backlog=50)
    gate.name = "ses"
    return store, gate


@pytest.mark.asyncio
async def test_slots_that_are_over_when_they_come_go_back_and_it_is_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, gate = far_away(monkeypatch)
    with capture_logs() as logs:
        async with running(gate):
            waiter = asyncio.create_task(gate.acquire())
            await until(lambda: not gate.goes)
            with pytest.raises(NoSlots):
                await waiter
            with pytest.raises(NoSlots):
                await gate.acquire()
            said = (
                "MongoDB takes 60 ms to answer, and a slot of ses is good for 50 ms: hardly any can be used"
            )
            assert gate.blocked_because() == said
            assert gate.lapsing.text == gate.blocked_because()
            assert not gate.condition.text, "it is not away"
            assert gate.wait(store.clock.monotonic()) > 0
            store.takes = 0.001
            await until(lambda: gate.goes)
            assert (await gate.acquire()).good(store.clock.monotonic())
        assert gate.blocked_because() == gate.lapsing.text == ""
    told = [each for each in logs if each["event"] in {"slots_lapse", "slots_last"}]
    assert [each["event"] for each in told] == ["slots_lapse", "slots_last"]
    assert told[0]["advice"].endswith("a burst of 17"), "0.12 s and 50 ms of a hundred a second"
    await gate.close()
    assert store.cursor.used == 1, "the quota is not used up by what nobody sent"


@pytest.mark.asyncio
async def test_what_is_advised_of_a_destinations_slots_is_the_burst_of_its_relay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A destination has no burst of its own: it goes by that of its relay."""
    _, gate = far_away(monkeypatch)
    gate.name, gate.within = "ses/slow.test", "ses"
    with capture_logs() as logs:
        async with running(gate):
            waiter = asyncio.create_task(gate.acquire())
            await until(lambda: not gate.goes)
            with pytest.raises(NoSlots):
                await waiter
    (told,) = [each for each in logs if each["event"] == "slots_lapse"]
    assert told["relay"] == "ses/slow.test"
    assert told["advice"] == (
        "have MongoDB nearer, or let more come at once: a burst of 17 for the relay ses, by which"
        " its destinations go"
    )


@pytest.mark.asyncio
async def test_a_store_that_answers_in_time_again_is_soon_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = far_away(monkeypatch)
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 3600.0)
    async with running(gate):
        with pytest.raises(NoSlots):
            await gate.acquire()
        store.takes = 0.001
        await until(lambda: gate.goes)
    await gate.close()


@pytest.mark.asyncio
async def test_one_answer_that_takes_long_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = far_away(monkeypatch)
    store.takes = 0.3
    async with running(gate):
        waiter = asyncio.create_task(gate.acquire())
        await until(lambda: store.returned)
        store.takes = 0.0
        assert (await waiter).good(store.clock.monotonic())
        assert gate.goes
        assert not gate.lapsing.text


@pytest.mark.asyncio
async def test_a_single_letter_gets_a_slot_of_a_fast_rate_from_a_store_that_is_not_near() -> None:
    """Slots that lie back by most of their life are over when they come, and more so at each further try."""
    clock = ManualClock()
    store = Store(clock)
    store.takes = 0.015
    gate = gate_of(clock, store, letters=200)
    async with running(gate):
        for _ in range(5):
            assert (await asyncio.wait_for(gate.acquire(), 5)).latest > clock.monotonic()
            clock.forward(10)
    assert len(store.asked) <= 7


@pytest.mark.asyncio
async def test_where_slots_are_good_for_long_enough_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.LOOK_EVERY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.takes = 0.06
    gate = gate_of(clock, store, letters=100, burst=17)
    async with running(gate):
        for _ in range(20):
            assert (await gate.acquire()).latest > clock.monotonic()
    assert len(store.asked) >= 10
    assert gate.goes
    assert not gate.lapsing.text


@pytest.mark.asyncio
async def test_another_rate_is_not_judged_by_the_slots_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, gate = far_away(monkeypatch)
    async with running(gate):
        waiter = asyncio.create_task(gate.acquire())
        await until(lambda: not gate.goes)
        with pytest.raises(NoSlots):
            await waiter
        gate.change(Allowance(letters=100, period=1.0, burst=17))
        assert gate.goes
        assert (await gate.acquire()).latest > store.clock.monotonic()


@pytest.mark.asyncio
async def test_a_clock_of_the_store_that_is_set_back_is_told_once_and_costs_a_second() -> None:
    clock = ManualClock()
    store = Store(clock)
    gate = gate_of(clock, store)
    with capture_logs() as logs:
        async with running(gate):
            before = await gate.acquire()
            store.behind = 60.0
            waiter = asyncio.create_task(gate.acquire())
            await until(lambda: len(store.asked) > 1)
            clock.forward(AHEAD + AGREEMENT + gate.allowance.step)
            after = await waiter
            await gate.acquire()
    assert before.earliest + gate.allowance.step <= after.earliest <= clock.monotonic()
    (told,) = [each for each in logs if each["event"] == "clock_stepped_back"]
    assert told["seconds"] == pytest.approx(60.0)


@pytest.mark.asyncio
async def test_slots_of_a_lower_rate_are_no_clock_that_stepped_back() -> None:
    clock = SystemClock()
    gate = Limiter(MemorySlotStore(clock), Allowance(letters=4, period=1.0), clock, backlog=lambda: 0)
    with capture_logs() as logs:
        async with running(gate):
            ahead = await asyncio.gather(*(gate.acquire() for _ in range(6)))
            assert max(each.earliest for each in ahead) > clock.monotonic() + 0.9
            gate.change(Allowance(letters=400, period=1.0))
            await gate.acquire()
    assert not [each for each in logs if each["event"] == "clock_stepped_back"]


@pytest.mark.asyncio
async def test_a_store_that_refuses_to_take_slots_back_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.ratelimit.limiter.VAIN_RETRY", 0.001)
    clock = ManualClock()
    store = Store(clock)
    store.takes = 0.06
    gate = gate_of(clock, store, letters=100)

    async def refuse(_grant: SlotGrant, _unspent: int) -> None:
        raise Rejected("somebody wrote there what cannot be counted with")

    monkeypatch.setattr(store, "give_back", refuse)
    async with running(gate):
        waiter = asyncio.create_task(gate.acquire())
        await until(lambda: len(store.asked) > 3)
        store.takes = 0.0
        assert (await waiter).good(store.clock.monotonic())
    await gate.close()


@pytest.mark.asyncio
async def test_a_slot_is_not_lost_with_who_waited_for_it_for_too_long() -> None:
    clock, stop = ManualClock(), asyncio.Event()
    limiter = Limiter(MemorySlotStore(clock), Allowance(letters=1, period=100.0), clock, backlog=int)
    gone = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    waiting = asyncio.create_task(limiter.acquire())
    running = asyncio.create_task(limiter.run(stop))
    async with asyncio.timeout(5):
        assert await waiting
    stop.set()
    await running
