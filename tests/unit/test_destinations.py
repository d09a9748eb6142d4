"""Limits by destination: what goes to one takes a slot of its own and one of the relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from mailsender.model.address import domain_of
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Recipient, Result, Status
from mailsender.ratelimit import destinations
from mailsender.ratelimit.destinations import Destinations, Rates
from mailsender.ratelimit.gcra import UNLIMITED, Allowance, Slot, SlotRequest, meeting
from mailsender.ratelimit.limiter import Limiter, NoSlots
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.ratelimit.order import Order
from mailsender.routing.backlog import Backlog
from mailsender.routing.obstacles import Moment
from mailsender.routing.pool import Held
from mailsender.sending.attempt import Attempt
from mailsender.sending.errand import Errand
from mailsender.sending.orders import own_times, spare
from mailsender.sending.sender import Sender
from tests.clocks import ManualClock
from tests.dispatching import Scene, known_relay, letter
from tests.dispatching import running as dispatching
from tests.relays import ACCEPTED, FakeRelay, FakeSession
from tests.unit.test_gcra import most_in_a_period

RELAY_RATE = Allowance(letters=100, period=1.0, burst=30)


def slot(earliest: float, latest: float) -> Slot:
    return Slot(earliest=earliest, latest=latest)


def rate(letters: int) -> Rates:
    return (Allowance(letters=letters, period=1.0),)


def order(until: float) -> Order:
    return Order(key="destination:gmail.com", rule="r", said="450", until=until)


class Stage:
    """A relay of 100 a second, 40 of them to gmail.com and 1 to all that is below example.org."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemorySlotStore(self.clock)
        self.relay = Limiter(self.store, RELAY_RATE, self.clock, backlog=int)
        self.limiters: dict[str, Limiter] = {}
        self.destinations = Destinations(self.relay, self._made, self.clock)
        self.destinations.change({"gmail.com": rate(40), "*.Example.org": rate(1)})

    def _made(self, name: str, rates: Rates) -> Limiter:
        made = Limiter(self.store.beside(name), rates[0], self.clock, backlog=int, further=rates[1:])
        self.limiters[name] = made
        return made

    async def acquire(self, domain: str) -> Slot:
        return await self.destinations.join(f"a@{domain}", await self.relay.acquire())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(each.run(stop)) for each in (self.relay, self.destinations)]
        yield
        stop.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (slot(1, 3), slot(2, 4), slot(2, 3)),
        (slot(1, 2), slot(2, 3), None),
        (UNLIMITED, slot(2, 3), slot(2, 3)),
        (slot(0, 1.001), slot(0, 5), None),
    ],
)
def test_slots_meet(one: Slot, other: Slot, expected: Slot | None) -> None:
    assert meeting(one, other, 1.0) == expected
    assert meeting(other, one, 1.0) == expected


def test_the_narrowest_pattern_counts() -> None:
    stage = Stage()
    of = stage.destinations.of
    assert of("Gmail.com") is stage.limiters["gmail.com"]
    assert of("a.b.example.org") is of("c.example.org") is stage.limiters["*.Example.org"]
    assert of("example.org") is of("elsewhere.example") is None


@pytest.mark.parametrize("domain", ["b\u00fccher.example", "B\u00dcCHER.example", "xn--bcher-kva.example"])
def test_limits_hold_however_a_domain_is_written(domain: str) -> None:
    stage = Stage()
    stage.destinations.change({"xn--bcher-kva.example": rate(1), "gmail.com": rate(1)})
    of, now = stage.destinations.of, stage.clock.monotonic()
    assert of(domain_of(f"a@{domain}")) is stage.limiters["xn--bcher-kva.example"]
    assert of(domain_of("a@\uff47mail.com")) is stage.limiters["gmail.com"]
    stage.destinations.order("gmail.com", order(stage.clock.epoch() + 30))
    assert stage.destinations.held(domain_of("a@gmail\u3002com"), now) is not None
    stage.destinations.order("else\u3002example", order(stage.clock.epoch() + 30))
    assert stage.destinations.held("else.example", now) is not None


