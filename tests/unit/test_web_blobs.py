"""Blobs over a real socket: put, found, resumed, and every refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from mailsender.blobs.memory import MemoryBlobs
from mailsender.blobs.port import CHUNK
from mailsender.blobs.receive import receive
from mailsender.model.blobs import Blob, ref_of
from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.web import blobs as module
from mailsender.web.app import make_app, serve
from mailsender.web.endpoints.table import moves_file
from mailsender.web.operations import Operations, Refused
from tests.dispatching import until
from tests.unit.test_contracts import check
from tests.unit.test_web import KEY, Client, Played, problem

pytestmark = pytest.mark.asyncio

CONTENT = bytes(range(256)) * 3000
REF = ref_of(CONTENT)
MOST = 1_000_000


@dataclass
class Shelf:
    """`Blobs` over a store in memory; `held` are uploads that wait to be let go on."""

    store: MemoryBlobs = field(default_factory=lambda: MemoryBlobs(SystemClock()))
    refusal: Exception | None = None
    hold: asyncio.Event | None = None
    under_way: int = 0

    async def put(self, blocks: AsyncIterable[bytes], ref: str = "", offset: int = 0) -> Blob:
        if self.refusal:
            raise self.refusal
        self.under_way += 1
        if self.hold is not None:
            await self.hold.wait()
        return await receive(self.store, blocks, limit=MOST, ref=ref, offset=offset)

    async def keep(self, ref: str) -> Blob | None:
        return await self.find(ref) if await self.store.secure([ref], {}) else None

    async def find(self, ref: str) -> Blob | None:
        if self.refusal:
            raise self.refusal
        return await self.store.find(ref)

    async def resumable(self, ref: str) -> int:
        return await self.store.resumable(ref)


@dataclass
class Service(Played):
    """The played service, with a shelf."""

    blobs: Shelf = field(default_factory=Shelf)


@asynccontextmanager
async def serving(operations: Operations, timeout: float = 5) -> AsyncIterator[Client]:
    app = make_app(operations, api_key=KEY, max_bytes=10_000, timeout=timeout, max_blob=MOST)
    server = await serve(app, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield Client(session, server.port)
    finally:
        await server.close()


async def slowly(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]
        await asyncio.sleep(0)


async def broken_off(client: Client, path: str, content: bytes, announced: int) -> None:
    """A caller who announces more than it sends, and hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nX-API-KEY: {KEY}\r\nContent-Length: {announced}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    writer.write_eof()
    await reader.read()
    writer.close()


async def test_a_content_is_put_once_and_found_by_its_name() -> None:
    service = Service()
    async with serving(service) as client:
        for body in (CONTENT, slowly(CONTENT)):  # announced, or in chunks
            status, _, text = await client.ask("PUT", "/blobs", data=body)
            assert status == 200, text
            check("/blobs", "PUT", status, {"Content-Type": "application/json"}, text)
            answer = json.loads(text)
            assert (answer["ref"], answer["bytes"]) == (REF, len(CONTENT))
        status, headers, text = await client.ask("GET", f"/blobs/{REF}")
        check("/blobs/{ref}", "GET", status, headers, text)
        assert (status, json.loads(text)) == (200, answer | {"kept_until": json.loads(text)["kept_until"]})
        status, _, text = await client.ask("HEAD", f"/blobs/{REF}")
        assert (status, text) == (200, "")
    assert len(service.blobs.store._blobs) == 1


async def test_what_is_there_is_not_sent_again() -> None:
    service = Service()
    await service.blobs.store.secure([], {REF: CONTENT})
    async with serving(service) as client:
        asked = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal asked
            asked += 1
            yield CONTENT

        status, _, text = await client.ask("PUT", f"/blobs/{REF}", data=body(), expect100=True)
    assert (status, json.loads(text)["ref"]) == (200, REF)
    assert service.blobs.under_way == asked == 0


