"""Replicas that join and leave without end, under load."""

from __future__ import annotations

import time

from lab.world import Replica
from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import rest, run
from proof.stage import Stage
from proof.table import Row, row

REPLICAS = 3


def rebalances(stage: Stage, seed: int, *, runs: int) -> Row:
    """One replica stays; every second another one joins or leaves, `runs` times in all."""
    began = time.monotonic()
    with run(stage, "rebalances", seed) as world:
        world.world.started()
        others = [world.world.replica() for _ in range(REPLICAS - 1)]
        filler = Filler(world.publisher, world.relay.accepted, 300)
        leaving: list[Replica] = []
        for _ in range(runs):
            moved = world.chance.choice(others)
            if moved in leaving:
                if moved.wait_exit(40) != 0:
                    world.fault(f"{moved.child.name} left with {moved.child.returncode}")
                leaving.remove(moved)
            if moved.child.running:
                # Before it is ready it may not yet hear a signal.
                moved.wait_ready()
                moved.terminate()
                leaving.append(moved)
            else:
                moved.start()
            rest(world.chance.uniform(0.5, 1.5))
        filler.stop()
        world.wait_done(120)
        for replica in others:
            if replica.child.running and replica not in leaving:
                replica.wait_ready()
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=0))
    return row(
        "replicas join and leave",
        seed,
        runs,
        verdict,
        notes=f"up to {REPLICAS} replicas, one change a second",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="rebalances --runs {runs} --seed {seed}"',
    )
