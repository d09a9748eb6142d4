"""kill -9 of the service under load, at random instants, with a restart in place."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass

from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row
from tests.acceptance.harness import Replica

MOST_LETTERS = 120
"""Letters up to which a process may come before it is killed at an acceptance."""

PER_KILL = 60
"""Duplicates that one kill may cost: what the workers hold, and what waits for one bulk write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """When a process is killed: so many seconds after its start, or at its so manieth acceptance."""

    when: str  # "clock"; "before" or "after" the relay answered the dot
    seconds: float = 0.0
    letters: int = 0


def blow(chance: random.Random, latest: float) -> Blow:
    """One of the three sorts; dense around the dot, where the only window for a duplicate is."""
    when = chance.choice(["clock", "before", "after"])
    if when == "clock":
        return Blow(when=when, seconds=chance.uniform(0.0, latest))
    return Blow(when=when, letters=chance.randint(1, MOST_LETTERS), seconds=chance.choice([0, 0, 0.003]))


def strike(world: Run, service: Replica, hit: Blow) -> None:
    """Wait for the moment, kill, and note when it was."""
    child = service.child
    if hit.when == "clock":
        rest(hit.seconds)
    else:
        before = world.relay.tell("count").get("killed", 0)
        world.relay.tell("kill", pid=child.pid, when=hit.when, **{"in": hit.letters})
        try:
            world.relay.wait_for(before + 1, "killed", timeout=20)
        except TimeoutError:
            world.relay.tell("spare")
    child.signal(signal.SIGKILL)
    child.wait(10)
    world.note_break("kill")


def kills(stage: Stage, seed: int, *, runs: int, latest: float, backlog: int = 400) -> Row:
    """`runs` lives, each ended by SIGKILL, then one to the end.

    Up to `latest` seconds after its start a process is killed by the clock: it sends after half a second, and
    reclaims what its forerunner left after one and a half.
    """
    began = time.monotonic()
    settings = {"KAFKA_GROUP_INSTANCE_ID": "replica-0"}
    with run(stage, "kills", seed, settings=settings) as world:
        service = world.world.replica()
        filler = Filler(world.publisher, world.relay.accepted, backlog)
        for _ in range(runs):
            service.start()
            strike(world, service, blow(world.chance, latest))
            world.read_reports(0.001)
        filler.stop()
        service.start()
        world.wait_done(120)
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=PER_KILL * runs))
    notes = f"{verdict.duplicates / max(1, runs):.2f} letters twice a kill"
    return row(
        "kill -9 under load",
        seed,
        runs,
        verdict,
        notes=notes,
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="kills --runs {runs} --seed {seed}"',
    )
