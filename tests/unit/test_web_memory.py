"""What is refused is let go of at once: no error keeps a body until the collector comes, which is seldom."""

from __future__ import annotations

import asyncio
import gc
import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web

from mailsender.admin.operations import ReplicaOperations
from mailsender.model.clock import SystemClock
from mailsender.queue.memory import MemoryQueue
from mailsender.web.app import make_app, serve
from tests.relays import FakeRelay
from tests.unit.test_replica import replica_over
from tests.unit.test_web import KEY

MARK = b"a body that nobody is to keep " * 100
TEXT = MARK.decode()


def of_letters(*letters: Any) -> bytes:
    return json.dumps([{"Body": TEXT, **each} for each in letters]).encode()


FORM = b"--BB\r\n"
REFUSED: list[tuple[str, str, bytes, int]] = [
    ("POST", "/post", b'[{"a": "' + MARK, 400),
    ("POST", "/post", of_letters({"Addresses": ["bad"]}), 400),
    ("POST", "/post", of_letters({"Addresses": ["a@example.org"]}), 503),
    ("POST", "/post?key=" + "k" * 2000, MARK, 400),
    ("POST", "/post?dry_run=true", b'[{"a": "' + MARK, 400),
    ("POST", "/post?dry_run=true", of_letters({"Addresses": ["bad"]}), 200),
    ("POST", "/post", MARK * 20, 413),
    ("POST", "/letters", b'{"a": "' + MARK, 400),
    ("POST", "/letters", of_letters({"Addresses": ["bad"]})[1:-1], 400),
    (
        "POST",
        "/letters?dry_run=true",
        of_letters({"Addresses": ["a@example.org"], "Template": "no"})[1:-1],
        200,
    ),
    ("POST", "/letters form", b"--BB\r\nno form " + MARK, 400),
    (
        "POST",
        "/letters form",
        b'--BB\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + MARK + b"\r\n--BB--",
        400,
    ),
    ("POST", "/lint", b'[{"a": "' + MARK, 400),
    ("POST", "/lint", MARK, 400),
    ("POST", "/lint?bulk=maybe", MARK, 400),
    ("POST", "/codes", b'{"a": "' + MARK, 400),
    ("POST", "/codes", json.dumps({"Address": "bad", "Variables": {"a": TEXT}}).encode(), 400),
    (
        "POST",
        "/codes",
        json.dumps({"Address": "a@example.org", "Template": "code", "Variables": {"a": TEXT}}).encode(),
        404,
    ),
    ("POST", "/codes/check", b'{"a": "' + MARK, 400),
    ("PUT", "/blobs/sha256:" + "0" * 64, MARK, 422),
    ("PUT", "/blobs/no-hash", MARK, 400),
    ("PUT", "/templates/welcome", b'{"a": "' + MARK, 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"welcome.txt": "{{ " + TEXT}}).encode(), 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"welcome.html": "<p " + TEXT}}).encode(), 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"other.txt": TEXT}}).encode(), 400),
    (
        "PUT",
        "/templates/welcome",
        json.dumps({"files": {"welcome.txt": "{{ 1 / 0 }}" + TEXT, "welcome.sample.json": "{}"}}).encode(),
        400,
    ),
    ("PUT", "/templates/welcome?check=maybe", json.dumps({"files": {"welcome.txt": TEXT}}).encode(), 400),
    ("POST", "/templates/hello/preview", json.dumps({"variables": {"a": TEXT * 300}}).encode(), 400),
    ("POST", "/templates/hello/preview", json.dumps({"variables": {"b": TEXT}}).encode(), 400),
    ("POST", "/templates/hello/preview", b'{"a": "' + MARK, 400),
    ("POST", "/templates/none/preview", json.dumps({"variables": {"a": TEXT}}).encode(), 404),
    ("POST", "/halt/nothing", MARK, 404),
    ("PUT", "/letters", MARK, 405),
]


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()


def left() -> list[str]:
    """What only the collector would free: frames, and what holds the mark."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [
        each for each in gc.garbage if isinstance(each, types.FrameType | BaseException | web.BaseRequest)
    ]
    texts = [
        each
        for one in gc.garbage
        for each in gc.get_referents(one)
        if (isinstance(each, bytes | bytearray) and MARK in each) or (isinstance(each, str) and TEXT in each)
    ]
    told = [repr(each)[:300] for each in found] + [f"{type(each)} of {len(each)}" for each in texts]
    gc.garbage.clear()
    return told


async def ask(port: int, method: str, path: str, body: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path, _, form = path.partition(" ")
    kind = "multipart/form-data; boundary=BB" if form else "application/json"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-KEY: {{key}}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.replace("{key}", KEY).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ", 2)[1])


@pytest.mark.asyncio
async def test_what_is_refused_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    replica = replica_over(FakeRelay(), MemoryQueue(clock), clock, monkeypatch)
    replica.state, replica.opening.text = "running", ""
    operations = ReplicaOperations(replica)
    hello = {"hello.txt": "{{ a }}"}
    await operations.templates.put("hello", hello, language="en", check=False)
    server = await serve(make_app(operations, api_key=KEY, max_bytes=50_000, timeout=30), "127.0.0.1", 0)
    kept = {}
    for method, path, body, expected in REFUSED:
        for _ in range(2):  # the first time something may be imported
            with without_collector():
                status = await ask(server.port, method, path, body)
                await asyncio.sleep(0)
                found = left()
        if found or status != expected:
            kept[method, path, body[:60]] = (status, found)
    await server.close()
    await operations.close()
    assert kept == {}
