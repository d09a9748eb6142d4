"""What the service costs while it has nothing to do, and while its rate lets it do next to nothing.

CPU of its process as a share of one core: with empty topics, and at the default rate (5 letters in 5 s) with
100,000 letters waiting, once it has taken them in.

    python -m benchmarks.idle
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from benchmarks.letters import batches
from benchmarks.measure import cpu_seconds, poll
from benchmarks.parts import Stage
from benchmarks.peers.ours import ready, world
from benchmarks.run import alone
from benchmarks.table import Section

WINDOWS, SECONDS = 3, 10.0
"""Of so many windows the median counts: the machine may have something else to do in one."""
SETTLE = 5.0
"""Seconds before the measurement: what a start and the intake cost is no idling."""

WAITING = 100_000
DEFAULT_RATE = {"SMTP_RATE_LIMIT_MAX_LETTERS": "5", "SMTP_RATE_LIMIT_PERIOD": "5s"}


def measure(stage: Stage) -> Section:
    """A row for each state."""
    rows = [
        ["empty topics, no rate", *_shares(stage, 0, {})],
        [f"{WAITING:,} waiting, 5 letters in 5 s", *_shares(stage, WAITING, DEFAULT_RATE)],
    ]
    return Section(
        "At rest",
        ["state", "service, % of a core", "mongod, % of a core", "sent meanwhile"],
        rows,
        [f"Medians of {WINDOWS} times {SECONDS:g} s, one after the other."],
    )


def _shares(stage: Stage, waiting: int, settings: dict[str, str]) -> list[str]:
    with world(stage, **settings) as here:
        here.publish(batches(waiting, 100))
        service = ready(here)
        with here.letters() as queue:
            poll(lambda: bool(queue.estimated_document_count() >= waiting), "intake", timeout=120, pause=0.5)
        time.sleep(SETTLE)
        parts = (service.child.pid, stage.mongod.child.pid)
        sunk = stage.sink.received()
        shares = [_window(parts) for _ in range(WINDOWS)]
        count = stage.sink.received() - sunk
        service.child.kill()  # with letters waiting a drain has nothing to show here
    return [*(f"{median(each) * 100:.2f}" for each in zip(*shares, strict=True)), str(count)]


def _window(pids: Sequence[int]) -> list[float]:
    """The share of a core that each process takes meanwhile."""
    before, at = [cpu_seconds([pid]) for pid in pids], time.monotonic()
    time.sleep(SECONDS)
    took = time.monotonic() - at
    return [(cpu_seconds([pid]) - was) / took for pid, was in zip(pids, before, strict=True)]


if __name__ == "__main__":
    alone(measure)
