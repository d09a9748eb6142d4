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
    ("POST", "/post?dry_run=true", b'[{"a": "' + MARK, 400),
    ("POST", "/post?dry_run=true", of_letters({"Addresses": ["bad"]}), 200),
    ("POST", "/post", MARK * 400, 413),
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
    ("PUT", "/templates/welcome", b'{"a": "' + MARK, 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"welcome.txt": "{{ " + TEXT}}).encode(), 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"welcome.html": "<p " + TEXT}}).encode(), 400),
    ("PUT", "/templates/welcome", json.dumps({"files": {"other.txt": TEXT}}).encode(), 400),
    (
        "PUT",
        "/templates/welcome",
        json.dumps(
            {"files": {"welcome.txt": "{{ 1 / 0 }}", "welcome.sample.json": json.dumps({"a": TEXT})}}
        ).encode(),
        400,
    ),
    ("PUT", "/templates/welcome?check=maybe", json.dumps({"files": {"welcome.txt": TEXT}}).encode(), 400),
    ("POST", "/templates/hello/preview", json.dumps({"variables": {"a": TEXT * 300}}).encode(), 400),
    ("POST", "/templates/hello/preview", json.dumps({"variables": {"b": TEXT}}).encode(), 400),
    ("POST", "/templates/hello/preview", b'{"a": "' + MARK, 400),
    ("POST", "/templates/none/preview", json.dumps({"variables": {"a": TEXT}}).encode(), 404),
    ("POST", "/halt/nothing", b"", 404),
    ("PUT", "/letters", b"", 405),
]


@contextmanager
def without_collector() -> Iterator[None]:
    """What there is now is passed over, which is most of what each look would take time for."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def left() -> list[str]:
    """What only the collector would free: frames, and what holds the mark."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [each for each in gc.garbage if isinstance(each, types.FrameType | web.BaseRequest)]
    texts = [
        each
        for one in gc.garbage
        for each in gc.get_referents(one)
        if each is not MARK
        and ((isinstance(each, bytes) and MARK in each) or (isinstance(each, str) and TEXT in each))
    ]
    told = [repr(each)[:300] for each in found] + [f"{type(each)} of {len(each)}" for each in texts]
    del found, texts
    gc.garbage.clear()
    gc.collect()
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
    server = await serve(make_app(operations, api_key=KEY, max_bytes=1_000_000, timeout=30), "127.0.0.1", 0)
    kept = {}
    with without_collector():
        for method, path, body, expected in REFUSED:
            status = await ask(server.port, method, path, body)
            found = left()
            if found or status != expected:
                kept[method, path, body[:60]] = (status, found)
    await server.close()
    await operations.close()
    assert kept == {}
