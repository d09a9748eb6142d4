"""What a claim, a settlement and an insert cost a letter, with few and with many letters, routes and flows.

`MongoQueue` is driven directly: claim a batch, settle it as sent and insert as many new letters, so that the
depth stays; all three are timed. The deep queue has as many finished and reported letters lying beside the
waiting ones. In the one with flows the letters lie on many routes, from which batches are claimed in turn,
and each route's in streams of its own; the new ones come in to all streams of the route. That a letter has a
stream costs something by itself, so that queue is compared with a shallow one of a single stream. Filling
writes the documents that the queue itself would write, in bulk and without its write concern, before the
indexes are built.

    python -m benchmarks.depth [WAITING]
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from uuid import uuid4

from bson import ObjectId
from pymongo import WriteConcern

from benchmarks.letters import letter as plain
from benchmarks.measure import cpu_seconds
from benchmarks.parts import Stage
from benchmarks.run import alone, say
from benchmarks.table import Section
from mailsender.model.clock import SystemClock
from mailsender.model.handling import PLAIN, Handling
from mailsender.model.letter import (
    DEFAULT_ROUTE,
    Answer,
    Letter,
    Origin,
    Phase,
    Recipient,
    Result,
    Settlement,
    Status,
    Verdict,
)
from mailsender.queue.mongo.client import Client, connect
from mailsender.queue.mongo.documents import document_of, stored_id
from mailsender.queue.mongo.queue import MongoQueue

SHALLOW, DEEP = 1_000, 1_000_000
ROUTES, FLOWS = 50, 10_000
BATCH, CYCLES, WARM_UP = 500, 60, 5
RETENTION = 30 * 86_400.0

_RESULT = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="Ok")


def measure(stage: Stage, waiting: int = DEEP) -> Section:
    """A row for the shallow queue and the deep one, both in one stream and in many, and how those differ."""
    queues = (
        Waiting(letters=SHALLOW),
        Waiting(letters=waiting, finished=waiting),
        Waiting(letters=SHALLOW, flows=1),
        Waiting(letters=waiting, routes=ROUTES, flows=FLOWS),
    )
    costs = asyncio.run(_measure(stage, queues))
    rows = [
        [str(one), *(f"{value:.1f}" for value in each.per_letter())]
        for one, each in zip(queues, costs, strict=True)
    ]
    changes = [
        [
            f"difference, {name}",
            *(
                f"{(b / a - 1) * 100:+.0f} %"
                for a, b in zip(shallow.per_letter(), deep.per_letter(), strict=True)
            ),
        ]
        for name, shallow, deep in (("deep", *costs[:2]), ("flows", *costs[2:]))
    ]
    return Section(
        "Depth of the queue",
        ["queue", "claim µs/letter", "settle µs/letter", "both", "insert µs/letter", "mongod CPU µs/letter"],
        [*rows, *changes],
        [
            f"Medians of {CYCLES} claims, settlements and inserts of {BATCH} letters, in turn, the CPU a mean"
            " without inserts."
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many letters wait and are finished in a queue, on how many routes and in how many flows.

    Without `flows` they name no stream.
    """

    letters: int
    finished: int = 0
    routes: int = 1
    flows: int = 0

    def __str__(self) -> str:
        over = f" on {self.routes} routes" if self.routes > 1 else ""
        if not self.flows:
            return f"{self.letters:,} waiting{over}, {self.finished:,} finished"
        return f"{self.letters:,} waiting{over} in {self.flows:,} stream" + "s" * (self.flows > 1)

    def route(self, number: int) -> str:
        """The route of a letter."""
        return DEFAULT_ROUTE if self.routes == 1 else f"route-{number % self.routes}"

    def stream(self, number: int) -> str:
        """The stream of a letter; each belongs to one route."""
        return f"stream-{number % self.flows}" if self.flows else ""


@dataclass
class Costs:
    """Seconds of each cycle's claim and settlement, and of mongod's CPU in all of them."""

    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)
    inserts: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def per_letter(self) -> list[float]:
        """Microseconds a letter: claim, settle, both, insert, CPU."""
        both = [a + b for a, b in zip(self.claims, self.settles, strict=True)]
        medians = [median(each) for each in (self.claims, self.settles, both, self.inserts)]
        seconds = (*medians, self.cpu / len(both))
        return [each / BATCH * 1e6 for each in seconds]


async def _measure(stage: Stage, wanted: Sequence[Waiting]) -> list[Costs]:
    """Fill a collection for each, then take turns with their queues."""
    client = connect(stage.mongod.uri, timeout=60.0, app_name="bench")
    names = [f"depth{uuid4().hex[:8]}" for _ in wanted]
    queues, costs = [], [Costs() for _ in wanted]
    try:
        for name, one in zip(names, wanted, strict=True):
            queues.append(await _filled(stage, client, name, one))
        pid = stage.mongod.child.pid
        for number in range(WARM_UP + CYCLES):
            for queue, one, cost in zip(queues, wanted, costs, strict=True):
                await _cycle(queue, pid, one, number, Costs() if number < WARM_UP else cost)
    finally:
        for name in names:
            await client.drop_database(name)
        client.close()
    return costs


