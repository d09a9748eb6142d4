"""HTTP callers of every bad sort at once, while the main job goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

from proof.checker import check
from proof.experiments.outages import resident
from proof.history import Allowed, Published
from proof.load import DOMAIN, Filler
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row
from tests.acceptance.harness import KEY

MOST_GROWTH = 150.0
"""MiB by which the process may have grown under all of it."""

GOOD_KEY = {"X-API-KEY": KEY}
DEEP = b"[" * 100_000 + b"]" * 100_000


def http_abuse(stage: Stage, seed: int, *, callers: int) -> Row:
    """`callers` at once of each sort."""
    began = time.monotonic()
    with run(stage, "http", seed, settings={"HTTP_TIMEOUT": "3s"}) as world:
        service = world.world.started()
        memory = resident(service.child.pid)
        filler = Filler(world.publisher, world.relay.accepted, 300)
        before = world.relay.accepted()
        answers = asyncio.run(_abuse(world, service.port, callers))
        sent = world.relay.accepted() - before
        filler.stop()
        grown = resident(service.child.pid) - memory
        if grown > MOST_GROWTH:
            world.fault(f"grew by {grown:.0f} MiB")
        if sent == 0:
            world.fault("no letter was sent meanwhile")
        if service.get("/readyz").status != 200:
            world.fault("not ready afterwards")
        world.wait_done(60)
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=0))
    notes = f"{sent} letters sent meanwhile, {grown:+.0f} MiB, answers " + ", ".join(
        f"{status}: {count}" for status, count in sorted(answers.items())
    )
    return row(
        "HTTP callers of every bad sort",
        seed,
        sum(answers.values()),
        verdict,
        notes=notes,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="http --runs {callers} --seed {seed}"',
    )


async def _abuse(world: Run, port: int, callers: int) -> Counter[int]:
    url = f"http://127.0.0.1:{port}"
    answers: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as client:

        async def ask(expected: set[int], method: str, path: str, **options: object) -> None:
            try:
                async with client.request(method, url + path, **options) as answer:  # type: ignore[arg-type]
                    await answer.read()
                    status = answer.status
            except aiohttp.ClientError:
                # The service may close on a caller who sends too much before it has heard him out.
                status = 413 if 413 in expected else 0
            answers[status] += 1
            if status not in expected:
                world.fault(f"{method} {path} was answered with {status}, not {sorted(expected)}")

        sorts: list[Callable[[int], Awaitable[None]]] = [
            lambda _: ask({401}, "GET", "/status"),
            lambda _: ask({401}, "GET", "/status", headers={"X-API-KEY": "wrong"}),
            lambda _: ask({401}, "POST", "/post", data=b"[]", headers={"X-API-KEY": KEY + "x"}),
            lambda _: ask({401}, "POST", "/halt"),
            lambda _: ask({413}, "POST", "/post", data=io.BytesIO(b"x" * 3_000_000), headers=GOOD_KEY),
            lambda _: ask({400}, "POST", "/post", data=DEEP, headers=GOOD_KEY),
            lambda _: ask({400}, "POST", "/post", data=b'[{"Subject":5,"Addresses":{}}]', headers=GOOD_KEY),
            lambda _: ask({404}, "GET", "/nothing", headers=GOOD_KEY),
            lambda _: ask({405}, "PUT", "/post", headers=GOOD_KEY),
            lambda _: ask({200}, "GET", "/healthz"),
            lambda n: _good(world, ask, n),
            lambda _: _slow(port),
            lambda _: _half_open(port),
        ]
        await asyncio.gather(*(sort(number) for number in range(callers) for sort in sorts))
    return answers


async def _good(world: Run, ask: Callable[..., Awaitable[None]], number: int) -> None:
    """A caller who does all right is answered among all the others."""
    mark = f"{world.publisher_name}.http{number}"
    letter = {"Subject": f"[{mark}]", "Body": "x", "Addresses": [f"one@{DOMAIN}"], "Token": mark}
    world.publisher.published.append(Published(mark=mark, addresses=(f"one@{DOMAIN}",)))
    await ask({200}, "POST", "/post", data=json.dumps([letter]), headers=GOOD_KEY)


async def _slow(port: int) -> None:
    """One octet of a request every now and then, until the service has enough."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            for octet in b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n":
                writer.write(bytes([octet]))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await reader.read(1)
                        return


async def _half_open(port: int) -> None:
    """Connects, ends its own direction, and stays."""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[")
            writer.write_eof()
            async with asyncio.timeout(10):
                await reader.read()
