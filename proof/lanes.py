"""Steps one after the other, or some beside each other, each lane a process with parts and ports of its own.

Which steps may run at a time is decided by what they need of the machine's cores, measured, and by whether
they judge how long something takes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from mailsender.dev.process import take_ports
from proof.parts import steps_of
from proof.stage import open_stage
from proof.steps import Options, Step
from proof.table import Row

CORES = float(os.cpu_count() or 1)

IDLE = 0.5
"""Cores of a step that mostly waits: it may run beside one that judges times."""

ENDING = 30.0
"""Seconds that a lane may take to end its parts before it is killed."""

_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a lane has to know to find its steps by their names."""

    parts: Sequence[str]
    options: Options
    tree: Path
    directory: Path


def following(waiting: Sequence[Step], running: Sequence[Step], cores: float = CORES) -> Step | None:
    """The longest of those that may begin beside these; None where each has to wait."""
    fitting = (each for each in waiting if not running or _fit([*running, each], cores))
    return max(fitting, key=lambda each: each.seconds, default=None)


def _fit(together: Sequence[Step], cores: float) -> bool:
    quiet = all(
        other.cores <= IDLE for each in together if each.quiet for other in together if other is not each
    )
    return quiet and sum(each.cores for each in together) <= cores


def minutes(steps: Sequence[Step], lanes: int = 1, cores: float = CORES) -> float:
    """About how long they take."""
    waiting, now = list(steps), 0.0
    running: list[tuple[float, Step]] = []
    while waiting or running:
        while len(running) < lanes and (step := following(waiting, [each for _, each in running], cores)):
            waiting.remove(step)
            running.append((now + step.seconds, step))
        now, ended = min(running, key=lambda each: each[0])
        running.remove((now, ended))
    return now / 60


def rows(steps: Sequence[Step], work: Work, lanes: int, begun: Callable[[Step], None]) -> Iterator[Row]:
    """The rows of these steps, each as soon as it is there. `begun` is told when a step begins."""
    if lanes > 1:
        yield from _beside(list(steps), work, lanes, begun)
        return
    with open_stage(work.directory) as stage:
        stage.tree = work.tree
        for step in steps:
            begun(step)
            yield step.row(stage, work.options)


def _beside(waiting: list[Step], work: Work, lanes: int, begun: Callable[[Step], None]) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        all_lanes = [_Lane(number, lanes, work) for number in range(lanes)]
        stack.callback(_end, all_lanes)
        busy: dict[Connection, _Lane] = {}
        once_more: set[str] = set()
        while waiting or busy:
            for lane in all_lanes:
                running = [each.step for each in busy.values() if each.step]
                if lane.step is None and (step := following(waiting, running)):
                    waiting.remove(step)
                    begun(step)
                    lane.begin(step)
                    busy[lane.line] = lane
            ended = wait([*busy])
            for line in [each for each in busy if each in ended]:
                lane = busy.pop(line)
                step = lane.step
                try:
                    yield lane.row()
                except LaneEnded:
                    # A client's library crashed in it, and not the service: nothing was tried. Another step's
                    # row is not lost with it, and this one is run once more.
                    lane.wait_end()
                    all_lanes[all_lanes.index(lane)] = _Lane(lane.number, lanes, work)
                    if step is None or step.name in once_more:
                        raise
                    once_more.add(step.name)
                    waiting.append(step)


def _end(lanes: list[_Lane]) -> None:
    for lane in lanes:  # all of them, before the first is waited for
        lane.end()
    for lane in lanes:
        lane.wait_end()


class LaneEnded(RuntimeError):  # noqa: N818  what happened to it
    """The process of a lane has ended in the middle of a step."""


class _Lane:
    """A process that runs one step after the other."""

    def __init__(self, number: int, of: int, work: Work) -> None:
        self.number = number
        self.line, theirs = _PROCESSES.Pipe()
        self.step: Step | None = None
        self._process = _PROCESSES.Process(target=_serve, args=(theirs, work, number, of))
        self._process.start()
        theirs.close()

    def begin(self, step: Step) -> None:
        self.step = step
        with contextlib.suppress(BrokenPipeError):  # its process has ended: `row` says so
            self.line.send(step.name)

    def row(self) -> Row:
        """What came of its step.

        Raises:
            LaneEnded: its process has.
        """
        step, self.step = self.step, None
        try:
            made: Row = self.line.recv()
        except (EOFError, ConnectionResetError):  # the latter where it had not read its last step
            self._process.join(ENDING)
            name = step.name if step else "nothing"
            raise LaneEnded(f"a lane ended at {name}, with {self._process.exitcode}") from None
        return made

    def end(self) -> None:
        """Have it end, in the middle of a step, too."""
        self._process.terminate()

    def wait_end(self) -> None:
        self._process.join(ENDING)
        self._process.kill()  # its guard ends what it started


def _serve(line: Connection, work: Work, number: int, of: int) -> None:
    """A lane: names come in, rows go out."""
    # Ctrl-C reaches all processes: the one that began this one ends it, and then it ends its parts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    take_ports(number, of)
    steps = {each.name: each for each in steps_of(work.parts, work.options)}
    with open_stage(work.directory / f"lane{number}") as stage, contextlib.suppress(EOFError):
        stage.tree = work.tree
        while True:
            line.send(steps[line.recv()].row(stage, work.options))


def _end_with_parent() -> None:
    """End at once when whoever began this process is gone: nobody would read a row, and steps take hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # guards end the parts
