"""HTTP callers who want the main job to stop: connections, heads, bodies, other sites, huge batches.

The service has no key either, as on a machine of one's own, and 256 descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from lab.vitals import Vitals
from proof.checker import check
from proof.experiments.publishers import judge_vitals, restart
from proof.history import Allowed
from proof.hostile import only
from proof.neighbours import neighbour
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

DESCRIPTORS = 256
HELD = 7.0
"""Seconds for which they stay."""

SLOWEST = 4.0
"""Seconds within which a good letter has to be out: sooner than they go."""

SETTINGS = {"HTTP_API_KEY": "", "SMTP_MAX_LETTERS_PER_SESSION": "5", "SMTP_SESSION_IDLE": "1s"}
"""New sessions all the time, so that somebody needs descriptors."""


def callers(stage: Stage, seed: int, *, kinds: Sequence[str]) -> Row:
    """All of these kinds, one after the other."""
    began = time.monotonic()
    answers: Counter[str] = Counter()
    with run(stage, "callers", seed, settings=SETTINGS) as world:
        with _few_descriptors():
            service = world.world.started()
        with Vitals(service) as vitals:
            # By then they are there, and no session to the relay is.
            with neighbour(world, after=HELD / 3) as beside:
                for kind in kinds:
                    answers += asyncio.run(KINDS[kind](world, service.port))
                    if not service.child.running:
                        world.fault(f"{kind}: the service ended, with {service.child.returncode}")
                        break
            world.wait_done(30)
            slowest, seen = beside.worst(), vitals.look()
        judge_vitals(world, seen)
        if slowest > SLOWEST:
            world.fault(f"a good letter took {slowest:.1f} s")
        restart(world, service)
        verdict = check(only(world.history(), world.publisher_name), Allowed(duplicates=0))
    shown = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
    return row(
        f"hostile HTTP: {' '.join(kinds) if len(kinds) == 1 else f'{len(kinds)} kinds'}",
        seed,
        sum(answers.values()),
        verdict,
        notes=f"{seen}; slowest good letter {slowest:.1f} s; {shown}",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="callers --seed {seed}"',
    )


@contextlib.contextmanager
def _few_descriptors() -> Iterator[None]:
    """What is started meanwhile may open few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _idle(_: Run, port: int) -> Counter[str]:
    """Four hundred who connect and say nothing."""
    return await _hold(port, 400, b"")


async def _heads(_: Run, port: int) -> Counter[str]:
    """Two hundred who begin a head and never end it, with as much in it as is taken."""
    head = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return await _hold(port, 200, head + b"".join([b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(60)]))


async def _bodies(_: Run, port: int) -> Counter[str]:
    """A hundred who announce a body and send it octet by octet."""
    head = b"POST /post HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 900000\r\n\r\n[" % port
    return await _hold(port, 100, head, drip=b" ")


async def _hold(port: int, count: int, first: bytes, *, drip: bytes = b"") -> Counter[str]:
    """So many connections for a while; what became of them."""
    return Counter(await asyncio.gather(*(_one(port, first, drip) for _ in range(count))))


async def _one(port: int, first: bytes, drip: bytes) -> str:
    try:
        async with asyncio.timeout(HELD + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return "not connected"
    with contextlib.closing(writer):
        try:
            writer.write(first)
            async with asyncio.timeout(HELD):
                await writer.drain()
                answer = asyncio.ensure_future(reader.read(1000))
                while drip and not answer.done():
                    writer.write(drip)
                    await asyncio.wait({answer}, timeout=0.1)
                return (await answer)[9:12].decode("latin-1") or "closed"
        except TimeoutError:
            return "held"
        except OSError:
            return "closed"


FOREIGN: list[tuple[str, str, dict[str, str]]] = [
    ("POST", "/post", {"Origin": "http://evil.example", "Content-Type": "text/plain"}),
    ("POST", "/post", {"Origin": "null", "Content-Type": "text/plain"}),
    ("POST", "/post", {"Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}),
    ("POST", "/post", {"Host": "evil.example"}),
    ("POST", "/halt", {"Origin": "http://evil.example"}),
    ("POST", "/halt", {"Sec-Fetch-Site": "cross-site"}),
    ("POST", "/halt", {"Host": "evil.example:8000"}),
    ("GET", "/status", {"Host": "evil.example"}),
]
"""What a browser sends that was sent here by a page from elsewhere, or by a name that points here now."""


async def _other_sites(world: Run, port: int) -> Counter[str]:
    """Each of `FOREIGN`; none may be obeyed."""
    answers: Counter[str] = Counter()
    letter = b'[{"Subject":"[stranger]","Body":"x","Addresses":["one@to.example.test"]}]'
    for method, path, headers in FOREIGN:
        sent = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(letter)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        raw = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + letter
        status = await _one(port, raw, b"")
        answers[status] += 1
        if not status.startswith("4"):
            world.fault(f"{method} {path} with {headers} was answered with {status}")
    return answers


async def _batches(_: Run, port: int) -> Counter[str]:
    """Eight at once, each of a megabyte of empty letters, three times."""
    body = b"[" + b",".join([b"{}"] * 333_000) + b"]"
    head = b"POST /post HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: %d\r\n\r\n" % (port, len(body))
    answers: Counter[str] = Counter()
    for _again in range(3):
        answers += Counter(await asyncio.gather(*(_one(port, head + body, b"") for _ in range(8))))
    return answers


KINDS: dict[str, Callable[[Run, int], Coroutine[Any, Any, Counter[str]]]] = {
    "idle connections": _idle,
    "unfinished heads": _heads,
    "slow bodies": _bodies,
    "other sites": _other_sites,
    "huge batches": _batches,
}
