"""Every sentence of `CodeStore`'s docstrings."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from mailsender.codes import memory
from mailsender.codes.memory import MemoryCodeStore
from mailsender.codes.mongo import MongoCodeStore
from mailsender.codes.port import SAME, CodeStore, Kept, NewCode, Once, Verdict
from tests.clocks import ManualClock
from tests.contract.conftest import MONGO, only

pytestmark = pytest.mark.asyncio

NAME, OTHER = b"n" * 32, b"o" * 32
HASH, WRONG = b"h" * 32, b"w" * 32
LIFE, PAUSE, TRIES = 600.0, 60.0, 3
CODE = NewCode(hash=HASH, letter="6b03f03e1c3fe5165a363fce", life=LIFE)

_DATES = ("made_at", "end", "until", "expire_at")


@dataclass
class Shelf:
    """A store, and the passing of time."""

    store: CodeStore
    clock: ManualClock | None = None
    raw: Any = None

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, as far as the store can tell; nobody waits for it."""
        if self.clock is not None:
            self.clock.forward(seconds)
            return
        earlier = {name: {"$subtract": [f"${name}", int(seconds * 1000)]} for name in _DATES}
        for name, each in earlier.items():
            await self.raw.update_many({name: {"$exists": True}}, [{"$set": {name: each}}])
        at = {"$subtract": ["$$this.at", int(seconds * 1000)]}
        same = {"$map": {"input": "$same", "as": "this", "in": {"name": "$$this.name", "at": at}}}
        await self.raw.update_many({"same": {"$exists": True}}, [{"$set": {"same": same}}])

    def now(self) -> datetime:
        if self.clock is not None:
            return datetime.fromtimestamp(self.clock.epoch(), UTC)
        return datetime.now(UTC)

    async def check(self, given: bytes, name: bytes = NAME) -> Verdict:
        return await self.store.check(name, given, TRIES)


@pytest_asyncio.fixture
async def shelf(backend: str, client: Any, request: pytest.FixtureRequest) -> Shelf:
    if backend == "memory":
        clock = ManualClock()
        return Shelf(MemoryCodeStore(clock), clock)
    name = request.getfixturevalue("database")
    raw = client.get_database(name).get_collection("letters.codes")
    return Shelf(MongoCodeStore(client, database=name, collection="letters.codes"), raw=raw)


# --- codes ---------------------------------------------------------------------------------------


async def test_a_right_code_is_right_once(shelf: Shelf) -> None:
    before = shelf.now()
    kept = await shelf.store.put(NAME, CODE, PAUSE)
    assert (kept.new, kept.letter) == (True, CODE.letter)
    # The store keeps milliseconds.
    assert timedelta(seconds=-1) < kept.end - before - timedelta(seconds=LIFE) < timedelta(seconds=30)
    assert await shelf.check(HASH) is Verdict.RIGHT
    assert await shelf.check(HASH) is Verdict.OVER
    assert await shelf.check(WRONG) is Verdict.OVER


