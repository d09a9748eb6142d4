"""Clocks that are not right: the producers', a replica's, MongoDB's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from mailsender.dev.mongod import Mongod
from proof.checker import Verdict, check
from proof.clock import OtherClock
from proof.experiments.publishers import restart
from proof.history import Allowed, Rate
from proof.hostile import configure
from proof.load import Filler
from proof.raw import RawProducer
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import NOT_RUN, Row, row

DAY = 86_400.0
LEASE = 6.0
RATE = Rate(letters=20, period=1.0, burst=3)
PATIENCE = 40.0
FAR = 2**62
"""As a topic's setting: it takes records from any future."""

STAMPS: dict[str, Callable[[int], int]] = {
    "none": lambda _: -1,
    "0": lambda _: 0,
    "in seconds": lambda now: now // 1000,
    "40 days ago": lambda now: now - 40 * 86_400_000,
    "31 days ago": lambda now: now - 31 * 86_400_000,
    "in 50 minutes": lambda now: now + 50 * 60_000,
    "in ten years": lambda now: now + 3653 * 86_400_000,
}
"""Times of records, from that of this machine, in milliseconds."""


def clocks(stage: Stage, seed: int, *, whose: str) -> Row:
    """One sort of clock."""
    began = time.monotonic()
    title = f"clocks apart: {whose}"
    try:
        runs, verdict, notes = OF[whose](stage, seed)
    except LookupError as error:
        return Row(experiment=title, seed=seed, runs=0, verdict=f"{NOT_RUN}: {error}")
    return row(
        title,
        seed,
        runs,
        verdict,
        notes=notes,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="clocks --seed {seed}"',
    )


Found = tuple[int, Verdict, str]
"""How many clocks, what was found, and in words."""


def _of_producers(stage: Stage, seed: int) -> Found:
    """Records whose times are wrong, between records whose times are right: all of them live producers'."""
    with run(stage, "clocks-producers", seed) as world:
        configure(world, "message.timestamp.after.max.ms", FAR)
        service = world.world.started()
        for partition in range(stage.broker.partitions):
            _put(world, partition, list(STAMPS.values()))
        _done(world)
        # By now all offsets are committed, and nothing but the odd ones may come next.
        for partition in range(stage.broker.partitions):
            _put(world, partition, [each for each in STAMPS.values() for _ in range(2)], good=0)
        _done(world)
        restart(world, service)
        return len(STAMPS), check(world.history(), Allowed(duplicates=0)), f"times {', '.join(STAMPS)}"


def _of_replicas(stage: Stage, seed: int) -> Found:
    """Two replicas, both with a wrong day, and a third that is right; a rate over all of them."""
    days = (31.0, -31.0)
    settings = {
        "SMTP_RATE_LIMIT_MAX_LETTERS": str(RATE.letters),
        "SMTP_RATE_LIMIT_PERIOD": f"{RATE.period:g}s",
        "SMTP_RATE_LIMIT_BURST": str(RATE.burst),
    }
    with run(stage, "clocks-replicas", seed, settings=settings, plan={"delay": {}}) as world:
        wrong = [OtherClock(world.directory / f"clock{place}", day * DAY) for place, day in enumerate(days)]
        world.world.started()
        for each in wrong:
            world.world.started(**each.for_python(stage.tree))
        world.publisher.publish(200)
        rest(4.0)
        wrong[0].set(-3 * DAY)  # it is put right while it runs, and too far
        world.publisher.publish(100)
        _done(world)
        world.stop_services()
        verdict = check(world.history(rate=RATE), Allowed(duplicates=0))
        notes = f"31 days ahead and behind; at most {verdict.most_in_a_period} in {RATE.period:g} s"
        return len(days) + 1, verdict, f"{notes}, {RATE.letters} + {RATE.burst} allowed"


def _of_mongodb(stage: Stage, seed: int) -> Found:
    """MongoDB's clock is put on and back, by more than a life, while letters are on their way."""
    clock = OtherClock(stage.directory / f"clock-mongod-{seed}")
    mongod = Mongod(stage.directory / f"clock-mongod-{time.monotonic_ns()}", environment=clock.environment)
    with contextlib.ExitStack() as stack:
        stack.callback(mongod.kill)
        mongod.start()
        settings = {"MONGODB_LEASE": f"{LEASE:g}s"}
        world = stack.enter_context(
            run(stage, "clocks-mongodb", seed, settings=settings, mongo=mongod, plan={"delay": {"DOT": 1.0}})
        )
        replicas = [world.world.started(), world.world.started()]
        # Few at a time: what one replica has under way the other one would have the time for.
        filler = Filler(world.publisher, world.relay.accepted, 6)
        steps = [world.chance.choice((-1, 1)) * LEASE * world.chance.uniform(0.6, 2.0) for _ in range(4)]
        ahead = 0.0
        for step in [*steps, 3600.0]:
            rest(2.0)
            ahead += step
            clock.set(ahead)
        rest(LEASE)
        filler.stop()
        _done(world)
        for each in replicas:
            if not each.child.running:
                world.fault(f"{each.child.name} ended, with {each.child.returncode}")
        world.stop_services()
        shown = ", ".join(f"{step:+.1f}" for step in [*steps, 3600.0])
        return len(steps) + 1, check(world.history(), Allowed(duplicates=0)), f"steps of {shown} s"


OF = {"producers": _of_producers, "replicas": _of_replicas, "MongoDB": _of_mongodb}


def _put(world: Run, partition: int, stamps: list[Callable[[int], int]], *, good: int = 2) -> None:
    """A letter with each of these times, each with some good ones before it."""
    producer = RawProducer(world.stage.broker.bootstrap)
    with contextlib.closing(producer):
        for stamp in stamps:
            now = int(time.time() * 1000)
            for at in [*[now] * good, stamp(now)]:
                value = world.publisher.encoded([world.publisher.letter()])
                producer.put(world.topics.letters, value, partition=partition, at=at)


def _done(world: Run) -> None:
    if not world.wait_done(PATIENCE):
        world.fault(f"not all was answered within {PATIENCE:g} s")
