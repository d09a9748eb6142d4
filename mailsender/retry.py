"""What an attempt leaves behind: final, or another attempt after a while. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailsender.letter import Letter, Phase, Recipient, Result, Status, Verdict

MAX_DELAY = 3600.0
"""Seconds. Doubling stops here, so that a relay that comes back is noticed within the hour."""

JITTER = 0.2
"""The part of a delay that is spread at random, lest letters deferred together come back together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon deferred recipients are tried again; `delay` in seconds.

    `resend_uncertain` says that recipients who may have got the letter already are tried again, too; else
    they end there.
    """

    max_attempts: int
    delay: float
    resend_uncertain: bool = True

    def wait(self, attempts: int, jitter: float) -> float | None:
        """Seconds until the next attempt after `attempts` of them, None when there is none.

        `jitter` from 0 to 1 spreads the delay by `JITTER` to either side.
        """
        if attempts >= self.max_attempts:
            return None
        plain = min(MAX_DELAY, self.delay * 2.0 ** min(attempts - 1, 32))
        return float(plain * (1 + JITTER * (2 * jitter - 1)))


@dataclass(init=False, slots=True, unsafe_hash=True)
class Attempt:
    """What one claim of a letter came to.

    `results` has an entry for each recipient that a transaction answered for. `cut` tells that a drain
    ended it early: what was not sent goes back at once and no attempt is counted for it.
    """

    results: Final[Mapping[str, Result]]
    relay: Final[str]
    message_id: Final[str]
    cut: Final[bool]

    def __init__(
        self, *, results: Mapping[str, Result], relay: str, message_id: str, cut: bool = False
    ) -> None:
        """Take its fields."""
        self.results = results
        self.relay = relay
        self.message_id = message_id
        self.cut = cut


def after_attempt(
    letter: Letter, attempt: Attempt, policy: RetryPolicy, *, jitter: float
) -> tuple[Letter, float]:
    """The letter's next state, and the delay in seconds after which it is due when it is `awaiting`.

    A recipient that was accepted or refused keeps that result for good. The letter is final when no
    recipient is open or no attempt is left; its status is `error` only if no recipient was accepted.
    When it was finished is for whoever writes it down.
    """
    results = attempt.results
    resend = policy.resend_uncertain
    recipients = tuple([_next_recipient(r, results.get(r.address), resend) for r in letter.recipients])
    # Of a drain only what is uncertain counts: the rest was not tried in earnest.
    failed = not attempt.cut or any(each.verdict is Verdict.UNCERTAIN for each in results.values())
    attempts = letter.attempts + 1 if failed else letter.attempts
    status, delay = Status.AWAITING, 0.0
    if not any(r.open for r in recipients):
        status = _final_status(recipients)
    elif failed:
        again = policy.wait(attempts, jitter)
        if again is None:
            recipients = tuple([_given_up(r) for r in recipients])
            status = _final_status(recipients)
        else:
            delay = again
    moved = letter.evolve(
        recipients=recipients,
        attempts=attempts,
        relay=attempt.relay,
        message_id=attempt.message_id,
        status=status,
    )
    return moved, delay


def as_error(letter: Letter, reason: str) -> Letter:
    """The letter as a final `error` that no relay decided."""
    return letter.evolve(status=Status.ERROR, reason=reason)


def _final_status(recipients: Sequence[Recipient]) -> Status:
    return Status.SENT if any(r.accepted for r in recipients) else Status.ERROR


def _next_recipient(recipient: Recipient, result: Result | None, resend: bool) -> Recipient:
    if result is None or not recipient.open:
        return recipient
    unknown = result.verdict is Verdict.UNCERTAIN
    return Recipient(
        address=recipient.address,
        result=result,
        uncertain=recipient.uncertain or unknown,
        closed=unknown and not resend,
    )


def _given_up(recipient: Recipient) -> Recipient:
    if recipient.result is not None:
        return recipient
    never = Result(verdict=Verdict.DEFERRED, phase=Phase.CONNECT, text="no attempt reached this recipient")
    return Recipient(address=recipient.address, result=never)
