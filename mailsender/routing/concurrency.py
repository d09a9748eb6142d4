"""How many sessions a relay is asked for at once: few at first, more by success, fewer when it refuses. Pure.

After Postfix's scheduler (SCHEDULER_README, "Concurrency scheduling"): only failures to connect and to shake
hands count, never what is said of letters, and of a run of failures the first one decides.
"""

from __future__ import annotations

FIRST = 5
"""Sessions to begin with: Postfix's `initial_destination_concurrency`. Each that opens allows one more."""


class Concurrency:
    """At most `size` sessions at once, never more than `most`.

    `failures` counts those in a row. When a run of them begins the window shrinks to the sessions that the
    relay did open, and one more, for which it is asked when its time has come; so a relay that takes three is
    not asked for the fourth by everybody who waits.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = min(FIRST, most)
        self.failures = 0

    def opened(self) -> None:
        """A session was opened: the run of failures is over."""
        self.failures = 0
        self.size = min(self.most, self.size + 1)

    def failed(self, still_open: int) -> None:
        """One could not be opened; so many are."""
        self.failures += 1
        self.size = min(self.size, still_open + 1, self.most)

    def allow(self, most: int) -> None:
        """From now on there may be at most so many; 0: none at all."""
        more = most > self.most
        self.most = most
        self.size = min(most, max(self.size, FIRST) if more and not self.failures else max(self.size, 1))