async def test_under_a_name_that_nobody_used_all_is_over(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    assert await shelf.check(HASH, OTHER) is Verdict.OVER
    assert await shelf.check(HASH) is Verdict.RIGHT


async def test_after_as_many_tries_even_the_right_one_is_of_no_use(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    assert [await shelf.check(WRONG) for _ in range(TRIES)] == [Verdict.WRONG] * TRIES
    assert await shelf.check(HASH) is Verdict.TOO_OFTEN
    assert await shelf.check(WRONG) is Verdict.TOO_OFTEN


async def test_the_last_try_may_be_the_right_one(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    assert [await shelf.check(WRONG) for _ in range(TRIES - 1)] == [Verdict.WRONG] * (TRIES - 1)
    assert await shelf.check(HASH) is Verdict.RIGHT


async def test_a_code_holds_to_its_end_and_no_longer(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    await shelf.pass_time(LIFE - 30)
    assert await shelf.check(WRONG) is Verdict.WRONG
    await shelf.pass_time(30)
    assert await shelf.check(HASH) is Verdict.OVER


async def test_of_right_ones_at_once_one_is_told_so(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    told = await asyncio.gather(*(shelf.store.check(NAME, HASH, 100) for _ in range(30)))
    assert Counter(told) == {Verdict.RIGHT: 1, Verdict.OVER: 29}


async def test_of_wrong_ones_at_once_no_more_are_tried_than_may_be(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    told = await asyncio.gather(*(shelf.check(bytes([number] * 32)) for number in range(30)))
    assert Counter(told) == {Verdict.WRONG: TRIES, Verdict.TOO_OFTEN: 30 - TRIES}


async def test_a_new_code_takes_the_place_of_the_one_before_after_the_pause(shelf: Shelf) -> None:
    first = await shelf.store.put(NAME, CODE, PAUSE)
    assert [await shelf.check(WRONG) for _ in range(TRIES)] == [Verdict.WRONG] * TRIES
    second = NewCode(hash=OTHER, letter="b" * 24, life=LIFE)
    assert await shelf.store.put(NAME, second, PAUSE) == Kept(letter=first.letter, end=first.end, new=False)
    await shelf.pass_time(PAUSE)
    kept = await shelf.store.put(NAME, second, PAUSE)
    assert (kept.new, kept.letter) == (True, "b" * 24)
    assert kept.end > first.end
    assert await shelf.check(HASH) is Verdict.WRONG, "the one before holds no more"
    assert await shelf.check(OTHER) is Verdict.RIGHT, "tries are counted anew"


async def test_a_used_code_has_a_follower_too(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    assert await shelf.check(HASH) is Verdict.RIGHT
    await shelf.pass_time(PAUSE)
    assert (await shelf.store.put(NAME, CODE, PAUSE)).new
    assert await shelf.check(HASH) is Verdict.RIGHT


async def test_of_codes_put_at_once_one_is_kept(shelf: Shelf) -> None:
    codes = [NewCode(hash=bytes([number] * 32), letter=f"{number:024x}", life=LIFE) for number in range(20)]
    kept = await asyncio.gather(*(shelf.store.put(NAME, each, PAUSE) for each in codes))
    assert [each.new for each in kept].count(True) == 1
    (letter,) = {each.letter for each in kept}
    told = [await shelf.store.check(NAME, each.hash, 100) for each in codes]
    assert told[int(letter, 16)] is Verdict.RIGHT
    assert told.count(Verdict.RIGHT) == 1


async def test_what_rests_is_what_was_put_a_moment_ago(shelf: Shelf) -> None:
    assert await shelf.store.resting(NAME, PAUSE) is None
    kept = await shelf.store.put(NAME, CODE, PAUSE)
    assert await shelf.store.resting(NAME, PAUSE) == Kept(letter=kept.letter, end=kept.end, new=False)
    assert await shelf.store.resting(OTHER, PAUSE) is None
    await shelf.pass_time(PAUSE)
    assert await shelf.store.resting(NAME, PAUSE) is None


async def test_a_code_that_is_withdrawn_is_over_and_its_follower_is_not(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    await shelf.store.withdraw(NAME, WRONG)
    await shelf.store.withdraw(OTHER, HASH)
    assert await shelf.store.resting(NAME, PAUSE) is not None
    await shelf.store.withdraw(NAME, HASH)
    assert await shelf.check(HASH) is Verdict.OVER
    assert (await shelf.store.put(NAME, CODE, PAUSE)).new, "nothing has to be waited for"


# --- counts --------------------------------------------------------------------------------------


async def test_as_many_are_counted_as_may_be_until_the_window_is_over(shelf: Shelf) -> None:
    assert [await shelf.store.take(NAME, 3, 100.0) for _ in range(3)] == [None] * 3
    wait = await shelf.store.take(NAME, 3, 100.0)
    assert wait is not None
    assert 60 < wait <= 100
    assert await shelf.store.take(OTHER, 3, 100.0) is None, "each name is counted by itself"
    await shelf.pass_time(50)
    later = await shelf.store.take(NAME, 3, 100.0)
    assert later is not None
    assert later < wait - 40, "who goes on asking makes it no longer"
    await shelf.pass_time(50)
    assert await shelf.store.take(NAME, 3, 100.0) is None


async def test_of_any_number_at_once_as_many_come_through_as_may(shelf: Shelf) -> None:
    told = await asyncio.gather(*(shelf.store.take(NAME, 7, 100.0) for _ in range(40)))
    assert told.count(None) == 7


async def test_what_came_to_nothing_is_given_back(shelf: Shelf) -> None:
    await shelf.store.give_back(NAME)
    assert [await shelf.store.take(NAME, 2, 100.0) for _ in range(2)] == [None] * 2
    await shelf.store.give_back(NAME)
    assert await shelf.store.take(NAME, 2, 100.0) is None
    assert await shelf.store.take(NAME, 2, 100.0) is not None


async def test_what_is_let_through_once_is_counted_once(shelf: Shelf) -> None:
    once, other = Once(name=HASH, pause=PAUSE), Once(name=WRONG, pause=PAUSE)
    told = await asyncio.gather(*(shelf.store.take(NAME, 2, 100.0, once) for _ in range(40)))
    assert told == [None] * 40
    assert await shelf.store.take(NAME, 2, 100.0, other) is None
    third = Once(name=OTHER, pause=PAUSE)
    for _ in range(2):
        assert await shelf.store.take(NAME, 2, 100.0, third) is not None, (
            "what was not let through is not known"
        )
    assert await shelf.store.take(NAME, 3, 100.0) is not None, "who asked in vain is counted too"
    assert await shelf.store.take(NAME, 2, 100.0, once) is None, "it was let through before"
    await shelf.pass_time(PAUSE)
    assert await shelf.store.take(NAME, 2, 100.0, once) is not None, "it is another by now"


async def test_what_was_let_through_once_is_given_back_once(shelf: Shelf) -> None:
    once = Once(name=HASH, pause=PAUSE)
    assert [await shelf.store.take(NAME, 2, 100.0, each) for each in (once, once, None)] == [None] * 3
    for _ in range(2):
        await shelf.store.give_back(NAME, once)
    assert await shelf.store.take(NAME, 2, 100.0, once) is None
    assert await shelf.store.take(NAME, 2, 100.0) is not None


async def test_a_window_that_is_over_has_let_nothing_through(shelf: Shelf) -> None:
    once = Once(name=HASH, pause=1000.0)
    assert await shelf.store.take(NAME, 1, 100.0, once) is None
    await shelf.pass_time(100)
    assert await shelf.store.take(NAME, 1, 100.0) is None
    assert await shelf.store.take(NAME, 1, 100.0, once) is not None


async def test_no_more_is_remembered_than_a_hundred(shelf: Shelf) -> None:
    many = [Once(name=bytes([number]) * 32, pause=PAUSE) for number in range(SAME + 1)]
    for once in many:
        assert await shelf.store.take(NAME, SAME + 1, 100.0, once) is None
    assert await shelf.store.take(NAME, SAME + 1, 100.0, many[1]) is None
    assert await shelf.store.take(NAME, SAME + 1, 100.0, many[0]) is not None


# --- what only one of them has --------------------------------------------------------------------


@only(*MONGO)
async def test_what_is_over_goes_by_itself_and_holds_no_plain_text(shelf: Shelf) -> None:
    await shelf.store.put(NAME, CODE, PAUSE)
    await shelf.store.take(OTHER, 1, 100.0)
    indexes = await shelf.raw.index_information()
    assert [each["expireAfterSeconds"] for each in indexes.values() if "expireAfterSeconds" in each] == [0]
    found = {each["_id"]: each async for each in shelf.raw.find({})}
    assert found[NAME]["expire_at"] == found[NAME]["end"]
    assert found[OTHER]["expire_at"] == found[OTHER]["until"]
    assert set(found[NAME]) == {
        *("_id", "hash", "letter", "tries", "used"),
        *("made_at", "end", "expire_at", "fresh"),
    }


@only(*MONGO)
async def test_a_document_that_somebody_else_wrote_is_over(shelf: Shelf) -> None:
    await shelf.raw.insert_one({"_id": NAME, "hash": HASH})
    assert await shelf.check(HASH) is Verdict.OVER
    assert (await shelf.store.put(NAME, CODE, PAUSE)).new


@only("memory")
async def test_memory_keeps_the_newest(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST", 2)
    names = [bytes([number] * 32) for number in range(3)]
    for name in names:
        await shelf.store.put(name, CODE, PAUSE)
        await shelf.store.take(name, 1, 100.0)
    assert [await shelf.check(HASH, name) for name in names] == [Verdict.OVER, *[Verdict.RIGHT] * 2]
    assert await shelf.store.take(names[2], 1, 100.0) is not None
    assert await shelf.store.take(names[0], 1, 100.0) is None
