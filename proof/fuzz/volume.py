"""So many inputs to one target, from a seed, in slices that run beside each other."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random
from typing import Any

import structlog

from proof.fuzz import chance as nasty
from proof.fuzz import targets
from proof.fuzz.dialogue import judge_dialogue, make_moves
from proof.fuzz.sockets import http_judge, make_submission, wire_judge
from proof.fuzz.targets import KNOWN, Judge
from proof.table import Row

SLICE = 20_000
MOST_FINDINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is made, and who judges it."""

    title: str
    make: Callable[[Random], Any]
    judging: Callable[[], AbstractContextManager[Judge]]


TARGETS = {
    "records": Target(
        title="record bytes to letters",
        make=nasty.record,
        judging=lambda: targets.plain(targets.judge_record),
    ),
    "messages": Target(
        title="letter to message and back",
        make=targets.make_letter,
        judging=lambda: targets.plain(targets.judge_message),
    ),
    "wire": Target(title="letter to the wire", make=make_submission, judging=wire_judge),
    "replies": Target(
        title="SMTP replies",
        make=targets.make_pieces,
        judging=lambda: targets.plain(targets.judge_replies),
    ),
    "dialogue": Target(
        title="a relay that says anything",
        make=make_moves,
        judging=lambda: targets.plain(judge_dialogue),
    ),
    "http": Target(title="HTTP bodies", make=nasty.body, judging=http_judge),
    "settings": Target(
        title="environments",
        make=targets.make_environment,
        judging=targets.settings_judge,
    ),
}


def one_slice(name: str, seed: int, count: int) -> tuple[list[str], Counter[str]]:
    """What was found in one slice, a few at most, and how far the inputs came."""
    target, chance = TARGETS[name], Random(f"{name}/{seed}")
    with _quiet():
        return _inputs(target, chance, seed, count)


@contextmanager
def _quiet() -> Iterator[None]:
    """Thousands of bad inputs are not worth a line each; afterwards the log is as it was."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _inputs(target: Target, chance: Random, seed: int, count: int) -> tuple[list[str], Counter[str]]:
    found: list[str] = []
    came = Counter[str]()
    with target.judging() as judge:
        for number in range(count):
            made = target.make(chance)
            try:
                came[judge(made)] += 1
            except Exception as error:  # noqa: BLE001  any error is a finding
                what = " ".join(str(error).split())[:300]
                found.append(
                    f"slice {seed}, input {number}: {type(error).__name__} {what} from {made!r:.600}"
                )
                if len(found) >= MOST_FINDINGS:
                    break
    return found, came


def volume(name: str, seed: int, *, count: int, workers: int | None = None) -> Row:
    """`count` inputs, in slices; each slice has a seed of its own, counted on from `seed`."""
    began = time.monotonic()
    sizes = [min(SLICE, count - start) for start in range(0, count, SLICE)]
    seeds = range(seed, seed + len(sizes))
    if len(sizes) == 1:
        slices = [one_slice(name, seed, count)]
    else:
        with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn")) as pool:
            slices = list(pool.map(one_slice, [name] * len(sizes), seeds, sizes))
    found = [each for part, _ in slices for each in part]
    came = sum((counted for _, counted in slices), Counter[str]())
    shown = [how for how in came if how.startswith(KNOWN)]
    known = sum(came[how] for how in shown)
    return Row(
        experiment=f"inputs: {TARGETS[name].title}",
        seed=seed,
        runs=count,
        verdict="kept" if not found and not known else f"BROKEN: {len(found)} findings, {known} known",
        notes=", ".join(f"{number:,} {how}" for how, number in came.most_common()),
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="inputs --runs {count} --seed {seed}"',
        details=tuple(found[:20]),
        known="" if found else ", ".join(shown),
    )
