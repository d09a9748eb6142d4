"""Two replicas on one topic: together beside one alone, no letter twice, and one rate for both.

For the speed both are ready, with two partitions each, before a burst of letters is published; the clock runs
from the first produce call until the last mark, for one replica alike. That the sink took each letter once is
checked by count. For the rate a sink stamps each MAIL, and the fullest window of a period is looked for.

    python -m benchmarks.replicas
"""

from __future__ import annotations

import time
from collections import Counter

from benchmarks.letters import batches
from benchmarks.measure import poll
from benchmarks.parts import Stage
from benchmarks.peers.ours import await_answers, check, end, last_mark, ready, world
from benchmarks.run import alone
from benchmarks.stamping_sink import stamping_sink
from benchmarks.table import Section
from tests.acceptance.test_replicas import most_in_a_window

LETTERS, BATCH, ROUNDS = 12_000, 100, 3
RATE, PERIOD, BURST, LIMITED = 50, 1.0, 3, 500


def measure(stage: Stage) -> Section:
    """A row for one replica, one for two, one for the rate."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for count, seen in speeds.items():
            seen.append(_speed(stage, count))
    middle = {count: sorted(seen)[len(seen) // 2] for count, seen in speeds.items()}
    fullest, took, twice = _rate(stage)
    allowed = f"allowed {RATE + BURST} ({RATE} in {PERIOD:g} s, burst {BURST})"
    rows = [
        ["one replica, letters/s", f"{middle[1]:,.0f}"],
        ["two replicas, letters/s", f"{middle[2]:,.0f}"],
        ["two ÷ one", f"{middle[2] / middle[1]:.2f}"],
        ["sent twice, of " + f"{LETTERS * ROUNDS * 2 + LIMITED:,}", str(twice)],
        ["two with one rate: most MAILs in any period", f"{fullest} of {allowed}"],
        ["two with one rate: share of the allowed speed", f"{LIMITED / RATE * PERIOD / took * 100:.0f} %"],
    ]
    note = f"Medians of {ROUNDS} rounds of {LETTERS:,} letters, from the first produce call to the last mark."
    return Section("Two replicas", ["what", "value"], rows, [note])


def _speed(stage: Stage, replicas: int) -> float:
    with world(stage) as here:
        running = [here.replica() for _ in range(replicas)]
        for each in running:
            each.start()
        for each in running:
            each.wait_ready()
        _await_shares(running)
        sunk, began = stage.sink.received(), time.time()
        here.publish(batches(LETTERS, BATCH))
        await_answers(here, LETTERS)
        took = last_mark(here) - began
        for each in running:
            end(each)
        check(here, LETTERS, stage.sink.received() - sunk)
    return LETTERS / took


def _await_shares(running: list) -> None:  # type: ignore[type-arg]
    """Until the group has given every replica as many partitions as the others."""

    def shared() -> bool:
        latest = [each.events("partitions_assigned")[-1:] for each in running]
        return all(latest) and all(len(each[0]["partitions"]) == 4 // len(running) for each in latest)

    poll(shared, "balanced group", timeout=60, pause=0.1)


def _rate(stage: Stage) -> tuple[int, float, int]:
    """The most MAILs in a window, the seconds that all took, and how many letters came more than once."""
    settings = {
        "SMTP_RATE_LIMIT_MAX_LETTERS": str(RATE),
        "SMTP_RATE_LIMIT_PERIOD": f"{PERIOD:g}s",
        "SMTP_RATE_LIMIT_BURST": str(BURST),
    }
    with stamping_sink(stage.room("rate")) as sink, world(stage, sink.port, **settings) as here:
        running = [ready(here), ready(here)]
        _await_shares(running)
        here.publish(batches(LIMITED, 5))
        poll(lambda: len(sink.arrivals()) >= LIMITED, "all letters", timeout=120, pause=0.2)
        await_answers(here, LIMITED)
        for each in running:
            end(each)
        arrivals = sink.arrivals()
    begun = [each.mail_at for each in arrivals]
    twice = sum(count - 1 for count in Counter(each.recipient for each in arrivals).values())
    return most_in_a_window(begun, PERIOD), max(begun) - min(begun), twice


if __name__ == "__main__":
    alone(measure)
