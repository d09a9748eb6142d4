"""A replica that is frozen past its time, beside one that lives on."""

from __future__ import annotations

import time

from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import rest, run
from proof.stage import Stage
from proof.table import Row, row

LIFE = 2.0
SESSIONS = 5


def frozen(stage: Stage, seed: int, *, runs: int) -> Row:
    """`runs` times one of two replicas is frozen for a part or a multiple of its time."""
    began = time.monotonic()
    # A slow dot, so that some are always in flight when the freeze comes.
    with run(stage, "frozen", seed, plan={"delay": {"DOT": 0.05}}) as world:
        replicas = [world.world.started(), world.world.started()]
        filler = Filler(world.publisher, world.relay.accepted, 400)
        longest = 0.0
        for _ in range(runs):
            rest(world.chance.uniform(0.2, 1.0))
            victim = world.chance.choice(replicas)
            length = LIFE * world.chance.uniform(0.8, 2.5)
            longest = max(longest, length)
            with world.broken("frozen"):
                victim.child.freeze()
                rest(length)
                victim.child.thaw()
        rest(0.5)
        filler.stop()
        world.wait_done(120)
        for replica in replicas:
            if not replica.child.running:
                world.fault(f"{replica.child.name} ended by itself, with {replica.child.returncode}")
        world.stop_services()
        # What the frozen one had handed to the relay, one letter a session, and what it had not yet written.
        verdict = check(world.history(), Allowed(duplicates=2 * SESSIONS * runs))
    return row(
        "frozen replica beside a live one",
        seed,
        runs,
        verdict,
        notes=f"frozen for up to {longest:.1f} s, time {LIFE:g} s",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="frozen --runs {runs} --seed {seed}"',
    )
