"""One build after the other over one queue, forth and back, as an upgrade does it and a return from one."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from proof.checker import check
from proof.experiments.kills import PER_KILL
from proof.history import Allowed
from proof.load import Filler
from proof.run import rest, run
from proof.stage import Stage
from proof.table import NOT_RUN, Row, row

BEFORE = "bccf3fb"
"""The build before: a commit of this repository, the last one that was published with a proof."""

ROOT = Path(__file__).parents[2]


def builds(stage: Stage, seed: int, *, runs: int) -> Row:
    """`runs` changes of build; a life is ended politely, or not, or when its successor is ready."""
    began, title = time.monotonic(), "builds rolled forth and back"
    before = stage.directory / "build-before"
    if not _unpacked(before):
        why = f"{NOT_RUN}: there is no commit {BEFORE} in this checkout"
        return Row(experiment=title, seed=seed, runs=0, verdict=why)
    kills = 0
    with run(stage, "builds", seed) as world:
        if _names(before) != _names(stage.tree):
            world.fault("one record gets two IDs: the builds name letters otherwise")
        notes = world.directory / "notes"
        notes.mkdir(parents=True)
        # The last one is this build: of what a kill leaves in the outbox the other knows nothing.
        trees = (before, stage.tree)
        filler = Filler(world.publisher, world.relay.accepted, 200)
        living = world.world.started(MAILSENDER_STATE_DIR=str(notes), PYTHONPATH=str(trees[1]))
        for number in range(runs):
            rest(world.chance.uniform(0.3, 1.5))
            way = world.chance.choice(("politely", "killed", "beside"))
            # Two at a time cannot have the same directory.
            state = {} if way == "beside" else {"MAILSENDER_STATE_DIR": str(notes)}
            following = world.world.replica(PYTHONPATH=str(trees[number % 2]), **state)
            if way == "beside":
                following.start()
                following.wait_ready()
            if way == "killed":
                living.child.signal(signal.SIGKILL)
                living.child.wait(10)
                world.note_break("kill")
                kills += 1
            else:
                living.terminate()
                if living.wait_exit(40) != 0:
                    world.fault(f"{living.child.name} ended with {living.child.returncode} on SIGTERM")
            if way != "beside":
                following.start()
                following.wait_ready()
            living = following
        filler.stop()
        world.publisher.publish(20)
        if not world.wait_done(60):
            world.fault("not all was answered within 60 s")
        world.stop_services()
        verdict = check(world.history(), Allowed(duplicates=PER_KILL * kills))
    return row(
        title,
        seed,
        runs,
        verdict,
        notes=f"this build and {BEFORE} in turn; {kills} kills",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="builds --runs {runs} --seed {seed}"',
    )


def _names(tree: Path) -> str:
    """The IDs that a build gives to letters of a hundred places."""
    script = """
try:
    from mailsender.model.letter import Origin
except ImportError:  # the build before has it in another room
    from mailsender.letter import Origin
for n in range(100):
    place = {"topic": f"t{n % 7}", "partition": n % 5, "offset": n, "index": n % 3}
    print(Origin(**place, timestamp=1_700_000_000_000 + n).letter_id())
"""
    # -P: the tree that this process stands in would come before the one that is asked.
    command = [sys.executable, "-P", "-c", script]
    found = subprocess.run(
        command, env={"PYTHONPATH": str(tree)}, capture_output=True, check=True, timeout=60
    )
    return found.stdout.decode()


def _unpacked(directory: Path) -> bool:
    """Whether the build before lies there now."""
    if (directory / "mailsender").exists():
        return True
    command = ["git", "-C", str(ROOT), "archive", BEFORE, "mailsender"]
    try:
        packed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(directory, filter="data")
    return True