@pytest.mark.asyncio
async def test_a_slot_fits_the_destination_and_the_relay() -> None:
    stage = Stage()
    async with stage.running():
        slots = [await stage.acquire("gmail.com") for _ in range(3)]
        assert [b.earliest - a.earliest >= 0.0249 for a, b in pairwise(slots)] == [True, True]
        elsewhere = [await stage.acquire("other.example") for _ in range(2)]
        assert elsewhere[1].earliest - elsewhere[0].earliest == pytest.approx(RELAY_RATE.step)


@pytest.mark.asyncio
async def test_units_that_come_back_keep_one_slot_of_the_destination_among_them() -> None:
    """It was one transaction's there, and each of them may begin another one."""
    stage = Stage()
    stage.relay.change(Allowance(letters=100, period=1.0, burst=30, by_recipient=True))
    async with stage.running():
        joined = await stage.acquire("gmail.com")
        assert joined.limits is stage.limiters["gmail.com"]
        stage.relay.put_back(replace(joined, recipients=5))
        taken = [await stage.relay.acquire() for _ in range(5)]
    assert [each.recipients for each in taken] == [1] * 5
    assert sum(each.limits is not None for each in taken) == 1


@pytest.mark.asyncio
async def test_what_was_ordered_holds_on_where_a_destination_has_limits_no_more() -> None:
    stage = Stage()
    stage.destinations.order("gmail.com", order(stage.clock.epoch() + 30))
    stage.destinations.order("a.example.org", order(stage.clock.epoch() + 40))
    stage.destinations.change({})
    now = stage.clock.monotonic()
    assert stage.destinations, "somebody has to look"
    assert stage.destinations.of("gmail.com") is None
    held = [stage.destinations.held(domain, now) for domain in ("gmail.com", "b.example.org", "example.org")]
    assert [each and round(each[1]) for each in held] == [30, 40, None]
    assert sorted(stage.destinations.orders()) == ["destination:*.example.org", "destination:gmail.com"]
    async with stage.running():
        await stage.destinations.lift("gmail.com")
    assert stage.destinations.held("gmail.com", now) is None
    assert stage.destinations.limiters == {}


@pytest.mark.asyncio
async def test_a_destination_without_limits_is_held_by_an_order_of_the_relay() -> None:
    stage = Stage()
    stage.destinations.order("yahoo.com", order(stage.clock.epoch() + 30))
    now = stage.clock.monotonic()
    held = stage.destinations.held("yahoo.com", now)
    assert held is not None
    assert held[1] == pytest.approx(30)
    assert stage.destinations.held("gmail.com", now) is None
    assert [each.key for each in stage.relay.orders()] == ["destination:yahoo.com"]


@pytest.mark.asyncio
async def test_a_destination_with_limits_is_held_by_its_own() -> None:
    stage = Stage()
    async with stage.running():
        stage.destinations.order("gmail.com", order(stage.clock.epoch() + 30))
        held = stage.destinations.held("gmail.com", stage.clock.monotonic())
        assert held is not None
        assert held[1] == pytest.approx(30)
        with pytest.raises(NoSlots):
            await stage.acquire("gmail.com")
        assert await stage.acquire("other.example")
        assert stage.relay.orders() == []


@pytest.mark.asyncio
async def test_a_destination_that_is_held_takes_no_slot_of_the_relay() -> None:
    stage = Stage()
    async with stage.running():
        stage.destinations.order("gmail.com", order(stage.clock.epoch() + 30))
        ours = await stage.relay.acquire()
        with pytest.raises(NoSlots):
            await stage.destinations.join("a@gmail.com", ours)
        assert await stage.relay.acquire() == ours, "it was given back"
    stage.destinations.shut()
    await stage.destinations.close()


@pytest.mark.asyncio
async def test_a_slot_that_fits_already_is_not_joined_again() -> None:
    stage = Stage()
    async with stage.running():
        joint = await stage.acquire("gmail.com")
        assert await stage.destinations.join("b@GMail.com", joint) is joint
        assert (await stage.destinations.join("b@x.example.org", joint)).limits is stage.limiters[
            "*.Example.org"
        ]


@pytest.mark.asyncio
async def test_who_would_wait_for_long_rests_until_its_turn() -> None:
    stage = Stage()
    rest = stage.destinations.rest
    async with stage.running():
        now = stage.clock.monotonic()
        assert rest("x.example.org", now) == 0
        await stage.acquire("x.example.org")
        turns = [rest("x.example.org", now) for _ in range(3)]
        assert turns[0] > 0
        assert [b - a for a, b in pairwise(turns)] == pytest.approx([1.0, 1.0])
        assert rest("elsewhere.example", now) == 0


