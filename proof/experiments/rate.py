"""The rate over one to four replicas, some of which are killed, while MongoDB's primary steps down."""

from __future__ import annotations

import contextlib
import signal
import time

from pymongo.errors import PyMongoError

from mailsender.dev.process import ChildError
from proof.checker import Verdict, check
from proof.history import Allowed, Rate
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

RATE = Rate(letters=20, period=1.0, burst=3)
WRITTEN = 1.0
"""Seconds within which an outcome is stored while MongoDB is there: kills are so many here that a longer time
before each would explain nearly everything."""


def rate(stage: Stage, seed: int, *, replicas: int, seconds: float, failover: bool) -> Row:
    """Full load at a low rate for so many seconds; every other second a replica is killed and restarted."""
    began = time.monotonic()
    settings = {
        "SMTP_RATE_LIMIT_MAX_LETTERS": str(RATE.letters),
        "SMTP_RATE_LIMIT_PERIOD": f"{RATE.period:g}s",
        "SMTP_RATE_LIMIT_BURST": str(RATE.burst),
    }
    plan = {"delay": {"DOT": 0.0}}
    with run(stage, "rate", seed, settings=settings, plan=plan, replica_set=failover) as world:
        world.publisher.publish(int(RATE.letters * seconds / RATE.period))
        services = [world.world.started() for _ in range(replicas)]
        kills = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rest(world.chance.uniform(1.0, 3.0))
            victim = world.chance.choice(services)
            victim.child.signal(signal.SIGKILL)
            victim.child.wait(10)
            world.note_break("kill")
            kills += 1
            if failover and world.chance.random() < 0.3:
                _step_down(world)
            victim.start()
        world.wait_done(seconds * 2 + 60)
        for service in services:
            service.wait_ready()
        world.stop_services()
        verdict = check(world.history(rate=RATE), Allowed(duplicates=10 * kills, window=WRITTEN))
    return row(
        f"the rate, {replicas} replicas" + (", failovers" if failover else ""),
        seed,
        kills,
        verdict,
        notes=_fullest(verdict),
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="rate --seed {seed}"',
    )


def _fullest(verdict: Verdict) -> str:
    return f"at most {verdict.most_in_a_period} in {RATE.period:g} s, {RATE.letters} + {RATE.burst} allowed"


def _step_down(world: Run) -> None:
    with (
        world.mongodb_away("failover"),
        contextlib.suppress(PyMongoError, ChildError),
        world.stage.replica_set.primary.client() as client,
    ):
        client.admin.command("replSetStepDown", 5, force=True)
