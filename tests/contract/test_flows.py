"""The order of a route that flows share, for every implementation; `mailsender.queue.ranks` says which."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from mailsender.model.errors import Unavailable
from mailsender.model.handling import Handling, Priority
from mailsender.model.letter import FreshClaim, Letter, Settlement, Status, now_ms
from mailsender.queue.port import Inserted, Queue
from mailsender.queue.ranks import RouteShares
from tests.claims import token_of
from tests.contract.conftest import MONGO, World, ended, letter, only

pytestmark = pytest.mark.asyncio

ROUTE = "r"
SHARES = {ROUTE: RouteShares(rate=10.0, shares={"large": 3.0})}


@pytest.fixture(autouse=True)
def shared(world: World) -> None:
    """All replicas of the world give `large` three shares, and everybody else one."""
    make = world.make

    def with_shares() -> Queue:
        queue = make()
        queue.share(SHARES)
        return queue

    world.make = with_shares


def of(stream: str, *numbers: int, priority: Priority = Priority.NORMAL, **changes: Any) -> list[Letter]:
    handling = Handling(stream=stream, priority=priority, **changes)
    return [letter(number, route=ROUTE, handling=handling) for number in numbers]


def streams(letters: tuple[Letter, ...]) -> list[str]:
    return [each.handling.stream for each in letters]


def numbers(letters: tuple[Letter, ...]) -> list[int]:
    return [int(each.subject.split()[1]) for each in letters]


async def take(queue: Queue, limit: int) -> tuple[Letter, ...]:
    return (await queue.claim(limit, token_of(), ROUTE)).letters


async def test_a_single_letter_goes_before_a_batch(queue: Queue) -> None:
    await queue.insert(of("news", *range(200)))
    await take(queue, 50)
    await queue.insert(of("", 1000))
    await queue.insert(of("code", 1001))
    assert set(numbers(await take(queue, 4))) >= {1000, 1001}


async def test_it_goes_before_a_batch_with_the_originals_keys_alone(queue: Queue) -> None:
    for start in range(0, 200, 50):
        await queue.insert(of("", *range(start, start + 50)))
    await take(queue, 50)
    await queue.insert(of("code", 1000))
    assert 1000 in numbers(await take(queue, 2))


async def test_each_flow_gets_its_share_while_both_wait_and_one_alone_gets_all(queue: Queue) -> None:
    await queue.insert(of("large", *range(90)))
    await queue.insert(of("small", *range(100, 190)))
    found = streams(await take(queue, 80))
    for part in (found[:40], found[40:]):
        assert abs(Counter(part)["large"] - 30) <= 1
    rest = streams(await take(queue, 100))
    assert rest[-50:] == ["small"] * 50
    assert len(rest) == 100


async def test_who_had_the_route_alone_owes_nobody(queue: Queue) -> None:
    await queue.insert(of("one", *range(100)))
    await take(queue, 60)
    await queue.insert(of("two", *range(100, 200)))
    first = Counter(streams(await take(queue, 20)))
    assert first["one"] >= 5, "what a newcomer has before others is a second's work"
    found = Counter(streams(await take(queue, 20)))
    assert abs(found["one"] - 10) <= 1


async def test_who_waited_for_long_is_not_overtaken_by_newcomers_for_it(queue: Queue) -> None:
    """Three batches make the route's time go slower than the day; a single letter comes in late."""
    for number, stream in enumerate(("one", "two", "three")):
        await queue.insert(of(stream, *range(100 * number, 100 * number + 100)))
    await take(queue, 150)
    await queue.insert(of("four", 1000))
    assert 1000 in numbers(await take(queue, 4))
    await queue.insert(of("five", *range(2000, 2040)))
    await take(queue, 14)  # a newcomer's second
    found = Counter(streams(await take(queue, 40)))
    assert all(abs(found[each] - 10) <= 2 for each in ("one", "two", "three", "five")), found


async def test_within_a_flow_the_order_is_that_of_insertion(queue: Queue) -> None:
    for start in range(0, 60, 20):
        await queue.insert([each for n in range(start, start + 20) for each in of("ab"[n % 2], n)])
    found = await take(queue, 60)
    for stream in "ab":
        mine = [each for each in numbers(found) if "ab"[each % 2] == stream]
        assert mine == sorted(mine)
        assert len(mine) == 30


