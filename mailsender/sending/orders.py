"""What a reply orders beyond its transaction: who of a letter rests, and for how long.

It is not compiled: only letters that a relay did not take, or whose relay ordered something, come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mailsender.model.address import domain_of
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.ratelimit.destinations import Destinations
from mailsender.ratelimit.limiter import Limiter
from mailsender.routing.obstacles import Moment
from mailsender.routing.orders import Resting
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import Action, Decision, Scope, scope_key
from mailsender.sending.attempt import NO_WAITS, Attempt
from mailsender.sending.errand import Errand
from mailsender.sending.scopes import author_of, recipient_rests, sender_rests

IN_TURN: Final = "waits for its turn: the limits of its destination are reached"
RESTS: Final = "rests by the rule"
"""How begins what is told of recipients who are left for later, without that the relay was asked."""

UNASKED: Final = (IN_TURN, RESTS)

LEAST_PAUSE: Final = 1.0
"""Seconds until a letter comes again of which a rule says neither when nor that the attempt counts: without
any pause it would come again thousands of times a second."""


def sender_of(errand: Errand) -> str:
    """The address that a letter is from, as an order about a sender has it."""
    return author_of(errand.mail, errand.relay)


def obey(errand: Errand, address: str, decision: Decision) -> bool:
    """Do for `address` what a decision orders; whether the letter rests as a whole.

    Its result stands in the errand already.
    """
    about_all = decision.scope is Scope.RELAY or decision.scope is Scope.SENDER
    if decision.action is Action.SWITCH:
        errand.switch((address,))
    elif decision.seconds and not about_all:
        errand.stay(address)  # another relay's address is no remedy for what is the recipient's
    if decision.counts:
        if decision.seconds:
            errand.waits = {**(errand.waits or {}), address: decision.seconds}
    elif decision.action is Action.SWITCH:
        _idle(errand, address, 0.0)  # where another relay goes; else nobody claims it before this one does
    else:
        # What may be about this letter alone comes when others were tried: else it would be the next one to
        # be refused, and the same would be ordered again.
        behind = decision.then.seconds if decision.doubted and decision.then is not None else 0.0
        _idle(errand, address, (decision.seconds or LEAST_PAUSE) + behind)
    return about_all


def aside(errand: Errand, now: float) -> float:
    """Seconds for which the whole letter is kept out of the way, as the turn of its destination is near."""
    destinations = errand.relay.destinations
    if destinations is None or destinations.alike(errand.left) < len(errand.left):
        return 0.0
    if errand.relay.held(scope_key(Scope.DESTINATION, recipient=errand.left[0]), now):
        return 0.0
    return destinations.near(domain_of(errand.left[0]), now)


def own_times(errand: Errand, attempt: Attempt, delay: float, now: Moment) -> Mapping[str, float]:
    """Seconds for those who do not come again together with the others, which is after `delay`.

    For some a rule asked to wait for longer. Others rest, and nothing was said of them: they need not wait as
    long as those of whom it was. Who waits for the turn of a destination is told it now, and not before: who
    goes over another relay in the same attempt needs none.
    """
    own = {each: max(delay, wait) for each, wait in (errand.waits or NO_WAITS).items()}
    if len(attempt.results) > len(errand.idle):
        own |= dict.fromkeys(errand.idle, attempt.pause)
    if attempt.pause:  # else they go over another relay at once
        own |= _turns(errand, now)
    return own


def _turns(errand: Errand, now: Moment) -> dict[str, float]:
    """Seconds until the turns of those who wait for one.

    All of a letter who share their limits have one: they come again together, for one transaction. One that
    was told before and is still to come is kept.
    """
    known = {each.address: each for each in errand.letter.recipients}
    relays = (*errand.tried, errand.relay)
    told: dict[tuple[Limiter | None, ...], float] = {}
    own: dict[str, float] = {}
    for address in errand.idle:
        result = errand.results.get(address)
        if result is None or result.code is not None or not result.text.startswith(IN_TURN):
            continue
        before = known[address]
        if before.due > now.epoch and before.result == result:
            own[address] = before.due - now.epoch
            continue
        domain = domain_of(address)
        limits = [each.destinations for each in relays if each.destinations is not None]
        shared = tuple([each.of(domain) for each in limits])
        if shared not in told:
            told[shared] = _first_turn(limits, domain, now.monotonic)
        own[address] = told[shared]
    return own


def _first_turn(limits: Sequence[Destinations], domain: str, now: float) -> float:
    """Seconds until the turn of a domain at that of several relays where it comes first; 0.0: it is now."""
    reached = [each for each in limits if each.reached(domain, now)]
    return min(reached, key=lambda each: each.reached(domain, now)).rest(domain, now) if reached else 0.0


def spare(errand: Errand, now: float) -> None:
    """Take out of the errand who may not be sent to yet, by what this relay's replies ordered before."""
    relay = errand.relay
    sender = sender_rests(relay, errand.mail, now)
    kept: list[str] = []
    for each in errand.left:
        resting = sender or recipient_rests(relay, each, now)
        if resting is None and (pause := _reached(relay, each, now)):
            errand.results[each] = _waiting(relay, each)
            _idle(errand, each, pause)
        elif resting is None:
            kept.append(each)
        else:
            errand.results[each] = _result(resting)
            _idle(errand, each, resting.seconds)
    errand.left = tuple(kept)


def _reached(relay: Relay, address: str, now: float) -> float:
    """Seconds for which an address is left for later, as no more is sent to its domain at a time."""
    destinations = relay.destinations
    return 0.0 if destinations is None else destinations.reached(domain_of(address), now)


def in_turn(relay: Relay, address: str) -> str:
    """What is told of an address that waits for its turn over a relay; empty where it has no limits there.

    It names the rates: by it is seen later whether they are still those that hold.
    """
    rates = "" if relay.destinations is None else relay.destinations.rates_of(domain_of(address))
    return f"{IN_TURN} ({rates})" if rates else ""


def unasked(result: Result | None) -> bool:
    """Whether a recipient was left for later without that the relay was asked."""
    return result is not None and result.code is None and result.text.startswith(UNASKED)


def told_before(errand: Errand) -> bool:
    """Whether no relay was asked, and what keeps the letter waiting is what did so the last time."""
    known = {each.address: each.result for each in errand.letter.recipients}
    return errand.unasked and all(
        each in errand.idle and known.get(each) == result for each, result in errand.results.items()
    )


def _waiting(relay: Relay, address: str) -> Result:
    return Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, text=in_turn(relay, address) or IN_TURN)


def _idle(errand: Errand, address: str, pause: float) -> None:
    errand.pause = min(errand.pause, pause) if errand.idle else pause
    errand.idle.add(address)


def _result(resting: Resting) -> Result:
    text = f"{RESTS} {resting.rule}, after the relay said: {resting.said}"
    return Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, text=text, rule=resting.rule)
