"""What one publisher can do to the queue: letters that many share, and places in the topic used twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mailsender.model.letter import Answer, Letter, Origin, Settlement, Status
from mailsender.queue.port import Inserted, Queue
from tests.claims import claim
from tests.contract.conftest import MONGO, World, again, claim_one, ended, letter, only

pytestmark = pytest.mark.asyncio

MOST, MOST_BYTES = 100, 1024 * 1024


def with_key(sample: Letter, size: int) -> Letter:
    answer = sample.answers[0]
    return sample.evolve(answers=(Answer(token=answer.token, key=b"k" * size, origin=answer.origin),))


async def test_so_many_publishers_share_a_letter_and_no_more(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    verdicts = await queue.insert([again(first, number) for number in range(2, 152)])
    assert verdicts == [Inserted.JOINED] * MOST + [Inserted.CROWDED] * 50
    assert await queue.insert([again(first, 2), again(first, 101), again(first, 151)]) == [
        Inserted.REPLAY,
        Inserted.REPLAY,
        Inserted.CROWDED,
    ]
    found = await queue.get(first.id)
    assert found is not None
    assert len(found.answers) == 1 + MOST


async def test_publishers_who_share_a_letter_are_bounded_in_bytes(queue: Queue) -> None:
    """The largest letter, shared by those with the largest keys, still has room for what becomes of it."""
    first = letter(1, body="x" * (11 * 1024 * 1024))
    await queue.insert([first])
    verdicts = await queue.insert([with_key(again(first, number), 900_000) for number in range(2, 22)])
    assert Counter(verdicts) == {Inserted.JOINED: 1, Inserted.CROWDED: 19}
    for number in range(30, 40):
        verdicts = await queue.insert([with_key(again(first, number), 100_000)])
    assert verdicts == [Inserted.CROWDED]
    token, claimed = await claim_one(queue)
    assert await queue.settle([Settlement(token=token, letter=ended(claimed))]) == frozenset()
    (found,) = await queue.unreported(0, 10)
    assert found.status is Status.SENT
    held = sum(len(each.key or b"") for each in found.answers[1:])
    assert 900_000 <= held <= MOST_BYTES


async def test_a_publisher_with_more_than_fits_shares_no_letter(queue: Queue) -> None:
    first = letter(1)
    await queue.insert([first])
    assert await queue.insert([with_key(again(first, 2), MOST_BYTES + 1)]) == [Inserted.CROWDED]
    assert await queue.insert([again(first, 3)]) == [Inserted.JOINED]


async def test_two_replicas_pass_the_bound_no_more_than_one(world: World) -> None:
    one, other = await world.replica(), await world.replica()
    first = letter(1)
    await one.insert([first])
    found = []
    for number in range(2, 122, 2):
        found += await one.insert([again(first, number)])
        found += await other.insert([again(first, number + 1)])
    assert found == [Inserted.JOINED] * MOST + [Inserted.CROWDED] * 20


@only(*MONGO)
async def test_a_join_that_the_server_refuses_harms_no_other(queue: Queue, world: World) -> None:
    bad, good = letter(1), letter(2)
    await queue.insert([bad, good])
    await world.database.command(
        {"collMod": "letters", "validator": {"$or": [{"subject": {"$ne": bad.subject}}, {"also": None}]}}
    )
    verdicts = await queue.insert([again(bad, 11), again(good, 12), letter(3), again(bad, 13)])
    assert verdicts == [Inserted.CROWDED, Inserted.JOINED, Inserted.NEW, Inserted.CROWDED]


@pytest.mark.parametrize("size", [1024 * 1024, 3_200_000, 20_000_000])
@only(*MONGO)
async def test_a_letter_with_a_huge_key_harms_no_other(queue: Queue, size: int) -> None:
    """What is left of a letter always fits; a key that does not is left out, and the reason says so."""
    bad = with_key(letter(2), size)
    assert await queue.insert([letter(1), bad, letter(3)]) == [Inserted.NEW] * 3
    assert await queue.insert([bad]) == [Inserted.REPLAY]
    claimed = {each.subject for each in (await claim(queue, 10)).letters}
    assert {"Тема 1", "Тема 3"} <= claimed
    if "Тема 2" not in claimed:
        (found,) = await queue.unreported(0, 10)
        assert (found.id, found.status, found.answers[0].key) == (bad.id, Status.ERROR, None)
        assert "key" in found.reason


@only(*MONGO)
async def test_a_rule_that_even_the_remains_break_leaves_the_barest(queue: Queue, world: World) -> None:
    await world.database.command(
        {"collMod": "letters", "validator": {"subject": {"$nin": ["bad"]}, "token": {"$ne": "bad"}}}
    )
    bad = letter(2, subject="bad")
    bad = bad.evolve(answers=(Answer(token="bad", key=b"k", origin=bad.answers[0].origin),))
    assert await queue.insert([letter(1), bad, letter(3)]) == [Inserted.NEW] * 3
    (found,) = await queue.unreported(0, 10)
    assert (found.id, found.status) == (bad.id, Status.ERROR)
    assert await queue.insert([bad]) == [Inserted.REPLAY]
    assert len((await claim(queue, 10)).letters) == 2


async def test_a_letter_whose_record_has_a_time_that_no_store_holds_harms_no_other(queue: Queue) -> None:
    origin = Origin(topic="in", partition=0, offset=2, index=0, timestamp=2**63)
    bad = letter(2, id=origin.letter_id(), answers=(Answer(token="t", key=b"k", origin=origin),))
    assert await queue.insert([letter(1), bad, letter(3)]) == [Inserted.NEW] * 3
    assert await queue.insert([bad]) == [Inserted.REPLAY]
    assert (await queue.get(bad.id)) is not None


# --- one place in the topic, two letters -------------------------------------------------------------


async def test_another_letter_from_the_same_place_is_no_replay(queue: Queue) -> None:
    """A topic was deleted and made again: the same offset, and perhaps the same time, holds another one."""
    first = letter(1)
    await queue.insert([first])
    for change in ({"subject": "x"}, {"body": "x"}, {"addresses": ("x@example.test",)}):
        assert await queue.insert([letter(1, **change)]) == [Inserted.TAKEN]
    assert await queue.insert([letter(1)]) == [Inserted.REPLAY]
    found = await queue.get(first.id)
    assert found is not None
    assert (found.subject, found.answers) == (first.subject, first.answers)


async def test_another_letter_with_the_same_own_id_from_the_same_place_is_a_clash(queue: Queue) -> None:
    first = letter(1, id="6b03f03e1c3fe5165a363fce")
    await queue.insert([first])
    assert await queue.insert([first]) == [Inserted.REPLAY]
    assert await queue.insert([first.evolve(subject="x")]) == [Inserted.CLASH]


async def test_another_letter_from_the_same_place_comes_in_under_another_id(queue: Queue) -> None:
    await queue.insert([letter(1)])
    other = letter(1, subject="x")
    origin = other.answers[0].origin
    assert origin is not None
    renamed = other.evolve(id=origin.other_id(other.content))
    assert renamed.id != other.id
    assert await queue.insert([renamed]) == [Inserted.NEW]
    assert await queue.insert([renamed]) == [Inserted.REPLAY]
    assert len((await claim(queue, 10)).letters) == 2


async def test_letters_from_one_place_in_one_call(queue: Queue) -> None:
    changed: list[Any] = [letter(1), letter(1, subject="x"), letter(1), letter(1, subject="y")]
    assert await queue.insert(changed) == [Inserted.NEW, Inserted.TAKEN, Inserted.REPLAY, Inserted.TAKEN]
