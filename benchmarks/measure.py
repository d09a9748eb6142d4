"""What a round cost: wall-clock, CPU and memory, read from /proc at its beginning and its end only.

Nothing samples in between, so measuring costs the machine next to nothing. CPU is counted in the kernel's
ticks, mostly 10 ms; a round of some seconds makes that a part in some hundred.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one peer; seconds of CPU, megabytes (2**20) of memory."""

    letters: int
    seconds: float
    sender_cpu: float
    stores_cpu: float
    rss_mb: float
    sink_cpu: float = 0.0

    @property
    def letters_per_s(self) -> float:
        return self.letters / self.seconds

    @property
    def cpu_s_per_1000(self) -> float:
        return self.sender_cpu / self.letters * 1000

    @property
    def stores_cpu_s_per_1000(self) -> float:
        return self.stores_cpu / self.letters * 1000

    @property
    def sink_share(self) -> float:
        """The share of a core that the sink took."""
        return self.sink_cpu / self.seconds


LONG_ENOUGH = 8.0
"""Seconds of a round, in which its ends weigh little: a slow machine needs no longer one."""


def round_size(usual: int, before: Sequence[Round]) -> int:
    """Letters of a peer's next round: as many as usual, fewer where `before` says that they take too long."""
    if not before:
        return usual
    return min(usual, -(-int(before[0].letters_per_s * LONG_ENOUGH) // 1000) * 1000)


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    found = [pid]
    for each in found:
        for task in (_PROC / str(each) / "task").glob("*/children"):
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                found += map(int, task.read_text().split())
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """CPU of these processes and their descendants, those included that ended and were waited for."""
    total = 0
    for pid in (each for root in roots for each in tree(root)):
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            fields = (_PROC / str(pid) / "stat").read_text().rsplit(") ", 1)[1].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, and both of the children waited for
    return total / _TICK


def peak_mb(root: int) -> float:
    """Peak memory of a process; of several, what they share is shared out.

    For one process it is the kernel's own high-water mark (VmHWM). For several it is the sum of their present
    proportional shares (Pss), each with as much added as its peak lay above its present size.
    """
    pids = tree(root)
    if len(pids) == 1:
        return _kilobytes(root, "status", "VmHWM") / 1024
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, LookupError):  # likewise; an ending one has no sizes
            above = _kilobytes(pid, "status", "VmHWM") - _kilobytes(pid, "status", "VmRSS")
            total += _kilobytes(pid, "smaps_rollup", "Pss") + above
    return total / 1024


def _kilobytes(pid: int, file: str, name: str) -> int:
    for line in (_PROC / str(pid) / file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(name)


class Meter:
    """CPU of a sender, of its stores and of the sink from the moment it is made."""

    def __init__(self, sender: Iterable[int], stores: Iterable[int] = (), sink: Iterable[int] = ()) -> None:
        self._sender, self._stores, self._sink = list(sender), list(stores), list(sink)
        self._began = time.time()
        self._at_first = self._read()

    def round(self, letters: int, *, began: float | None = None, ended: float | None = None) -> Round:
        """What it came to until now; `began` and `ended` (seconds since 1970) where they are known better."""
        now = time.time()
        sender, stores, sink = (
            last - first for last, first in zip(self._read(), self._at_first, strict=True)
        )
        seconds = (ended or now) - (began or self._began)
        return Round(letters, seconds, sender, stores, sum(map(peak_mb, self._sender)), sink)

    def _read(self) -> tuple[float, float, float]:
        return cpu_seconds(self._sender), cpu_seconds(self._stores), cpu_seconds(self._sink)


def poll(check: Callable[[], bool], what: str, *, timeout: float, pause: float = 0.01) -> None:
    """Ask at an even pace until it holds.

    Raises:
        TimeoutError: it did not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {timeout:g} s")
        time.sleep(pause)
