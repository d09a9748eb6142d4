"""Steps beside each other: none spoils what another one measures, all of them run, and all end together."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailsender.dev import process
from proof.lanes import Work, following, minutes, rows
from proof.parts import CORES, PARTS, QUIET, steps_of
from proof.stage import Stage
from proof.steps import Options, Step
from proof.table import Row

ROOT = Path(__file__).parents[2]


def step(name: str, seconds: float = 30.0, cores: float = 0.3, *, quiet: bool = False) -> Step:
    def make(_: Stage) -> Row:
        raise AssertionError("it is not run here")

    return Step(name=name, seconds=seconds, make=make, cores=cores, quiet=quiet)


BUSY, WAITING = step("busy", 90.0, 1.0), step("waiting", 60.0)
QUIET_ONE, ANOTHER = (step(name, 70.0, 0.9, quiet=True) for name in ("quiet", "another"))


def test_the_longest_begins_first() -> None:
    assert following([WAITING, BUSY], []) is BUSY


def test_beside_what_judges_times_nothing_is_busy() -> None:
    assert following([BUSY, WAITING], [QUIET_ONE], cores=2) is WAITING
    assert following([QUIET_ONE], [BUSY], cores=2) is None
    assert following([QUIET_ONE], [ANOTHER], cores=2) is None


def test_no_more_is_begun_than_the_machine_has_cores_for() -> None:
    assert following([BUSY], [step("two", cores=1.2)], cores=2) is None
    assert following([BUSY], [step("two", cores=1.0)], cores=2) is BUSY


def test_what_needs_all_of_the_machine_runs_alone() -> None:
    assert following([step("all", cores=4.0)], [], cores=2) is not None
    assert following([step("all", cores=4.0)], [WAITING], cores=2) is None


def test_minutes_are_those_of_the_longest_lane() -> None:
    steps = [step("one", 90.0), step("two", 60.0), step("three", 60.0)]
    assert minutes(steps) == 3.5
    assert minutes(steps, 2, cores=2) == 2.0


def test_steps_are_known_by_their_names() -> None:
    names = [each.name for each in steps_of([], Options(seed=1))]
    assert len(set(names)) == len(names)
    assert CORES.keys() | QUIET <= PARTS.keys()


@pytest.mark.parametrize("lanes", [1, 2])
def test_every_step_is_run_once(tmp_path: Path, lanes: int) -> None:
    options = Options(seed=7, runs=20, jobs=lanes)
    steps = steps_of(["inputs"], options)
    work = Work(parts=["inputs"], options=options, tree=ROOT, directory=tmp_path)
    begun: list[str] = []
    found = list(rows(steps, work, lanes, lambda each: begun.append(each.name)))
    assert sorted(each.step for each in found) == sorted(begun) == sorted(each.name for each in steps)
    assert {each.verdict for each in found} == {"kept"}


def test_a_step_whose_lane_crashes_is_run_once_more(tmp_path: Path) -> None:
    options = Options(seed=7, runs=20, jobs=2)
    steps = steps_of(["inputs"], options)
    work = Work(parts=["inputs"], options=options, tree=ROOT, directory=tmp_path)
    begun: list[str] = []

    def begin(step: Step) -> None:
        begun.append(step.name)
        if len(begun) == 2:
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGSEGV)

    found = list(rows(steps, work, 2, begin))
    assert {each.verdict for each in found} == {"kept"}
    assert sorted(each.step for each in found) == sorted(each.name for each in steps)
    assert len(begun) > len(steps)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_whatever_ends_the_run_ends_all_lanes(tmp_path: Path, end: signal.Signals) -> None:
    arguments = ["inputs", "--runs", "10000000", "--jobs", "2", "--no-page", "--directory", str(tmp_path)]
    run = subprocess.Popen(
        [sys.executable, "-m", "proof", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    with run.stdout as said:
        while "…" not in (line := said.readline()):
            assert line, "it ended before it began a step"
    try:
        if end is signal.SIGKILL:
            run.kill()  # it alone
        else:
            os.killpg(run.pid, end)
        assert run.wait(60) != 0
        deadline = time.monotonic() + 30
        while _is_there(run.pid):
            assert time.monotonic() < deadline, "a process of it lives on"
            time.sleep(0.05)  # there is no event for it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_lane_has_ports_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process._mine, "ports", process._mine.ports)
    taken = []
    for lane in range(3):
        process.take_ports(lane, 3)
        taken.append({process.free_port() for _ in range(50)})
    assert max(taken[0]) < min(taken[1])
    assert max(taken[1]) < min(taken[2])