async def test_an_upload_that_broke_off_is_resumed_from_what_is_there() -> None:
    service = Service()
    async with serving(service) as client:
        await broken_off(client, f"/blobs/{REF}", CONTENT[: 2 * CHUNK + 1000], len(CONTENT))
        store = service.blobs.store
        await until(lambda: any(each.size == 2 * CHUNK for each in store._uploads.values()))
        answer = await client.ask("GET", f"/blobs/{REF}")
        check("/blobs/{ref}", "GET", *answer)
        assert problem(answer)["status"] == 404
        there = int(answer[1]["Upload-Offset"])
        assert there == 2 * CHUNK
        wrong = {"Content-Range": f"bytes {CHUNK}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        answer = await client.ask("PUT", f"/blobs/{REF}", data=CONTENT[CHUNK:], headers=wrong)
        check("/blobs/{ref}", "PUT", *answer)
        assert (problem(answer)["reason"], answer[1]["Upload-Offset"]) == ("wrong-offset", str(there))
        right = {"Content-Range": f"bytes {there}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        status, _, text = await client.ask("PUT", f"/blobs/{REF}", data=CONTENT[there:], headers=right)
        assert (status, json.loads(text)["bytes"]) == (200, len(CONTENT))
    assert service.blobs.store._blobs[REF][0] == CONTENT


async def test_another_content_than_was_announced_is_refused() -> None:
    service = Service()
    async with serving(service) as client:
        answer = await client.ask("PUT", f"/blobs/{REF}", data=b"another")
        check("/blobs/{ref}", "PUT", *answer)
        assert problem(answer)["reason"] == "wrong-content"
        assert answer[0] == 422
        assert (await client.ask("GET", f"/blobs/{REF}"))[1]["Upload-Offset"] == "0"


@pytest.mark.parametrize("body", [b"x" * (MOST + 1), slowly(b"x" * (MOST + 1))], ids=["announced", "chunked"])
async def test_one_that_is_too_large_is_refused(body: bytes | AsyncIterator[bytes]) -> None:
    async with serving(Service()) as client:
        answer = await client.ask("PUT", "/blobs", data=body)
    told = problem(answer)
    assert (told["status"], told["reason"]) == (413, "too-large")
    assert "1000000 bytes (BLOB_MAX_BYTES)" in told["detail"]


@pytest.mark.parametrize(
    ("path", "headers", "reason"),
    [
        ("/blobs/sha256:xyz", {}, "bad-ref"),
        (f"/blobs/{REF.upper()}", {}, "bad-ref"),
        (f"/blobs/{REF}", {"Content-Range": "bytes 5-4/5"}, "bad-range"),
        (f"/blobs/{REF}", {"Content-Range": "bytes 0-1/9"}, "bad-range"),
        (f"/blobs/{REF}", {"Content-Range": "bytes 5-99/100"}, "bad-range"),
        (f"/blobs/{REF}", {"Content-Range": "items 0-4/5"}, "bad-range"),
        ("/blobs", {"Content-Range": "bytes 0-4/5"}, "bad-range"),
        ("/blobs", {"Content-Encoding": "gzip"}, "compressed"),
    ],
)
async def test_what_cannot_be_meant_is_refused(path: str, headers: dict[str, str], reason: str) -> None:
    service = Service()
    async with serving(service) as client:
        answer = await client.ask("PUT", path, data=b"12345", headers=headers)
    check("/blobs" if path == "/blobs" else "/blobs/{ref}", "PUT", *answer)
    assert problem(answer)["reason"] == reason
    assert service.blobs.under_way == 0


async def test_a_name_that_is_none_names_nothing() -> None:
    async with serving(Service()) as client:
        answer = await client.ask("GET", "/blobs/42")
        check("/blobs/{ref}", "GET", *answer)
        assert problem(answer)["status"] == 404
        assert problem(await client.ask("GET", f"/blobs/{REF}", key="wrong"))["status"] == 401


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused("draining", "no more", retry_after=5), "draining"),
        (Unavailable("no primary"), "unavailable"),
    ],
)
async def test_when_nothing_can_be_taken_it_says_when_to_come_again(error: Exception, reason: str) -> None:
    service = Service()
    service.blobs.refusal = error
    async with serving(service) as client:
        answer = await client.ask("PUT", "/blobs", data=CONTENT)
    check("/blobs", "PUT", *answer)
    assert (problem(answer)["status"], problem(answer)["reason"]) == (503, reason)
    assert answer[1]["Retry-After"] == "5"


async def test_there_are_so_many_uploads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UPLOADS", 2)
    service = Service()
    service.blobs.hold = asyncio.Event()
    async with serving(service) as client:
        held = [asyncio.create_task(client.ask("PUT", "/blobs", data=CONTENT)) for _ in range(2)]
        await until(lambda: service.blobs.under_way == 2)
        assert problem(await client.ask("PUT", "/blobs", data=b"x"))["reason"] == "busy"
        service.blobs.hold.set()
        assert [each[0] for each in await asyncio.gather(*held)] == [200, 200]
        assert (await client.ask("PUT", "/blobs", data=b"x"))[0] == 200


async def test_a_body_that_does_not_go_on_is_given_up() -> None:
    async def stops() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await asyncio.Event().wait()

    async with serving(Service(), timeout=0.3) as client:
        answer = await client.ask("PUT", "/blobs", data=stops())
    assert problem(answer)["status"] == 408


async def test_uploads_alone_have_more_time_than_other_requests() -> None:
    assert moves_file("PUT", "/blobs")
    assert moves_file("PUT", f"/blobs/{REF}")
    assert not moves_file("GET", f"/blobs/{REF}")
    assert not moves_file("POST", "/post")
