"""`Queue.insert` under claims, for every implementation: letters that are owned from their insertion on."""

from __future__ import annotations

from typing import Any

import pytest

from mailsender.model.errors import Unavailable
from mailsender.model.letter import FreshClaim, Letter, Settlement, Status
from mailsender.queue.port import Inserted, Queue
from tests.claims import LIFE, OTHER, claim, insert_claimed, token_of
from tests.contract.conftest import MONGO, World, again, ended, letter
from tests.contract.test_queue import lose_reply

pytestmark = pytest.mark.asyncio

NEW, CLAIMED = Inserted.NEW, Inserted.CLAIMED


TOKEN = token_of(OTHER)


def wish(limit: int = 10, token: str = TOKEN) -> FreshClaim:
    return FreshClaim(token=token, limit=limit)


async def status_of(queue: Queue, each: Letter) -> Status:
    found = await queue.get(each.id)
    assert found is not None
    return found.status


async def test_they_are_processing_and_nobody_else_gets_them(world: World) -> None:
    mine, other = await world.replica(), await world.replica()
    letters = [letter(n) for n in range(3)]
    await mine.join(OTHER, LIFE)
    found, lease = await insert_claimed(mine, letters, wish())
    assert found == [CLAIMED] * 3
    assert lease.letters == tuple(letters)
    assert lease.token == TOKEN
    assert {await status_of(mine, each) for each in letters} == {Status.PROCESSING}
    assert not (await claim(other, 10)).letters
    assert await other.reclaim(10) == 0


async def test_only_so_many_the_others_wait(world: World) -> None:
    queue = await world.replica()
    letters = [letter(n) for n in range(5)]
    _, lease = await insert_claimed(queue, letters, wish(limit=2))
    assert lease.letters == tuple(letters[:2])
    waiting = await claim(queue, 10)
    assert [each.id for each in waiting.letters] == [each.id for each in letters[2:]]


async def test_what_is_an_error_from_the_start_is_not_claimed(world: World) -> None:
    queue = await world.replica()
    bad = letter(1, status=Status.ERROR, reason="no address")
    found, lease = await insert_claimed(queue, [bad, letter(2)], wish(limit=1))
    assert found == [NEW, CLAIMED]
    assert [each.id for each in lease.letters] == [letter(2).id]
    assert await status_of(queue, bad) is Status.ERROR


async def test_they_are_settled_and_released_as_any_claim(world: World) -> None:
    queue = await world.replica()
    first, second = letter(1), letter(2)
    _, lease = await insert_claimed(queue, [first, second], wish())
    assert await queue.claims_of(OTHER) == {lease.token: [first.id, second.id]}
    assert await queue.settle([Settlement(token=lease.token, letter=ended(lease.letters[0]))]) == frozenset()
    await queue.release(lease.token, [second.id])
    assert await status_of(queue, first) is Status.SENT
    assert [each.id for each in (await claim(queue, 10)).letters] == [second.id]


async def test_when_their_replica_dies_they_are_reclaimed(world: World) -> None:
    queue = await world.replica()
    await queue.join(OTHER, 10.0)
    await insert_claimed(queue, [letter(1)], wish())
    assert await queue.reclaim(10) == 0
    await world.pass_time(11.0)
    assert await queue.reclaim(10) == 1
    assert len((await claim(queue, 10)).letters) == 1


async def test_what_was_there_before_is_not_ours(world: World) -> None:
    queue, other = await world.replica(), await world.replica()
    await other.insert([letter(1)])
    await insert_claimed(other, [letter(2)], wish(token="another's"))
    joined = again(letter(1), 11)
    letters = [letter(1), letter(2), letter(3), joined]
    found, lease = await insert_claimed(queue, letters, wish())
    assert found == [Inserted.REPLAY, Inserted.REPLAY, CLAIMED, Inserted.JOINED]
    assert [each.id for each in lease.letters] == [letter(3).id]


async def test_the_same_letter_twice_is_owned_once(world: World) -> None:
    queue = await world.replica()
    found, lease = await insert_claimed(queue, [letter(1), letter(1)], wish())
    assert found == [CLAIMED, Inserted.REPLAY]
    assert len(lease.letters) == 1


async def test_a_repeated_call_finds_what_its_first_try_stored(world: World) -> None:
    queue = await world.replica()
    letters = [letter(n) for n in range(3)]
    asked = wish(limit=2)
    await insert_claimed(queue, letters, asked)
    found, lease = await insert_claimed(queue, letters, asked)
    assert found == [CLAIMED, CLAIMED, Inserted.REPLAY]
    assert lease.letters == tuple(letters[:2])


@pytest.mark.parametrize("backend", MONGO, indirect=True)
async def test_a_lost_reply_loses_no_letter(world: World) -> None:
    queue: Any = await world.replica()
    lose_reply(queue, "insert_many")
    asked = wish()
    with pytest.raises(Unavailable):
        await insert_claimed(queue, [letter(1), letter(2)], asked)
    found, lease = await insert_claimed(queue, [letter(1), letter(2)], asked)
    assert found == [CLAIMED, CLAIMED]
    assert len(lease.letters) == 2


async def test_each_route_has_a_claim_of_its_own(world: World) -> None:
    queue = await world.replica()
    letters = [letter(n, route="abc"[n % 3]) for n in range(9)]
    claims = [FreshClaim(token=token_of(), limit=limit, route=route) for route, limit in (("a", 2), ("b", 9))]
    found = await queue.insert(letters, claims)
    assert found == [CLAIMED, CLAIMED, NEW, CLAIMED, CLAIMED, NEW, NEW, CLAIMED, NEW]
    held = await queue.claims_of(claims[0].token[:16])
    assert {token: len(ids) for token, ids in held.items()} == {claims[0].token: 2, claims[1].token: 3}