async def test_another_replica_carries_the_order_on(world: World) -> None:
    first, second = await world.replica(), await world.replica()
    await first.insert(of("news", *range(50)))
    await second.insert(of("news", *range(50, 100)))
    third = await world.replica()  # as one that was started anew
    await third.insert(of("news", *range(100, 110)))
    await third.insert(of("code", 1000))
    found = numbers(await take(third, 200))
    assert found.index(1000) <= 2
    assert [each for each in found if each < 1000] == list(range(110))


async def test_it_does_so_for_letters_that_name_no_stream(world: World) -> None:
    first, second = await world.replica(), await world.replica()
    await first.insert(of("", *range(30)))
    await second.insert(of("", *range(30, 60)))
    await first.insert(of("", *range(60, 90)))
    assert numbers(await take(second, 200)) == list(range(90))


async def test_shares_hold_where_replicas_insert_by_turns(world: World) -> None:
    replicas = [await world.replica() for _ in range(3)]
    for turn in range(30):
        await replicas[turn % 3].insert(of("large", *range(10 * turn, 10 * turn + 5)))
        await replicas[turn % 3].insert(of("small", *range(10 * turn + 5, 10 * turn + 10)))
    found = Counter(streams(await take(replicas[0], 80)))
    assert abs(found["large"] - 60) <= 3


async def test_many_flows_at_once(queue: Queue) -> None:
    names = [f"s{number % 70}" for number in range(700)]
    await queue.insert([of(name, number)[0] for number, name in enumerate(names)])
    first = Counter(streams(await take(queue, 70)))
    assert len(first) == 70, "each of them had one letter sent before any had two"


async def test_a_batch_that_comes_again_takes_no_place(queue: Queue) -> None:
    await queue.insert(of("news", *range(20)))
    for _ in range(3):
        assert await queue.insert(of("news", *range(20))) == [Inserted.REPLAY] * 20
    await queue.insert(of("news", *range(20, 40)))
    await queue.insert(of("other", *range(100, 140)))
    found = Counter(streams(await take(queue, 60)))
    assert abs(found["news"] - 30) <= 2


async def test_two_claims_of_a_route_share_its_order(queue: Queue) -> None:
    await queue.insert(of("news", *range(20)))
    first = await queue.claim(10, token_of(), ROUTE)
    await queue.insert(of("code", 1000))
    second = await queue.claim(5, token_of(), ROUTE)
    assert list(first.places) == sorted(first.places)
    assert numbers(second.letters)[0] == 1000
    assert first.places[0] <= second.places[0] <= first.places[-1] < second.places[1]


async def test_who_comes_from_another_route_holds_up_nobody_on_this_one(queue: Queue, world: World) -> None:
    """They have waited for longer than anybody here, on a route that is gone."""
    batch = [each.evolve(route="gone") for each in of("news", *range(200))]
    await queue.insert(batch)
    await world.pass_time(500)
    await queue.insert(of("", 1000))
    await take(queue, 1)
    assert await queue.move([each.id for each in batch], "gone", ROUTE) == 200
    await queue.insert(of("code", 1001))
    found = numbers(await take(queue, 300))
    assert len(found) == 201
    assert found.index(1001) <= 12
    assert [each for each in found if each < 1000] == list(range(200)), "in their order"


async def test_who_is_far_behind_on_another_route_is_not_so_here(queue: Queue) -> None:
    batch = [each.evolve(route="gone") for each in of("news", *range(100, 300))]
    queue.share({**SHARES, "gone": RouteShares(rate=1 / 60)})
    await queue.insert(batch)
    await queue.insert(of("other", *range(20)))
    assert await queue.move([batch[-1].id], "gone", ROUTE) == 1
    assert 299 in numbers(await take(queue, 12))


# --- priorities ------------------------------------------------------------------------------------


async def test_high_goes_first_and_low_last(queue: Queue) -> None:
    await queue.insert(of("", 0, 1, 2, priority=Priority.LOW))
    await queue.insert(of("", 3, 4, 5))
    await queue.insert(of("", 6, 7, 8, priority=Priority.HIGH))
    assert numbers(await take(queue, 10)) == [6, 7, 8, 3, 4, 5, 0, 1, 2]


async def test_who_comes_while_only_low_ones_wait_goes_first(queue: Queue) -> None:
    await queue.insert(of("", *range(20), priority=Priority.LOW))
    await take(queue, 5)
    await queue.insert(of("code", 100))
    assert numbers(await take(queue, 1)) == [100]


