"""Another commit's service beside this tree's: in one run, in turn, among the same parts.

    git worktree add --detach ../before COMMIT
    make bench ARGS="--against ../before"

Of the other tree nothing is used but its service, started as its users do (`python -m mailsender run`) in
this tree's environment: one measure for both, one set of versions, and its own benchmarks may lie anywhere.
It has to name its settings and its event `partitions_assigned` as this one does. Where the compiled form is
measured, that of the other tree is made first, as a wheel, by its own build hook.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import idle, latency
from benchmarks.compare import compare, our_peers
from benchmarks.measure import Round
from benchmarks.parts import ROOT, Stage, Tree, is_compiled
from benchmarks.peers import Peer
from benchmarks.run import say
from benchmarks.shapes import SHAPES
from benchmarks.table import Section, before_and_after
from mailsender.dev.process import PartMissing

ROUNDS = 4

BESIDE: tuple[Callable[[Stage], Section], ...] = (latency.measure, idle.measure)
"""What has no rounds, and is measured of each tree once."""


class Before:
    """A peer of ours with the service of another tree."""

    def __init__(self, peer: Peer, tree: Tree) -> None:
        self.name, self.letters = f"{peer.name}, before", peer.letters
        self._peer, self._tree = peer, tree

    def run(self, stage: Stage, letters: int) -> Round:
        with stage.serving(self._tree):
            return self._peer.run(stage, letters)


def other_tree(root: Path, directory: Path) -> Tree:
    """The tree at `root`, compiled into `directory` where this one is.

    Raises:
        PartMissing: there is none, it is this one, or it cannot be compiled.
    """
    root = root.resolve()
    if root == ROOT:
        raise PartMissing(f"{root} is this tree; another one is needed beside it (git worktree add)")
    if not (root / "mailsender" / "__main__.py").is_file():
        raise PartMissing(f"{root} is no checkout of mailsender")
    made = Tree(root, directory / "compiled")
    if is_compiled():
        say(f"Compiling {root}")
        _compile(made, directory)
    return made


def _compile(tree: Tree, directory: Path) -> None:
    """Make a wheel of it, as `make compiled` does here, and unpack that."""
    words = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", directory)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", *words, tree.root],
        env={**os.environ, "MAILSENDER_COMPILE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PartMissing(f"{tree.root} cannot be compiled: {(done.stderr or done.stdout).strip()[-500:]}")
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tree.compiled)
    (tree.compiled / ".made").touch()


def measure(stage: Stage, tree: Tree, rounds: int = ROUNDS, scale: float = 1.0) -> list[Section]:
    """A row for each measurement of ours, and latency and rest once for either."""
    peers: list[Peer] = [*our_peers(), *SHAPES]
    before = [Before(each, tree) for each in peers]
    turns = [each for pair in zip(before, peers, strict=True) for each in pair]
    made, _ = compare(stage, turns, rounds, scale, may_fail=False)
    pairs = {each.name: (made[was.name], made[each.name]) for was, each in zip(before, peers, strict=True)}
    sections = [before_and_after(pairs)]
    for section_of in BESIDE:
        with stage.serving(tree):
            was = section_of(stage)
        sections += [replace(was, title=f"{was.title}, before"), section_of(stage)]
    return sections
