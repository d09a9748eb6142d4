"""HTTP callers of every bad sort at once, while the main job goes on."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from lab.world import KEY
from proof.checker import check
from proof.experiments.outages import resident
from proof.history import Allowed, Published
from proof.load import DOMAIN, Filler
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

MOST_GROWTH = 150.0
"""MiB by which the process may have grown under all of it."""

MOST_REFUSED = 0.5
"""The share of good callers who may be told to come again instead of being served at once."""

TRIES = 30
"""How often a good caller comes again, each time after as long as he was told to wait."""

TAKES_NOTHING = {"busy", "queue-full", "no-broker"}
"""Reasons of a 503 with which nothing of the request was done. It may be given to whoever has the key: he who
has not is refused before anything is counted."""

GOOD_KEY = {"X-API-KEY": KEY}
DEEP = b"[" * 100_000 + b"]" * 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An answer, as far as it matters here; `ids` is how many it names.

    `status` is 0 when there was none, and `reason` tells what there was instead.
    """

    status: int
    reason: str = ""
    retry_after: str = ""
    ids: int = 0

    @property
    def wait(self) -> int:
        """Seconds after which to come again; 0 where it does not say."""
        return int(self.retry_after) if self.retry_after.isdecimal() else 0


def fate_of(heard: Heard) -> str:
    """What an answer to a letter means for it: ``taken``, ``refused``, ``unsure``; ``wrong`` says nothing."""
    match heard:
        case Heard(status=200):
            return "taken"
        case Heard(status=503, reason=reason) if reason in TAKES_NOTHING and heard.wait:
            return "refused"
        case Heard(status=503, reason="unconfirmed") if heard.wait and heard.ids:
            return "unsure"
        case Heard(status=504, reason="timeout"):
            return "unsure"
    return "wrong"


def few_enough(refused: int, callers: int) -> bool:
    """Whether a limit is still a limit: where most are turned away, the service does not serve."""
    return refused <= MOST_REFUSED * callers


@dataclass(slots=True)
class Good:
    """What became of the good callers: letters that were taken, and how many callers were served at once."""

    taken: list[Published] = field(default_factory=list)
    at_once: int = 0
    again: int = 0


def http_abuse(stage: Stage, seed: int, *, callers: int) -> Row:
    """`callers` at once of each sort."""
    began = time.monotonic()
    with run(stage, "http", seed, settings={"HTTP_TIMEOUT": "3s"}) as world:
        service = world.world.started()
        memory = resident(service.child.pid)
        filler = Filler(world.publisher, world.relay.accepted, 300)
        before = world.relay.accepted()
        good = Good()
        answers = asyncio.run(_abuse(world, service.port, callers, good))
        sent = world.relay.accepted() - before
        filler.stop()
        world.publisher.published += good.taken
        grown = resident(service.child.pid) - memory
        if grown > MOST_GROWTH:
            world.fault(f"grew by {grown:.0f} MiB")
        if sent == 0:
            world.fault("no letter was sent meanwhile")
        if service.get("/readyz").status != 200:
            world.fault("not ready afterwards")
        if not few_enough(callers - good.at_once, callers):
            world.fault(f"only {good.at_once} of {callers} good callers were served at once")
        world.wait_done(60)
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=0))
    shown = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
    return row(
        "HTTP callers of every bad sort",
        seed,
        sum(answers.values()),
        verdict,
        notes=(
            f"{sent} letters sent meanwhile, {grown:+.0f} MiB, answers {shown};"
            f" {good.at_once} of {callers} good callers served at once, {good.again} later"
        ),
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="http --runs {callers} --seed {seed}"',
    )