async def test_low_ones_do_not_starve(queue: Queue) -> None:
    """At one letter a minute an hour of the route's time is sixty letters."""
    queue.share({ROUTE: RouteShares(rate=1 / 60)})
    await queue.insert(of("a", 0, priority=Priority.LOW))
    await queue.insert(of("b", *range(1, 200)))
    found = numbers(await take(queue, 100))
    assert 55 <= found.index(0) <= 65


async def test_high_ones_do_not_bar_everybody_else(queue: Queue) -> None:
    queue.share({ROUTE: RouteShares(rate=1 / 60)})
    await queue.insert(of("b", 0))
    await queue.insert(of("a", *range(1, 200), priority=Priority.HIGH))
    found = numbers(await take(queue, 100))
    assert 55 <= found.index(0) <= 65


async def test_a_high_one_of_a_batch_puts_no_newcomer_behind_the_batch(queue: Queue) -> None:
    """Its place is at the end of its flow, where the route's time is in twenty seconds."""
    await queue.insert(of("news", *range(200)))
    await queue.insert(of("news", 500, priority=Priority.HIGH))
    assert numbers(await take(queue, 1)) == [500]
    await queue.insert(of("code", 1000))
    assert 1000 in numbers(await take(queue, 14))


async def test_nor_does_one_that_waits_still(world: World) -> None:
    """Another replica, or one that was started anew, has to look where the route's time is."""
    first = await world.replica()
    await first.insert(of("news", *range(200)))
    await first.insert(of("news", 500, priority=Priority.HIGH))
    second = await world.replica()
    await second.insert(of("code", 1000))
    assert 1000 in numbers(await take(second, 14))


async def test_under_a_fresh_claim_high_ones_come_first(queue: Queue) -> None:
    letters = [*of("", 0, 1), *of("", 2, priority=Priority.HIGH), *of("", 3, priority=Priority.LOW)]
    found = await queue.insert(letters, [FreshClaim(token=token_of(), limit=2, route=ROUTE)])
    assert found == [Inserted.CLAIMED, Inserted.NEW, Inserted.CLAIMED, Inserted.NEW]


async def test_what_came_in_claimed_and_is_given_back_keeps_its_priority(queue: Queue) -> None:
    token = token_of()
    letters = [*of("", 0, priority=Priority.LOW), *of("", 1), *of("", 2, priority=Priority.HIGH)]
    found = await queue.insert(letters, [FreshClaim(token=token, limit=3, route=ROUTE)])
    assert found == [Inserted.CLAIMED] * 3
    await queue.insert(of("", 3))
    await queue.release(token, [each.id for each in letters])
    assert numbers(await take(queue, 9)) == [2, 1, 3, 0]


# --- what may not be sent yet ----------------------------------------------------------------------


async def test_nothing_goes_before_its_time(queue: Queue, world: World) -> None:
    later = now_ms(await queue.now(0)) + timedelta(seconds=100)
    found = await queue.insert(
        [*of("", 0, not_before=later), *of("", 1)], [FreshClaim(token=token_of(), limit=2, route=ROUTE)]
    )
    assert found == [Inserted.NEW, Inserted.CLAIMED]
    assert await take(queue, 10) == ()
    await world.pass_time(101)
    assert numbers(await take(queue, 10)) == [0]


async def test_what_has_come_already_makes_nobody_wait(queue: Queue) -> None:
    before = now_ms(await queue.now(0)) - timedelta(seconds=100)
    await queue.insert(of("", 0, not_before=before))
    assert numbers(await take(queue, 10)) == [0]


async def test_deferred_and_fresh_ones_go_in_turn(queue: Queue, world: World) -> None:
    await queue.insert(of("", *range(10)))
    claimed = await queue.claim(10, token_of(), ROUTE)
    later = [each.evolve(status=Status.AWAITING, attempts=1) for each in claimed.letters]
    await queue.settle([Settlement(token=claimed.token, letter=each, delay=10) for each in later])
    await world.pass_time(11)
    await queue.insert(of("", *range(100, 110)))
    found = numbers(await take(queue, 4))
    assert sorted(each >= 100 for each in found) == [False, False, True, True]
    singles = [numbers(await take(queue, 1))[0] >= 100 for _ in range(8)]
    assert singles.count(True) == 4, "neither starves where letters are claimed one by one"


