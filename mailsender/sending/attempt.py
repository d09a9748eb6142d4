"""What an attempt leaves behind: final, or another attempt after a while. Pure.

An attempt counts only for recipients of whom it told something. What says nothing about anybody (there was no
slot, no session, no room in the transaction, the relay refused everything) ends nobody.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from mailsender.model.address import BadAddress, parse_address
from mailsender.model.handling import EXPIRED
from mailsender.model.letter import Letter, Phase, Recipient, Result, Status, Verdict
from mailsender.routing.retry import RetryPolicy, with_schedule

NEVER_TRIED: Final = Result(verdict=Verdict.DEFERRED, phase=Phase.CONNECT, text="expired before it was tried")
"""What became of a recipient of such a letter of which no relay said anything."""

NO_WAITS: Final[Mapping[str, float]] = MappingProxyType({})
"""Those of an attempt after which no rule asks to wait for longer than the schedule does."""


@dataclass(init=False, slots=True, unsafe_hash=True)
class Attempt:
    """What one claim of a letter came to.

    `results` has an entry for each recipient that a relay said something about. For those in `idle` it told
    nothing about the recipient: the text is kept, and no attempt is counted; they are due after `pause`
    seconds. `waits` has the seconds for which some of the others are to wait at least. `cut` tells that a
    drain ended it early: what was deferred then was not tried in earnest, and goes back at once. `by` names
    the relays of results that are not `relay`'s, where several were asked.
    """

    results: Final[Mapping[str, Result]]
    relay: Final[str]
    message_id: Final[str]
    cut: Final[bool]
    idle: Final[Container[str]]
    pause: Final[float]
    waits: Final[Mapping[str, float]]
    by: Final[Mapping[str, str] | None]

    def __init__(
        self,
        *,
        results: Mapping[str, Result],
        relay: str,
        message_id: str,
        cut: bool = False,
        idle: Container[str] = (),
        pause: float = 0.0,
        waits: Mapping[str, float] = NO_WAITS,
        by: Mapping[str, str] | None = None,
    ) -> None:
        """Take its fields."""
        self.results = results
        self.relay = relay
        self.message_id = message_id
        self.cut = cut
        self.idle = idle
        self.pause = pause
        self.waits = waits
        self.by = by

    def told_nothing(self, address: str, result: Result) -> bool:
        """Whether `result` says nothing about the recipient, so that no attempt is counted for it."""
        return result.verdict is Verdict.DEFERRED and (self.cut or address in self.idle)


def after_attempt(
    letter: Letter, attempt: Attempt, policy: RetryPolicy, *, jitter: float
) -> tuple[Letter, float]:
    """The letter's next state, and the delay in seconds after which it is due when it is `awaiting`.

    A recipient that was accepted or refused keeps that result for good; one that was deferred, or is in
    doubt, often enough ends with it. The letter is final when no recipient is open; its status is `error`
    only if none was accepted. When it was finished is for whoever writes it down.
    """
    policy = policy_of(letter, policy)
    recipients, told = after_results(letter.recipients, attempt, policy)
    status, delay, accepted = Status.AWAITING, 0.0, False
    for each in recipients:
        if each.open:
            delay = _delay(recipients, attempt, policy, jitter)
            break
        accepted = accepted or each.accepted
    else:
        status = Status.SENT if accepted else Status.ERROR
    if attempt.cut and not status.final:
        # Of a drain only what is uncertain counts: the rest was not tried in earnest.
        told = any(each.verdict is Verdict.UNCERTAIN for each in attempt.results.values())
    moved = letter.evolve(
        recipients=recipients,
        attempts=letter.attempts + told,
        relay=attempt.relay,
        message_id=attempt.message_id,
        status=status,
    )
    return moved, delay


def after_results(
    recipients: Sequence[Recipient], attempt: Attempt, policy: RetryPolicy
) -> tuple[tuple[Recipient, ...], bool]:
    """The recipients' next states, and whether the attempt told something about one of them."""
    results = attempt.results
    moved, told = [], False
    for each in recipients:
        result = results.get(each.address)
        if result is None or not each.open:
            moved.append(each)
            continue
        relay = attempt.relay if attempt.by is None else attempt.by.get(each.address, attempt.relay)
        verdict = result.verdict
        if verdict is Verdict.ACCEPTED or verdict is Verdict.REFUSED:
            moved.append(
                Recipient(
                    address=each.address,
                    result=result,
                    tries=each.tries,
                    doubts=each.doubts,
                    relay=relay,
                )
            )
            told = True
        elif attempt.told_nothing(each.address, result):
            moved.append(_noted(each, result, relay))
        else:
            moved.append(_put_off(each, result, policy, relay))
            told = True
    return tuple(moved), told


