"""A letter to somebody on the list takes no slot and no session, by whichever way it comes to be sent."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from structlog.testing import capture_logs

from mailsender.model.clock import SystemClock
from mailsender.model.errors import Unavailable
from mailsender.model.letter import Claim, Phase, Result, Status, Verdict, now_ms
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Match
from mailsender.routing.reply_rule import Action, ReplyRule, Scope, Suppress
from mailsender.suppression.memory import MemorySuppressions
from mailsender.suppression.port import Entry, Source
from mailsender.suppression.rules import SuppressionPolicy
from mailsender.suppression.watch import SuppressionWatch
from tests.dispatching import letter, running, until
from tests.fleet import fleet, route
from tests.relays import ACCEPTED, FakeRelay

pytestmark = pytest.mark.asyncio

NO_SUCH = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="no such user")


async def watch_with(*addresses: str, store: MemorySuppressions | None = None) -> SuppressionWatch:
    clock, store = SystemClock(), store or MemorySuppressions()
    now = now_ms(clock.epoch())
    await store.put([Entry(address=each, source=Source.OPERATOR, since=now) for each in addresses])
    return SuppressionWatch(store, clock, SuppressionPolicy(learns=True))


async def test_a_letter_that_waited_ends_without_a_transaction() -> None:
    relay, watch = FakeRelay(), await watch_with("r1@example.test")
    with capture_logs() as logs:
        async with running(relay, suppression=watch) as scene:
            await scene.queue.insert([letter(1), letter(2)])
            scene.dispatcher.nudge()
            done = {each.subject: each for each in await scene.settled(2)}
            await until(lambda: not len(scene.in_flight))
    assert [each.recipients for each in relay.sent] == [("r2@example.test",)]
    assert (done["letter 1"].status, done["letter 1"].attempts) == (Status.ERROR, 0)
    assert done["letter 2"].status is Status.SENT
    assert [each["letters"] for each in logs if each["event"] == "letters_suppressed"] == [1]


async def test_a_fresh_letter_ends_as_one_that_waited() -> None:
    relay, watch = FakeRelay(), await watch_with("@example.test")
    async with running(relay, suppression=watch) as scene:
        await until(lambda: scene.route.dry)
        letters = [letter(1), letter(2, "a@example.org"), letter(3, "b@example.org", "c@example.test")]
        claims = await scene.dispatcher.fresh_claims(letters)
        assert len(claims) == 1
        scene.dispatcher.take_fresh(claims, letters, await scene.queue.insert(letters, claims))
        done = {each.subject: each for each in await scene.settled(3)}
    assert relay.connects >= 1
    assert {each.recipients for each in relay.sent} == {("a@example.org",), ("b@example.org",)}
    assert [done[f"letter {n}"].status for n in (1, 2, 3)] == [Status.ERROR, Status.SENT, Status.SENT]
    left = done["letter 3"].recipients
    assert [each.result and each.result.verdict for each in left] == [Verdict.ACCEPTED, Verdict.REFUSED]


async def test_those_who_are_left_of_a_claim_keep_their_places() -> None:
    """Or a letter of another stream went behind all that is at hand."""
    async with running(FakeRelay(), suppression=await watch_with("r1@example.test")) as scene:
        letters = letter(1), letter(2), letter(3)
        claim = Claim(token=scene.in_flight.new_token(), letters=letters, places=(1.0, 2.0, 3.0))
        left = scene.dispatcher._without(claim, await scene.dispatcher._suppression.look_up(letters))
    assert [each.id for each in left.letters] == [letter(2).id, letter(3).id]
    assert left.places == (2.0, 3.0)


async def test_a_batch_for_nobody_but_those_is_done_in_no_time() -> None:
    relay, watch = FakeRelay(), await watch_with("@example.test")
    async with running(relay, suppression=watch, allowance=Allowance(letters=1, period=60.0)) as scene:
        await scene.queue.insert([letter(n) for n in range(1200)])
        scene.dispatcher.nudge()
        done = await scene.settled(1200)
    assert {each.status for each in done} == {Status.ERROR}
    assert (relay.sent, watch.hits) == ([], 1200)


async def test_a_refusal_is_learned_and_the_next_letter_is_not_sent() -> None:
    relay, watch = FakeRelay(answer=lambda _: NO_SUCH), await watch_with()
    async with running(relay, suppression=watch) as scene:
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        await scene.settled(1)
        assert await watch._write()
        await scene.queue.insert([letter(2, "r1@example.test")])
        scene.dispatcher.nudge()
        done = await scene.settled(2)
    assert len(relay.sent) == 1
    assert done[1].recipients[0].result is not None
    assert done[1].recipients[0].result.text == "suppressed: 550 5.1.1"


async def test_a_success_ends_what_was_counted() -> None:
    answers = [Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, text="no"), ACCEPTED]
    relay, watch = FakeRelay(answer=lambda _: answers.pop(0)), await watch_with()
    async with running(relay, suppression=watch) as scene:
        for number in (1, 2):
            await scene.queue.insert([letter(number, "r1@example.test")])
            scene.dispatcher.nudge()
            await scene.settled(number)
            assert await watch._write()
    assert await watch.store.empty()


async def test_each_relay_goes_by_its_own_rule_although_another_has_one_of_that_name() -> None:
    """As two accounts with one provider have, by its preset, or by a file that numbers its rules."""
    no = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.7.1", text="on a stop list")
    fakes = {name: FakeRelay(name="one.example:25", answer=lambda _: no) for name in ("a", "b")}
    to_a = route("to-a", "a", match=Match(destinations=("a.test",)))
    async with fleet(fakes, [to_a, route("default", "b")]) as stage:
        watch = stage.dispatcher._suppression
        watch.policy = SuppressionPolicy(learns=True)
        for name, suppress in (("a", Suppress.AT_ONCE), ("b", Suppress.NEVER)):
            stage.relays[name].rules = (
                ReplyRule(
                    name="rules/1",
                    codes=("550",),
                    action=Action.FAIL,
                    scope=Scope.RECIPIENT,
                    suppress=suppress,
                ),
            )
        await stage.put(letter(1, "x@a.test", route="to-a"), letter(2, "x@b.test"))
        await stage.settled(2)
        await until(lambda: len(watch._refusals) > 0)
        assert await watch._write()
    assert [each.address for each in await watch.store.find(["x@a.test", "x@b.test"])] == ["x@a.test"]


class Shy(MemorySuppressions):
    """Away until it is told to come."""

    away = True

    async def find(self, keys: Collection[str]) -> list[Entry]:
        if self.away:
            raise Unavailable("away")
        return await super().find(keys)


async def test_while_the_list_is_away_letters_wait_and_none_is_lost() -> None:
    relay, store = FakeRelay(), Shy()
    watch = await watch_with("r1@example.test", store=store)
    async with running(relay, suppression=watch) as scene:
        await scene.queue.insert([letter(1), letter(2)])
        scene.dispatcher.nudge()
        await until(lambda: scene.dispatcher.condition.text)
        assert await scene.dispatcher.fresh_claims([letter(3)]) == []
        assert relay.sent == []
        scene.heartbeat.health.steady = lambda _: True  # type: ignore[method-assign]
        store.away = False
        done = await scene.settled(2)
    assert {each.status for each in done} == {Status.ERROR, Status.SENT}