@pytest.mark.asyncio
async def test_nobody_keeps_a_session_where_another_replica_has_had_the_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(destinations, "LONGEST", 0.05)
    slowly = Allowance(letters=1, period=60.0)
    stage = Stage()
    stage.destinations.change({"slow.example": (slowly,)})
    now = stage.clock.monotonic()
    async with stage.running():
        await stage.store.beside("slow.example").lease(SlotRequest(want=1, allowance=slowly))
        assert stage.destinations.rest("slow.example", now) == 0, "as far as this one knows"
        ours = await stage.relay.acquire()
        with pytest.raises(NoSlots):
            await stage.destinations.join("a@slow.example", ours)
        assert await stage.relay.acquire() == ours, "it was given back"
        assert stage.destinations.rest("slow.example", now) > 50


def test_a_transaction_has_those_who_share_their_limits() -> None:
    alike = Stage().destinations.alike
    assert alike(["a@gmail.com", "b@GMAIL.com", "c@x.example"]) == 2
    assert alike(["a@x.example", "b@y.example", "c@gmail.com", "d@z.example"]) == 2
    assert alike(["a@b.example.org", "b@c.example.org"]) == 2


@pytest.mark.asyncio
async def test_limits_change_while_they_are_kept() -> None:
    stage = Stage()
    async with stage.running():
        await stage.acquire("gmail.com")
        stage.destinations.change({"gmail.com": rate(2), "new.example": rate(5)})
        first, second = [await stage.acquire("new.example") for _ in range(2)]
        assert second.earliest - first.earliest >= 0.199
        assert stage.destinations.of("a.example.org") is None
        assert stage.limiters["gmail.com"].allowance.letters == 2
    stage.destinations.change({})
    assert not stage.destinations


@pytest.mark.asyncio
async def test_letters_keep_to_the_limits_of_a_destination_and_hold_up_no_others() -> None:
    begun: dict[str, list[float]] = {"gmail.com": [], "b.example": []}

    def answer(address: str) -> Result:
        begun[address.partition("@")[2]].append(time.monotonic())
        return ACCEPTED

    relay = FakeRelay(answer=answer)
    async with dispatching(relay, senders=3) as scene:
        known, clock, stop = scene.known, SystemClock(), asyncio.Event()
        store = MemorySlotStore(clock)
        known.destinations = Destinations(
            known.limiter,
            lambda name, rates: Limiter(store.beside(name), rates[0], clock, backlog=int),
            clock,
        )
        known.destinations.change({"gmail.com": rate(10)})
        running = asyncio.create_task(known.destinations.run(stop))
        ahead = [letter(number, f"r{number}@gmail.com") for number in range(20)]
        behind = [letter(number, f"r{number}@b.example") for number in range(20, 30)]
        await scene.queue.insert([*ahead, *behind])
        scene.dispatcher.nudge()
        done = await scene.settled(30)
        stop.set()
        known.destinations.shut()
        await running
    assert {each.status for each in done} == {Status.SENT}
    assert {each.attempts for each in done} == {1}
    assert most_in_a_period(begun["gmail.com"], 1.0) <= 11
    # The eleventh comes a second after the first; nobody else waits for it, and little of the rate is lost.
    assert begun["b.example"][-1] < begun["gmail.com"][10]
    assert begun["gmail.com"][-1] - begun["gmail.com"][0] < 6


@asynccontextmanager
async def limited(scene: Scene, letters: int) -> AsyncIterator[Destinations]:
    """So many transactions a second go to gmail.com over the relay of a scene."""
    clock, stop = SystemClock(), asyncio.Event()
    store = MemorySlotStore(clock)
    limits = scene.known.destinations = Destinations(
        scene.known.limiter,
        lambda name, rates: Limiter(store.beside(name), rates[0], clock, backlog=int),
        clock,
    )
    limits.change({"gmail.com": rate(letters)})
    running = asyncio.create_task(limits.run(stop))
    yield limits
    stop.set()
    limits.shut()
    await running


