"""Whether commands may be sent ahead of their replies (RFC 2920): a relay offers it, and its use shows.

Firewalls that look into SMTP are known to pass the offer on and then to lose the rest of a packet, or what
follows a dot in one. All sessions with a relay share what was found out.
"""

from __future__ import annotations

import structlog

from mailsender.model.ports import Clock

log = structlog.get_logger()

PROBATION = 30.0
"""Seconds that a reply may take while nothing has shown yet that commands sent ahead arrive.

Far less than RFC 5321 §4.5.3.2 gives: leaving a slow relay costs a round trip or two a letter from then on,
and waiting for a firewall costs minutes for each session.
"""

BROKEN_FOR = 3600.0
"""Seconds after which it is tried again: a relay that hung for once looks the same as a broken firewall."""


class Pipelining:
    """What is known of one relay's.

    `works` says whether it may be used, `trusted` that it has been seen to work within a letter and behind a
    dot, which firewalls judge otherwise.
    """

    __slots__ = ("_again", "_behind_dot", "_clock", "_relay", "_within", "trusted", "works")

    def __init__(self, relay: str, clock: Clock) -> None:
        """Believe what the relay offers until its use shows otherwise."""
        self._relay = relay
        self._clock = clock
        self._again = 0.0
        self._within = False
        self._behind_dot = False
        self.works = True
        self.trusted = False

    def reconsider(self) -> None:
        """Try it again where it is long ago that it did not work."""
        if not self.works and self._clock.monotonic() >= self._again:
            self.works = True

    def worked(self, *, behind_dot: bool) -> None:
        """A letter's commands were sent ahead and answered; `behind_dot`: in one packet with a dot."""
        self._within = True
        self._behind_dot = self._behind_dot or behind_dot
        self.trusted = self._behind_dot

    def patience(self, seconds: float, *, behind_dot: bool) -> float:
        """How long of `seconds` to wait for a reply to what was sent ahead."""
        proven = self._behind_dot if behind_dot else self._within
        return seconds if proven else min(seconds, PROBATION)

    def failed(self, what: str) -> None:
        """What was sent ahead was not answered; `what` names it."""
        if not self.works:
            return
        self.works = self.trusted = self._within = self._behind_dot = False
        self._again = self._clock.monotonic() + BROKEN_FOR
        log.warning(
            "relay_pipelining_broken",
            relay=self._relay,
            unanswered=what,
            action="one command at a time for an hour; if a firewall in between is known for this,"
            " set SMTP_PIPELINING=off",
        )

    @property
    def remark(self) -> str:
        """What an operator ought to know; empty when there is nothing."""
        if self.works:
            return ""
        return "commands sent ahead were not answered, so one is sent at a time; see SMTP_PIPELINING"
