"""Two replicas on one topic: together beside one alone, no letter twice, and one rate for both.

For the speed both are ready, with two partitions each, before they may see the letters; the clock runs from
then until the last mark, for one replica alike. That the sink took each letter once is
checked by count. For the rate a sink stamps each MAIL, and the fullest window of a period is looked for.

    python -m benchmarks.replicas
"""

from __future__ import annotations

from collections import Counter
from statistics import median

from benchmarks.letters import batches
from benchmarks.measure import poll
from benchmarks.parts import Stage
from benchmarks.peers.ours import await_answers, await_shares, end, ready, together, world
from benchmarks.run import alone
from benchmarks.stamping_sink import stamping_sink
from benchmarks.table import Section
from lab.rates import most_in_a_window

LETTERS, ROUNDS = 20_000, 4
"""An even number: every other round begins with the two, for a machine gets slower and faster."""

RATE, PERIOD, BURST, LIMITED = 50, 1.0, 3, 500


def measure(stage: Stage) -> Section:
    """A row for one replica, one for two, one for the rate."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for number in range(ROUNDS):
        for count in (1, 2) if number % 2 == 0 else (2, 1):
            speeds[count].append(_speed(stage, count))
    times = median(two / one for one, two in zip(speeds[1], speeds[2], strict=True))
    fullest, took, twice = _rate(stage)
    allowed = f"allowed {RATE + BURST} ({RATE} in {PERIOD:g} s, burst {BURST})"
    rows = [
        ["one replica, letters/s", f"{median(speeds[1]):,.0f}"],
        ["two replicas, letters/s", f"{median(speeds[2]):,.0f}"],
        ["two ÷ one", f"{times:.2f}"],
        ["sent twice, of " + f"{LETTERS * ROUNDS * 2 + LIMITED:,}", str(twice)],
        ["two with one rate: most MAILs in any period", f"{fullest} of {allowed}"],
        ["two with one rate: share of the allowed speed", f"{LIMITED / RATE * PERIOD / took * 100:.0f} %"],
    ]
    notes = [
        f"Medians of {ROUNDS} rounds of {LETTERS:,} letters, all in the topic before the clock starts.",
        "Two ÷ one is taken round by round.",
    ]
    return Section("Two replicas", ["what", "value"], rows, notes)


def _speed(stage: Stage, replicas: int) -> float:
    with world(stage) as here:
        return together(stage, here, replicas, LETTERS).letters_per_s


def _rate(stage: Stage) -> tuple[int, float, int]:
    """The most MAILs in a window, the seconds that all took, and how many letters came more than once."""
    settings = {
        "SMTP_RATE_LIMIT_MAX_LETTERS": str(RATE),
        "SMTP_RATE_LIMIT_PERIOD": f"{PERIOD:g}s",
        "SMTP_RATE_LIMIT_BURST": str(BURST),
    }
    with stamping_sink(stage.room("rate")) as sink, world(stage, sink.way(), **settings) as here:
        running = [ready(here), ready(here)]
        await_shares(running)
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
