"""What the service costs while it has nothing to do, and while its rate lets it do next to nothing.

CPU of its process as a share of one core: with empty topics, and at the default rate (5 letters in 5 s) with
100,000 letters waiting. The waiting letters are written into its collection before it starts.

    python -m benchmarks.idle
"""

from __future__ import annotations

import time

from benchmarks.depth import fill
from benchmarks.measure import cpu_seconds
from benchmarks.parts import Stage
from benchmarks.peers.ours import ready, world
from benchmarks.run import alone
from benchmarks.table import Section

SECONDS = 20.0
SETTLE = 5.0
"""Seconds after readiness before the measurement: what a start costs is no idling."""

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
        [f"Over {SECONDS:g} s."],
    )


def _shares(stage: Stage, waiting: int, settings: dict[str, str]) -> list[str]:
    with world(stage, **settings) as here:
        if waiting:
            fill(stage, here.database, waiting, 0)
        service = ready(here, timeout=120)
        time.sleep(SETTLE)
        parts = (service.child.pid, stage.mongod.child.pid)
        before, sunk, at = [cpu_seconds([pid]) for pid in parts], stage.sink.received(), time.monotonic()
        time.sleep(SECONDS)
        took = time.monotonic() - at
        spent = [cpu_seconds([pid]) - was for pid, was in zip(parts, before, strict=True)]
        count = stage.sink.received() - sunk
        service.child.kill()  # with letters waiting a drain has nothing to show here
    return [*(f"{each / took * 100:.2f}" for each in spent), str(count)]


if __name__ == "__main__":
    alone(measure)
