"""Limits that count recipients: of a rate each takes a slot, of a quota alone each takes a unit beside it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.providers import Window
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.ratelimit.extras import Extras
from mailsender.ratelimit.gcra import (
    EVERYBODY,
    EXTRA_LIFE,
    UNCOUNTED,
    Allowance,
    Cursor,
    Slot,
    SlotGrant,
    SlotRequest,
    give_back,
    grant_of,
    take,
)
from mailsender.ratelimit.limiter import Limiter
from mailsender.routing.reply_rule import Action, ReplyRule, Scope
from tests.clocks import ManualClock
from tests.dispatching import letter, running
from tests.relays import ACCEPTED, FakeRelay
from tests.unit.test_limiter import Store, turns
from tests.unit.test_limiter import running as limiting

NOON = 1_767_614_400.0
DAY = 86400.0

OF_QUOTA = Allowance(letters=30, period=60.0, quota=100, quota_period=DAY, quota_by_recipient=True)
OF_RATE = Allowance(letters=100, period=1.0, burst=0, quota=1000, by_recipient=True)


def leased(cursor: Cursor, request: SlotRequest, now: float = NOON) -> tuple[Cursor, SlotGrant]:
    moved, first, count = take(cursor, now, request)
    grant = grant_of(
        cursor=moved, first=first, count=count, now=now, request=request, asked=now, answered=now
    )
    return moved, grant


# --- the arithmetic --------------------------------------------------------------------------------


def test_a_lease_brings_units_of_the_quota_beside_its_slots_as_far_as_it_has_them() -> None:
    cursor, grant = leased(Cursor(), SlotRequest(want=1, allowance=OF_QUOTA, extra=60))
    assert (grant.count, grant.extra, grant.used) == (1, 60, 61)
    cursor, grant = leased(cursor, SlotRequest(want=1, allowance=OF_QUOTA, extra=60), NOON + 2)
    assert (grant.count, grant.extra, grant.used) == (1, 38, 100)
    cursor, grant = leased(cursor, SlotRequest(want=1, allowance=OF_QUOTA, extra=60), NOON + 4)
    assert (grant.count, grant.extra, grant.exhausted) == (0, 0, True)


_ROLLING = Allowance(letters=0, period=1.0, quota=10, quota_period=DAY)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_ROLLING, replace(_ROLLING, quota_period=0.0)),
        (replace(_ROLLING, quota_period=0.0), _ROLLING),
        (_ROLLING, replace(_ROLLING, quota_by_recipient=True)),
        (_ROLLING, replace(_ROLLING, quota_period=3600.0)),
    ],
    ids=["a day for 24 hours", "24 hours for a day", "recipients for transactions", "an hour for 24"],
)
def test_a_quota_of_another_unit_or_form_begins_its_count_anew(before: Allowance, after: Allowance) -> None:
    cursor, grant = leased(Cursor(), SlotRequest(want=10, allowance=before), NOON - 8 * 3600)
    assert grant.count == 10
    for at in (NOON - 600, NOON - 60):  # looks
        cursor, grant = leased(cursor, SlotRequest(want=0, allowance=before), at)
        assert grant.exhausted
    cursor, grant = leased(cursor, SlotRequest(want=1, allowance=after), NOON - 60 + UNCOUNTED)
    assert (grant.count, grant.used) == (1, 1)


@pytest.mark.parametrize("period", [0.0, DAY])
def test_a_quota_counts_on_while_a_replica_counts_something_else(period: float) -> None:
    """Else each of the two would begin anew at each of its leases, and nothing would ever be used up."""
    cursor, sent = Cursor(), 0
    messages = replace(_ROLLING, quota_period=period)
    for turn in range(200):
        allowance = (messages, replace(messages, quota_by_recipient=True))[turn % 2]
        cursor, grant = leased(cursor, SlotRequest(want=1, allowance=allowance), NOON + turn * 10.0)
        sent += grant.count
    assert sent == 10


@pytest.mark.parametrize("period", [0.0, DAY])
def test_what_is_left_of_them_goes_back(period: float) -> None:
    allowance = Allowance(letters=30, period=60.0, quota=100, quota_period=period, quota_by_recipient=True)
    cursor, grant = leased(Cursor(), SlotRequest(want=1, allowance=allowance, extra=60))
    cursor = give_back(cursor, grant, 0)
    assert cursor.used == 1 or sum(each.count for each in cursor.spent) == 1


def test_a_quota_of_any_period_counts_them_for_as_long_as_they_may_be_kept() -> None:
    """Taken in the last minute before they would go back they are still in the period that counts them."""
    kept = SlotRequest(want=1, allowance=OF_QUOTA).keep
    assert kept >= DAY + EXTRA_LIFE


def test_units_are_taken_the_oldest_first_and_given_up_when_they_are_old() -> None:
    extras = Extras()
    _, old = leased(Cursor(), SlotRequest(want=1, allowance=OF_QUOTA, extra=5))
    _, new = leased(Cursor(), SlotRequest(want=1, allowance=OF_QUOTA, extra=7), NOON + 30)
    extras.add(old)
    extras.add(new)
    assert extras.left(NOON + 30) == 12
    assert extras.take(3, NOON + 30) == 3
    assert [each.extra for each in extras.over(NOON + EXTRA_LIFE + 1)] == [2]
    assert extras.take(100, NOON + EXTRA_LIFE + 1) == 7
    extras.put_back(4)
    assert not extras, "there is no lease any more to which they belong"
    extras.add(new)
    extras.put_back(1)
    assert [each.extra for each in extras.clear()] == [8]


def test_units_of_a_day_are_not_those_of_the_next() -> None:
    allowance = Allowance(letters=30, period=60.0, quota=100, quota_by_recipient=True)
    clock, midnight = ManualClock(), NOON + DAY / 2
    clock.forward(midnight - 1 - clock.epoch())
    store = Store(clock)
    limiter = Limiter(store, allowance, clock, backlog=int)
    request = SlotRequest(want=1, allowance=allowance, extra=5)
    old = asyncio.run(store.lease(request))
    limiter._extras.add(old)
    slot = replace(Slot(earliest=old.earliest(0), latest=old.latest(0)), recipients=1 + 5)
    assert limiter._extras.take(5, clock.monotonic()) == 5
    clock.forward(2)
    new = asyncio.run(store.lease(request))
    assert (new.used, new.extra) == (6, 5)
    limiter._extras.add(new)
    limiter.put_back(slot)
    assert limiter._extras.left(clock.monotonic()) == 5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_a_relay_that_counts_recipients_exactly_never_gets_one_too_many(sizes: list[int]) -> None:
    """Each transaction takes as many slots in a row as are good together, at the last of their times."""
    cursor, relay, now = Cursor(), Window(OF_RATE.letters, OF_RATE.period), NOON
    for size in sizes:
        cursor, grant = leased(cursor, SlotRequest(want=size, allowance=OF_RATE), now)
        for place in range(grant.count):
            now = max(now, grant.earliest(place))
            assert relay.left(now)
            relay.take(now)


# --- the limiter -----------------------------------------------------------------------------------


def limiter_of(clock: ManualClock, store: Store, allowance: Allowance, further: int = 0) -> Limiter:
    return Limiter(store, allowance, clock, backlog=int, further_recipients=lambda letters: further)


@pytest.mark.asyncio
async def test_one_write_brings_a_slot_and_what_the_letter_s_recipients_take() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(clock, store, OF_QUOTA, further=19)
    async with limiting(limiter):
        slot = await limiter.acquire()
        assert slot.recipients == 1
        assert (await limiter.widen(slot, 20)).recipients == 20
        assert store.cursor.used == 20
        assert store.asked.count(1) == 1


@pytest.mark.asyncio
async def test_who_needs_more_than_was_expected_waits_for_it_and_gets_what_there_is() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(clock, store, OF_QUOTA)
    async with limiting(limiter):
        slot = await limiter.widen(await limiter.acquire(), 70)
        assert (slot.recipients, store.cursor.used) == (70, 70)
        clock.forward(2.0)
        slot = await limiter.widen(await limiter.acquire(), 70)
        assert (slot.recipients, store.cursor.used) == (30, 100), "the quota ends"
        assert slot.asked
        assert await limiter.widen(slot, 70) is slot
        limiter.put_back(slot)
        await limiter.close()


@pytest.mark.asyncio
async def test_units_that_nobody_took_go_back() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(clock, store, OF_QUOTA, further=19)
    async with limiting(limiter):
        await limiter.acquire()
    await limiter.close()
    assert sum(each.count for each in store.cursor.spent) == 1


@pytest.mark.asyncio
async def test_where_the_rate_counts_them_slots_that_are_good_together_make_one() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(clock, store, OF_RATE, further=9)
    async with limiting(limiter):
        first = await limiter.acquire()
        slot = await limiter.widen(first, 10)
        # They are 10.5 ms apart, good for 50 ms each, and have 20 ms in common at least; the first one lay
        # some time back already.
        assert 2 <= slot.recipients <= 3
        assert slot.earliest > first.earliest
        assert slot.latest - max(clock.monotonic(), slot.earliest) >= 0.02
        limiter.put_back(slot)
        again = [await limiter.acquire() for _ in range(4 + slot.recipients)]
        assert {each.recipients for each in again} == {1}
        assert [each.latest for each in again].count(slot.latest) == slot.recipients


@pytest.mark.asyncio
async def test_who_waits_for_units_goes_on_at_a_stop() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(clock, store, OF_QUOTA)
    async with limiting(limiter):
        slot = await limiter.acquire()
        store.away = True
        waiting = asyncio.create_task(limiter.widen(slot, 5))
        await turns()
        assert not waiting.done()
        limiter.shut()
        assert (await waiting).recipients == 1


@pytest.mark.asyncio
async def test_where_no_two_slots_are_good_together_none_is_passed_over() -> None:
    clock = ManualClock()
    store = Store(clock)
    limiter = limiter_of(
        clock, store, Allowance(letters=14, period=1.0, burst=0, by_recipient=True), further=9
    )
    async with limiting(limiter):
        first = await limiter.acquire()
        assert (await limiter.widen(first, 10)).earliest == first.earliest
        following = await limiter.acquire()
        assert following.earliest - first.earliest == pytest.approx(limiter.allowance.step)


def test_where_nobody_counts_recipients_a_slot_is_for_all() -> None:
    clock = ManualClock()
    assert limiter_of(clock, Store(clock), Allowance(letters=1, period=1.0))._each == EVERYBODY


# --- letters ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_letter_goes_in_as_many_transactions_as_the_rate_asks_for() -> None:
    relay = FakeRelay()
    addresses = tuple(f"r{number}@example.test" for number in range(5))
    allowance = Allowance(letters=100, period=1.0, by_recipient=True, quota=50)
    async with running(relay, allowance=allowance) as scene:
        await scene.queue.insert([letter(1, *addresses)])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert all(each.accepted for each in done.recipients)
        assert sorted(each for sent in relay.sent for each in sent.recipients) == sorted(addresses)
        used = scene.known.limiter.used_today
        assert used is not None
        assert used >= 5


@pytest.mark.asyncio
async def test_a_letter_goes_whole_and_its_recipients_count_for_the_quota() -> None:
    relay = FakeRelay()
    addresses = tuple(f"r{number}@example.test" for number in range(5))
    allowance = Allowance(letters=100, period=1.0, quota=7, quota_by_recipient=True)
    async with running(relay, allowance=allowance) as scene:
        await scene.queue.insert([letter(1, *addresses)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        assert [len(sent.recipients) for sent in relay.sent] == [5]
        await scene.queue.insert([letter(2, *addresses)])
        scene.dispatcher.nudge()
        async with asyncio.timeout(10):
            while len(relay.sent) < 2:  # noqa: ASYNC110  there is no event
                await asyncio.sleep(0.005)
        assert len(relay.sent[1].recipients) <= 2, "the quota has no more"


# --- orders of narrower scopes ---------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("scope", [Scope.DESTINATION, Scope.SENDER, Scope.RECIPIENT])
async def test_what_was_told_meanwhile_of_some_holds_for_who_has_a_slot_already(scope: Scope) -> None:
    """Two letters are on their way over two sessions when the relay speaks: the other one is not begun."""
    slowly = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.1", text="slowly")
    rule = ReplyRule(name="test/rule", codes=("450",), action=Action.WAIT, scope=scope, seconds=60.0)
    answers = iter([slowly])
    relay = FakeRelay(answer=lambda _: next(answers, ACCEPTED))
    # One a second: the second letter has its slot, and waits for its time, when the first one is answered.
    allowance = Allowance(letters=5, period=1.0)
    async with running(relay, allowance=allowance, senders=2, rules=[rule]) as scene:
        await scene.queue.insert([letter(1, "a@example.test"), letter(2, "a@example.test")])
        scene.dispatcher.nudge()
        await scene.stats_are(awaiting=2, processing=0)
        async with asyncio.timeout(10):
            while not all([(await scene.queue.get(letter(n).id)).recipients[0].result for n in (1, 2)]):  # type: ignore[union-attr]  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert len(relay.sent) == 1
        second = await scene.queue.get(letter(2).id)
        assert second is not None
        assert second.attempts == 0
