"""What is remembered of attempts, for people: nothing that is sent depends on it. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mailsender.model.letter import MOST_PAST, PAST_TEXT, Letter, PastAttempt, Result, Status, Verdict
from mailsender.sending.attempt import Attempt

_TELLING = (Verdict.UNCERTAIN, Verdict.DEFERRED, Verdict.REFUSED, Verdict.ACCEPTED)


def remembers(before: Letter, after: Letter) -> bool:
    """Whether an attempt belongs into the letter's history: one that ended it at once does not.

    So nearly all letters have none, and those that end alike are still written alike.
    """
    goes_on = after.status is Status.AWAITING or bool(before.history)
    return goes_on and after.attempts > before.attempts


def with_past(
    before: Letter,
    after: Letter,
    attempt: Attempt,
    *,
    at: datetime | None = None,
    seconds: float | None = None,
    tls: str = "",
) -> Letter:
    """`after`, the letter behind an attempt, with that attempt as the last of its history."""
    told = [
        result for address, result in attempt.results.items() if not attempt.told_nothing(address, result)
    ]
    if not told:
        return after
    past = PastAttempt(
        at=at,
        relay=attempt.relay,
        result=_decisive(told),
        asked=len(told),
        accepted=sum(result.verdict is Verdict.ACCEPTED for result in told),
        seconds=None if seconds is None else round(seconds, 3),
        tls=tls,
    )
    return after.evolve(history=(*before.history, past)[-MOST_PAST:])


def _decisive(told: list[Result]) -> Result:
    """Why the letter goes on, where somebody's result is a reason for that; its text is cut."""
    found = min(told, key=lambda result: _TELLING.index(result.verdict))
    if len(found.text) <= PAST_TEXT:
        return found
    return replace(found, text=found.text[: PAST_TEXT - 1] + "…")
