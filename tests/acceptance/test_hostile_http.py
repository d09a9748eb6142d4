"""Strangers who reach HTTP: letters go out all the same, and memory and the loop stay within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiosmtpd.controller import Controller

import mailsender
from lab.vitals import slower
from mailsender.dev.kafka import MockBroker
from mailsender.dev.process import Child, free_port

MOST_MEMORY = 256 * 1024
"""KiB."""

LONGEST_TURN = 0.1
"""Seconds of work of the loop without a turn for others."""

SECONDS = 8.0
"""For how long each kind of stranger goes on."""

FILES = 256
MEGABYTE = 1_000_000


class Mailbox:
    """A relay that takes everything, and keeps the subjects."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        head, _, _ = envelope.content.partition(b"\r\n\r\n")
        self.subjects += [line[9:].decode() for line in head.split(b"\r\n") if line.startswith(b"Subject: ")]
        return "250 taken"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield box, controller.port
    controller.stop()


@pytest.fixture
def service(mailbox: tuple[Mailbox, int], tmp_path: Path) -> Iterator[tuple[Child, int]]:
    """A service over a queue in memory that may open 256 files, and its port."""
    broker = MockBroker(tmp_path)
    broker.start()
    broker.ensure_topics(["in", "out", "dead"])
    port, child = free_port(), Child("service", tmp_path)
    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(mailsender.__file__).parent.parent),
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(mailbox[1]),
        "SMTP_TLS": "none",
        "SMTP_FROM": "sender@example.test",
        "SMTP_RATE_LIMIT_MAX_LETTERS": "0",
        "KAFKA_BROKERS": broker.bootstrap,
        "KAFKA_TOPIC_MAILSENDER": "in",
        "KAFKA_TOPIC_PROFILE": "out",
        "KAFKA_TOPIC_DEAD_LETTER": "dead",
        "MONGODB_URI": "memory:",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "LOG_FORMAT": "json",
    }
    child.start(["sh", "-c", f"ulimit -n {FILES}; exec {sys.executable} -m mailsender run"], env=settings)
    try:
        child.until(lambda: ready(port), 40)
        yield child, port
    finally:
        child.stop()
        broker.stop()


def ready(port: int) -> bool:
    from mailsender.cli.health import probe

    return not probe(port, ready=True)


def peak(pid: int) -> int:
    """The most memory that a process ever had, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


async def opened(port: int, said: Sequence[bytes], *, pause: float = 0.0) -> None:
    """One connection that says something, bit by bit, and hears until it is ended or time is over."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for part in said:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
                while await reader.read(65536):
                    pass
            finally:
                writer.close()


async def idle(port: int) -> None:
    await asyncio.gather(*(opened(port, []) for _ in range(400)))


async def heads(port: int) -> None:
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(60))
    await asyncio.gather(*(opened(port, [head]) for _ in range(200)))


async def behind_a_request(port: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n"
    head = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(60))
    await asyncio.gather(*(opened(port, [request + head]) for _ in range(200)))


async def slow_bodies(port: int) -> None:
    head = b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MEGABYTE
    await asyncio.gather(*(opened(port, [head, *[b"x" * 9000] * 110], pause=0.1) for _ in range(150)))


async def unread(port: int) -> None:
    async def never_reads() -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
            await asyncio.sleep(SECONDS)
            writer.close()

    await asyncio.gather(*(never_reads() for _ in range(100)))


def batches(body: bytes) -> Callable[[int], Awaitable[None]]:
    async def posted(port: int) -> None:
        head = b"POST /post HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        for _ in range(2):
            await asyncio.gather(*(opened(port, [head + body]) for _ in range(8)))

    return posted


def of(element: object) -> bytes:
    text = json.dumps(element, separators=(",", ":"))
    return ("[" + ",".join([text] * ((MEGABYTE - 2) // (len(text) + 1))) + "]").encode()


STRANGERS: dict[str, Callable[[int], Awaitable[None]]] = {
    "who only connect": idle,
    "with heads without end": heads,
    "with heads behind a request": behind_a_request,
    "with slow bodies": slow_bodies,
    "who do not read": unread,
    "with a batch of nothing": batches(of({})),
    "with a batch of numbers": batches(of(1)),
    "with a batch of bad addresses": batches(of({"Addresses": ["@"] * 1000})),
    "with a batch of many keys": batches(of({f"key{n}": n for n in range(1000)})),
    "with a batch of one deep letter": batches(b'[{"Token":' + b"[" * 499_000 + b"]" * 499_000 + b"}]"),
}


@contextlib.asynccontextmanager
async def watched(port: int, answered: list[float]) -> AsyncIterator[None]:
    """Asks for life all the time; notes how long each answer took."""

    async def ask() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                began = time.monotonic()
                with contextlib.suppress(aiohttp.ServerDisconnectedError, ConnectionResetError):
                    async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                        assert answer.status == 200
                answered.append(time.monotonic() - began)
                await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def good_letter(port: int, subject: str) -> None:
    letter = {"Subject": subject, "Body": "b", "Addresses": ["reader@example.test"]}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        for _ in range(30):
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"http://127.0.0.1:{port}/post", json=[letter]) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.3)
    raise AssertionError("a good caller was never let in")


@pytest.mark.asyncio
async def test_strangers_take_neither_memory_nor_the_loop_nor_the_relay(
    service: tuple[Child, int], mailbox: tuple[Mailbox, int]
) -> None:
    child, port = service
    seen: dict[str, str] = {}
    for name, stranger in STRANGERS.items():
        answered: list[float] = []
        async with watched(port, answered):
            await asyncio.gather(stranger(port), good_letter(port, name))
        seen[name] = f"peak {peak(child.pid) // 1024} MiB, life answered within {max(answered):.1f} s"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/status") as answer,
    ):
        status = await answer.json()
    print(json.dumps({**seen, "event_loop": status["event_loop"]}, indent=1))
    async with asyncio.timeout(20):
        while len(set(mailbox[0].subjects)) < len(STRANGERS):  # noqa: ASYNC110  another thread fills it
            await asyncio.sleep(0.1)
    assert sorted(mailbox[0].subjects) == sorted(STRANGERS)
    assert peak(child.pid) < MOST_MEMORY, seen
    longest = status["event_loop"]["longest_stall_cpu_seconds"]
    # On a machine that is shared the same work takes more of a processor's time.
    assert longest <= LONGEST_TURN or longest <= LONGEST_TURN * slower(), (status["event_loop"], seen)
    assert status["loops"] == []
