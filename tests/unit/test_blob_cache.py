"""Contents in memory: one copy however many letters share it, and never more than the budget."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator

import pytest

from mailsender.blobs.cache import _ENTRY, BlobCache, Taken
from mailsender.blobs.memory import MemoryBlobs
from mailsender.blobs.port import Damaged
from mailsender.message.parts import Base64, encoded_size
from mailsender.model.blobs import ref_of
from mailsender.model.errors import Unavailable
from tests.clocks import ManualClock

pytestmark = pytest.mark.asyncio

A, B, C = (bytes([number]) * 50_000 for number in (1, 2, 3))
ONE = encoded_size(50_000) + _ENTRY


class Store(MemoryBlobs):
    """Counts what is read; `gate` holds readers up, `away` sends them away."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.reads: list[str] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, ref: str) -> AsyncIterator[bytes]:
        self.reads.append(ref)
        await self.gate.wait()
        if self.away:
            raise Unavailable("no primary")
        async for block in super().read(ref):
            yield block


async def stocked(*contents: bytes) -> Store:
    store = Store()
    await store.secure([], {ref_of(each): each for each in contents})
    return store


def decoded(taken: Taken, content: bytes) -> bytes:
    return b64decode(b"".join(taken.contents[ref_of(content)].pieces))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 114, 466_944, 466_945])
async def test_a_content_takes_in_a_message_what_is_foretold(size: int) -> None:
    assert Base64.of([b"x" * size]).size == encoded_size(size)


async def test_letters_with_the_same_file_share_one_copy_that_is_read_once() -> None:
    store = await stocked(A)
    cache = BlobCache(store, 10 * ONE)
    store.gate.clear()
    asked = [asyncio.create_task(cache.take([ref_of(A), ref_of(A)])) for _ in range(100)]
    await asyncio.sleep(0)
    store.gate.set()
    taken = await asyncio.gather(*asked)
    assert store.reads == [ref_of(A)]
    assert len({id(each.contents[ref_of(A)]) for each in taken}) == 1
    assert decoded(taken[0], A) == A
    assert cache.size == ONE
    for each in taken:
        cache.give_back(each)
    cache.give_back(await cache.take([ref_of(A)]))
    assert store.reads == [ref_of(A)], "it stays after the last letter"


async def test_what_was_used_longest_ago_goes_first() -> None:
    store = await stocked(A, B, C)
    cache = BlobCache(store, 2 * ONE)
    for content in (A, B, A, C, A):
        cache.give_back(await cache.take([ref_of(content)]))
        assert cache.size <= 2 * ONE
    assert store.reads == [ref_of(A), ref_of(B), ref_of(C)]


async def test_who_finds_no_room_waits_until_there_is_some() -> None:
    store = await stocked(A, B, C)
    cache = BlobCache(store, 2 * ONE)
    first, second = await cache.take([ref_of(A)]), await cache.take([ref_of(B)])
    third = asyncio.create_task(cache.take([ref_of(C)]))
    again = await cache.take([ref_of(A)])  # what is there needs no room
    cache.give_back(first)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not third.done()
    assert cache.size == 2 * ONE
    cache.give_back(again)
    assert decoded(await third, C) == C
    assert cache.size == 2 * ONE
    cache.give_back(second)


async def test_who_has_to_wait_for_room_is_told_before() -> None:
    """What it holds meanwhile may be what those need who are to make room."""
    store = await stocked(A, B, C)
    cache = BlobCache(store, ONE)
    told: list[str] = []
    first = await cache.take([ref_of(A)], lambda: told.append("first"))
    second = asyncio.create_task(cache.take([ref_of(B)], lambda: told.append("second")))
    third = asyncio.create_task(cache.take([ref_of(C)], lambda: told.append("third")))
    again = await cache.take([ref_of(A)], lambda: told.append("again"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == ["second", "third"], "the one finds no room, the other waits behind it"
    cache.give_back(first)
    cache.give_back(again)
    cache.give_back(await second)
    cache.give_back(await third)
    assert set(told) == {"second", "third"}


async def test_a_letter_that_is_larger_than_the_budget_goes_alone() -> None:
    store = await stocked(A, B, C)
    cache = BlobCache(store, ONE)
    first = await cache.take([ref_of(A)])
    large = asyncio.create_task(cache.take([ref_of(B), ref_of(C)]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not large.done()
    cache.give_back(first)
    taken = await large
    assert decoded(taken, C) == C
    assert cache.size == 2 * ONE
    cache.give_back(taken)
    cache.give_back(await cache.take([ref_of(A)]))
    assert cache.size == ONE


async def test_a_store_that_is_away_is_asked_again_by_the_next_one() -> None:
    store = await stocked(A)
    cache = BlobCache(store, 2 * ONE)
    store.away = True
    with pytest.raises(Unavailable):
        await cache.take([ref_of(A)])
    store.away = False
    assert decoded(await cache.take([ref_of(A)]), A) == A
    assert cache.size == ONE


async def test_who_gives_up_keeps_nothing_from_the_others() -> None:
    store = await stocked(A, B, C)
    cache = BlobCache(store, ONE)
    store.gate.clear()
    first = asyncio.create_task(cache.take([ref_of(A)]))
    second = asyncio.create_task(cache.take([ref_of(B)]))
    third = asyncio.create_task(cache.take([ref_of(C)]))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    store.gate.set()
    assert decoded(await asyncio.wait_for(third, 5), C) == C
    assert cache.size == ONE


async def test_what_is_not_what_it_was_is_told_from_what_cannot_be_read_now() -> None:
    store = await stocked(A, B)
    store._blobs[ref_of(A)] = (B, store._now())
    cache = BlobCache(store, 2 * ONE)
    with pytest.raises(Damaged, match="another hash"):
        await cache.take([ref_of(A)])
    with pytest.raises(Damaged, match="is not there any more"):
        await cache.take([ref_of(C)])
    assert cache.size == 0


async def test_a_damaged_content_is_there_again_once_it_is_put_again() -> None:
    store = await stocked(A, B)
    store._blobs[ref_of(A)] = (B, store._now())
    cache = BlobCache(store, 2 * ONE)
    assert await store.find(ref_of(A)) is not None, "nobody has read it yet"
    with pytest.raises(Damaged, match="another hash"):
        await cache.take([ref_of(A)])
    assert await store.find(ref_of(A)) is None
    await store.secure([], {ref_of(A): A})
    assert decoded(await cache.take([ref_of(A)]), A) == A
    assert decoded(await cache.take([ref_of(B)]), B) == B


async def test_who_waits_for_long_is_not_passed_by_those_whose_files_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thousands of letters with the same file would hold up one with another, and all that come behind it."""
    monkeypatch.setattr("mailsender.blobs.cache.PATIENCE", 0.0)
    store = await stocked(A, B, C)
    cache = BlobCache(store, ONE)
    first = await cache.take([ref_of(A)])
    large = asyncio.create_task(cache.take([ref_of(B), ref_of(C)]))
    for _ in range(5):
        await asyncio.sleep(0)
    again = asyncio.create_task(cache.take([ref_of(A)]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not again.done()
    cache.give_back(await cache.take([]))
    cache.give_back(first)
    taken = await asyncio.wait_for(large, 5)
    cache.give_back(taken)
    assert decoded(await asyncio.wait_for(again, 5), A) == A