@pytest.mark.asyncio
@pytest.mark.parametrize(("letters", "recipients", "most"), [(1, 20, 2), (12, 50, 100)])
async def test_turns_are_told_by_transactions_and_not_by_recipients(
    letters: int, recipients: int, most: int
) -> None:
    """Ten or twelve transactions at four a second, that is: by recipients it was ten or 150 seconds."""
    async with dispatching(FakeRelay(), max_recipients=most) as scene, limited(scene, 4) as limits:
        began = time.monotonic()
        await scene.queue.insert(
            [letter(n, *(f"r{m}.{n}@gmail.com" for m in range(recipients))) for n in range(letters)]
        )
        scene.dispatcher.nudge()
        done = await scene.settled(letters)
        assert 1.5 < time.monotonic() - began < 6.5
        assert {each.status for each in done} == {Status.SENT}
        assert sum(limits.promised(time.monotonic()).values()) <= 1


def test_a_turn_that_is_still_to_come_is_kept_and_one_is_told_for_all_who_share_limits() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock)
    limits = relay.destinations = Destinations(
        relay.limiter, lambda _, rates: Limiter(MemorySlotStore(clock), rates[0], clock, backlog=int), clock
    )
    limits.change({"a.example": rate(1), "b.example": rate(1)})
    for each in limits.limiters.values():
        each._next_at = clock.monotonic() + 1.0  # the next slot that the store has given
    limits.rest("b.example", clock.monotonic())  # another letter's
    waits = letter(1, "1@a.example", "2@a.example", "3@b.example", "4@b.example")
    found = []
    for _ in range(2):
        errand = Errand("token", waits, relay, Held(FakeSession(FakeRelay()), 0), UNLIMITED)
        spare(errand, clock.monotonic())
        assert errand.left == ()
        attempt = Attempt(
            results=errand.results, relay="r", message_id="<m@x>", idle=errand.idle, pause=errand.pause
        )
        now = Moment(epoch=clock.epoch(), monotonic=clock.monotonic())
        found.append(own_times(errand, attempt, 0.0, now))
        waits = waits.evolve(
            recipients=tuple(
                Recipient(address=each, result=errand.results[each], due=now.epoch + found[-1][each])
                for each in waits.addresses
            )
        )
        clock.forward(0.5)
    first, second = found
    assert first == pytest.approx({"1@a.example": 1, "2@a.example": 1, "3@b.example": 2, "4@b.example": 2})
    assert second == pytest.approx({each: wait - 0.5 for each, wait in first.items()})
    assert limits.promised(clock.monotonic()) == {"b.example": 1}


@pytest.mark.asyncio
async def test_letters_that_are_put_aside_come_back_or_are_taken_out() -> None:
    backlog = Backlog()
    one, other = letter(1), letter(2)
    backlog.put_aside("token", one, 0.01)
    backlog.put_aside("token", other, 3600.0)
    assert not backlog.reserve_at_once()
    assert await backlog.reserve()
    assert backlog.take() == ("token", one)
    assert backlog.drain() == [("token", other)]
    assert backlog.drain() == []


@pytest.mark.asyncio
async def test_a_letter_that_comes_again_under_another_claim_comes_back_once() -> None:
    backlog = Backlog()
    backlog.put_aside("lost", letter(1), 3600.0)
    timer = backlog._aside[letter(1).id][2]
    backlog.put_aside("token", letter(1), 0.01)
    assert timer.cancelled()
    assert await backlog.reserve()
    assert backlog.take() == ("token", letter(1))


@pytest.mark.asyncio
async def test_nothing_is_put_aside_on_a_route_that_is_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would take it from there, and it would stay this replica's as long as that lives."""
    monkeypatch.setattr("mailsender.sending.sender.aside", lambda _errand, _now: 3600.0)
    async with dispatching(FakeRelay()) as scene:
        sender = Sender(scene.route, scene.dispatcher._tools)
        errand = Errand("token", letter(1), scene.known, Held(FakeSession(FakeRelay()), 0), UNLIMITED)
        assert sender._put_aside(errand)
        assert scene.route.backlog.drain() == [("token", letter(1))]
        scene.route.leave()
        assert not sender._put_aside(errand)
        assert scene.route.backlog.drain() == []
