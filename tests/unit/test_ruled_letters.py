"""What rules do to letters on their way: who is tried again when, who rests, and who goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.letter import Envelope, Letter, Outcome, Phase, Result, Status, Verdict
from mailsender.queue.memory import MemoryQueue
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.presets import PRESETS
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import RELAY_KEY, Action, ReplyRule, Scope, Suppress, scope_key
from mailsender.sending.reply_rules import decide
from mailsender.smtp.port import Permit, RelayAway
from mailsender.smtp.replies import Reply
from tests.dispatching import UNLIMITED, Scene, known_relay, letter, running, until
from tests.relays import ACCEPTED, FakeRelay, FakeSession

SLOWLY = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.1", text="slowly")
NEVER = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.7.1", text="on a stop list")
BYE = Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, code=421, enhanced="4.7.0", text="expired")


QUOTA = "Throttling failure: Daily message quota exceeded"


def rule(action: Action, scope: Scope, seconds: float = 60.0, code: str = "450", **keys: Any) -> ReplyRule:
    return ReplyRule(name="test/rule", codes=(code,), action=action, scope=scope, seconds=seconds, **keys)


def said(results: Mapping[str, Result]) -> Callable[[str], Result]:
    return lambda address: results.get(address, ACCEPTED)


async def now(scene: Scene, number: int) -> Letter:
    found = await scene.queue.look_up(letter(number).id)
    assert found is not None
    return found.letter


async def deferred(scene: Scene, number: int) -> Letter:
    """The letter once an attempt of it is settled."""
    seen: list[Letter] = []

    async def look() -> bool:
        seen[:] = [await now(scene, number)]
        return seen[0].status is Status.AWAITING and any(each.result for each in seen[0].recipients)

    async with asyncio.timeout(10):
        while not await look():  # noqa: ASYNC110  what is asked for has no event of its own
            await asyncio.sleep(0.005)
    return seen[0]


async def due_in(scene: Scene, number: int) -> float:
    found = await scene.queue.look_up(letter(number).id)
    assert found is not None
    assert found.due is not None
    return found.due.timestamp() - scene.settler._clock.epoch()


@pytest.mark.asyncio
async def test_a_recipient_waits_as_long_as_its_rule_says_and_others_go_on() -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY}))
    async with running(relay, rules=[rule(Action.WAIT, Scope.RECIPIENT)]) as scene:
        await scene.queue.insert([letter(1, "a1@example.test"), letter(2, "b@example.test")])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert done.id == letter(2).id
        put_off = await deferred(scene, 1)
        assert (put_off.recipients[0].tries, put_off.attempts) == (1, 1)
        assert put_off.recipients[0].result is not None
        assert put_off.recipients[0].result.rule == "test/rule"
        assert 50 < await due_in(scene, 1) < 61


@pytest.mark.asyncio
@pytest.mark.parametrize("action", [Action.WAIT, Action.SLOW, Action.STOP])
async def test_what_is_about_the_relay_begins_nothing_more_and_counts_no_attempt(action: Action) -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY}))
    with capture_logs() as logs:
        async with running(relay, senders=1, rules=[rule(action, Scope.RELAY)]) as scene:
            await scene.queue.insert([letter(1, "a1@example.test")])
            scene.dispatcher.nudge()
            put_off = await deferred(scene, 1)
            assert (put_off.recipients[0].tries, put_off.attempts) == (0, 0)
            assert not scene.known.goes
            assert "test/rule" in scene.known.reason
            assert scene.known.next_try is not None
            await scene.queue.insert([letter(n, "b@example.test") for n in range(2, 9)])
            scene.dispatcher.nudge()
            await until(scene.route.blocked_because)
            assert [each.recipients for each in relay.sent] == [("a1@example.test",)]
            trial = 60.0 if action is Action.STOP else 0.0  # others come first, lest it is about this one
            assert 50 < await due_in(scene, 1) - trial < 61
    (line,) = [each for each in logs if each["event"] == "relay_ordered"]
    assert (line["rule"], line["scope"], line["seconds"]) == ("test/rule", "relay", 60.0)
    assert line["factor"] == {Action.WAIT: 1.0, Action.SLOW: 0.5, Action.STOP: 0.02}[action]


@pytest.mark.asyncio
async def test_when_its_time_is_over_the_relay_goes_again() -> None:
    answers = iter([SLOWLY])
    relay = FakeRelay(answer=lambda _: next(answers, ACCEPTED))
    async with running(relay, senders=1, rules=[rule(Action.WAIT, Scope.RELAY, 0.2)]) as scene:
        await scene.queue.insert([letter(1, "a1@example.test")])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert (done.status, done.attempts) == (Status.SENT, 1)
        assert scene.known.goes


@pytest.mark.asyncio
async def test_a_destination_rests_and_other_domains_do_not() -> None:
    relay = FakeRelay(answer=said({"a1@slow.test": SLOWLY}))
    async with running(relay, senders=1, rules=[rule(Action.WAIT, Scope.DESTINATION)]) as scene:
        await scene.queue.insert([letter(1, "a1@slow.test")])
        scene.dispatcher.nudge()
        await deferred(scene, 1)
        await scene.queue.insert([letter(2, "other@SLOW.test", "b@fast.test"), letter(3, "c@fast.test")])
        scene.dispatcher.nudge()
        await scene.settled(1)
        resting = await deferred(scene, 2)
        assert [each.recipients for each in relay.sent] == [
            ("a1@slow.test",),
            ("b@fast.test",),
            ("c@fast.test",),
        ]
        first, second = resting.recipients
        assert (first.open, first.tries, second.accepted) == (True, 0, True)
        assert first.result is not None
        assert "rests by the rule test/rule, after the relay said: 450 4.2.1 slowly" in first.result.text
        assert 50 < await due_in(scene, 2) < 61


@pytest.mark.asyncio
async def test_of_a_letter_in_slices_the_rest_of_the_domain_is_spared_at_once() -> None:
    relay = FakeRelay(answer=said({"a1@slow.test": SLOWLY}))
    addresses = ("a1@slow.test", "a2@slow.test", "b@fast.test")
    rules = [rule(Action.SLOW, Scope.DESTINATION)]
    async with running(relay, senders=1, max_recipients=1, rules=rules) as scene:
        await scene.queue.insert([letter(1, *addresses)])
        scene.dispatcher.nudge()
        await deferred(scene, 1)
        assert [each.recipients for each in relay.sent] == [("a1@slow.test",), ("b@fast.test",)]


@pytest.mark.asyncio
async def test_a_sender_rests_by_its_own_name() -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY}))
    async with running(relay, senders=1, rules=[rule(Action.STOP, Scope.SENDER)]) as scene:
        await scene.queue.insert([letter(1, "a1@example.test")])
        scene.dispatcher.nudge()
        await deferred(scene, 1)
        await scene.queue.insert([letter(2, "b@example.test")])
        scene.dispatcher.nudge()
        resting = await deferred(scene, 2)
        assert (resting.attempts, len(relay.sent), scene.known.goes) == (0, 1, True)
        (order,) = scene.known.limiter.orders()
        assert (order.key, order.rule, order.said) == (
            "sender:s@example.test",
            "test/rule",
            "450 4.2.1 slowly",
        )
        key = scope_key(Scope.SENDER, sender="s@example.test")
        assert scene.known.held(key, scene.settler._clock.monotonic()) > 50


@pytest.mark.asyncio
async def test_a_rule_can_fail_and_can_save_a_recipient() -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY, "b@example.test": NEVER}))
    rules = [
        rule(Action.FAIL, Scope.RECIPIENT, 0.0, suppress=Suppress.AT_ONCE),
        rule(Action.RETRY, Scope.RECIPIENT, 60.0, "550"),
    ]
    async with running(relay, rules=rules) as scene:
        await scene.queue.insert([letter(1, "a1@example.test"), letter(2, "b@example.test")])
        scene.dispatcher.nudge()
        (failed,) = await scene.settled(1)
        assert (failed.id, failed.status) == (letter(1).id, Status.ERROR)
        result = failed.recipients[0].result
        assert result is not None
        assert (result.verdict, result.code, result.rule) == (Verdict.REFUSED, 450, "test/rule")
        saved = await deferred(scene, 2)
        assert saved.recipients[0].result is not None
        assert saved.recipients[0].result.verdict is Verdict.DEFERRED
        assert 50 < await due_in(scene, 2) < 61


@pytest.mark.asyncio
async def test_what_costs_no_penalty_goes_again_at_once_over_another_session_but_not_for_ever() -> None:
    answers = iter([BYE, BYE])
    relay = FakeRelay(answer=lambda _: next(answers, ACCEPTED))
    rules = [rule(Action.RETRY, Scope.RELAY, 0.0, "421")]
    async with running(relay, senders=1, rules=rules) as scene:
        await scene.queue.insert([letter(1, "a1@example.test")])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert (done.status, done.attempts, relay.connects) == (Status.SENT, 1, 3)
    relay = FakeRelay(answer=lambda _: BYE)
    async with running(relay, senders=1, rules=rules) as scene:
        await scene.queue.insert([letter(1, "a1@example.test")])
        scene.dispatcher.nudge()
        waiting = await deferred(scene, 1)
        assert (waiting.attempts, len(relay.sent)) == (0, 3)
        assert await due_in(scene, 1) > 0.5, "not thousands of times a second"


@pytest.mark.asyncio
async def test_a_switch_rests_the_relay_and_its_letter_may_go_elsewhere_at_once() -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY}))
    async with running(relay, senders=1, rules=[rule(Action.SWITCH, Scope.RELAY)]) as scene:
        await scene.queue.insert([letter(1, "a1@example.test")])
        scene.dispatcher.nudge()
        put_off = await deferred(scene, 1)
        assert (put_off.attempts, put_off.recipients[0].tries) == (0, 0)
        assert await due_in(scene, 1) <= 0.1
        assert scene.known.held(RELAY_KEY, scene.settler._clock.monotonic()) > 50
        await until(scene.route.blocked_because)
        assert len(relay.sent) == 1, "where there is no other relay it waits"


@pytest.mark.asyncio
async def test_who_was_taken_beside_one_who_was_not_stays_taken() -> None:
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY}))
    async with running(relay, rules=[rule(Action.WAIT, Scope.RELAY)]) as scene:
        await scene.queue.insert([letter(1, "a1@example.test", "b@example.test")])
        scene.dispatcher.nudge()
        put_off = await deferred(scene, 1)
        assert [each.accepted for each in put_off.recipients] == [False, True]


class Refusing(FakeRelay):
    """Refuses all sessions at the login."""

    said = Reply.of(454, ["4.7.0 Too many login attempts"])

    async def connect(self) -> Any:
        self.connects += 1
        raise RelayAway("no", phase="auth", code=self.said.code, reply=self.said)


@pytest.mark.asyncio
async def test_a_login_that_is_refused_is_not_tried_before_its_rule_says_so() -> None:
    rules = PRESETS["google-user"].rules
    relay = Refusing()
    async with running(relay, senders=2, rules=rules) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.pool.away)
        assert scene.known.next_try is not None
        assert scene.known.next_try - scene.settler._clock.epoch() > 590
        (order,) = scene.known.limiter.orders()
        assert (order.key, order.rule) == (RELAY_KEY, "google-user/too-many-logins")
        assert relay.connects == 1
        assert (await now(scene, 1)).attempts == 0


@pytest.mark.asyncio
async def test_without_a_rule_a_session_is_tried_again_as_ever() -> None:
    async with running(Refusing(), rules=PRESETS["ses"].rules[:1]) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.pool.away)
        assert scene.known.next_try is not None
        assert scene.known.next_try - scene.settler._clock.epoch() < 2
        assert not scene.known.ordered


@pytest.mark.asyncio
async def test_who_starts_later_rests_as_well() -> None:
    """Another replica, or the same one after a restart."""
    clock = SystemClock()
    store, stop = MemorySlotStore(clock), asyncio.Event()

    def begun() -> tuple[Relay, asyncio.Task[None]]:
        relay = known_relay(FakeRelay(), clock, rules=PRESETS["ses"].rules)
        relay.limiter = Limiter(store, UNLIMITED, clock, backlog=int, watch=True)
        return relay, asyncio.ensure_future(relay.limiter.run(stop))

    first, running_first = begun()
    decision = decide(first.rules, Result(verdict=Verdict.DEFERRED, phase=Phase.DOT, code=454, text=QUOTA))
    first.obey(decision, RELAY_KEY, clock.monotonic())
    await until(lambda: not first.limiter._standing.unwritten)
    second, running_second = begun()
    await until(lambda: second.held(RELAY_KEY, clock.monotonic()) > 590)
    assert not second.goes
    assert second.reason == f"is to rest by the rule ses/daily-quota: 454 {QUOTA}"
    stop.set()
    await asyncio.gather(running_first, running_second)


class TellingRelay(FakeRelay):
    """Says of recipients that it does not take them before it is told the message, as relays do."""

    async def connect(self) -> FakeSession:
        await super().connect()
        self.sessions[-1] = TellingSession(self)
        return self.sessions[-1]


class TellingSession(FakeSession):
    """See `TellingRelay`. Of a transaction that is cut it knows what was said before."""

    async def _carry(self, envelope: Envelope, permit: Permit) -> Outcome:
        refused = {
            each: result
            for each in envelope.recipients
            if (result := self.relay.answer(each)).phase is Phase.RCPT
        }
        if refused:
            permit.refused(refused)
        outcome = await super()._carry(envelope, permit)
        return Outcome(results={**outcome.results, **refused}, session_usable=outcome.session_usable)


@pytest.mark.asyncio
@pytest.mark.parametrize("scope", [Scope.RELAY, Scope.DESTINATION, Scope.SENDER])
async def test_what_is_said_of_one_holds_while_the_letter_goes_on_to_others(scope: Scope) -> None:
    relay = TellingRelay(answer=said({"a1@example.test": SLOWLY}), hold=asyncio.Event())
    async with running(relay, senders=2, rules=[rule(Action.SLOW, scope)]) as scene:
        known, clock = scene.known, scene.settler._clock
        await scene.queue.insert([letter(1, "a1@example.test", "b@example.test")])
        scene.dispatcher.nudge()
        await relay.started.wait()
        key = scope_key(scope, recipient="a1@example.test", sender="s@example.test")
        assert relay.under_way == 1
        asked = clock.monotonic()
        assert (held := known.held(key, asked)) > 50
        assert relay.hold is not None
        await until(lambda: clock.monotonic() > asked + 0.1)
        relay.hold.set()
        put_off = await deferred(scene, 1)
        assert [each.accepted for each in put_off.recipients] == [False, True]
        assert known.held(key, asked) == pytest.approx(held, abs=0.05), "it asked for it once"


@pytest.mark.asyncio
@pytest.mark.parametrize(("enhanced", "fails"), [("5.4.5", False), ("5.1.1", True)])
async def test_a_drain_that_cuts_a_letter_fails_nobody_for_the_accounts_fault(
    enhanced: str, fails: bool
) -> None:
    no = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced=enhanced, text="no")
    relay = TellingRelay(answer=said({"a1@example.test": no}), hold=asyncio.Event())
    async with running(relay, senders=1) as scene:
        await scene.queue.insert([letter(1, "a1@example.test", "b@example.test")])
        scene.dispatcher.nudge()
        await relay.started.wait()
        scene.dispatcher.stop_claiming()
        assert not await scene.dispatcher.finish(0.01)
        assert await scene.settler.flush(5.0)
        first, second = (await now(scene, 1)).recipients
        assert (first.open, second.open) == (not fails, True)
        assert (first.tries, second.tries) == (0, 0)


@pytest.mark.asyncio
async def test_recipients_of_a_letter_wait_each_for_its_own_time_whichever_replica_has_it() -> None:
    later = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=451, text="later")
    relay = FakeRelay(answer=said({"a1@example.test": SLOWLY, "b@example.test": later}))
    queue = MemoryQueue(SystemClock())
    rules = [rule(Action.WAIT, Scope.RECIPIENT, 3600.0)]
    async with running(relay, queue=queue, rules=rules, max_attempts=9, delay=0.05) as scene:
        await scene.queue.insert([letter(1, "a1@example.test", "b@example.test")])
        scene.dispatcher.nudge()
        await deferred(scene, 1)
        assert await due_in(scene, 1) < 1
    successor = FakeRelay()
    async with running(successor, queue=queue, rules=rules, max_attempts=9) as scene:
        await until(lambda: successor.sent)
        put_off = await deferred(scene, 1)
        assert [each.recipients for each in successor.sent] == [("b@example.test",)]
        assert [each.accepted for each in put_off.recipients] == [False, True]
        assert 3000 < await due_in(scene, 1) < 3601


@pytest.mark.asyncio
async def test_who_rests_for_a_moment_does_not_wait_as_long_as_who_was_put_off() -> None:
    later = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=451, text="later")
    relay = FakeRelay(answer=said({"a1@slow.test": SLOWLY, "c@later.test": later}))
    rules = [rule(Action.WAIT, Scope.DESTINATION, 0.3)]
    async with running(relay, senders=1, rules=rules, max_attempts=9, delay=1000.0) as scene:
        await scene.queue.insert([letter(1, "a1@slow.test"), letter(2, "b@slow.test", "c@later.test")])
        scene.dispatcher.nudge()
        await until(lambda: ("b@slow.test",) in [each.recipients for each in relay.sent])
        put_off = await deferred(scene, 2)
        assert [each.accepted for each in put_off.recipients] == [True, False]
        assert put_off.recipients[1].tries == 1, "it was not tried before its time"
        assert 700 < await due_in(scene, 2) < 1300
