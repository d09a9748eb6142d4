"""Replies to the ends of messages that are longer in coming than usual. Pure, given `now` in seconds."""

from __future__ import annotations

from collections.abc import Sequence

SLOW = 30.0
"""Seconds that the reply to a dot may take before it is told, unless the relay usually takes longer. RFC 5321
§4.5.3.2.6 allows ten minutes, in which nobody would hear of a relay that hangs."""

MARGIN = 1.5
"""By how much the longest wait that ended with a reply may be exceeded."""

FORGET = 3600.0
"""Seconds for which a long wait counts as usual."""


class Dots:
    """What is known of a relay's replies to dots.

    `slow` sessions wait for longer than usual, the longest for `longest` seconds. `stuck`: all that are open
    do, or did when they were looked at, and not one reply has come since.
    """

    def __init__(self) -> None:
        self.slow = 0
        self.longest = 0.0
        self.stuck = False
        self._usual = SLOW
        self._usual_until = 0.0
        self._replied_at = float("-inf")
        self._stuck_at = 0.0

    def replied(self, waited: float, now: float) -> None:
        """One was answered."""
        self._replied_at = now
        if waited > self._usual / MARGIN:
            self._usual, self._usual_until = max(self._usual, waited * MARGIN), now + FORGET

    def look(self, now: float, since: Sequence[float], sessions: int) -> None:
        """Look at those that wait: `since` when, of so many open `sessions`."""
        if now > self._usual_until:
            self._usual = SLOW
        waits = [now - at for at in since if now - at > self._usual]
        self.slow, self.longest = len(waits), max(waits, default=0.0)
        if not waits or (self.stuck and self._replied_at > self._stuck_at):
            self.stuck = False
        if waits and len(waits) >= sessions and not self.stuck:
            self.stuck, self._stuck_at = True, now
