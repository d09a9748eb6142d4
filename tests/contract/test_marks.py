"""Letters that are settled together share a mark; all that the queue promises of a report holds under it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from mailsender.model.letter import Letter, Settlement
from mailsender.model.ports import Inserted, Queue, Unavailable
from tests.claims import claim
from tests.contract.conftest import MONGO, RETENTION, World, again, ended, letter, only

pytestmark = [pytest.mark.asyncio, only(*MONGO)]

MANY = 40
"""More than share a mark with any of the backends."""


async def taken(queue: Queue, many: int = MANY) -> list[Settlement]:
    """Letters that came in and were claimed, with the outcome that is to be written."""
    await queue.insert([letter(number) for number in range(many)])
    lease = await claim(queue, many)
    assert len(lease.letters) == many
    return [Settlement(token=lease.token, letter=ended(each)) for each in lease.letters]


async def sent(queue: Queue, many: int = MANY) -> list[Letter]:
    settlements = await taken(queue, many)
    assert await queue.settle(settlements) == frozenset()
    return [each.letter for each in settlements]


async def unreported(queue: Queue, older_than: float = 0) -> set[str]:
    return {each.id for each in await queue.unreported(older_than, 10 * MANY)}


class FindsThen:
    """A collection in which something happens just after it was looked into."""

    def __init__(self, collection: Any, happens: Callable[[], Awaitable[object]]) -> None:
        self._collection = collection
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def find(self, *arguments: Any) -> Any:
        cursor = self._collection.find(*arguments)
        to_list = cursor.to_list

        async def then(length: int | None) -> Any:
            found = await to_list(length)
            await self._happens()
            return found

        cursor.to_list = then
        return cursor


async def not_yet(world: World) -> None:
    """No mark's turn to be dissolved has come."""
    await world.marks.update_many({}, [{"$set": {"at": {"$add": ["$at", 3_600_000]}}}])


def ids(letters: list[Letter]) -> set[str]:
    return {each.id for each in letters}