def progress(
    recipients: Sequence[Recipient], places: Iterable[int], attempt: Attempt, policy: RetryPolicy
) -> dict[int, Recipient]:
    """Those at `places` of whom the attempt told something, with their next states."""
    some = {place: recipients[place] for place in places}
    moved, _ = after_results(list(some.values()), attempt, policy)
    return {
        place: now
        for (place, before), now in zip(some.items(), moved, strict=True)
        if not now.open or now.tries > before.tries
    }


def policy_of(letter: Letter, policy: RetryPolicy) -> RetryPolicy:
    """How often the letter is tried: as its route has it, with the schedule and the end that it brings."""
    own, ages = letter.handling.retry, letter.handling.expire_at is not None
    try:
        return with_schedule(policy, own, ages=ages) if own or ages else policy
    except ValueError:  # somebody else wrote into its document
        return policy


def as_expired(letter: Letter) -> Letter:
    """The letter when its time to be sent is over: final, with what was said last.

    Who accepted it keeps it; it is an `error` only where nobody did.
    """
    recipients, accepted, said = [], False, ""
    for each in letter.recipients:
        accepted = accepted or each.accepted
        if each.open:
            result = each.result or NEVER_TRIED
            said = said or _words(each.result)
            recipients.append(
                Recipient(
                    address=each.address,
                    result=result,
                    tries=each.tries,
                    doubts=each.doubts,
                    closed=True,
                    relay=each.relay,
                )
            )
        else:
            recipients.append(each)
    moved = letter.evolve(recipients=tuple(recipients))
    if accepted:
        return moved.evolve(status=Status.SENT)
    why = f"the last reply was: {said}" if said else "it was never tried"
    return as_error(moved, f"{EXPIRED}: {why}")


def _words(result: Result | None) -> str:
    if result is None:
        return ""
    return " ".join(map(str, filter(None, (result.code, result.enhanced, result.text))))


def as_error(letter: Letter, reason: str) -> Letter:
    """The letter as a final `error` that no relay decided."""
    return letter.evolve(status=Status.ERROR, reason=reason)


def _delay(recipients: Sequence[Recipient], attempt: Attempt, policy: RetryPolicy, jitter: float) -> float:
    """Those who were deferred come at their time, and the others with them."""
    results = attempt.results
    waits = [
        max(wait, attempt.waits.get(each.address, 0.0))
        for each in recipients
        if each.open
        and (result := results.get(each.address)) is not None
        and not attempt.told_nothing(each.address, result)
        and (wait := policy.wait(each.tries, jitter)) is not None
    ]
    return min(waits) if waits else attempt.pause


def _put_off(recipient: Recipient, result: Result, policy: RetryPolicy, relay: str) -> Recipient:
    doubted = result.verdict is Verdict.UNCERTAIN
    tries, doubts = recipient.tries + 1, recipient.doubts + doubted
    over = doubted and doubts > policy.resends
    return Recipient(
        address=recipient.address,
        result=result,
        tries=tries,
        doubts=doubts,
        closed=over or policy.wait(tries, 0.5) is None,
        relay=relay,
    )


def _noted(recipient: Recipient, result: Result, relay: str) -> Recipient:
    """What was said is worth keeping, unless the recipient is in doubt: that is worth more."""
    before = recipient.result
    if before is not None and before.verdict is Verdict.UNCERTAIN:
        return recipient
    return Recipient(
        address=recipient.address,
        result=result,
        tries=recipient.tries,
        doubts=recipient.doubts,
        closed=recipient.closed,
        relay=relay,
    )


def refused(addresses: Sequence[str], error: Exception) -> dict[str, Result]:
    """The results of those for whom no message can be made, for what was raised."""
    reason = str(error) if isinstance(error, ValueError) else f"internal error ({type(error).__name__})"
    return dict.fromkeys(addresses, Result(verdict=Verdict.REFUSED, phase=Phase.DATA, text=reason))


def address_fault(letter: Letter) -> str:
    """Why an adopted document cannot be sent."""
    if not letter.addresses:
        return "addresses: at least one is needed"
    for index, address in enumerate(letter.addresses):
        try:
            parse_address(address)
        except BadAddress as error:
            return f"addresses[{index}]: {error}"
    return ""
