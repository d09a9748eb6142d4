"""What is remembered of attempts, for people: nothing that is sent depends on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from mailsender.model.letter import MOST_PAST, PAST_TEXT, Letter, PastAttempt, Result, Status, Verdict
from mailsender.sending.attempt import Attempt

_TELLING = (Verdict.UNCERTAIN, Verdict.DEFERRED, Verdict.REFUSED, Verdict.ACCEPTED)


def remembers(before: Letter, after: Letter, earlier: tuple[PastAttempt, ...] = ()) -> bool:
    """Whether an attempt belongs into the letter's history: one that ended it at once does not.

    So nearly all letters have none, and those that end alike are still written alike. `earlier` is what came
    of other relays within the same attempt.
    """
    goes_on = after.status is Status.AWAITING or bool(before.history) or bool(earlier)
    return goes_on and after.attempts > before.attempts


def past_of(
    results: Mapping[str, Result],
    relay: str,
    by: Mapping[str, str] | None = None,
    *,
    at: datetime | None = None,
    seconds: float | None = None,
    tls: str = "",
) -> PastAttempt | None:
    """What came of an attempt over `relay`, by those of the results that are its own; None: nothing.

    `by` names the relays of results where several were asked.
    """
    told = [result for each, result in results.items() if by is None or by.get(each, relay) == relay]
    if not told:
        return None
    return PastAttempt(
        at=at,
        relay=relay,
        result=_decisive(told),
        asked=len(told),
        accepted=sum(result.verdict is Verdict.ACCEPTED for result in told),
        seconds=None if seconds is None else round(seconds, 3),
        tls=tls,
    )


def with_past(
    before: Letter,
    after: Letter,
    attempt: Attempt,
    earlier: tuple[PastAttempt, ...] = (),
    *,
    at: datetime | None = None,
    seconds: float | None = None,
    tls: str = "",
) -> Letter:
    """`after`, the letter behind an attempt, with what came of it as the last of its history."""
    told = {
        each: result for each, result in attempt.results.items() if not attempt.told_nothing(each, result)
    }
    past = past_of(told, attempt.relay, attempt.by, at=at, seconds=seconds, tls=tls)
    if past is None or (earlier and earlier[-1].relay == past.relay):
        return _with(before, after, earlier)  # of the relay that it turned to last nothing was heard
    return _with(before, after, (*earlier, past))


def _with(before: Letter, after: Letter, pasts: Iterable[PastAttempt]) -> Letter:
    return after.evolve(history=(*before.history, *pasts)[-MOST_PAST:])


def _decisive(told: list[Result]) -> Result:
    """Why the letter goes on, where somebody's result is a reason for that; its text is cut."""
    found = min(told, key=lambda result: _TELLING.index(result.verdict))
    if len(found.text) <= PAST_TEXT:
        return found
    return replace(found, text=found.text[: PAST_TEXT - 1] + "…")
