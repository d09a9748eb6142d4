"""Other programs write into the collection: any BSON type in any field, waiting or in somebody's hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.dbref import DBRef
from pymongo.errors import PyMongoError

from lab.vitals import Vitals
from proof.checker import check
from proof.experiments.publishers import judge_vitals, restart
from proof.fuzz.chance import text
from proof.history import Allowed
from proof.hostile import PREFIX, only
from proof.load import DOMAIN
from proof.neighbours import SLOWEST, neighbour
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

FIELDS = (
    *("addresses", "subject", "body", "token", "status", "kafkakey", "seq", "due", "claim", "reported"),
    *("route", "rank", "created_at", "handling"),
    *("attempts", "recipients", "answers", "answered", "key", "origin", "digest", "outcome", "at", "mark"),
    *("message_id", "relay", "reason", "finished_at", "expire_at", "settled_by", "released", "uncertain"),
)
"""Of the original's documents, and of those of this service or of any program that looks like it."""

FAR = datetime(9999, 12, 31, tzinfo=UTC)

PATIENCE = 40.0
"""Seconds within which each of them has to be in a state of its own."""


def anything(chance: Random, depth: int = 2) -> Any:
    """A value of any type that BSON has."""
    values: list[Any] = [
        *(None, True, 0, -1, 2**31, Int64(2**62), 1.5, float("nan"), float("inf"), "", "x" * 5000),
        *(text(chance).replace("\ud800", "").replace("\udfff", ""), b"\xff\x00", Binary(b"x", 4)),
        *(ObjectId(), datetime(1, 1, 1, tzinfo=UTC), FAR, MinKey(), MaxKey()),
        *(Decimal128("NaN"), Decimal128("9" * 34), Regex("("), Code("f()"), Timestamp(2**31, 1)),
        *(DBRef("letters", 1), [], {}, "awaiting", "processing", "sent", "error"),
    ]
    if depth and chance.random() < 0.3:
        few = [anything(chance, depth - 1) for _ in range(chance.randint(1, 3))]
        return chance.choice((few, dict(zip("abc", few, strict=False)), {"$set": few[0]}))
    return chance.choice(values)


def documents(chance: Random, count: int) -> Iterator[dict[str, Any]]:
    """So many, each with one to three fields that are not what they should be."""
    for number in range(count):
        made: dict[str, Any] = {
            "_id": ObjectId() if chance.random() < 0.8 else f"{PREFIX}.{number}",
            "addresses": [f"one@{DOMAIN}"],
            "subject": f"[{PREFIX}.{number}]",
            "body": "x",
            "status": "awaiting" if number % 2 else "processing",
            "kafkakey": "",
            "token": f"{PREFIX}.{number}",
        }
        for field in chance.sample(FIELDS, chance.choice((1, 1, 1, 2, 3))):
            made[field] = anything(chance)
        if made["status"] not in ("awaiting", "processing"):
            made["status"] = "awaiting"  # in another state it is nobody's business
        yield {name: held for name, held in made.items() if chance.random() > 0.01 or name == "_id"}


def strangers(stage: Stage, seed: int, *, runs: int) -> Row:
    """So many documents, a few at a time, beside good letters; with each field alone wrong at least once."""
    began = time.monotonic()
    with run(stage, "strangers", seed) as world:
        service = world.world.started()
        with Vitals(service) as vitals:
            with neighbour(world) as beside:
                written = _write(world, runs)
                left = _wait(world, written)
            world.wait_published(PATIENCE)
            slowest, seen = beside.worst(), vitals.look()
        restart(world, service)
        judge_vitals(world, seen)
        if slowest > SLOWEST:
            world.fault(f"a good letter took {slowest:.1f} s")
        left = _open(world, written) if left else left
        for each in left[:5]:
            world.fault(f"neither sent nor set apart: {str(each)[:300]}")
        if len(left) > 5:
            world.fault(f"{len(left)} documents neither sent nor set apart")
        history = world.history()
        _once(world, history.acceptances)
        verdict = check(only(world.history(), world.publisher_name), Allowed(duplicates=0))
    return row(
        "documents of other programs",
        seed,
        runs,
        verdict,
        notes=f"{seen}; slowest good letter {slowest:.1f} s",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="strangers --runs {runs} --seed {seed}"',
    )


def _write(world: Run, count: int) -> list[Any]:
    written = []
    with world.world.letters() as letters:
        for number, each in enumerate(documents(world.chance, count)):
            try:
                letters.insert_one(each)
            except PyMongoError:
                continue  # an index of the service's, or MongoDB itself, does not take it: all the better
            written.append(each["_id"])
            if number % 10 == 0:
                rest(0.02)
    return written


def _wait(world: Run, written: list[Any]) -> list[dict[str, Any]]:
    """Wait until none is open; those that are."""
    deadline = time.monotonic() + PATIENCE
    while (left := _open(world, written)) and time.monotonic() < deadline:
        world.read_reports(0.5)
        if not any(each.child.running for each in world.world.replicas):
            break
    return left


def _open(world: Run, written: list[Any]) -> list[dict[str, Any]]:
    """Those that wait still, or are in somebody's hand: of a status that the service knows.

    Who gave a date that is thousands of years away may wait until then.
    """
    known = {"_id": {"$in": written}, "status": {"$in": ["awaiting", "processing"]}}
    with world.world.letters() as letters:
        found = list(letters.find(known))
    return [each for each in found if not _far(each.get("due"))]


def _far(value: Any) -> bool:
    return isinstance(value, datetime) and value.year == FAR.year


def _once(world: Run, acceptances: Any) -> None:
    """None of them is sent twice to one recipient."""
    seen: set[tuple[str, str]] = set()
    for each in acceptances:
        for to in each.recipients:
            if each.mark.startswith(PREFIX) and (each.mark, to) in seen:
                world.fault(f"sent twice: {each.mark} to {to}")
            seen.add((each.mark, to))
