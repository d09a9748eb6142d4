"""How long the reply to a message's end is waited for: longer, where it has come too late before."""

from __future__ import annotations

import structlog

log = structlog.get_logger()

LONGEST = 3600.0
"""Seconds beyond which no wait is made longer."""


class Patience:
    """For all sessions with one relay. `dot` is in seconds.

    Whose reply comes after the time-out, every time, has taken a letter that then goes out again; what costs
    one more wait here costs its recipient a second copy.
    """

    __slots__ = ("_relay", "dot")

    def __init__(self, relay: str, dot: float) -> None:
        """Begin with what the settings say."""
        self._relay = relay
        self.dot = dot

    def overdue(self, waited: float) -> None:
        """A reply had not come after so many seconds."""
        longer = min(2 * waited, max(LONGEST, self.dot))
        if longer <= self.dot:
            return  # another session has found that out, or there is no end to it
        self.dot = longer
        log.warning(
            "relay_replies_late",
            relay=self._relay,
            waited=round(waited, 1),
            next_wait=round(longer, 1),
            action="the letter may have been sent; the next reply to a message's end is waited for longer",
            advice="raise SMTP_TIMEOUT_DOT if the relay takes its time",
        )
