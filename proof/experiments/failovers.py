"""MongoDB's primary is killed, frozen or told to step down, again and again, under load."""

from __future__ import annotations

import contextlib
import time

from pymongo.errors import PyMongoError

from mailsender.dev.mongod import Mongod
from mailsender.dev.process import ChildError
from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

WAYS = ("killed", "frozen", "steps down")
AWAY = 4.0
"""Seconds for which a primary is gone: longer than the election of another one takes."""


def failovers(stage: Stage, seed: int, *, runs: int) -> Row:
    """`runs` times the member that is primary then."""
    began = time.monotonic()
    settings = {"MONGODB_LEASE": "6s", "MONGODB_TIMEOUT": "5s"}
    with run(stage, "failovers", seed, settings=settings, replica_set=True) as world:
        service = world.world.started()
        filler = Filler(world.publisher, world.relay.accepted, 300)
        for _ in range(runs):
            rest(world.chance.uniform(0.3, 1.5))
            _strike(world, world.chance.choice(WAYS))
        filler.stop()
        world.wait_done(90)
        if not service.child.running:
            world.fault(f"the service ended, with {service.child.returncode}")
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=0))
    return row(
        "MongoDB's primary fails",
        seed,
        runs,
        verdict,
        notes=f"{', '.join(WAYS)}; three members",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="failovers --runs {runs} --seed {seed}"',
    )


def _strike(world: Run, way: str) -> None:
    primary = _primary(world)
    if primary is None:
        world.fault("no primary within 30 s")
        return
    with world.mongodb_away(f"the primary {way}"):
        if way == "steps down":
            with contextlib.suppress(PyMongoError), primary.client() as client:
                client.admin.command("replSetStepDown", 5, force=True)
            return
        if way == "frozen":
            primary.freeze()
            rest(AWAY)
            primary.thaw()
            return
        primary.kill()
        rest(AWAY)
        primary.launch()


def _primary(world: Run) -> Mongod | None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildError):
            return world.stage.replica_set.primary
        rest(0.1)
    return None
