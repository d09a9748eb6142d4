"""What the use of a relay shows of it, known to all sessions with it: replies that come late, or not at all.

Firewalls that look into SMTP are known to pass the offer of PIPELINING (RFC 2920) on and then to lose the
rest of a packet, or what follows a dot in one. A relay whose reply to a dot comes after the time-out, every
time, has taken a letter that then goes out again: one more wait here saves its recipient a second copy.
"""

from __future__ import annotations

import structlog

from mailsender.model.clock import Clock

log = structlog.get_logger()

PROBATION = 30.0
"""Seconds that a reply may take while nothing has shown yet that commands sent ahead arrive.

Far less than RFC 5321 §4.5.3.2 gives: leaving a slow relay costs a round trip or two a letter from then on,
and waiting for a firewall costs minutes for each session.
"""

BROKEN_FOR = 3600.0
"""Seconds after which it is tried again: a relay that hung for once looks the same as a broken firewall."""

LONGEST = 3600.0
"""Seconds beyond which no wait for the reply to a dot is made longer."""


class Learned:
    """What is known of one relay.

    `pipelining` says whether commands may be sent ahead of their replies, `proven` that they were seen to
    arrive within a letter and behind a dot, which firewalls judge otherwise. The reply to a dot is waited for
    `dot` seconds.
    """

    __slots__ = ("_again", "_behind_dot", "_clock", "_relay", "_within", "dot", "pipelining", "proven")

    def __init__(self, relay: str, clock: Clock, dot: float) -> None:
        self._relay = relay
        self._clock = clock
        self._again = 0.0
        self._within = False
        self._behind_dot = False
        self.pipelining = True
        self.proven = False
        self.dot = dot

    def reconsider(self) -> None:
        """Send ahead again where it is long ago that it did not work."""
        if not self.pipelining and self._clock.monotonic() >= self._again:
            self.pipelining = True

    def worked(self, *, behind_dot: bool) -> None:
        """A letter's commands were sent ahead and answered; `behind_dot`: in one packet with a dot."""
        self._within = True
        self._behind_dot = self._behind_dot or behind_dot
        self.proven = self._behind_dot

    def wait(self, seconds: float, *, behind_dot: bool) -> float:
        """How long of `seconds` to wait for a reply to what was sent ahead."""
        seen = self._behind_dot if behind_dot else self._within
        return seconds if seen else min(seconds, PROBATION)

    def unanswered(self, what: str) -> None:
        """What was sent ahead got no answer; `what` names it."""
        if not self.pipelining:
            return
        self.pipelining = self.proven = self._within = self._behind_dot = False
        self._again = self._clock.monotonic() + BROKEN_FOR
        log.warning(
            "relay_pipelining_broken",
            relay=self._relay,
            unanswered=what,
            action="one command at a time for an hour; if a firewall in between is known for this,"
            " set SMTP_PIPELINING=off",
        )

    def dot_overdue(self, waited: float) -> None:
        """The reply to a dot had not come after so many seconds."""
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

    @property
    def remark(self) -> str:
        """What an operator ought to know; empty when there is nothing."""
        if self.pipelining:
            return ""
        return "commands sent ahead were not answered, so one is sent at a time; see SMTP_PIPELINING"
