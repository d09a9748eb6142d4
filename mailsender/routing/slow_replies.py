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


Session = tuple[int, float, int]
"""A session's name, since when it waits for the reply to a dot (0: it does not), and what it took so far."""


class Dots:
    """What is known of a relay's replies to dots, from looks at the sessions: no letter pays for it.

    `slow` sessions wait for longer than usual, the longest for `longest` seconds. `stuck`: all that are open
    do, or did at a look before, and not one reply has come since.
    """

    def __init__(self) -> None:
        self.slow = 0
        self.longest = 0.0
        self.stuck = False
        self._usual = SLOW
        self._usual_until = 0.0
        self._seen: dict[int, tuple[float, int]] = {}
        self._seen_at = 0.0

    def look(self, now: float, sessions: Sequence[Session]) -> None:
        """Look at all open sessions."""
        if now > self._usual_until:
            self._usual = SLOW
        replied = False
        for name, since, taken in sessions:
            before, took = self._seen.get(name, (0.0, taken))
            replied = replied or taken > took
            if before and since != before and taken > took:
                self._learn(self._seen_at - before, now)
        waits = [now - since for _, since, _ in sessions if since and now - since > self._usual]
        self.slow, self.longest = len(waits), max(waits, default=0.0)
        self.stuck = bool(waits) and (len(waits) == len(sessions) or (self.stuck and not replied))
        self._seen = {name: (since, taken) for name, since, taken in sessions}
        self._seen_at = now

    def _learn(self, waited: float, now: float) -> None:
        """A reply came after so long, or a little longer."""
        if waited * MARGIN > self._usual:
            self._usual, self._usual_until = waited * MARGIN, now + FORGET
