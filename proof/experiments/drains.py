"""Stopped politely at random instants in every state: exit 0 in time, nothing in hand, nothing sent after."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass

from lab.world import Replica
from proof.checker import check
from proof.experiments.kills import SESSIONS, STATE
from proof.history import Allowed
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

DRAIN, SLACK = 4.0, 6.0
"""Seconds: the drain's deadline, and what closing the clients may take on a busy machine on top of it."""

STATES = ("starting", "loaded", "loaded", "idle", "stalled", "halting")


@dataclass(slots=True)
class Seen:
    """What the drains came to. `slowest` in seconds."""

    slowest: float = 0.0
    too_early: int = 0


def drains(stage: Stage, seed: int, *, runs: int, backlog: int = 300) -> Row:
    """`runs` lives, each ended politely, then one that finishes the work."""
    began = time.monotonic()
    settings = {"DRAIN_TIMEOUT": f"{DRAIN:g}s", "KAFKA_GROUP_INSTANCE_ID": "replica-0"}
    seen = Seen()
    with run(stage, "drains", seed, settings=settings) as world:
        service = world.world.replica()
        world.publisher.publish(backlog)
        for _ in range(runs):
            _one(world, service, world.chance, seen, backlog)
        world.starts()
        service.start()
        world.wait_done(120)
        world.stop_services()
        world.stopped("the last drain", time.monotonic())
        # Without a stall nothing may come twice; a letter whose dot was cut off may.
        verdict = check(world.history(), Allowed(duplicates=5 * runs, window=0.0))
    early = f"; {seen.too_early} before it could hear a signal" if seen.too_early else ""
    return row(
        "drain at random instants",
        seed,
        runs,
        verdict,
        notes=f"slowest {seen.slowest:.1f} s of {DRAIN:g} s + {SLACK:g} s{early}",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="drains --runs {runs} --seed {seed}"',
    )


def _one(world: Run, service: Replica, chance: random.Random, seen: Seen, backlog: int) -> None:
    state = chance.choice(STATES)
    plan, stalls_from = world.relay.plan, time.monotonic()
    if state == "stalled":
        stalls = [{"phase": p, "p": 0.02, "do": "stall", "seconds": 60} for p in ("MAIL", "DATA", "DOT")]
        world.relay.follow({**plan, "chance": stalls})
    lines = len(service.log) if service.child.log.exists() else 0
    filler = None if state == "idle" else Filler(world.publisher, world.relay.accepted, backlog)
    world.starts()
    service.start()
    if state == "idle":
        world.wait_told(len(world.publisher.published), 60)
    elif state != "starting":
        service.wait_ready()
    rest(chance.uniform(0.0, 1.0))
    asked, exited, status = _drain(service, by_http=state == "halting")
    world.stopped(f"a drain while {state}", exited)
    if filler:
        filler.stop()
    seen.slowest = max(seen.slowest, exited - asked)
    if state == "stalled":
        # A stalled session was cut after its dot, so its letter may come again, and is told as uncertain. It
        # may have stalled at any time since the relay was told to, also long before the drain.
        world.relay.follow(plan)
        world.note_break("a stalled relay", stalls_from)
    if status == -signal.SIGTERM and len(service.log) == lines:
        seen.too_early += 1  # the interpreter was still starting
    elif status != 0:
        world.fault(f"a drain while {state} ended with {status}")
    _look(world, state, asked, exited)


def drains_without(stage: Stage, seed: int, *, part: str, runs: int) -> Row:
    """`runs` lives, each asked to stop while a part does not answer; it comes back, and the next goes on.

    Without MongoDB a drain cannot be clean and has to say so; without the broker it may be, when all is told.
    What it could not write the next one knows from the notes.
    """
    began = time.monotonic()
    settings = {"DRAIN_TIMEOUT": f"{DRAIN:g}s", "KAFKA_GROUP_INSTANCE_ID": "replica-0"}
    settings |= {"MONGODB_TIMEOUT": "2s", "KAFKA_TIMEOUT": "2s"}
    slowest = 0.0
    statuses: Counter[int] = Counter()
    with run(stage, f"drains-without-{part}", seed, settings=settings) as world:
        world.world.settings[STATE] = str(world.directory / "notes")
        away = stage.mongod if part == "mongodb" else stage.broker
        service = world.world.replica()
        for _ in range(runs):
            world.publisher.publish(400)
            lines = len(service.log) if service.child.log.exists() else 0
            world.starts()
            service.start()
            service.wait_ready()
            rest(world.chance.uniform(0.0, 0.5))
            with world.broken(f"{part} away"):
                away.freeze()
                try:
                    rest(world.chance.uniform(0.0, 1.0))
                    asked, exited, status = _drain(service, by_http=False)
                    world.stopped(f"a drain without {part}", exited)
                finally:
                    away.thaw()
            statuses[status] += 1
            slowest = max(slowest, exited - asked)
            if exited - asked > DRAIN + SLACK:
                world.fault(f"a drain without {part} took {exited - asked:.1f} s")
            held = _in_hand(service, lines)
            if status < 0 or (status == 0 and part == "mongodb" and held):
                world.fault(f"a drain without {part} ended with {status}, and {held} letters in hand")
        world.starts()
        service.start()
        world.wait_done(120)
        world.stop_services()
        world.stopped("the last drain", time.monotonic())
        cut_off = SESSIONS * runs if part == "mongodb" else 0
        verdict = check(world.history(), Allowed(duplicates=cut_off, named=True))
    shown = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    return row(
        f"drain while {part} is frozen",
        seed,
        runs,
        verdict,
        notes=f"slowest {slowest:.1f} s of {DRAIN:g} s + {SLACK:g} s; exit statuses {shown}",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="drains --seed {seed}"',
    )


def _in_hand(service: Replica, lines: int) -> int:
    """How many letters it had when it was told to stop, by its log behind so many lines.

    Without any it leaves nothing undone, whether MongoDB answers or not, and may say so.
    """
    steps = [each for each in service.log[lines:] if each.get("event") == "drain_step"]
    return int(steps[0]["in_hand"]) if steps else 0


def _drain(service: Replica, *, by_http: bool) -> tuple[float, float, int]:
    """When it was asked to stop, when it had ended, and with which status."""
    asked = time.monotonic()
    if not by_http or service.halt().status != 200:
        service.terminate()
    status = service.wait_exit(60)
    return asked, time.monotonic(), status


def _look(world: Run, state: str, asked: float, exited: float) -> None:
    """Whether the drain kept what it promises."""
    if exited - asked > DRAIN + SLACK:
        world.fault(f"a drain while {state} took {exited - asked:.1f} s")
    left = world.world.by_status()["processing"]
    if left:
        world.fault(f"a drain while {state} left {left} letters processing")
    world.read_reports(0.001)
