"""A rule that stops a relay for what a reply says of one letter: it does so once, not for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsender.model.letter import Phase, Result, Status, Verdict
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Then
from mailsender.sending.reply_rules import When, decide
from tests.dispatching import letter, running, until
from tests.relays import ACCEPTED, FakeRelay

DENIED = Result(verdict=Verdict.REFUSED, phase=Phase.DOT, code=554, enhanced=None, text="Access denied")
QUOTA = Result(verdict=Verdict.REFUSED, phase=Phase.DOT, code=550, enhanced="5.4.5", text="Daily limit")


def rule(action: Action, scope: Scope, *, trial: float = 0.1) -> ReplyRule:
    return ReplyRule(
        name="test/rule",
        codes=("5",),
        action=action,
        scope=scope,
        seconds=0.3,
        then=Then(rate=1.0, seconds=trial),
    )


def poisoned(said: Result) -> Callable[[str], Result]:
    return lambda address: said if address.startswith("poison@") else ACCEPTED


@pytest.mark.asyncio
@pytest.mark.parametrize("action", [Action.STOP, Action.SWITCH])
@pytest.mark.parametrize("scope", [Scope.RELAY, Scope.SENDER])
async def test_a_letter_that_is_refused_for_itself_holds_up_the_others_once(
    action: Action, scope: Scope
) -> None:
    relay = FakeRelay(answer=poisoned(DENIED))
    async with running(relay, senders=1, rules=[rule(action, scope)], max_attempts=3) as scene:
        await scene.queue.insert([letter(0, "poison@example.test"), *[letter(n) for n in range(1, 30)]])
        scene.dispatcher.nudge()
        done = {each.id: each for each in await scene.settled(30)}
        poison = done.pop(letter(0).id)
        assert {each.status for each in done.values()} == {Status.SENT}
        assert (poison.status, poison.attempts) == (Status.ERROR, 3)
        assert poison.recipients[0].result is not None
        assert poison.recipients[0].result.rule == "test/rule"


@pytest.mark.asyncio
async def test_who_made_a_relay_stop_comes_when_others_were_tried() -> None:
    """As the first to be tried it would make it stop anew, each time."""
    relay = FakeRelay(answer=poisoned(DENIED))
    rules = [rule(Action.STOP, Scope.RELAY, trial=3.0)]
    async with running(relay, senders=1, rules=rules, max_attempts=2) as scene:
        await scene.queue.insert([letter(0, "poison@example.test")])
        scene.dispatcher.nudge()
        await relay.started.wait()
        await scene.queue.insert([letter(n) for n in range(1, 4)])
        scene.dispatcher.nudge()
        await scene.settled(4)
        assert [each.recipients[0].partition("@")[0] for each in relay.sent[:4]] == [
            "poison",
            "r1",
            "r2",
            "r3",
        ]


@pytest.mark.asyncio
async def test_a_relay_that_is_to_rest_does_so_though_it_took_others_along() -> None:
    refusal = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=554, text="You may send no more")
    relay = FakeRelay(answer=poisoned(refusal))
    async with running(relay, senders=1, rules=[rule(Action.STOP, Scope.RELAY)]) as scene:
        await scene.queue.insert([letter(1, "a@example.test", "poison@example.test")])
        scene.dispatcher.nudge()
        await until(scene.known.limiter.orders)


@pytest.mark.parametrize("action", [Action.STOP, Action.SWITCH])
@pytest.mark.parametrize(
    ("said", "scope", "known", "otherwise"),
    [
        (DENIED, Scope.RELAY, (), Action.DEFER),
        (DENIED, Scope.SENDER, (), Action.DEFER),
        # What others are told is nothing that is known of a sender of its own.
        (DENIED, Scope.SENDER, (When.OWN_SENDER,), None),
        (DENIED, Scope.RELAY, (When.OWN_SENDER,), Action.DEFER),
        # Nor does it help where nothing but the account can be meant: a window that slides lets some through.
        (QUOTA, Scope.RELAY, (), None),
        (DENIED, Scope.DESTINATION, (), None),
    ],
)
def test_what_is_certain_is_not_doubted_whoever_is_taken(
    action: Action, said: Result, scope: Scope, known: tuple[When, ...], otherwise: Action | None
) -> None:
    decision = decide([rule(action, scope)], said, known=known)
    assert (decision.action, decision.otherwise) == (action, otherwise or action)


@pytest.mark.parametrize("action", [Action.WAIT, Action.SLOW])
def test_a_relay_that_asks_for_a_pause_gets_it_whatever_it_takes_meanwhile(action: Action) -> None:
    decision = decide([rule(action, Scope.RELAY)], DENIED)
    assert decision.otherwise is action
