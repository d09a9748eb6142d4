"""Recipients of one letter that take several routes: own transactions, own next times, one report."""

from __future__ import annotations

import asyncio

import pytest

from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.plan import Match
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.table import RouteTable
from mailsender.sending.parts import SOON, moved_on, part_of
from tests.clocks import ManualClock
from tests.dispatching import letter, until
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay

GREY = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.0")
TABLE = RouteTable(
    [
        route("gmail", "a", match=Match(destinations=("gmail.com",))),
        route("corp", "b", match=Match(destinations=("corp.example",))),
        route("default", "c"),
    ]
)
ADDRESSES = ("x@gmail.com", "y@corp.example", "z@else.example", "w@gmail.com")
NOW = 1_000_000.0


def with_state(letter: Letter, **states: Recipient) -> Letter:
    """`letter` with other states of the recipients whose local parts are named."""
    return letter.evolve(
        recipients=tuple(states.get(each.address[0], each) for each in letter.recipients),
    )


def test_a_part_is_those_of_a_route_who_are_due() -> None:
    mixed = letter(1, *ADDRESSES)
    part = part_of(mixed, "gmail", TABLE, NOW)
    assert (part.addresses, part.others) == (("x@gmail.com", "w@gmail.com"), True)
    later = with_state(mixed, w=Recipient(address="w@gmail.com", due=NOW + 60))
    assert part_of(later, "gmail", TABLE, NOW).addresses == ("x@gmail.com",)
    assert part_of(later, "gmail", TABLE, NOW + 60 - SOON).addresses == ("x@gmail.com", "w@gmail.com")
    done = with_state(mixed, x=Recipient(address="x@gmail.com", result=ACCEPTED))
    assert part_of(done, "gmail", TABLE, NOW).addresses == ("w@gmail.com",)
    assert part_of(mixed, "gone", TABLE, NOW).addresses == ()
    alone = letter(2, "x@gmail.com")
    assert not part_of(alone, "gmail", TABLE, NOW).others


def test_a_letter_moves_on_to_the_part_that_is_due_first() -> None:
    mixed = letter(1, *ADDRESSES)
    moved, delay = moved_on(mixed, TABLE, NOW, tried=["x@gmail.com", "w@gmail.com"], delay=60, last="gmail")
    assert (moved.status, moved.route, delay) == (Status.AWAITING, "corp", 0.0)
    assert [each.due for each in moved.recipients] == [NOW + 60, 0.0, 0.0, NOW + 60]
    done = with_state(moved, z=Recipient(address="z@else.example", result=ACCEPTED))
    again, delay = moved_on(done, TABLE, NOW + 10, tried=["y@corp.example"], delay=3600, last="corp")
    assert (again.route, delay) == ("gmail", 50.0)
    assert [each.due for each in again.recipients] == [0.0, NOW + 10 + 3600, 0.0, 0.0]
    assert part_of(again, "gmail", TABLE, NOW + 60).addresses == ("x@gmail.com", "w@gmail.com")


def test_of_parts_that_are_due_together_another_one_has_its_turn() -> None:
    mixed = letter(1, "x@gmail.com", "y@corp.example")
    moved, delay = moved_on(mixed, TABLE, NOW, last="gmail")
    assert (moved.route, delay) == ("corp", 0.0)


@pytest.mark.asyncio
async def test_each_part_goes_over_its_own_relays_and_there_is_one_report() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "abc"}
    routes = [
        route("gmail", "a", match=Match(destinations=("gmail.com",))),
        route("corp", "b", match=Match(destinations=("corp.example",))),
        route("default", "c"),
    ]
    async with fleet(fakes, routes) as stage:
        await stage.put(*[letter(n, *ADDRESSES, route="gmail") for n in range(5)])
        done = await stage.settled(5)
        await asyncio.sleep(0.05)  # no second report comes
        assert len(stage.reported) == 5
    sent = {name: {each.recipients for each in fake.sent} for name, fake in fakes.items()}
    assert sent == {
        "a": {("x@gmail.com", "w@gmail.com")},
        "b": {("y@corp.example",)},
        "c": {("z@else.example",)},
    }
    assert {each.status for each in done} == {Status.SENT}
    assert [each.relay[0] for each in done[0].recipients] == ["a", "b", "c", "a"]


@pytest.mark.asyncio
async def test_a_part_that_is_put_off_waits_for_its_own_time_and_no_other_part_waits_with_it() -> None:
    told = [GREY]
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ac"}
    fakes["a"].answer = lambda _: told.pop() if told else ACCEPTED
    slow = RetryPolicy(max_attempts=3, delay=600.0)
    routes = [
        route("gmail", "a", match=Match(destinations=("gmail.com",)), retry=slow),
        route("default", "c"),
    ]
    clock = ManualClock()
    queue = MemoryQueue(clock)
    async with fleet(fakes, routes, clock=clock, queue=queue) as stage:
        mine = letter(1, "x@gmail.com", "z@else.example", route="gmail")
        await stage.put(mine)
        await until(lambda: fakes["c"].sent)
        await until(lambda: not len(stage.in_flight))
        stored = await queue.look_up(mine.id)
        assert stored is not None
        assert [each.accepted for each in stored.letter.recipients] == [False, True]
        assert stored.letter.route == "gmail"
        assert stored.due is not None
        assert 400 < stored.due.timestamp() - clock.epoch() < 800
        assert stage.sent() == {"a": 1, "c": 1}
        clock.forward(800)
        stage.in_flight.alive_until = clock.monotonic() + 60
        (done,) = await stage.settled(1)
    assert (done.status, stage.sent()) == (Status.SENT, {"a": 2, "c": 1})


@pytest.mark.asyncio
async def test_a_letter_that_fits_its_route_no_more_goes_on_over_its_own() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ac"}
    routes = [route("gmail", "a", match=Match(destinations=("gmail.com",))), route("default", "c")]
    async with fleet(fakes, routes) as stage:
        await stage.put(letter(1, "x@gmail.com"), letter(2, route="gmail"))
        done = await stage.settled(2)
    assert stage.sent() == {"a": 1, "c": 1}
    assert {each.attempts for each in done} == {1}
