"""Stores of blobs: each content once, kept as long as letters need it, whatever happens at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio

from mailsender.blobs.memory import MemoryBlobs
from mailsender.blobs.mongo import MongoBlobs
from mailsender.blobs.port import CHUNK, LOOK_AGAIN, UNFINISHED, BlobStore, Damaged, Overtaken
from mailsender.blobs.receive import TooLong, WrongContent, WrongOffset, receive
from mailsender.model.blobs import ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Letter, Status
from mailsender.queue.memory import MemoryQueue
from mailsender.queue.mongo.queue import MongoQueue
from mailsender.queue.port import Queue
from tests.clocks import ManualClock
from tests.contract.conftest import MONGO, letter, only, send_one

pytestmark = pytest.mark.asyncio

KEPT, REMEMBERED = 1000.0, 10_000.0
SMALL, LARGE = b"%PDF \xff\x00", bytes(range(256)) * (CHUNK // 100)


@dataclass
class Shelf:
    """A store beside a queue, and the passing of time."""

    make: Callable[[], BlobStore]
    store: BlobStore
    queue: Queue
    clock: ManualClock | SystemClock
    database: Any = None

    async def pass_time(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.forward(seconds)
            return
        earlier = {"$subtract": ["$kept_until", int(seconds * 1000)]}
        await self.files.update_many({}, [{"$set": {"kept_until": earlier}}])

    @property
    def files(self) -> Any:
        return self.database.get_collection("letters.blobs.files")

    @property
    def chunks(self) -> Any:
        return self.database.get_collection("letters.blobs.chunks")

    async def read(self, ref: str) -> bytes:
        return b"".join([block async for block in self.store.read(ref)])

    async def put(self, content: bytes, **how: Any) -> str:
        return (await receive(self.store, blocks(content), limit=10**8, **how)).ref


@pytest_asyncio.fixture
async def shelf(backend: str, client: Any, request: pytest.FixtureRequest) -> Shelf:
    if backend == "memory":
        clock = ManualClock()
        letters = MemoryQueue(clock)
        stored = MemoryBlobs(clock, KEPT, letters.names)
        return Shelf(lambda: stored, stored, letters, clock)
    name, system = request.getfixturevalue("database"), SystemClock()
    common: dict[str, Any] = {"database": name, "collection": "letters", "clock": system, "timeout": 10.0}

    def make() -> BlobStore:
        return MongoBlobs(client, retention=KEPT, **common)

    queue, store = MongoQueue(client, retention=REMEMBERED, **common), make()
    await queue.open()
    await store.open()
    return Shelf(make, store, queue, system, client.get_database(name))


async def blocks(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def broken(content: bytes) -> AsyncIterator[bytes]:
    """A body whose sender is gone in the middle."""
    async for block in blocks(content):
        yield block
    raise ConnectionResetError


def naming(ref: str, number: int = 0, **more: Any) -> Letter:
    return letter(number, mail=f'{{"Attachments":[{{"Name":"a","Ref":"{ref}"}}]}}', **more)


# --- contents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", SMALL, b"x" * CHUNK, b"x" * (CHUNK + 1), LARGE, LARGE * 4])
async def test_a_content_comes_back_as_it_was_put(shelf: Shelf, content: bytes) -> None:
    ref = await shelf.put(content)
    assert ref == f"sha256:{sha256(content).hexdigest()}" == ref_of(content)
    found = await shelf.store.find(ref)
    assert found is not None
    assert (found.ref, found.size) == (ref, len(content))
    left = found.kept_until.timestamp() - shelf.clock.epoch()
    assert KEPT - 5 < left <= KEPT + 5
    assert await shelf.read(ref) == content


async def test_the_same_content_is_there_once_whoever_puts_it(shelf: Shelf) -> None:
    stores = [shelf.store, shelf.make()]
    found = await asyncio.gather(
        *(receive(stores[each % 2], blocks(LARGE), limit=10**8) for each in range(6)),
        *(stores[each % 2].secure([], {ref_of(LARGE): LARGE}) for each in range(6)),
    )
    assert {each.ref for each in found[:6]} == {ref_of(LARGE)}  # type: ignore[union-attr]
    assert found[6:] == [{ref_of(LARGE): len(LARGE)}] * 6
    assert await shelf.read(ref_of(LARGE)) == LARGE
    if shelf.database is not None:
        assert await shelf.files.count_documents({}) == 1
        assert await shelf.chunks.count_documents({}) == -(-len(LARGE) // CHUNK)


async def test_what_is_secured_is_told_with_its_size_and_what_is_missing_is_not(shelf: Shelf) -> None:
    there = await shelf.put(SMALL)
    contents = {ref_of(each): each for each in (b"", b"new", LARGE)}
    missing = ref_of(b"missing")
    found = await shelf.store.secure([there, missing, *contents], contents)
    assert found == {there: len(SMALL), **{ref: len(each) for ref, each in contents.items()}}
    assert await shelf.read(ref_of(LARGE)) == LARGE
    assert await shelf.store.find(missing) is None
    with pytest.raises(Damaged):
        await shelf.read(missing)


async def test_a_batch_of_many_small_ones_takes_a_few_round_trips(shelf: Shelf) -> None:
    contents = {ref_of(each): each for each in (f"{number}".encode() for number in range(300))}
    assert await shelf.store.secure([], contents) == {ref: len(each) for ref, each in contents.items()}
    assert await shelf.read(ref_of(b"299")) == b"299"


async def test_a_content_that_is_too_long_is_not_kept(shelf: Shelf) -> None:
    with pytest.raises(TooLong):
        await receive(shelf.store, blocks(LARGE), limit=len(LARGE) - 1)
    assert await shelf.store.find(ref_of(LARGE)) is None
    if shelf.database is not None:
        assert await shelf.chunks.count_documents({}) == await shelf.files.count_documents({}) == 0


async def test_it_is_known_how_much_is_stored(shelf: Shelf) -> None:
    before = await shelf.store.stored()
    await shelf.put(LARGE)
    upload = await shelf.store.append(await shelf.store.begin(), b"x" * CHUNK)
    more = await shelf.store.stored() - before
    assert len(LARGE) + CHUNK <= more < (len(LARGE) + CHUNK) * 1.01
    await shelf.store.drop(upload)
    assert await shelf.store.stored() - before < len(LARGE) * 1.01


# --- uploads that are resumed --------------------------------------------------------------------


async def test_an_upload_that_broke_off_goes_on_where_it_was(shelf: Shelf) -> None:
    ref, content = ref_of(LARGE), LARGE
    with pytest.raises(ConnectionResetError):
        await receive(shelf.store, broken(content[: CHUNK * 2 + 5000]), limit=10**8, ref=ref)
    assert await shelf.store.find(ref) is None
    there = await shelf.store.resumable(ref)
    assert there == CHUNK * 2
    assert await shelf.put(content[there:], ref=ref, offset=there) == ref
    assert await shelf.read(ref) == content
    assert await shelf.store.resumable(ref) == 0


@pytest.mark.parametrize("offset", [1, CHUNK, CHUNK * 3])
async def test_it_goes_on_nowhere_else(shelf: Shelf, offset: int) -> None:
    ref = ref_of(LARGE)
    with pytest.raises(ConnectionResetError):
        await receive(shelf.store, broken(LARGE[: CHUNK * 2]), limit=10**8, ref=ref)
    with pytest.raises(WrongOffset) as told:
        await shelf.put(LARGE[offset:], ref=ref, offset=offset)
    assert told.value.size == CHUNK * 2
    with pytest.raises(WrongOffset) as told:
        await shelf.put(b"x", ref=ref_of(b"never begun"), offset=CHUNK)
    assert told.value.size == 0


async def test_a_content_with_another_hash_is_not_kept(shelf: Shelf) -> None:
    ref = ref_of(LARGE)
    with pytest.raises(ConnectionResetError):
        await receive(shelf.store, broken(LARGE[:CHUNK]), limit=10**8, ref=ref)
    with pytest.raises(WrongContent, match="its hash is sha256:"):
        await shelf.put(LARGE[CHUNK:-1], ref=ref, offset=CHUNK)
    assert await shelf.store.find(ref) is None
    assert await shelf.store.resumable(ref) == 0


async def test_whoever_resumes_an_upload_has_it_for_himself(shelf: Shelf) -> None:
    ref = ref_of(LARGE)
    first = await shelf.store.append(await shelf.store.begin(ref), LARGE[:CHUNK])
    second = await shelf.store.resume(ref)
    assert second is not None
    assert second.size == CHUNK
    with pytest.raises(Overtaken):
        await shelf.store.finish(first, ref)
    await shelf.store.drop(first)
    assert await shelf.put(LARGE[CHUNK:], ref=ref, offset=CHUNK) == ref
    assert await shelf.read(ref) == LARGE


async def test_two_who_write_the_same_upload_make_no_mixture_of_it(shelf: Shelf) -> None:
    ref = ref_of(LARGE)
    first = await shelf.store.append(await shelf.store.begin(ref), LARGE[:CHUNK])
    second = await shelf.store.resume(ref)
    assert second is not None
    both = [(first, b"\0" * CHUNK), (second, LARGE[CHUNK : 2 * CHUNK])]
    found = await asyncio.gather(*(shelf.store.append(*each) for each in both), return_exceptions=True)
    assert sum(isinstance(each, Overtaken) for each in found) == 1
    await shelf.store.drop(second)
    assert await shelf.put(LARGE) == ref
    assert await shelf.read(ref) == LARGE


async def test_a_last_step_that_failed_is_taken_again(shelf: Shelf) -> None:
    """The end of the content, which is no whole chunk, was stored and the reply to the step after it lost."""
    ref = ref_of(LARGE)
    upload = await shelf.store.begin(ref)
    for start in range(0, len(LARGE), CHUNK):
        upload = await shelf.store.append(upload, LARGE[start : start + CHUNK])
    there = await shelf.store.resumable(ref)
    assert there == len(LARGE) // CHUNK * CHUNK
    assert await shelf.put(LARGE[there:], ref=ref, offset=there) == ref
    assert await shelf.read(ref) == LARGE


async def test_to_finish_twice_is_harmless(shelf: Shelf) -> None:
    upload = await shelf.store.append(await shelf.store.begin(), SMALL)
    first = await shelf.store.finish(upload, ref_of(SMALL))
    second = await shelf.store.finish(upload, ref_of(SMALL))
    assert (first.ref, first.size) == (second.ref, second.size)
    assert await shelf.read(ref_of(SMALL)) == SMALL


# --- how long they are kept ----------------------------------------------------------------------


async def test_what_no_letter_names_goes_after_its_time(shelf: Shelf) -> None:
    ref = await shelf.put(LARGE)
    await shelf.pass_time(KEPT - 10)
    assert await shelf.store.sweep(10) == 0
    await shelf.put(SMALL)
    await shelf.pass_time(20)
    assert await shelf.store.sweep(10) == 1
    assert await shelf.store.find(ref) is None
    assert await shelf.read(ref_of(SMALL)) == SMALL
    if shelf.database is not None:
        assert await shelf.files.count_documents({}) == await shelf.chunks.count_documents({}) == 1


async def test_to_put_it_again_or_to_name_it_keeps_it_for_longer(shelf: Shelf) -> None:
    again, secured, swept = [await shelf.put(each) for each in (SMALL, LARGE, b"swept")]
    await shelf.pass_time(KEPT / 2)
    await shelf.put(SMALL)
    await shelf.store.secure([secured], {})
    await shelf.pass_time(KEPT / 2 + 10)
    assert await shelf.store.sweep(10) == 1
    assert await shelf.store.find(swept) is None
    assert await shelf.read(again) == SMALL
    assert await shelf.read(secured) == LARGE


async def test_what_a_letter_names_stays_until_the_letter_goes(shelf: Shelf) -> None:
    """Waiting, on its way, sent: as long as the queue has it, and whoever else named the blob before."""
    ref = await shelf.put(SMALL)
    await shelf.queue.insert([naming(ref)])
    for step in ("waiting", "sent"):
        await shelf.pass_time(KEPT + LOOK_AGAIN.total_seconds())
        assert await shelf.store.sweep(10) == 0, step
        assert await shelf.read(ref) == SMALL
        if step == "waiting":
            await send_one(shelf.queue)
    if shelf.database is not None:
        await shelf.database.get_collection("letters").delete_many({})
    else:
        shelf.queue._entries.clear()  # type: ignore[attr-defined]
    assert await shelf.store.sweep(10) == 0, "it is looked at again later"
    await shelf.pass_time(REMEMBERED + LOOK_AGAIN.total_seconds())
    assert await shelf.store.sweep(10) == 1
    assert await shelf.store.find(ref) is None


@only(*MONGO)
async def test_a_letter_that_ended_is_not_looked_for_before_it_goes(shelf: Shelf) -> None:
    """Else those who look would be kept busy by all files of a month, and come to nothing."""
    ref = await shelf.put(SMALL)
    await shelf.queue.insert([naming(ref)])
    await send_one(shelf.queue)
    await shelf.pass_time(KEPT + 1)
    assert await shelf.store.sweep(10) == 0
    found = await shelf.store.find(ref)
    assert found is not None
    assert found.kept_until.timestamp() - shelf.clock.epoch() > REMEMBERED - 60


@only(*MONGO)
async def test_what_nobody_names_goes_from_behind_many_that_letters_name(shelf: Shelf) -> None:
    contents = {ref_of(each): each for each in (f"{number}".encode() for number in range(50))}
    await shelf.store.secure([], contents)
    await shelf.queue.insert([naming(ref, number) for number, ref in enumerate(contents)])
    await shelf.pass_time(1)
    ref = await shelf.put(SMALL)
    await shelf.pass_time(KEPT + 10)
    assert await shelf.store.sweep(20) == 1
    assert await shelf.store.find(ref) is None


@only(*MONGO)
async def test_a_letter_that_is_an_error_from_the_start_keeps_nothing(shelf: Shelf) -> None:
    ref = await shelf.put(SMALL)
    await shelf.queue.insert([naming(ref, status=Status.ERROR, reason="too large")])
    await shelf.pass_time(KEPT + 1)
    assert await shelf.store.sweep(10) == 1


async def test_uploads_that_nobody_ends_go(shelf: Shelf) -> None:
    upload = await shelf.store.append(await shelf.store.begin(ref_of(LARGE)), LARGE[:CHUNK])
    await shelf.pass_time((UNFINISHED - timedelta(minutes=1)).total_seconds())
    assert await shelf.store.sweep(10) == 0
    await shelf.pass_time(120)
    assert await shelf.store.sweep(10) == 1
    assert await shelf.store.resumable(ref_of(LARGE)) == 0
    with pytest.raises(Overtaken):
        await shelf.store.finish(upload, ref_of(LARGE))
    if shelf.database is not None:
        assert await shelf.chunks.count_documents({}) == 0


async def test_a_sweep_looks_at_so_many_and_comes_to_all(shelf: Shelf) -> None:
    contents = {ref_of(each): each for each in (bytes([number]) for number in range(25))}
    await shelf.store.secure([], contents)
    await shelf.pass_time(KEPT + 1)
    assert [await shelf.store.sweep(10) for _ in range(4)] == [10, 10, 5, 0]


# --- a sweep and a letter at the same moment -----------------------------------------------------


async def test_no_sweep_takes_what_a_letter_names_however_they_race(shelf: Shelf) -> None:
    """A blob whose time is over, a sweep, and an intake that secures it and inserts, or finds it gone."""
    other, outcomes = shelf.make(), set()
    await other.open()
    for number in range(60):
        content = f"{number}".encode() * 100
        ref = await shelf.put(content)
        await shelf.pass_time(KEPT + 1)

        async def intake(ref: str = ref, number: int = number) -> bool:
            for _ in range(number % 5):
                await asyncio.sleep(0)
            if ref not in await other.secure([ref], {}):
                return False
            await shelf.queue.insert([naming(ref, number)])
            return True

        named, swept = await asyncio.gather(intake(), shelf.store.sweep(100))
        assert named is not bool(swept), "one of the two has it"
        outcomes.add(named)
        if named:
            assert await shelf.read(ref) == content
    await shelf.pass_time(KEPT + LOOK_AGAIN.total_seconds())
    assert await shelf.store.sweep(1000) == 0, "all that are left have letters"
    if shelf.database is None:
        assert outcomes == {True, False}


@only(*MONGO)
async def test_what_is_secured_between_a_sweeps_look_and_its_step_stays(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await shelf.put(SMALL)
    await shelf.pass_time(KEPT + 1)
    look, other = MongoBlobs._named, shelf.make()

    async def look_and_be_late(store: MongoBlobs, name: str) -> Any:
        found = await look(store, name)
        assert await other.secure([ref], {}) == {ref: len(SMALL)}
        await shelf.queue.insert([naming(ref)])
        return found

    monkeypatch.setattr(MongoBlobs, "_named", look_and_be_late)
    assert await shelf.store.sweep(10) == 0
    assert await shelf.read(ref) == SMALL


@only(*MONGO)
async def test_what_is_stored_again_while_it_is_swept_is_there(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep has taken its name away, and dies before the chunks are gone."""
    ref = await shelf.put(LARGE)
    await shelf.pass_time(KEPT + 1)

    async def dies(*_: Any) -> None:
        raise Unavailable("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(MongoBlobs, "_remove", dies)
        with pytest.raises(Unavailable):
            await shelf.store.sweep(10)
    assert await shelf.store.secure([ref], {}) == {}
    assert await shelf.store.secure([ref], {ref: LARGE}) == {ref: len(LARGE)}
    assert await shelf.store.sweep(10) == 1
    assert await shelf.read(ref) == LARGE
    assert await shelf.chunks.count_documents({}) == -(-len(LARGE) // CHUNK)


@only(*MONGO)
async def test_any_program_for_gridfs_can_read_it(shelf: Shelf, request: pytest.FixtureRequest) -> None:
    from gridfs import GridFSBucket
    from pymongo import MongoClient

    ref = await shelf.put(LARGE)
    with MongoClient[dict[str, Any]](request.getfixturevalue("mongod").uri) as client:
        bucket = GridFSBucket(client[request.getfixturevalue("database")], bucket_name="letters.blobs")
        assert bucket.open_download_stream_by_name(ref).read() == LARGE


@only(*MONGO)
async def test_what_somebody_took_a_part_of_is_damaged(shelf: Shelf) -> None:
    ref = await shelf.put(LARGE)
    await shelf.chunks.delete_one({"n": 1})
    with pytest.raises(Damaged):
        await shelf.read(ref)


async def test_what_is_as_it_was_stays(shelf: Shelf) -> None:
    for content in (SMALL, LARGE, b""):
        ref = await shelf.put(content)
        assert await shelf.store.verify(ref)
        assert await shelf.read(ref) == content
    assert not await shelf.store.verify(ref_of(b"never put"))


@only(*MONGO)
@pytest.mark.parametrize("how", ["a chunk is gone", "a chunk is another", "its length is another"])
async def test_what_is_damaged_is_forgotten_and_can_be_put_again(shelf: Shelf, how: str) -> None:
    ref, other = await shelf.put(LARGE), await shelf.put(SMALL)
    file = await shelf.files.find_one({"filename": ref})
    chunk = {"files_id": file["_id"], "n": 1}
    if how == "a chunk is gone":
        await shelf.chunks.delete_one(chunk)
    elif how == "a chunk is another":
        await shelf.chunks.update_one(chunk, {"$set": {"data": bytes(CHUNK)}})
    else:
        await shelf.files.update_one({"filename": ref}, {"$inc": {"length": -1}})
    assert not await shelf.store.verify(ref)
    assert await shelf.store.find(ref) is None
    assert await shelf.chunks.count_documents({"files_id": file["_id"]}) == 0
    assert await shelf.put(LARGE) == ref
    assert await shelf.read(ref) == LARGE
    assert await shelf.store.verify(other), "the other one is let alone"
