"""Everything hostile at once, from a seed, at the whole running service over real parts.

Records, documents, replies, refused reports, HTTP bodies: it has to live, good letters have to go out, and a
restart has to be clean.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from pymongo.errors import PyMongoError

from lab.vitals import Vitals
from lab.world import KEY
from proof.checker import check
from proof.experiments.publishers import judge_vitals, restart
from proof.experiments.strangers import documents
from proof.fuzz import chance as nasty
from proof.history import Allowed
from proof.hostile import KINDS, configure, only
from proof.load import RULES
from proof.neighbours import neighbour
from proof.plan import PHASES
from proof.raw import RawProducer, Refused
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

SMALL = ("headers", "JSON")
"""Kinds of hostile records that are put among the others."""

SMALLEST_REPORT = 20_000
"""Bytes of the largest report that the broker takes, so that some are refused."""

SLOWEST = 30.0
"""Seconds within which a good letter has to be out, over a relay that does everything wrong now and then."""

TIMEOUTS = {f"SMTP_TIMEOUT_{name}": "2s" for name in ("CONNECT", "GREETING", "COMMAND", "DATA", "DOT")}


def replies(chance: Random, p: float) -> dict[str, Any]:
    """A plan in which the relay now and then says anything but a refusal for good, or nothing, or ends."""
    rules = []
    for _ in range(30):
        phase = chance.choice(PHASES)
        said = "".join(char for char in nasty.line(chance) if char.isprintable() and char.isascii())
        code = chance.choice(("250", "354", "421", "450", "451", "452", "220", "299", "199", "999", "000"))
        # What means yes may not be said in place of a no, or the ledger and the service would both be right.
        if phase == "DOT" or code[0] == "2":
            code = "451"
        rules.append({"phase": phase, "p": p, "do": "reply", "text": f"{code} {said}"[:480]})
    for phase in PHASES:
        rules += [
            {"phase": phase, "p": p, "do": deed, "seconds": 0.2}
            for deed in ("reset", "close", "garbage", "long", "many", "half", "drip")
        ]
    return {"seed": chance.randrange(10**6), "script": RULES, "chance": rules}


def whole(stage: Stage, seed: int, *, seconds: float) -> Row:
    """For so many seconds."""
    began = time.monotonic()
    done: Counter[str] = Counter()
    with run(stage, "whole", seed, settings=TIMEOUTS) as world:
        configure(world, "max.message.bytes", SMALLEST_REPORT, topic=world.topics.reports)
        configure(world, "cleanup.policy", "compact", topic=world.topics.reports)
        service = world.world.started()
        world.relay.follow({**world.relay.plan, **replies(world.chance, 0.0008)})
        throwers = [
            _Thrower(world, name, thrown, done)
            for name, thrown in (("records", _records), ("documents", _documents), ("bodies", _bodies))
        ]
        with Vitals(service) as vitals:
            with neighbour(world) as beside:
                rest(seconds)
                for each in throwers:
                    each.stop()
            world.relay.follow({**world.relay.plan, "chance": []})
            if service.child.running and not world.wait_published(30):
                world.fault("not all was answered within 30 s of the end")
            slowest, seen = beside.worst(), vitals.look()
        judge_vitals(world, seen)
        if slowest > SLOWEST:
            world.fault(f"a good letter took {slowest:.1f} s")
        restart(world, service)
        verdict = check(only(world.history(), world.publisher_name), Allowed(duplicates=None))
    shown = ", ".join(f"{count:,} {name}" for name, count in sorted(done.items()))
    return row(
        "everything hostile at once, the whole service",
        seed,
        sum(done.values()),
        verdict,
        notes=f"{shown}; {seen}; slowest good letter {slowest:.1f} s",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="whole --runs {seconds:g} --seed {seed}"',
    )


Thrown = Callable[[Run, Random, Callable[[], bool]], int]
"""Throws until it is over; how many."""


class _Thrower:
    """A thread that throws one sort of thing."""

    def __init__(self, world: Run, name: str, thrown: Thrown, done: Counter[str]) -> None:
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._world = world
        chance = Random(f"{name}/{world.seed}")

        def throw() -> None:
            try:
                done[name] = thrown(world, chance, self._over.is_set)
            except Exception as error:  # noqa: BLE001  told by `stop`
                self._failed.append(error)

        self._thread = threading.Thread(target=throw, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        for error in self._failed:
            raise RuntimeError(f"the {self._thread.name} failed: {error!r}") from error


def _records(world: Run, chance: Random, over: Callable[[], bool]) -> int:
    """Any octets as value, key and headers, some without a key, at any time that a broker takes."""
    producer, count = RawProducer(world.stage.broker.bootstrap), 0
    large = [put for kind in SMALL for put in KINDS[kind].make(chance)]
    try:
        while not over():
            now = int(time.time() * 1000)
            put = chance.choice(large) if chance.random() < 0.02 else None
            headers = [(nasty.text(chance, 2).encode("utf-8", "surrogatepass"), chance.randbytes(5))]
            try:
                producer.put(
                    world.topics.letters,
                    put.value if put else nasty.record(chance),
                    partition=chance.randrange(world.stage.broker.partitions),
                    key=chance.choice((None, b"", chance.randbytes(8), b"k" * 30_000)),
                    headers=put.headers if put else headers * chance.randrange(3),
                    at=chance.choice((now, now, now, 0, -1, now // 1000, now + 3_000_000)),
                    packed=chance.random() < 0.2,
                )
            except Refused:
                continue
            count += 1
            rest(0.005)
    finally:
        producer.close()
    return count


def _documents(world: Run, chance: Random, over: Callable[[], bool]) -> int:
    count = 0
    with world.world.letters() as letters:
        for each in documents(chance, 100_000):
            if over():
                break
            try:
                letters.insert_one(each)
            except PyMongoError:
                continue
            count += 1
            rest(0.03)
    return count


def _bodies(world: Run, chance: Random, over: Callable[[], bool]) -> int:
    count = 0
    service = world.world.replicas[0]
    while not over():
        line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        try:
            line.request("POST", "/post", nasty.body(chance), {"X-API-KEY": KEY})
            line.getresponse().read()
        except (OSError, http.client.HTTPException):
            rest(0.2)
        finally:
            line.close()
        count += 1
        rest(0.02)
    return count