async def test_what_is_asked_comes_back(queue: Queue) -> None:
    until = now_ms(await queue.now(0)) + timedelta(days=2)
    handling = Handling(
        stream="news",
        tags=("a", "b"),
        priority=Priority.LOW,
        route="r",
        retry="1m, 5m*2",
        not_before=until - timedelta(days=3),
        expire_at=until,
    )
    sample = letter(1, route=ROUTE, handling=handling, expires=until)
    await queue.insert([sample, letter(2)])
    found = await queue.get(sample.id)
    assert found is not None
    assert (found.handling, found.expires, found.content) == (handling, until, sample.content)
    other = sample.evolve(handling=Handling(stream="news"))
    assert await queue.insert([other]) == [Inserted.TAKEN]
    claimed = await queue.claim(1, token_of(), ROUTE)
    await queue.settle([Settlement(token=claimed.token, letter=ended(claimed.letters[0]))])
    sent = await queue.get(sample.id)
    assert sent is not None
    assert (sent.handling, sent.expires) == (handling, until)


class Hesitant:
    """A collection into which nothing comes for a while, as where a majority does not answer."""

    def __init__(self, collection: Any, fails: int) -> None:
        self._collection = collection
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    async def insert_many(self, documents: Any, **more: Any) -> Any:
        if self._fails:
            self._fails -= 1
            raise AutoReconnect("no majority")
        return await self._collection.insert_many(documents, **more)


@only(*MONGO)
async def test_who_is_inserted_at_the_twentieth_try_does_not_stand_behind_its_own_tries(world: World) -> None:
    queue = await world.replica()
    await queue.insert(of("other", *range(100, 200)))  # something waits: no new era
    queue._inserter._letters = Hesitant(queue._letters, 20)
    for _ in range(20):
        with pytest.raises(Unavailable):
            await queue.insert(of("news", *range(20)))
    await queue.insert(of("news", *range(20)))
    assert Counter(streams(await take(queue, 40)))["news"] >= 15


@only(*MONGO)
async def test_flows_are_forgotten(world: World) -> None:
    queue = await world.replica()
    await queue.insert(of("news", 1))
    flows = world.database.get_collection("letters.flows")
    names = await flows.index_information()
    assert names["mailsender_flow_expire"]["expireAfterSeconds"] == 0
    found = await flows.find_one({"_id": {"route": ROUTE, "flow": "news"}})
    assert found["expire_at"] > now_ms(await queue.now(0))


# --- what is no longer sent ------------------------------------------------------------------------


async def test_what_is_over_is_taken_wherever_it_waits(queue: Queue) -> None:
    """Fresh, deferred and not to be sent yet; but not what is on its way, and what has time still."""
    now = now_ms(await queue.now(0))
    over, later = now - timedelta(seconds=1), now + timedelta(days=1)
    fresh, deferred, waits, held, good = (
        letter(number, route=f"r{number}", expires=over) for number in range(5)
    )
    waits = waits.evolve(handling=Handling(not_before=later))
    good = good.evolve(expires=later)
    await queue.insert([deferred, held])
    put_off = await queue.claim(1, token_of(), "r1")
    tried = put_off.letters[0].evolve(status=Status.AWAITING, attempts=1)
    await queue.settle([Settlement(token=put_off.token, letter=tried, delay=1000)])
    token = token_of()
    await queue.claim(1, token, "r3")
    await queue.insert([fresh, waits, good, letter(5)])
    taken = await queue.claim_expired(2, token_of())
    taken_too = await queue.claim_expired(10, token_of())
    found = {*numbers(taken.letters), *numbers(taken_too.letters)}
    assert (len(taken.letters), found) == (2, {0, 1, 2})
    assert {each.status for each in taken.letters} == {Status.PROCESSING}
    await queue.release(token, [held.id])
    assert numbers((await queue.claim_expired(10, token_of())).letters) == [3]
    assert (await queue.claim_expired(10, token_of())).letters == ()
    last = ended(taken.letters[0], status=Status.ERROR, reason="expired")
    assert await queue.settle([Settlement(token=taken.token, letter=last)]) == frozenset()
    assert numbers((await queue.claim(10, token_of(), "r4")).letters) == [4]


@only(*MONGO)
async def test_whatever_rank_another_program_wrote_there_are_places_left(world: World) -> None:
    queue = await world.replica()
    far = datetime(9999, 12, 31, tzinfo=UTC)
    await world.raw.insert_one({"status": "awaiting", "route": ROUTE, "rank": far, "handling": "theirs"})
    assert await queue.insert(of("news", *range(20))) == [Inserted.NEW] * 20
    assert await queue.insert(of("code", 1000)) == [Inserted.NEW]
    found = await queue.claim(21, token_of(), ROUTE)
    assert {each.handling.stream for each in found.letters} == {"news", "code"}
