"""How many sessions a relay is asked for at once: few at first, more by success, fewer when it refuses. Pure.

After Postfix's scheduler (SCHEDULER_README, "Concurrency scheduling"): only failures to connect and to shake
hands count, never what is said of letters, and of a run of failures the first one decides.
"""

from __future__ import annotations

ENDLESS = 2**31
"""More sessions than anybody has."""

FIRST = 5
"""Sessions to begin with: Postfix's `initial_destination_concurrency`. Each that opens allows one more."""


class Concurrency:
    """At most `size` sessions at once, never more than `most`.

    `failures` counts those in a row. When a run of them begins the window shrinks to the sessions that the
    relay did open, and one more, for which it is asked when its time has come; so a relay that takes three is
    not asked for the fourth by everybody who waits. `limit` is what it said of sessions that it had let in.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = min(FIRST, most)
        self.failures = 0
        self.limit = ENDLESS

    @property
    def bound(self) -> int:
        """How many there may be in any case, whatever was asked for before that was known."""
        return min(self.most, self.limit)

    def opened(self) -> None:
        """A session was opened: the run of failures is over."""
        self.failures = 0
        self.size = min(self.bound, self.size + 1)

    def failed(self, still_open: int) -> None:
        """One could not be opened; so many are."""
        self.failures += 1
        self.size = min(self.size, still_open + 1, self.most)

    def fewer(self, still_open: int) -> None:
        """Those that are open are too many for it: one fewer, and no more until `forget`."""
        self.limit = max(1, min(self.limit, still_open) - 1)
        self.size = min(self.size, self.limit)

    def forget(self) -> None:
        """What it said of too many is old: it may have changed its mind."""
        self.limit = ENDLESS

    def allow(self, most: int) -> None:
        """From now on there may be at most so many; 0: none at all."""
        more = most > self.most
        self.most = most
        size = max(self.size, FIRST) if more and not self.failures else max(self.size, 1)
        self.size = min(self.bound, size)
