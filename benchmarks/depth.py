"""What a claim and a settlement cost a letter, with few and with many letters waiting.

`MongoQueue` is driven directly: claim a batch, settle it as sent, both timed; then mark it and insert as many
new letters, both off the clock, so that the depth stays. The deep queue has as many finished and reported
letters lying beside the waiting ones. Filling writes the documents that the queue itself would write, in bulk
and without its write concern, before the indexes are built.

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
from mailsender.model.letter import (
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
BATCH, CYCLES, WARM_UP = 500, 60, 5
RETENTION = 30 * 86_400.0

_RESULT = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="Ok")


def measure(stage: Stage, waiting: int = DEEP) -> Section:
    """A row for the shallow queue, the deep one, and their difference."""
    depths = ((SHALLOW, 0), (waiting, waiting))
    costs = asyncio.run(_measure(stage, depths))
    rows = [
        [f"{due:,} waiting, {done:,} finished", *(f"{value:.1f}" for value in each.per_letter())]
        for (due, done), each in zip(depths, costs, strict=True)
    ]
    shallow, deep = (each.per_letter() for each in costs)
    change = [f"{(b / a - 1) * 100:+.0f} %" for a, b in zip(shallow, deep, strict=True)]
    return Section(
        "Depth of the queue",
        ["queue", "claim µs/letter", "settle µs/letter", "both", "mongod CPU µs/letter"],
        [*rows, ["difference", *change]],
        [f"Medians of {CYCLES} claims and settlements of {BATCH} letters, in turn; their CPU is a mean."],
    )


@dataclass
class Costs:
    """Seconds of each cycle's claim and settlement, and of mongod's CPU in all of them."""

    claims: list[float] = field(default_factory=list)
    settles: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def per_letter(self) -> list[float]:
        """Microseconds a letter: claim, settle, both, CPU."""
        both = [a + b for a, b in zip(self.claims, self.settles, strict=True)]
        seconds = (median(self.claims), median(self.settles), median(both), self.cpu / len(both))
        return [each / BATCH * 1e6 for each in seconds]


async def _measure(stage: Stage, depths: Sequence[tuple[int, int]]) -> list[Costs]:
    """Fill a collection for each of `depths`, then take turns with their queues."""
    client = connect(stage.mongod.uri, timeout=60.0, app_name="bench")
    names = [f"depth{uuid4().hex[:8]}" for _ in depths]
    queues, costs = [], [Costs() for _ in depths]
    try:
        for name, (waiting, finished) in zip(names, depths, strict=True):
            queues.append(await _filled(stage, client, name, waiting, finished))
        pid = stage.mongod.child.pid
        for number in range(WARM_UP + CYCLES):
            for queue, (waiting, finished), cost in zip(queues, depths, costs, strict=True):
                first = waiting + finished + number * BATCH
                await _cycle(queue, pid, first, Costs() if number < WARM_UP else cost)
    finally:
        for name in names:
            await client.drop_database(name)
        client.close()
    return costs


async def _filled(stage: Stage, client: Client, name: str, waiting: int, finished: int) -> MongoQueue:
    began = time.monotonic()
    fill(stage, name, waiting, finished)
    queue = MongoQueue(
        client, database=name, collection="letters", retention=RETENTION, clock=SystemClock(), timeout=60.0
    )
    await queue.open()
    say(f"depth: {waiting + finished:,} letters filled in within {time.monotonic() - began:.0f} s")
    return queue


async def _cycle(queue: MongoQueue, mongod: int, first: int, costs: Costs) -> None:
    """Claim and settle a batch on the clock; acknowledge it, and make up for it, off the clock."""
    token = secrets.token_hex(16)
    cpu, at = cpu_seconds([mongod]), time.perf_counter()
    claim = await queue.claim(BATCH, token)
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
    await queue.insert([letter(first + number) for number in range(BATCH)])


# --- letters as the queue holds them ---


def letter(number: int) -> Letter:
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


def fill(stage: Stage, database: str, waiting: int, finished: int) -> None:
    """Put letters into a fresh collection, the finished ones first, as time would have it."""
    with stage.mongod.client(timeout=600.0) as client:
        letters = client[database].get_collection("letters", write_concern=WriteConcern(w=1, j=False))
        chunk: list[dict[str, Any]] = []
        for document in _documents(waiting, finished):
            chunk.append(document)
            if len(chunk) == 2_000:
                letters.insert_many(chunk, ordered=False)
                chunk = []
        if chunk:
            letters.insert_many(chunk, ordered=False)


def _documents(waiting: int, finished: int) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC).replace(microsecond=0)
    done = document_of(sent(letter(0)), now)[0]
    done |= {"settled_by": uuid4().hex, "outbox": ObjectId(), "expire_at": now + timedelta(seconds=RETENTION)}
    due = document_of(letter(0), now)[0]
    for number in range(finished):
        yield _renamed(done, number)
    for number in range(finished, finished + waiting):
        yield _renamed(due, number)


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
