"""How often something happened, as a relay counts."""

from __future__ import annotations


def most_in_a_window(times: list[float], period: float) -> int:
    """The most events that any window of `period` seconds holds."""
    times = sorted(times)
    most, start = 0, 0
    for end, time in enumerate(times):
        while times[start] <= time - period:
            start += 1
        most = max(most, end - start + 1)
    return most
