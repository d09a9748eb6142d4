"""What replies mean for a letter and for its relay: who is done, who is sent to again, who waits, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mailsender.model.clock import Clock
from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.weighing import Ruling
from mailsender.sending.errand import Errand, Said
from mailsender.sending.permit import some_taken
from mailsender.sending.reply_rules import Action, Rule, When, as_deferred, rule_for

RENEWALS = 2
"""Sessions in a row that a letter is tried over anew, as if their end had nothing to do with it."""

DOUBTED_TRIES = 7
"""Attempts after which a refusal is taken to be about the letter although the relay took nobody else since:
an hour by the default schedule."""


class Judge:
    """Applies the rules to what was said. `finish` is told of letters whose ruling came later."""

    def __init__(self, clock: Clock, finish: Callable[[Errand], None]) -> None:
        self._clock = clock
        self._finish = finish

    def judge(self, errand: Errand, part: tuple[str, ...], said: Said, known: tuple[When, ...] = ()) -> bool:
        """Take in what was said of `part`, some of whom were not accepted; whether to go on with it.

        `known` is what is so of the letter itself, for `rule_for`.
        """
        results, relay = said.results, errand.relay
        again: list[str] = []
        held: Result | None = None
        taken, renew, doubt, spoken = some_taken(results), False, False, False
        carried = said.carried and errand.renewed < RENEWALS
        errand.taken = errand.taken or any(each.verdict is Verdict.ACCEPTED for each in results.values())
        for each in part:
            result = results[each]
            rule = rule_for(result, taken=taken, carried=carried, known=known)
            action = self._action(errand, rule)
            if action is Action.SPLIT and len(part) > 1:
                again.append(each)
            elif action is Action.RENEW:
                again.append(each)
                renew = True
            elif action is Action.HOLD or (action is Action.WEIGH and relay.breaker.open):
                errand.results[each] = as_deferred(result)
                errand.idle.add(each)
                held = result
            elif action is Action.WEIGH:
                doubt = True
                errand.doubtful[each] = result
            else:
                later = action is not Action.ANSWER
                errand.results[each] = as_deferred(result) if later else result
                if rule.action is Action.DEFER and later:
                    relay.refused(errand.letter.id)
                spoken = spoken or (action is rule.action and result.code is not None)
        self._learn(errand, part, said, again=again, renew=renew)
        errand.left = (*again, *errand.left)
        if held is not None:
            errand.pause = relay.hold(errand.letter.id, held)
            return False
        if doubt:
            self._weigh(errand)
            said.held.refused = relay.refusals.number
            return False
        if spoken:
            relay.at_ease_if_held()
        return True

    def _action(self, errand: Errand, rule: Rule) -> Action:
        """What to do by a rule, with what is known of other letters."""
        action = rule.action
        if action is not Action.HOLD and action is not Action.WEIGH and action is not Action.DEFER:
            return action
        others = errand.taken or errand.relay.refusals.others_taken_since(errand.letter.id)
        return rule.otherwise if others else action

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
            if answer.code is not None and answer.phase in {Phase.MAIL, Phase.DATA} and not said.held.retired:
                errand.relay.pool.learn_share(said.held.taken)
            errand.relay.pool.retire(said.held)
            return
        errand.renewed = 0
        if len(again) == len(part):  # said of all of them: only fewer can tell how many are too many
            errand.size = max(1, len(part) // 2)
        else:
            said.held.room = len(part) - len(again)

    def _weigh(self, errand: Errand) -> None:
        """Somebody was refused in words that may be meant for everybody."""
        doubtful = errand.doubtful
        if errand.relay.doubt(errand.letter.id, next(iter(doubtful.values()))):
            self._to_blame_is_the_relay(errand)
            return
        later = [each for each, result in doubtful.items() if result.verdict is Verdict.DEFERRED]
        for each in later:  # to wait is what it asks for, whatever it means
            errand.results[each] = doubtful.pop(each)

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
