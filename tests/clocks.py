"""Clocks that tests move by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ManualClock:
    """Stands still until a test moves it; both readings move together."""

    now: float = 1_000.0
    start: float = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.start + self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds
