from __future__ import annotations

from structlog.testing import capture_logs

from mailsender.adapters.memory import MemoryQueue
from mailsender.leases import Hand, LeaseKeeper
from mailsender.settle import Tally
from mailsender.summary import Summary
from tests.clocks import ManualClock


def summary_of(tally: Tally, clock: ManualClock) -> Summary:
    return Summary(tally, LeaseKeeper(MemoryQueue(clock), Hand(), clock, lease=60.0), clock)


def test_says_what_happened_since_the_last_line() -> None:
    clock, tally = ManualClock(), Tally()
    summary = summary_of(tally, clock)
    tally.sent, tally.error = 7, 1
    clock.forward(60)
    with capture_logs() as logs:
        summary.last()
        tally.sent = 9
        clock.forward(60)
        summary.last()
    assert [(line["event"], line["sent"], line["error"], line["seconds"]) for line in logs] == [
        ("summary", 7, 1, 60),
        ("summary", 2, 0, 60),
    ]


def test_says_nothing_when_nothing_happened() -> None:
    clock = ManualClock()
    summary = summary_of(Tally(), clock)
    clock.forward(60)
    with capture_logs() as logs:
        summary.last()
    assert logs == []
