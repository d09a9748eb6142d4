"""What replies mean for a letter and for its relay: who is done, who is sent to again, who waits, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from mailsender.model.clock import Clock
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.reply_rule import BARS, Decision, Suppress
from mailsender.routing.weighing import Ruling
from mailsender.sending.errand import Errand, Said
from mailsender.sending.orders import obey, unasked
from mailsender.sending.permit import some_taken
from mailsender.sending.reply_rules import RULED, Action, When, as_deferred, as_refused, decide, ruled
from mailsender.sending.scopes import Ordered, order

RENEWALS = 2
"""Sessions in a row that a letter is tried over anew, as if their end had nothing to do with it."""

DOUBTED: Final = frozenset({Action.HOLD, Action.WEIGH, Action.DEFER}) | BARS
"""What is done no more once it is known that the relay takes others, as far as the decision says so."""

DOUBTED_TRIES = 7
"""Attempts after which a refusal is taken to be about the letter although the relay took nobody else since:
an hour by the default schedule."""


class Reading:
    """What the replies to one transaction come to, as its recipients are gone through.

    `again` are sent to again at once, over another session if `renew`. `held` was meant for everybody,
    `doubted` may be so, `spoken` tells that the relay spoke of recipients, `rests` that a rule has the letter
    rest as a whole.
    `paused` is about the letter, and asks for fewer letters all the same. `obeyed` is what was ordered.
    `alone`: nobody was accepted.
    """

    __slots__ = ("again", "alone", "doubted", "held", "obeyed", "paused", "renew", "rests", "spoken")

    def __init__(self, obeyed: Ordered, *, alone: bool) -> None:
        self.obeyed = obeyed
        self.alone = alone
        self.again: list[str] = []
        self.doubted: Result | None = None
        self.held: Result | None = None
        self.paused: Result | None = None
        self.renew = self.spoken = self.rests = False


class Judge:
    """Applies the rules to what was said. `finish` is told of letters whose ruling came later."""

    def __init__(self, clock: Clock, finish: Callable[[Errand], None]) -> None:
        self._clock = clock
        self._finish = finish

    def judge(self, errand: Errand, part: tuple[str, ...], said: Said, known: tuple[When, ...] = ()) -> bool:
        """Take in what was said of `part`, some of whom were not accepted; whether to go on with it.

        `known` is what is so of the letter itself, for `decide`.
        """
        results, relay = said.results, errand.relay
        accepted = any(each.verdict is Verdict.ACCEPTED for each in results.values())
        reading = Reading(said.obeyed, alone=not accepted)
        news = said.since >= relay.refusals.number  # else it was on its way when the relay refused others
        taken = some_taken(results)
        if accepted:
            errand.took()
        carried = said.carried and errand.renewed < RENEWALS
        for each in part:
            decision = decide(relay.rules, results[each], taken=taken, carried=carried, known=known)
            action = self._action(errand, each, decision, accepted=accepted)
            if action is Action.SPLIT and len(part) > 1:
                reading.again.append(each)
            elif action is Action.RENEW:
                reading.again.append(each)
                reading.renew = True
            else:
                result = ruled(results[each], decision.rule)
                self._take(errand, each, result, decision=decision, action=action, reading=reading)
        self._learn(errand, part, said, again=reading.again, renew=reading.renew)
        errand.left = (*reading.again, *errand.left)
        if reading.held is not None:
            errand.pause = relay.hold(errand.letter.id, reading.held)
            self._to_blame_is_the_relay(errand)
            return False
        if reading.paused is not None:
            relay.hold(errand.letter.id, reading.paused)
        if reading.doubted is not None:
            further = self._weigh(errand, part, reading.doubted)
            said.held.refused = relay.refusals.number
            return further and not reading.rests
        if reading.spoken and news:
            relay.at_ease_if_held()
        return not reading.rests

    def _take(
        self,
        errand: Errand,
        address: str,
        result: Result,
        *,
        decision: Decision,
        action: Action,
        reading: Reading,
    ) -> None:
        """Take in what was said of one recipient for whom nothing further is tried now."""
        if action is Action.HOLD or (action is Action.WEIGH and errand.relay.breaker.open):
            errand.results[address] = as_deferred(result)
            errand.idle.add(address)
            reading.held = result
        elif action is Action.WEIGH:
            own = as_deferred(result) if decision.otherwise is Action.DEFER else result
            errand.doubtful[address] = reading.doubted = own
        elif action in RULED:
            errand.results[address] = as_deferred(result)
            if decision.doubted:
                errand.relay.refused(errand.letter.id)
            now = self._clock.monotonic()
            reading.obeyed = order(errand.relay, errand.mail, address, decision, now, obeyed=reading.obeyed)
            reading.rests = obey(errand, address, decision) or reading.rests
            reading.spoken = reading.spoken or decision.counts
        elif action is Action.ANSWER or action is Action.FAIL:
            if action is Action.FAIL:
                errand.failed = {**(errand.failed or {}), address: int(decision.suppress)}
            elif decision.suppress is Suppress.SECOND and reading.alone:
                errand.unlearned |= errand.relay.refused_recipient(address, result)
            errand.results[address] = result if action is Action.ANSWER else as_refused(result)
            if decision.pauses and action is not decision.action:
                reading.paused = result
            reading.spoken = reading.spoken or (action is decision.action and result.code is not None)
        else:
            errand.results[address] = as_deferred(result)
            if decision.action is Action.DEFER or decision.orders:
                errand.relay.refused(errand.letter.id)
            reading.spoken = reading.spoken or (action is decision.action and result.code is not None)

    def _action(self, errand: Errand, address: str, decision: Decision, *, accepted: bool) -> Action:
        """What to do by a decision about one recipient, with what is known of others.

        `accepted`: the relay took others in the same transaction, so after it had said so.
        """
        action = decision.action
        if action is Action.RETRY and not decision.counts and not decision.seconds:
            return Action.RENEW if errand.renewed < RENEWALS else action
        if action not in DOUBTED or not decision.doubted:
            return action
        # What a rule orders holds though others were taken along: they may have been the last ones.
        others = (accepted and action not in BARS) or self._is_its_own(errand, address)
        return decision.otherwise if others else action

    @staticmethod
    def _is_its_own(errand: Errand, address: str) -> bool:
        """Whether the relay took others after it had refused the letter for this recipient.

        That it took the letter for others before tells nothing: an account's limit begins at any moment.
        """
        if not errand.relay.refusals.others_taken_since(errand.letter.id):
            return False
        before = errand.letter.recipients[errand.places_of((address,))[0]].result
        return before is not None and not unasked(before)

    def _learn(
        self, errand: Errand, part: tuple[str, ...], said: Said, *, again: Sequence[str], renew: bool
    ) -> None:
        """What those who are to be sent to again tell about the session."""
        if not again:
            errand.renewed = 0
            return
        if renew:
            errand.renewed += 1
            answer = said.results[again[0]]
            full = (
                answer.code is not None and answer.phase in {Phase.MAIL, Phase.DATA} and said.held.taken > 0
            )
            if full and not said.held.retired:
                errand.relay.pool.learn_share(said.held.taken)
            errand.relay.pool.retire(said.held)
            return
        errand.renewed = 0
        if len(again) == len(part):  # said of all of them: only fewer can tell how many are too many
            errand.size = max(1, len(part) // 2)
        else:
            said.held.room = len(part) - len(again)

    def _weigh(self, errand: Errand, part: tuple[str, ...], result: Result) -> bool:
        """Some of `part` were refused in words that may be meant for everybody; whether to go on with others.

        Where the relay took the letter for others before, its next recipients tell as much as other letters.
        """
        if errand.relay.doubt(errand.letter.id, result, part[0] if errand.taken else ""):
            self._to_blame_is_the_relay(errand)
            return False
        doubtful = errand.doubtful
        later = [each for each, said in doubtful.items() if said.verdict is Verdict.DEFERRED]
        for each in later:  # to wait is what it asks for, whatever it means
            errand.results[each] = doubtful.pop(each)
        return errand.taken

    def _to_blame_is_the_relay(self, errand: Errand) -> None:
        for each, result in errand.doubtful.items():
            errand.results[each] = as_deferred(result)
            errand.idle.add(each)
        errand.doubtful = {}
        errand.pause = errand.relay.breaker.left(self._clock.monotonic())

    def weigh_later(self, errand: Errand) -> None:
        """Keep the letter until it shows what its refusal means."""
        relay = errand.relay
        relay.scale.put(errand.letter.id, relay.refusals.number, partial(self._rule, errand))

    def _rule(self, errand: Errand, ruling: Ruling) -> None:
        """What a refusal turned out to mean is what becomes of its letter."""
        doubtful = errand.doubtful
        if ruling is Ruling.EVERYBODY or ruling is Ruling.STOPPED:
            self._to_blame_is_the_relay(errand)
        else:
            # Nobody else was tried, so nobody knows. It is tried again some times, lest an idle service's
            # only letter fails for the account's fault, but not for days: most often it is the letter.
            tries = max([each.tries for each in errand.letter.recipients if each.address in doubtful])
            final = ruling is Ruling.OWN or tries + 1 >= DOUBTED_TRIES
            errand.results |= doubtful if final else {k: as_deferred(v) for k, v in doubtful.items()}
            errand.doubtful = {}
        self._finish(errand)