class _Callers:
    """One client for all of them; `answers` counts what they were answered with."""

    def __init__(self, world: Run, url: str, client: aiohttp.ClientSession) -> None:
        self._world = world
        self._url = url
        self._client = client
        self.answers: Counter[str] = Counter()

    async def ask(self, method: str, path: str, **options: Any) -> Heard:
        """The answer, counted."""
        try:
            async with self._client.request(method, self._url + path, **options) as answer:
                heard = _heard(answer.status, answer.headers.get("Retry-After", ""), await answer.read())
        except aiohttp.ClientError as error:
            heard = Heard(status=0, reason=repr(error))
        self.answers[
            f"{heard.status} {heard.reason}" if heard.status in {503, 504} else str(heard.status)
        ] += 1
        return heard

    async def bad(self, expected: int, method: str, path: str, **options: Any) -> None:
        """One who is to be refused, or who asks what everybody may."""
        heard = await self.ask(method, path, **options)
        if heard.status == expected:
            return
        if heard.status == 0 and expected == 413:
            return  # the service may close on a caller who sends too much before it has heard him out
        with_key = options.get("headers") is GOOD_KEY
        if with_key and (fate_of(heard) == "refused" or heard.reason == "timeout"):
            return
        self._world.fault(f"{method} {path} was answered with {heard}, not {expected}")

    async def good(self, number: int, seen: Good) -> None:
        """One who does all right: he is served, if not at once then when he comes again as he was told."""
        for attempt in range(TRIES):
            # Each time another letter: one that was refused must never come.
            mark = f"{self._world.publisher_name}.http{number}.{attempt}"
            letter = {"Subject": f"[{mark}]", "Body": "x", "Addresses": [f"one@{DOMAIN}"], "Token": mark}
            published = Published(mark=mark, addresses=(f"one@{DOMAIN}",))
            heard = await self.ask("POST", "/post", data=json.dumps([letter]), headers=GOOD_KEY)
            match fate_of(heard):
                case "taken":
                    seen.taken.append(published)
                    seen.at_once += attempt == 0
                    seen.again += attempt > 0
                    return
                case "refused":
                    self._world.refused.append(published)
                    await asyncio.sleep(heard.wait)
                case fate:
                    self._world.unsure.append(published)
                    if fate == "wrong":
                        self._world.fault(f"a good caller was answered with {heard}")
                    return
        self._world.fault(f"a good caller was not served in {TRIES} attempts")


def _heard(status: int, retry_after: str, body: bytes) -> Heard:
    try:
        problem = json.loads(body)
        reason, ids = str(problem.get("reason", "")), len(problem.get("ids", ()))
    except (ValueError, AttributeError):
        reason, ids = "", 0
    return Heard(status=status, reason=reason, retry_after=retry_after, ids=ids)


async def _abuse(world: Run, port: int, callers: int, seen: Good) -> Counter[str]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as client:
        them = _Callers(world, f"http://127.0.0.1:{port}", client)
        bad = them.bad
        sorts: list[Callable[[int], Awaitable[None]]] = [
            lambda _: bad(401, "GET", "/status"),
            lambda _: bad(401, "GET", "/status", headers={"X-API-KEY": "wrong"}),
            lambda _: bad(401, "POST", "/post", data=b"[]", headers={"X-API-KEY": KEY + "x"}),
            lambda _: bad(401, "POST", "/halt"),
            lambda _: bad(413, "POST", "/post", data=io.BytesIO(b"x" * 3_000_000), headers=GOOD_KEY),
            lambda _: bad(400, "POST", "/post", data=DEEP, headers=GOOD_KEY),
            lambda _: bad(400, "POST", "/post", data=b'[{"Subject":5,"Addresses":{}}]', headers=GOOD_KEY),
            lambda _: bad(404, "GET", "/nothing", headers=GOOD_KEY),
            lambda _: bad(405, "PUT", "/post", headers=GOOD_KEY),
            lambda _: bad(200, "GET", "/healthz"),
            lambda n: them.good(n, seen),
            lambda _: _slow(port),
            lambda _: _half_open(port),
        ]
        await asyncio.gather(*(sort(number) for number in range(callers) for sort in sorts))
    return them.answers


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