async def _filled(stage: Stage, client: Client, name: str, wanted: Waiting) -> MongoQueue:
    began = time.monotonic()
    fill(stage, name, wanted)
    queue = MongoQueue(
        client, database=name, collection="letters", retention=RETENTION, clock=SystemClock(), timeout=60.0
    )
    await queue.open()
    say(f"depth: {wanted.letters + wanted.finished:,} letters filled in, {time.monotonic() - began:.0f} s")
    return queue


async def _cycle(queue: MongoQueue, mongod: int, wanted: Waiting, number: int, costs: Costs) -> None:
    """Claim and settle a batch, acknowledge it off the clock, and insert as many on the same route."""
    route = wanted.route(number)
    token = secrets.token_hex(16)
    cpu, at = cpu_seconds([mongod]), time.perf_counter()
    claim = await queue.claim(BATCH, token, route)
    claimed = time.perf_counter()
    assert len(claim.letters) == BATCH, f"only {len(claim.letters)} letters claimed"
    ended = [sent(each) for each in claim.letters]
    ready = time.perf_counter()
    late = await queue.settle([Settlement(token=claim.token, letter=each) for each in ended])
    settled = time.perf_counter()
    assert not late
    costs.claims.append(claimed - at)
    costs.settles.append(settled - ready)
    costs.cpu += cpu_seconds([mongod]) - cpu
    await queue.acknowledge(ended)
    first = wanted.letters + wanted.finished + number * BATCH
    streams = [wanted.stream(number % wanted.routes + wanted.routes * place) for place in range(BATCH)]
    new = [letter(first + place, route, stream) for place, stream in enumerate(streams)]
    at = time.perf_counter()
    await queue.insert(new)
    costs.inserts.append(time.perf_counter() - at)


# --- letters as the queue holds them ---


def letter(number: int, route: str = DEFAULT_ROUTE, stream: str = "") -> Letter:
    """A letter as intake makes it."""
    each = plain(number)
    origin = Origin(topic="in", partition=0, offset=number, index=0, timestamp=1_700_000_000_000)
    answer = Answer(token=each["Token"], key=None, origin=origin)
    addresses = tuple(each["Addresses"])
    return Letter(
        id=origin.letter_id(),
        addresses=addresses,
        subject=each["Subject"],
        body=each["Body"],
        answers=(answer,),
        route=route,
        handling=Handling(stream=stream) if stream else PLAIN,
    )


def sent(each: Letter) -> Letter:
    """The letter after a relay took it."""
    return each.evolve(
        status=Status.SENT,
        recipients=tuple(Recipient(address=address, result=_RESULT) for address in each.addresses),
        attempts=1,
        relay="127.0.0.1:25",
        message_id=f"<{each.id}@example.test>",
        finished_at=datetime.now(UTC).replace(microsecond=0),
    )


def fill(stage: Stage, database: str, wanted: Waiting) -> None:
    """Put letters into a fresh collection, the finished ones first, as time would have it."""
    with stage.mongod.client(timeout=600.0) as client:
        letters = client[database].get_collection("letters", write_concern=WriteConcern(w=1, j=False))
        chunk: list[dict[str, Any]] = []
        for document in _documents(wanted):
            chunk.append(document)
            if len(chunk) == 2_000:
                letters.insert_many(chunk, ordered=False)
                chunk = []
        if chunk:
            letters.insert_many(chunk, ordered=False)


def _documents(wanted: Waiting) -> Iterator[dict[str, Any]]:
    finished = wanted.finished
    now = datetime.now(UTC).replace(microsecond=0)
    done = document_of(sent(letter(0)), now)[0]
    done |= {"settled_by": uuid4().hex, "outbox": ObjectId(), "expire_at": now + timedelta(seconds=RETENTION)}
    for number in range(finished):
        yield _renamed(done, number)
    due = document_of(letter(0), now)[0]
    for number in range(finished, finished + wanted.letters):
        each = _renamed(due, number)
        if wanted.flows:
            handling = Handling(stream=wanted.stream(number)).document()
            rank = now + timedelta(milliseconds=number // wanted.routes)
            each |= {"route": wanted.route(number), "handling": handling, "rank": rank}
        yield each


def _renamed(document: dict[str, Any], number: int) -> dict[str, Any]:
    """The document of another letter: its own id, addresses, subject, token and origin."""
    origin = {**document["origin"], "offset": number}
    each = plain(number)
    return {
        **document,
        "_id": _object_id(number),
        "addresses": each["Addresses"],
        "subject": each["Subject"],
        "token": each["Token"],
        "origin": origin,
    }


def _object_id(number: int) -> Any:
    origin = Origin(topic="in", partition=0, offset=number, index=0, timestamp=1_700_000_000_000)
    return stored_id(origin.letter_id())


if __name__ == "__main__":
    alone(lambda stage: measure(stage, *map(int, sys.argv[1:2])))
