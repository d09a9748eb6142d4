"""Publishers who want to stop everybody: records made to kill, to fill the memory, to take all the time.

Beside them somebody publishes good letters all the time. These have to go out, the replica has to live and to
stay small, whatever was written has to be answered, and a restart over all of it has to be clean.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from lab.vitals import Seen, Vitals, slower
from lab.world import Replica
from mailsender.dev.process import ChildError
from proof.checker import check
from proof.history import Allowed
from proof.hostile import KINDS, Place, Put, allow, only, unanswered, wait_committed, write
from proof.neighbours import SLOWEST, neighbour
from proof.run import Run, run
from proof.stage import Stage
from proof.table import Row, row

MOST_MEMORY = 256.0
"""MiB that a replica may ever have; the manifests allow it twice as much."""

MOST_STALL, MOST_SEEN_STALL = 0.1, 1.0
"""Seconds for which its loop may stand still: by its own watchdog, which counts work, so that a machine which
is slower than meant has as much more time; or, of a service without one, as seen from outside, with the waits
of a busy machine."""

PATIENCE = 30.0
"""Seconds after which what was written has to be answered."""


def publishers(stage: Stage, seed: int, *, kinds: Sequence[str], patience: float = PATIENCE) -> Row:
    """All of these kinds, one after the other into one partition."""
    began = time.monotonic()
    title = KINDS[kinds[0]].title if len(kinds) == 1 else f"{len(kinds)} kinds at once"
    with run(stage, "publishers", seed) as world:
        allow(world, max(KINDS[kind].needs for kind in kinds))
        service = world.world.started()
        written: dict[Place, Put] = {}
        with Vitals(service) as vitals:
            with neighbour(world) as beside:
                for kind in kinds:
                    written |= write(world, KINDS[kind].make(world.chance), partition=1)
                if not wait_committed(world, written, patience):
                    world.fault(f"what was written was not passed within {patience:g} s")
            if service.child.running:
                world.wait_done(patience)
            slowest = beside.worst()
            seen = vitals.look()
        restart(world, service)
        history = world.history()
        judge_vitals(world, seen)
        if slowest > SLOWEST:
            world.fault(f"a good letter took {slowest:.1f} s")
        left = unanswered(world, written, history.reports)
        for text in left[:5]:
            world.fault(f"unanswered: {text}")
        if len(left) > 5:
            world.fault(f"{len(left)} records unanswered")
        verdict = check(only(world.history(), world.publisher_name), Allowed(duplicates=0))
    return row(
        f"hostile publisher: {title}",
        seed,
        len(written),
        verdict,
        notes=f"{seen}; slowest good letter {slowest:.1f} s",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="publishers --seed {seed}"',
    )


def judge_vitals(world: Run, seen: Seen) -> None:
    """Whether a replica stayed as small and as quick as it has to."""
    if seen.memory > MOST_MEMORY:
        world.fault(f"{seen.memory:.0f} MiB of memory, {MOST_MEMORY:g} allowed")
    if seen.own is not None and seen.own > MOST_STALL and seen.own > (most := MOST_STALL * slower()):
        world.fault(f"its loop stood still for {seen.own * 1000:.0f} ms, {most * 1000:.0f} allowed")
    if seen.own is None and seen.stall > MOST_SEEN_STALL:
        world.fault(f"it answered nobody for {seen.stall:.1f} s")


def restart(world: Run, service: Replica, *, letters: int = 20) -> None:
    """A replica that was alive until now ends well, begins well over what lies there, and works on."""
    if not service.child.running:
        world.fault(f"the service ended, with {service.child.returncode}")
    world.stop_services()
    service.start()
    try:
        service.wait_ready()
    except ChildError as error:
        world.fault(f"after a restart: {str(error).splitlines()[0]}")
        return
    before = world.told()
    world.publisher.publish(letters)
    if not world.wait_told(before + letters, 30):
        world.fault("after a restart new letters were not answered within 30 s")
    with contextlib.suppress(ChildError):
        world.stop_services()
