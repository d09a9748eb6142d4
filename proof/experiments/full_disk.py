"""The disk for the journal is full for a while: nothing is sent without a record, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from lab.world import Replica
from mailsender.journal.record import SIZE as SIZE_OF_A_RECORD
from proof.checker import Verdict, check
from proof.experiments.kills import STATE
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import NOT_RUN, Row, row

TITLE = "the disk for notes is full"

SIZE = "2m"
"""Of the disk: some thousand letters' records."""

FULL = 1.5
"""Seconds for which it stays full."""

SETTLED = 0.3
"""Seconds after which what was on its way to the relay has been answered."""

PAGE = 4096
"""Octets in which the disk is taken: a file that is written on fills up its last page."""

LAST = PAGE // SIZE_OF_A_RECORD
"""Letters that may be accepted on a full disk: their records find room in a page that was taken in time."""

NOTICE = 10.0
"""Seconds in which readiness has to say so."""


def full_disk(stage: Stage, seed: int, *, runs: int) -> Row:
    """`runs` times full under load, and emptied again."""
    began = time.monotonic()
    if os.geteuid() != 0:
        return Row(
            experiment=TITLE, seed=seed, runs=0, verdict=f"{NOT_RUN}: only root can mount a small disk"
        )
    with run(stage, "full-disk", seed) as world:
        disk = world.directory / "small"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "mailsender", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            return Row(
                experiment=TITLE, seed=seed, runs=0, verdict=f"{NOT_RUN}: a small disk cannot be mounted"
            )
        try:
            verdict = _over(world, disk, runs)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
    return row(
        TITLE,
        seed,
        runs,
        verdict,
        notes=f"for {FULL:g} s each",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="disk --runs {runs} --seed {seed}"',
    )


def _over(world: Run, disk: Path, runs: int) -> Verdict:
    service = world.world.started(**{STATE: str(disk / "journal")})
    filler = Filler(world.publisher, world.relay.accepted, 300)
    for _ in range(runs):
        rest(world.chance.uniform(0.3, 1.0))
        _fill(world, service, disk / "ballast")
    filler.stop()
    world.wait_done(60)
    world.stop_services()
    return check(world.history())


def _fill(world: Run, service: Replica, ballast: Path) -> None:
    """Fill the disk, look, and empty it."""
    try:
        _heap(ballast)
        if not _unready(service):
            world.fault("readiness does not say that the journal cannot be written")
        _keep_full(ballast, SETTLED)
        before = world.relay.accepted()
        _keep_full(ballast, FULL)
        more = world.relay.accepted() - before
        if more > LAST:
            world.fault(f"{more} letters were accepted while no dot could be written down")
    finally:
        ballast.unlink()
    service.wait_ready()


def _keep_full(ballast: Path, seconds: float) -> None:
    """Fill what becomes free: the service deletes files that are of no more use, and would write on there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        _heap(ballast)
        rest(0.01)


def _heap(ballast: Path) -> None:
    """Write until nothing goes in any more."""
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):  # it is full: as it should be
        while file.write(bytes(PAGE)):
            pass


def _unready(service: Replica) -> bool:
    deadline = time.monotonic() + NOTICE
    while time.monotonic() < deadline:
        if service.get("/readyz").status == 503 and b"journal: " in service.get("/status").body:
            return True
        rest(0.05)  # an event that another process can hear there is none
    return False
