"""Letters that wait on the wrong route, in the background; and routes that change while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.letter import Letter, Status
from mailsender.observe.supervision import Supervisor
from mailsender.queue.memory import MemoryQueue
from mailsender.routing.plan import Match
from mailsender.routing.routes import change, made
from mailsender.routing.table import RouteTable
from mailsender.sending import dispatcher, rerouter
from mailsender.sending.rerouter import AGAIN, Rerouter, way_of
from tests.clocks import ManualClock
from tests.dispatching import letter, until
from tests.fleet import fleet, route
from tests.relays import FakeRelay

GMAIL, CORP = Match(destinations=("gmail.com",)), Match(destinations=("corp.example",))
TABLE = RouteTable([route("gmail", "a", match=GMAIL), route("corp", "b", match=CORP), route("default", "c")])
MIXED = ("x@gmail.com", "y@corp.example")


@pytest.mark.parametrize(
    ("addresses", "on", "blocked", "way"),
    [
        (MIXED, "gmail", "", "gmail"),
        (MIXED, "corp", "", "corp"),
        (MIXED, "gmail", "gmail", "corp"),
        (MIXED, "gmail", "gmail corp", "gmail"),
        (MIXED, "gone", "", "gmail"),
        (MIXED, "gone", "gmail", "corp"),
        (MIXED, "default", "gmail corp", "gmail"),
        (("x@gmail.com",), "gmail", "gmail", "gmail"),
        (("x@gmail.com",), "corp", "gmail", "gmail"),
        (("z@else.example",), "gone", "", "default"),
    ],
)
def test_a_letter_waits_on_a_route_of_its_own_and_not_on_a_blocked_one_if_it_has_another(
    addresses: tuple[str, ...], on: str, blocked: str, way: str
) -> None:
    assert way_of(letter(1, *addresses, route=on), TABLE, lambda name: name in blocked.split()) == way


class Stage:
    """A queue whose letters are looked at, with routes that a test blocks."""

    def __init__(self, table: RouteTable = TABLE, queue: type[Counting] | None = None) -> None:
        self.clock = ManualClock()
        self.queue = (queue or Counting)(self.clock)
        self.table = table
        self.blocked: set[str] = set()
        self.told: list[str] = []
        self.rerouter = Rerouter(
            self.queue,
            self.clock,
            table=lambda: self.table,
            blocked=self.blocked.__contains__,
            moved=self.told.append,
        )

    async def ways(self) -> dict[str, int]:
        return {name: len(await self.queue.waiting(name, 10_000)) for name in await self.queue.routes()}


class Counting(MemoryQueue):
    """Counts how often letters are gone through."""

    looks = 0

    async def look_at(self, ids: Sequence[str]) -> list[Letter]:
        self.looks += 1
        return await super().look_at(ids)


@pytest.mark.asyncio
async def test_letters_of_a_route_that_is_gone_are_routed_anew() -> None:
    stage = Stage()
    await stage.queue.insert([letter(n, route="gone") for n in range(500)])
    await stage.queue.insert([letter(n, "x@gmail.com", route="gone") for n in range(500, 510)])
    await stage.queue.insert([letter(600)])
    with capture_logs() as logs:
        await stage.rerouter.look()
    assert await stage.ways() == {"default": 501, "gmail": 10}
    assert set(stage.told) == {"default", "gmail"}
    assert {(line["event"], line["origin"]) for line in logs} == {("letters_rerouted", "gone")}


class Large(Counting):
    """Has no room for more than three letters."""

    async def look_at(self, ids: Sequence[str]) -> list[Letter]:
        return (await super().look_at(ids))[:3]


@pytest.mark.asyncio
async def test_letters_that_are_large_are_routed_anew_a_few_at_a_time() -> None:
    stage = Stage(queue=Large)
    await stage.queue.insert([letter(n, route="gone") for n in range(10)])
    await stage.rerouter.look()
    assert (await stage.ways(), stage.queue.looks) == ({"default": 10}, 4)


@pytest.mark.asyncio
async def test_letters_on_routes_that_go_are_left_to_their_turn() -> None:
    stage = Stage()
    await stage.queue.insert([letter(n, "x@gmail.com") for n in range(10)])
    await stage.rerouter.look()
    assert (await stage.ways(), stage.queue.looks) == ({"default": 10}, 0)


@pytest.mark.asyncio
async def test_after_a_change_all_of_them_are_looked_at_once() -> None:
    stage = Stage(RouteTable([route("default", "c")]))
    await stage.queue.insert([letter(n, *["x@gmail.com"] * (n % 2)) for n in range(10)])
    await stage.rerouter.look()
    stage.table = TABLE
    await stage.rerouter.look()
    assert await stage.ways() == {"default": 5, "gmail": 5}
    looks = stage.queue.looks
    await stage.rerouter.look()
    assert stage.queue.looks == looks


@pytest.mark.asyncio
async def test_past_a_blocked_route_go_those_with_another_way_and_it_is_gone_through_now_and_then() -> None:
    stage = Stage()
    stage.blocked.add("gmail")
    await stage.queue.insert([letter(n, "x@gmail.com", route="gmail") for n in range(10)])
    await stage.queue.insert([letter(n, *MIXED, route="gmail") for n in range(10, 13)])
    for _ in range(5):
        await stage.rerouter.look()
    assert (await stage.ways(), stage.queue.looks) == ({"corp": 3, "gmail": 10}, 1)
    stage.clock.forward(AGAIN)
    await stage.rerouter.look()
    assert stage.queue.looks == 2
    stage.blocked.clear()
    await stage.rerouter.look()
    stage.blocked.add("gmail")
    await stage.rerouter.look()
    assert stage.queue.looks == 3, "it is blocked anew"


@pytest.mark.asyncio
async def test_a_part_goes_out_although_the_other_ones_route_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rerouter, "LOOK", 0.05)
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ab"}
    fakes["a"].away = "refused"
    routes = [route("gmail", "a", match=GMAIL), route("corp", "b", match=CORP), route("default", "b")]
    async with fleet(fakes, routes) as stage:
        await until(lambda: stage.relays["a"].pool.away)
        assert stage.dispatcher.route_of(letter(1, *MIXED)) == "corp"
        mine = letter(1, *MIXED, route="gmail")  # it waited there before the route was blocked
        await stage.put(mine)
        await until(lambda: fakes["b"].sent)
        await until(lambda: not len(stage.in_flight))
        stored = await stage.queue.get(mine.id)
        assert stored is not None
        assert [each.accepted for each in stored.recipients] == [False, True]
        fakes["a"].away = ""
        (done,) = await stage.settled(1)
    assert (done.status, stage.sent()) == (Status.SENT, {"a": 1, "b": 1})


@pytest.mark.asyncio
async def test_routes_come_change_and_go_while_it_runs() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ab"}
    fakes["a"].away = "refused"
    old = [route("default", "b"), route("news", "a")]
    given_up: list[str] = []
    supervisor = Supervisor(SystemClock(), lambda name, _: given_up.append(name))
    async with fleet(fakes, old, keep=supervisor.keep) as stage:
        await stage.put(*[letter(n, route="news") for n in range(5)], letter(100))
        await stage.settled(1)
        new = [route("default", "b"), route("ads", "b", match=GMAIL)]
        stay = stage.routes["default"]
        change(stay, new[0], stage.relays)
        ads = made(new[1], stage.relays, stage.dispatcher._clock)
        stage.dispatcher.change([stay, ads], RouteTable(new))
        await stage.settled(6)
        await stage.put(letter(200, "x@gmail.com", route="ads"))
        await stage.settled(7)
        assert stage.sent() == {"a": 0, "b": 7}
        assert {each.name for each in stage.dispatcher.routes} == {"default", "ads"}
    assert (supervisor.states, given_up) == ([], []), "those of a route that is gone end, and do not fail"


@pytest.mark.asyncio
async def test_what_was_claimed_for_a_route_that_goes_goes_back_and_out_over_its_new_one() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ab"}
    fakes["a"].hold = asyncio.Event()
    async with fleet(fakes, [route("default", "b"), route("news", "a")]) as stage:
        await stage.put(*[letter(n, route="news") for n in range(20)])
        await until(lambda: fakes["a"].under_way == 2)
        stage.dispatcher.change([stage.routes["default"]], RouteTable([route("default", "b")]))
        await stage.settled(18)
        assert stage.sent() == {"a": 0, "b": 18}
        fakes["a"].hold.set()
        await stage.settled(20)
    assert stage.sent() == {"a": 2, "b": 18}


@pytest.mark.asyncio
async def test_a_route_whose_relay_hangs_with_all_the_memory_holds_up_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "ab"}
    fakes["a"].hold = asyncio.Event()
    monkeypatch.setattr(dispatcher, "BYTES_IN_FLIGHT", 1)
    async with fleet(fakes, [route("default", "b"), route("news", "a")]) as stage:
        await stage.put(*[letter(n, route="news") for n in range(20)])
        await until(lambda: fakes["a"].under_way)
        await stage.put(*[letter(n) for n in range(20, 50)])
        await stage.settled(30)
        assert stage.sent() == {"a": 0, "b": 30}
        fakes["a"].hold.set()