async def test_one_document_marks_all(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    (mark,) = await world.marks.find({}).to_list(None)
    assert (mark["reported"], mark["count"], len(mark["letters"])) == (False, MANY, MANY)
    assert (await queue.stats()).unreported == MANY
    await queue.mark_reported(letters)
    (mark,) = await world.marks.find({}).to_list(None)
    assert mark["reported"] is True
    remembered = (mark["forget_at"] - mark["at"]).total_seconds()
    assert RETENTION <= remembered < RETENTION + 60
    assert (await queue.stats()).unreported == 0
    assert await unreported(queue) == set()
    documents = await world.raw.find({}).to_list(None)
    assert {each["mark"] for each in documents} == {mark["_id"]}
    assert not any("reported" in each or "expire_at" in each for each in documents)


async def test_a_letter_under_a_mark_says_whether_it_was_reported(queue: Queue) -> None:
    letters = await sent(queue)
    before = await queue.get(letters[0].id)
    await queue.mark_reported(letters)
    after = await queue.get(letters[0].id)
    assert before is not None
    assert after is not None
    assert (before.answered, after.answered, len(after.answers)) == (0, 1, 1)


async def test_what_was_not_reported_is_found_by_others(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    other = await world.replica()
    assert await unreported(other, 30) == set()
    await world.pass_time(31)
    found = await other.unreported(30, 10 * MANY)
    assert {each.id: each for each in found} == {each.id: each for each in letters}
    assert await world.marks.count_documents({}) == 0
    await other.mark_reported(found)
    assert await unreported(queue) == set()
    assert (await queue.stats()).unreported == 0


async def test_part_of_a_mark_is_remembered_by_whom_it_belongs_to(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await queue.mark_reported(letters[:10])
    assert (await world.marks.find_one({}))["reported"] is False
    assert await unreported(queue) == ids(letters[10:])
    await queue.mark_reported(letters[10:])
    assert await unreported(queue) == set()
    # There is no mark any more, so each is marked, and forgotten, by itself.
    assert await world.marks.count_documents({}) == 0
    alone = {"reported": True, "expire_at": {"$exists": True}, "mark": {"$exists": False}}
    assert await world.raw.count_documents(alone) == MANY
    told = await queue.get(letters[0].id)
    assert told is not None
    assert told.answered == 1


async def test_the_last_part_completes_it(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await queue.mark_reported(letters[:10])
    await queue.mark_reported(letters[10:30])
    await queue.mark_reported(letters[30:])
    assert (await world.marks.find_one({}))["reported"] is True
    assert await unreported(queue) == set()


async def test_two_marks_at_once(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await queue.insert([letter(number) for number in range(100, 100 + MANY)])
    lease = await claim(queue, MANY)
    await queue.settle([Settlement(token=lease.token, letter=ended(each)) for each in lease.letters])
    await queue.mark_reported([*letters, *lease.letters])
    assert await world.marks.count_documents({"reported": True}) == 2
    assert await unreported(queue) == set()


async def test_a_mark_that_another_dissolved_is_made_up_for(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    other = await world.replica()
    assert await unreported(other) == ids(letters)
    await queue.mark_reported(letters)
    assert await unreported(other) == set()
    assert await world.raw.count_documents({"reported": True}) == MANY


async def test_marking_again_after_a_lost_reply_changes_nothing(queue: Any, world: World) -> None:
    letters = await sent(queue)
    marks = queue._marks
    kept = {mark: type(ours)(set(ours.left), ours.at) for mark, ours in marks._ours.items()}
    known = dict(marks._mark_of)
    await queue.mark_reported(letters)
    (before,) = await world.marks.find({}).to_list(None)
    marks._ours, marks._mark_of = kept, known  # as if the reply had never come
    await queue.mark_reported(letters)
    assert await world.marks.find({}).to_list(None) == [before]
    assert await unreported(queue) == set()


async def test_settling_again_after_a_lost_reply_makes_no_second_mark(queue: Any, world: World) -> None:
    settlements = await taken(queue)
    assert await queue.settle(settlements) == frozenset()
    queue._marks._ours.clear()
    queue._marks._mark_of.clear()
    assert await queue.settle(settlements) == frozenset()
    assert await world.marks.count_documents({}) == 1
    await queue.mark_reported([each.letter for each in settlements])
    assert await unreported(queue) == set()
    assert (await world.marks.find_one({}))["reported"] is True


async def test_a_publisher_who_joined_before_the_end_is_answered(queue: Queue, world: World) -> None:
    settlements = await taken(queue)
    first = settlements[0].letter
    assert await queue.insert([again(first, 500)]) == [Inserted.JOINED]
    assert await queue.settle(settlements) == frozenset()
    await queue.mark_reported([each.letter for each in settlements])
    (found,) = await queue.unreported(0, 10)
    assert (found.id, len(found.answers), found.answered) == (first.id, 2, 1)
    await queue.mark_reported([found])
    assert await unreported(queue) == set()
    assert (await world.marks.find_one({}))["reported"] is True


@pytest.mark.parametrize("when", ["before its report", "after its report"])
async def test_a_publisher_who_joins_later_is_answered(queue: Queue, world: World, when: str) -> None:
    letters = await sent(queue)
    if when == "after its report":
        await queue.mark_reported(letters)
    assert await queue.insert([again(letters[0], 500)]) == [Inserted.JOINED]
    await queue.mark_reported(letters)
    (found,) = await queue.unreported(0, 10)
    # Nobody can tell whether a report that is under way comes out; it may be repeated, word for word.
    answered = {"before its report": 0, "after its report": 1}[when]
    assert (found.id, len(found.answers), found.answered) == (letters[0].id, 2, answered)
    await queue.mark_reported([found])
    assert await unreported(queue) == set()


async def test_a_joined_letter_of_a_dissolved_mark_answers_both(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await queue.insert([again(letters[0], 500)])
    other = await world.replica()
    found = {each.id: each for each in await other.unreported(0, 10 * MANY)}
    assert set(found) == ids(letters)
    joined = found[letters[0].id]
    assert (len(joined.answers), joined.answered) == (2, 0)


async def test_a_letter_that_is_joined_and_found_before_its_mark_is_dissolved_answers_both(
    queue: Queue, world: World
) -> None:
    letters = await sent(queue)
    await queue.insert([again(letters[0], 500)])
    await not_yet(world)
    other = await world.replica()
    (found,) = await other.unreported(0, 10)
    assert (found.id, len(found.answers), found.answered) == (letters[0].id, 2, 0)
    await other.mark_reported([found])
    await queue.mark_reported(letters[1:])
    assert await unreported(queue) == set()


async def test_a_publisher_who_joins_while_it_is_settled_is_answered(queue: Any, world: World) -> None:
    settlements = await taken(queue)
    first = settlements[0].letter
    letters = queue._inserter._letters
    queue._inserter._letters = FindsThen(letters, lambda: queue.settle(settlements))
    assert await queue.insert([again(first, 500)]) == [Inserted.JOINED]
    await not_yet(world)
    other = await world.replica()
    found = {each.id: each for each in await other.unreported(0, 10 * MANY)}[first.id]
    assert (len(found.answers), found.answered) == (2, 0)


async def test_late_writers_are_not_under_the_mark(queue: Queue, world: World) -> None:
    settlements = await taken(queue)
    await world.pass_time(61)
    other = await world.replica()
    assert await other.reclaim(3) == 3
    lease = await claim(other, 3)
    late = await queue.settle(settlements)
    assert late == {each.id for each in lease.letters}
    await queue.mark_reported([each.letter for each in settlements if each.letter.id not in late])
    await other.settle([Settlement(token=lease.token, letter=ended(each)) for each in lease.letters])
    assert await unreported(queue) == late


async def test_a_mark_whose_settlement_is_under_way_is_left_alone(queue: Any, world: World) -> None:
    settlements = await taken(queue)
    now = await queue._server_clock.now()
    mark = await queue._marks.begin(settlements, now)
    other = await world.replica()
    await world.pass_time(31)
    assert await unreported(other, 30) == set()
    assert await world.marks.count_documents({}) == 1
    # It comes after all, and then the process dies.
    assert await queue.settle(settlements) == frozenset()
    assert await world.marks.count_documents({"_id": mark.id}) == 1
    await world.pass_time(31)
    assert await unreported(other, 30) == {each.letter.id for each in settlements}


async def test_a_mark_whose_letters_went_to_others_is_removed(queue: Any, world: World) -> None:
    settlements = await taken(queue)
    await queue._marks.begin(settlements, await queue._server_clock.now())
    await world.pass_time(61)
    other = await world.replica()
    assert await other.reclaim(MANY) == MANY
    assert await unreported(other, 30) == set()
    assert await world.marks.count_documents({}) == 0
    assert (await queue.stats()).awaiting == MANY


async def test_a_removal_that_fails_for_another_reason_is_told(
    queue: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_query: Any) -> None:
        raise OperationFailure("interrupted", 11601)

    letters = await sent(queue)
    with monkeypatch.context() as patch:
        patch.setattr(queue._marks._marks, "delete_many", fails)
        with pytest.raises(Unavailable):
            await queue.unreported(0, MANY)
    assert await unreported(queue) == ids(letters)
    assert await world.marks.count_documents({}) == 0


async def test_only_as_much_is_dissolved_as_is_asked_for(queue: Queue, world: World) -> None:
    await sent(queue)
    await queue.insert([letter(number) for number in range(100, 100 + MANY)])
    lease = await claim(queue, MANY)
    await queue.settle([Settlement(token=lease.token, letter=ended(each)) for each in lease.letters])
    other = await world.replica()
    assert len(await other.unreported(0, MANY)) == MANY
    assert await world.marks.count_documents({}) == 1


async def test_letters_under_a_mark_are_forgotten_together(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await queue.mark_reported(letters)
    await queue.insert([again(letters[0], 500)])
    await world.pass_time(RETENTION - 60)
    assert await queue.forget() == 0
    await world.pass_time(120)
    assert await queue.forget() == MANY - 1
    assert await world.marks.count_documents({}) == 0
    # Whoever joined is still to be answered.
    (found,) = await queue.unreported(0, 10)
    assert found.id == letters[0].id
    assert await queue.insert([letter(1)]) == [Inserted.NEW]


async def test_an_unreported_mark_is_never_forgotten(queue: Queue, world: World) -> None:
    letters = await sent(queue)
    await world.pass_time(10 * RETENTION)
    assert await queue.forget() == 0
    assert await unreported(queue, 30) == ids(letters)


async def test_a_process_forgets_what_it_knew_of_marks_that_are_long_gone(queue: Any, world: World) -> None:
    letters = await sent(queue)
    other = await world.replica()
    found = await other.unreported(0, 10 * MANY)
    await other.mark_reported(found)
    for ours in queue._marks._ours.values():
        ours.at = ours.at.replace(year=2020)
    assert await unreported(queue, 30) == set()
    assert (queue._marks._ours, queue._marks._mark_of) == ({}, {})
    await queue.mark_reported(letters)
    assert await unreported(queue) == set()


async def test_an_old_mark_that_is_still_there_is_kept_in_mind(queue: Any, world: World) -> None:
    letters = await sent(queue)
    await world.pass_time(3600)
    await queue.insert([letter(number) for number in range(100, 100 + MANY)])
    lease = await claim(queue, MANY)
    later = [ended(each) for each in lease.letters]
    await queue.settle([Settlement(token=lease.token, letter=each) for each in later])
    await world.pass_time(3600)
    for ours in queue._marks._ours.values():
        ours.at = ours.at.replace(year=2020)
    assert (
        len(await queue.unreported(30, MANY)) == MANY
    )  # the first mark was dissolved, the second is as it was
    await queue.mark_reported([*letters, *later])
    assert (await world.marks.find_one({}))["reported"] is True
    assert await unreported(queue) == set()


async def test_what_is_kept_in_mind_is_bounded_and_the_sweep_finds_the_rest(
    queue: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile topic is away, and letter after letter is sent."""
    monkeypatch.setattr("mailsender.queue.mongo.marks.KEPT", 3 * MANY)
    letters: list[Letter] = []
    for turn in range(5):
        await queue.insert([letter(1000 * turn + number) for number in range(MANY)])
        lease = await claim(queue, MANY)
        outcomes = [Settlement(token=lease.token, letter=ended(each)) for each in lease.letters]
        assert await queue.settle(outcomes) == frozenset()
        letters += [each.letter for each in outcomes]
    assert len(queue._marks._mark_of) <= 3 * MANY
    found: set[str] = set()
    while batch := await queue.unreported(0, MANY):
        found |= {each.id for each in batch}
        await queue.mark_reported(batch)
    assert found == ids(letters)
    assert not queue._marks._mark_of
    assert (await queue.stats()).unreported == 0
