"""A letter that a relay did not take goes to the next one; one that a relay may have taken does not (P12)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from mailsender.admin.relay_state import route_state
from mailsender.message.composer import LetterComposer
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase, Result, Status, Verdict, now_ms
from mailsender.ratelimit.destinations import Destinations
from mailsender.ratelimit.gcra import Allowance, SlotGrant, SlotRequest
from mailsender.ratelimit.limiter import Limiter
from mailsender.ratelimit.memory import MemorySlotStore
from mailsender.routing.reply_rule import Action, Decision, ReplyRule, Scope, scope_key
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.routes import change
from mailsender.routing.table import RouteTable
from mailsender.sending import dispatcher
from tests.dispatching import letter, until
from tests.fleet import Fleet, fleet, route
from tests.relays import ACCEPTED, FakeRelay, FakeSession

pytestmark = pytest.mark.asyncio


def said(verdict: str, phase: str, code: int | None = None, enhanced: str | None = None) -> Result:
    return Result(verdict=Verdict(verdict), phase=Phase(phase), code=code, enhanced=enhanced, text="words")


def answers(result: Result, *only: str) -> Callable[[str], Result]:
    """What a relay says to all, or to `only` these; it accepts the others."""
    return lambda address: result if not only or address in only else ACCEPTED


def relays_of(fleet: Fleet) -> dict[str, str]:
    """The relay that decided about each recipient of all reported letters."""
    return {each.address: each.relay[0] for done in fleet.reported for each in done.recipients}


def pair(first: Callable[[str], Result] = lambda _: ACCEPTED) -> dict[str, FakeRelay]:
    return {"a": FakeRelay(name="a.example:25", answer=first), "b": FakeRelay(name="b.example:25")}


NOT_TAKEN = [
    said("deferred", "mail", 421, "4.3.2"),
    said("deferred", "rcpt", 450, "4.2.0"),
    said("deferred", "data", 451),
    said("deferred", "data"),  # lost before the dot
    said("deferred", "dot", 454),  # SES: throttled
    said("deferred", "dot", 452, "4.3.1"),
    said("refused", "dot", 550, "5.4.5"),  # Google: the account's daily limit
    said("refused", "mail", 535, "5.7.8"),
]


@pytest.mark.parametrize("result", NOT_TAKEN, ids=lambda each: f"{each.phase} {each.code} {each.enhanced}")
async def test_who_was_certainly_not_taken_goes_to_the_next_relay_at_once(result: Result) -> None:
    async with fleet(pair(answers(result)), [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (done.status, done.attempts) == (Status.SENT, 1)
    assert (done.relay, done.recipients[0].relay) == ("b.example:25", "b.example:25")
    assert stage.sent() == {"a": 1, "b": 1}
    first, second = done.history
    assert (first.relay, first.result.code, first.result.verdict) == ("a.example:25", result.code, "deferred")
    assert (second.relay, second.result.verdict, second.accepted) == ("b.example:25", "accepted", 1)


async def test_who_goes_over_another_relay_is_told_no_turn_at_the_first() -> None:
    """Nobody would come at it, and all who do wait would stand behind it."""
    async with fleet(pair(), [route("default", "a", "b")]) as stage:
        clock, store = SystemClock(), MemorySlotStore(SystemClock())
        limits = stage.relays["a"].destinations = Destinations(
            stage.relays["a"].limiter, lambda _, rates: Limiter(store, rates[0], clock, backlog=int), clock
        )
        limits.change({"example.test": (Allowance(letters=1, period=60.0),)})
        limits.limiters["example.test"]._next_at = clock.monotonic() + 60  # others have the slots till then
        await stage.put(*[letter(n) for n in range(30)])
        await stage.settled(30)
        assert stage.sent() == {"a": 0, "b": 30}
        assert limits.promised(clock.monotonic()) == {}


async def test_who_may_have_been_taken_is_given_to_no_second_relay() -> None:
    lost = said("uncertain", "dot")
    keep = RetryPolicy(max_attempts=3, delay=0.05, resends=0)
    async with fleet(pair(answers(lost)), [route("default", "a", "b", retry=keep)]) as stage:
        await stage.put(*[letter(n) for n in range(5)])
        done = await stage.settled(5)
    assert stage.sent() == {"a": 5, "b": 0}
    assert {each.recipients[0].result.verdict for each in done if each.recipients[0].result} == {"uncertain"}


async def test_one_that_is_in_doubt_from_an_earlier_attempt_waits_for_its_time() -> None:
    """It may be sent again, as SMTP_UNCERTAIN says; but then not over one relay after the other."""
    told = [said("uncertain", "dot"), said("deferred", "rcpt", 450, "4.2.0"), ACCEPTED]
    fakes = pair(lambda _: told.pop(0) if told else ACCEPTED)
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (stage.sent(), done.attempts) == ({"a": 3, "b": 0}, 3)


async def test_a_final_refusal_of_a_recipient_is_no_relays_fault() -> None:
    unknown = said("refused", "rcpt", 550, "5.1.1")
    async with fleet(pair(answers(unknown)), [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (done.status, stage.sent()) == (Status.ERROR, {"a": 1, "b": 0})


async def test_of_one_letter_only_those_go_on_who_were_not_taken_and_each_names_its_relay() -> None:
    def first(address: str) -> Result:
        return {
            "no@example.test": said("refused", "rcpt", 550, "5.1.1"),
            "later@example.test": said("deferred", "rcpt", 450, "4.2.0"),
        }.get(address, ACCEPTED)

    mixed = letter(1, "yes@example.test", "later@example.test", "no@example.test", "too@example.test")
    async with fleet(pair(first), [route("default", "a", "b")]) as stage:
        await stage.put(mixed)
        (done,) = await stage.settled(1)
    assert [each.recipients for each in stage.fakes["b"].sent] == [("later@example.test",)]
    assert relays_of(stage) == {
        "yes@example.test": "a",
        "later@example.test": "b",
        "no@example.test": "a",
        "too@example.test": "a",
    }
    verdicts = [each.result.verdict for each in done.recipients if each.result]
    assert verdicts == ["accepted", "accepted", "refused", "accepted"]
    assert done.attempts == 1
    assert [(each.relay[0], each.asked, each.accepted) for each in done.history] == [("a", 4, 2), ("b", 1, 1)]


async def test_what_became_of_the_others_is_written_down_before_the_next_relay_is_asked() -> None:
    """A process that dies over the second relay must not have the first one's sent again."""
    fakes = pair(answers(said("deferred", "rcpt", 450, "4.2.0"), "b@example.test"))
    fakes["b"].hold = asyncio.Event()
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        mine = letter(1, "a@example.test", "b@example.test")
        await stage.put(mine)
        await fakes["b"].started.wait()
        stored = await stage.queue.get(mine.id)
        assert stored is not None
        assert [each.accepted for each in stored.recipients] == [True, False]
        fakes["b"].hold.set()
        await stage.settled(1)


async def test_where_no_relay_takes_it_the_last_ones_words_stand_and_it_is_one_attempt() -> None:
    fakes = {
        "a": FakeRelay(name="a.example:25", answer=answers(said("deferred", "rcpt", 450, "4.2.0"))),
        "b": FakeRelay(name="b.example:25", answer=answers(said("deferred", "rcpt", 451, "4.2.0"))),
    }
    once = RetryPolicy(max_attempts=1, delay=0.05)
    async with fleet(fakes, [route("default", "a", "b", retry=once)]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    result = done.recipients[0].result
    assert result is not None
    assert (result.code, done.recipients[0].relay, done.attempts) == (451, "b.example:25", 1)
    assert [each.result.code for each in done.history] == [450, 451]
    assert stage.sent() == {"a": 1, "b": 1}


@pytest.mark.parametrize("enhanced", ["5.3.4", "5.6.7", "5.7.30"])
async def test_what_one_relay_lacks_another_may_have(enhanced: str) -> None:
    lacks = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, enhanced=enhanced, text="which the relay lacks")
    fakes = pair(lambda _: lacks)
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (done.status, done.recipients[0].relay, done.attempts) == (Status.SENT, "b.example:25", 1)


async def test_what_both_lack_is_refused() -> None:
    lacks = Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, enhanced="5.3.4", text="too large")
    fakes = pair(lambda _: lacks)
    fakes["b"].answer = lambda _: lacks
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (done.status, done.recipients[0].relay, done.attempts) == (Status.ERROR, "b.example:25", 1)


async def test_where_the_next_relay_is_away_after_all_the_first_ones_words_stand() -> None:
    fakes = pair(answers(said("deferred", "rcpt", 450, "4.2.0")))
    fakes["b"].away = "refused"
    once = RetryPolicy(max_attempts=1, delay=0.05)
    async with fleet(fakes, [route("default", "a", "b", retry=once)]) as stage:
        await until(lambda: stage.relays["b"].pool.away)
        stage.relays["b"].pool.reach.trouble = ""
        await stage.put(letter(1))
        (done,) = await stage.settled(1)
    assert (done.recipients[0].relay, done.relay, done.attempts) == ("a.example:25", "a.example:25", 1)
    assert [each.relay for each in done.history] == ["a.example:25"]


async def test_what_is_refused_to_everybody_goes_over_the_next_relay_and_the_first_is_tried_again() -> None:
    held = [True]
    throttled = said("deferred", "mail", 421, "4.7.0")
    fakes = pair(lambda _: throttled if held[0] else ACCEPTED)
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(*[letter(n) for n in range(50)])
        await stage.settled(50)
        assert stage.sent()["b"] == 50
        assert stage.sent()["a"] <= 4, "those who were on their way already"
        held[0] = False
        asked = stage.sent()["a"]
        for n in range(50, 10_000):
            if not stage.relays["a"].breaker.open:
                break
            await stage.put(letter(n))
            await stage.settled(n + 1)
        assert stage.sent()["a"] == asked + 1, "one letter tells that it takes some again"
        await stage.put(letter(20_000))
        await until(lambda: stage.sent()["a"] > asked + 1)


async def test_a_quota_that_is_used_up_is_a_switch_where_there_is_another_relay() -> None:
    quota = Allowance(letters=0, period=1.0, quota=3)
    async with fleet(pair(), [route("default", "a", "b")], allowances={"a": quota}) as stage:
        await stage.put(*[letter(n) for n in range(10)])
        done = await stage.settled(10)
    assert stage.sent() == {"a": 3, "b": 7}
    assert {each.attempts for each in done} == {1}


async def test_a_quota_that_ends_in_the_middle_of_a_letter_is_one_too() -> None:
    quota = Allowance(letters=0, period=1.0, quota=2)
    addresses = [f"r{n}@example.test" for n in range(5)]
    async with fleet(
        pair(), [route("default", "a", "b")], allowances={"a": quota}, max_recipients=1
    ) as stage:
        await stage.put(letter(1, *addresses))
        (done,) = await stage.settled(1)
    assert (stage.sent(), done.attempts, done.status) == ({"a": 2, "b": 3}, 1, Status.SENT)
    assert list(relays_of(stage).values()) == ["a", "a", "b", "b", "b"]


async def test_the_fallback_is_for_when_none_of_the_others_goes() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "abf"}
    fakes["a"].answer = answers(said("deferred", "rcpt", 450, "4.2.0"))
    plan = route("default", "a", "b", fallback=("f",))
    async with fleet(fakes, [plan]) as stage:
        await stage.put(*[letter(n) for n in range(5)])
        await stage.settled(5)
        assert stage.sent() == {"a": 5, "b": 5, "f": 0}
        for name in "ab":
            fakes[name].away = "refused"
            for each in fakes[name].sessions:
                each.alive = False
            stage.relays[name].pool.retire(next(iter(stage.relays[name].pool._open)))
        await stage.put(*[letter(n) for n in range(5, 10)])
        await stage.settled(10)
    assert stage.sent()["f"] == 5


LATER = RetryPolicy(max_attempts=10, delay=1000.0)
RESTS = Decision(
    rule="test/rule", action=Action.WAIT, otherwise=Action.WAIT, scope=Scope.DESTINATION, seconds=60.0
)


async def test_whom_a_relay_puts_off_waits_for_it_and_takes_no_fallback_while_it_goes() -> None:
    """As docs/routing.md says of both kinds of next relays."""
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "af"}
    fakes["a"].answer = answers(said("deferred", "rcpt", 450, "4.2.0"), "a1@grey.test")
    async with fleet(fakes, [route("default", "a", fallback=("f",), retry=LATER)]) as stage:
        await stage.put(letter(1, "a1@grey.test"), letter(2, "b1@fast.test"))
        (done,) = await stage.settled(1)
    assert done.addresses == ("b1@fast.test",)
    assert stage.sent() == {"a": 2, "f": 0}


@pytest.mark.parametrize(("relays", "others"), [(("a", "b"), {"b": 1, "f": 0}), (("a",), {"f": 0})])
async def test_who_rests_over_a_relay_goes_over_the_next_one_and_over_no_fallback(
    relays: tuple[str, ...], others: dict[str, int]
) -> None:
    """The relay itself goes on: that a destination rests there is no reason to take a fallback."""
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in ("a", *others)}
    async with fleet(fakes, [route("default", *relays, fallback=("f",), retry=LATER)]) as stage:
        first = stage.relays["a"]
        first.obey(RESTS, scope_key(Scope.DESTINATION, recipient="a1@slow.test"), first._clock.monotonic())
        await stage.put(letter(1, "a1@slow.test"), letter(2, "b1@fast.test"))
        await stage.settled(1 + others.get("b", 0))
    assert stage.sent() == {"a": 1, **others}


@pytest.mark.parametrize("result", [said("deferred", "rcpt", 450), said("deferred", "mail", 450)])
@pytest.mark.parametrize(
    ("action", "scope", "asked"),
    [
        (Action.WAIT, Scope.RECIPIENT, 0),
        (Action.WAIT, Scope.DESTINATION, 0),
        (Action.SLOW, Scope.DESTINATION, 0),
        (Action.RETRY, Scope.RECIPIENT, 0),
        (Action.SWITCH, Scope.RECIPIENT, 1),
        (Action.SWITCH, Scope.DESTINATION, 1),
        (Action.WAIT, Scope.RELAY, 1),
        (Action.STOP, Scope.SENDER, 1),
    ],
)
async def test_who_is_to_wait_for_itself_waits_and_who_waits_for_the_relay_takes_another_one(
    action: Action, scope: Scope, asked: int, result: Result
) -> None:
    """Whether the attempt counts, which it does not where nothing is known of the recipient."""
    rule = ReplyRule(name="test/rule", codes=("450",), action=action, scope=scope, seconds=60.0)
    async with fleet(pair(answers(result)), [route("default", "a", "b", retry=LATER)]) as stage:
        stage.relays["a"].rules = (rule,)
        await stage.put(letter(1))
        await until(lambda: stage.fakes["a"].sent)
        await until(lambda: not len(stage.in_flight))
    assert stage.sent() == {"a": 1, "b": asked}


async def test_a_relay_that_hangs_keeps_no_letter_from_the_next_one() -> None:
    fakes = pair()
    fakes["a"].hold = asyncio.Event()
    async with fleet(fakes, [route("default", "a", "b")], sessions=1) as stage:
        await stage.put(*[letter(n) for n in range(10)])
        await fakes["a"].started.wait()
        await until(lambda: len(stage.relays["a"].pool._waiters))
        for _ in range(3):
            stage.relays["a"].pool.look_at_moves()
        await stage.settled(9)
        assert stage.sent() == {"a": 0, "b": 9}
        fakes["a"].hold.set()
        await stage.settled(10)
        assert stage.sent() == {"a": 1, "b": 9}


async def test_letters_are_shared_by_weight() -> None:
    fakes = {name: FakeRelay(name=f"{name}.example:25") for name in "abc"}
    async with fleet(fakes, [route("default", "a", "b", "c", weights=(3, 1, 1))]) as stage:
        await stage.put(*[letter(n) for n in range(1000)])
        await stage.settled(1000)
    for name, share in (("a", 600), ("b", 200), ("c", 200)):
        assert abs(stage.sent()[name] - share) <= 20, stage.sent()


async def test_shares_are_kept_although_one_relay_lets_through_little_at_a_time() -> None:
    fakes = pair()
    rate = {"b": Allowance(letters=100, period=1.0, burst=20)}
    async with fleet(fakes, [route("default", "a", "b", weights=(1, 1))], allowances=rate) as stage:
        await stage.put(*[letter(n) for n in range(100)])
        await stage.settled(100)
    assert abs(stage.sent()["a"] - 50) <= 2, stage.sent()


async def test_a_relay_that_is_asked_for_its_first_session_stops_nobody() -> None:
    """While it is being asked there is neither a session nor a trouble: who waits for it waits."""
    fakes = pair()
    answer = asyncio.Event()
    connect = fakes["a"].connect

    async def slow():  # type: ignore[no-untyped-def]
        await answer.wait()
        return await connect()

    fakes["a"].connect = slow  # type: ignore[method-assign]
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(*[letter(n) for n in range(10)])
        for _ in range(20):
            await asyncio.sleep(0)
        answer.set()
        await stage.settled(10)
    assert stage.sent() == {"a": 10, "b": 0}


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_no_letter_tries_a_relay_that_does_not_even_answer_noop(names: str) -> None:
    refusing = said("deferred", "mail", 421, "4.7.0")
    fakes = pair(answers(refusing))
    async with fleet({name: fakes[name] for name in names}, [route("default", *names)]) as stage:
        await stage.put(letter(1))
        await until(lambda: stage.relays["a"].breaker.open)
        asked, fakes["a"].mute = len(fakes["a"].sent), True
        fakes["a"].answer = lambda _: ACCEPTED
        before = stage.relays["a"].breaker.until
        stage.relays["a"].breaker.until = 0.0  # its time has come
        if names == "ab":
            await stage.settled(1)
            await stage.put(letter(2))
        await until(lambda: stage.relays["a"].breaker.until > before)
        assert (len(fakes["a"].sent), stage.relays["a"].breaker.open) == (asked, True)
        fakes["a"].mute = False
        stage.relays["a"].breaker.until = 0.0
        if names == "ab":
            await stage.put(letter(3))
        await until(lambda: not stage.relays["a"].breaker.open)
        assert len(fakes["a"].sent) == asked + 1


class LateStore(MemorySlotStore):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.answers = asyncio.Event()

    async def lease(self, request: SlotRequest) -> SlotGrant:
        await self.answers.wait()
        return await super().lease(request)


async def test_letters_that_come_before_it_is_known_what_relays_ordered_wait_and_nothing_else_does() -> None:
    """A replica begins, and its queue answers before its slots do."""
    stores = {"a": LateStore(), "b": LateStore()}
    async with fleet(pair(), [route("default", "a", "b")], stores=stores) as stage:
        await stage.put(letter(1))
        await until(lambda: len(stage.in_flight))
        await asyncio.sleep(0)
        assert stage.sent() == {"a": 0, "b": 0}
        for each in stores.values():
            each.answers.set()
        await stage.settled(1)
    assert stage.sent() == {"a": 1, "b": 0}


async def test_a_relay_that_keeps_its_rate_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves there between two slots, and it is not what letters go over the fallback for."""
    monkeypatch.setattr(dispatcher, "WATCH", 0.01)
    slowly = {"a": Allowance(letters=1, period=60.0)}
    async with fleet(pair(), [route("default", "a", "b")], sessions=1, allowances=slowly) as stage:
        await stage.put(*[letter(n) for n in range(4)])
        relay, looks = stage.relays["a"], 0
        await until(lambda: relay.limiter.waiting)
        pause = dispatcher.pause

        async def looked(stopping: asyncio.Event, seconds: float) -> None:
            nonlocal looks
            looks += seconds == dispatcher.WATCH
            await pause(stopping, seconds)

        monkeypatch.setattr(dispatcher, "pause", looked)
        await until(lambda: looks > 4)
        assert not relay.pool.hangs
        assert stage.sent() == {"a": 1, "b": 0}


@pytest.mark.parametrize("weights", [(), (1, 1)], ids=["in order", "by weight"])
async def test_a_letter_that_names_no_sender_goes_over_a_relay_that_takes_the_services(
    weights: tuple[int, ...],
) -> None:
    senders = {"a": ("elsewhere.test",), "b": ("example.test",)}
    plan = route("default", "a", "b", weights=weights)
    async with fleet(pair(), [plan], senders=senders) as stage:
        await stage.put(*[letter(n) for n in range(10)])
        done = await stage.settled(10)
    assert stage.sent() == {"a": 0, "b": 10}
    assert {each.attempts for each in done} == {1}


async def test_where_no_relay_takes_mail_from_the_service_letters_wait_and_it_is_told() -> None:
    fakes, text = {"a": FakeRelay()}, "no relay of the route default takes mail from s@example.test"
    with capture_logs() as logs:
        async with fleet(fakes, [route("default", "a")], senders={"a": ("elsewhere.test",)}) as stage:
            waits = stage.routes["default"]
            assert route_state(waits, None)["blocked_because"] is None
            await stage.put(letter(1))
            await until(lambda: any(each["event"] == "letter_deferred" for each in logs))
            await stage.settler.flush(5.0)
            found = await stage.queue.look_up(letter(1).id)
            assert route_state(waits, None)["blocked_because"] == text
            waits.change([stage.relays["a"]], retry=RetryPolicy(max_attempts=2, delay=1.0))
            assert route_state(waits, None)["blocked_because"] is None
    assert found is not None
    (one,) = found.letter.recipients
    assert one.result is not None
    assert (found.letter.status, found.letter.attempts, one.tries) == (Status.AWAITING, 0, 0)
    assert (one.result.text, stage.sent()) == (text, {"a": 0})
    (told,) = [each for each in logs if each["event"] == "letter_deferred"]
    assert (told["text"], 50 < told["again_in_seconds"] < 100) == (text, True)


async def test_what_is_wrong_with_the_file_is_told_once_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailsender.sending.failover.UNTAKEN", 0.01)
    with capture_logs() as logs:
        async with fleet(
            pair(), [route("default", "a", "b")], senders=dict.fromkeys("ab", ("else.test",))
        ) as stage:
            await stage.put(letter(1), letter(2))
            await until(lambda: sum(each["event"] == "letter_waits" for each in logs) > 3)
            stage.relays["b"].senders = ()
            await stage.settled(2)
    assert [each["letter"] for each in logs if each["event"] == "letter_deferred"] == [
        letter(1).id,
        letter(2).id,
    ]


async def test_a_sender_of_its_own_that_no_relay_takes_is_the_publishers_mistake() -> None:
    fakes, senders = {"a": FakeRelay()}, {"a": ("elsewhere.test",)}
    own = letter(1, mail=json.dumps({"From": "x@example.org"}))
    with capture_logs() as logs:
        async with fleet(
            fakes,
            [route("default", "a")],
            senders=senders,
            composer=LetterComposer("Robot", "s@example.test"),
        ) as stage:
            await stage.put(own)
            (done,) = await stage.settled(1)
            assert route_state(stage.routes["default"], None)["blocked_because"] is None
    assert (done.status, stage.sent()) == (Status.ERROR, {"a": 0})
    result = done.recipients[0].result
    assert result is not None
    assert result.text == "no relay of the route takes mail from this sender"
    (told,) = [each for each in logs if each["event"] == "letter_failed"]
    assert told["text"] == result.text


@pytest.mark.parametrize("fallback", [(), ("b",)])
async def test_who_waits_for_a_relay_that_the_route_has_no_more_waits_no_longer(
    fallback: tuple[str, ...],
) -> None:
    """Nor does anything go there once it is back."""
    gone, well = FakeRelay(name="a.test:25", away="refused"), FakeRelay(name="b.test:25")
    async with fleet({"a": gone, "b": well}, [route("default", "a")]) as scene:
        await scene.put(*map(letter, range(5)))
        pool = scene.relays["a"].pool
        await until(lambda: pool.away and len(pool._waiters) == 4)
        plan = route("default", "a", fallback=fallback) if fallback else route("default", "b")
        change(scene.routes["default"], plan, scene.relays)
        if not fallback:
            gone.away = ""
        await scene.settled(5)
    assert scene.sent() == {"a": 0, "b": 5}


@pytest.mark.parametrize("sessions", [1, 2])
async def test_who_waits_for_a_slot_of_a_relay_that_the_route_has_no_more_waits_no_longer(
    sessions: int,
) -> None:
    slow, well = FakeRelay(name="a.test:25"), FakeRelay(name="b.test:25")
    rate = {"a": Allowance(letters=1, period=3600.0)}
    async with fleet(
        {"a": slow, "b": well}, [route("default", "a")], allowances=rate, sessions=sessions
    ) as scene:
        await scene.put(*map(letter, range(5)))
        await until(lambda: slow.sent and scene.relays["a"].limiter.waiting)
        change(scene.routes["default"], route("default", "b"), scene.relays)
        await scene.settled(5)
    assert scene.sent() == {"a": 1, "b": 4}


async def test_nor_does_who_waits_for_a_session_with_it_that_does_not_come() -> None:
    class Silent(FakeRelay):
        async def connect(self) -> FakeSession:
            self.connects += 1
            return await asyncio.get_running_loop().create_future()

    gone, well = Silent(name="a.test:25"), FakeRelay(name="b.test:25")
    async with fleet({"a": gone, "b": well}, [route("default", "a")]) as scene:
        await scene.put(*map(letter, range(5)))
        await until(lambda: gone.connects and len(scene.relays["a"].pool._waiters) == 3)
        change(scene.routes["default"], route("default", "b"), scene.relays)
        await scene.settled(5)
    assert scene.sent() == {"a": 0, "b": 5}


SLOWLY = {"a": Allowance(letters=1, period=3600.0)}


@pytest.mark.parametrize("names", ["a", "ab"])
async def test_who_waits_for_a_session_that_another_route_has_waits_no_longer_either(names: str) -> None:
    fakes = {name: FakeRelay(name=f"{name}.test:25") for name in "abc"}
    plans = [route("r1", *names), route("r2", "a")]
    async with fleet(fakes, plans, allowances=SLOWLY, sessions=1) as scene:
        await scene.put(letter(1, route="r2"), letter(2, route="r2"))
        await until(lambda: scene.relays["a"].limiter.waiting)
        await scene.put(letter(3, route="r1"))
        await until(lambda: scene.routes["r1"].backlog._reserved)
        change(scene.routes["r1"], route("r1", "c"), scene.relays)
        await until(lambda: fakes["c"].sent)


@pytest.mark.parametrize("sessions", [1, 2])
async def test_who_waits_for_a_relay_that_refuses_everybody_meanwhile_goes_over_the_next_one(
    sessions: int,
) -> None:
    fakes = pair(answers(said("refused", "mail", 535, "5.7.8")))
    async with fleet(fakes, [route("default", "a", "b")], allowances=SLOWLY, sessions=sessions) as stage:
        await stage.put(*[letter(n) for n in range(5)])
        await stage.settled(5)
    assert stage.sent() == {"a": 1, "b": 5}


@pytest.mark.parametrize("recipients", [1, 2])
async def test_who_waits_for_a_slot_while_its_session_ends_goes_over_the_next_relay(
    recipients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session was got before, and nobody says a word in it until the slot has come."""
    monkeypatch.setattr("mailsender.routing.pool.LOOK", 0.05)
    fakes = pair()
    mine = letter(1, *[f"r{n}@example.test" for n in range(recipients)])
    async with fleet(fakes, [route("default", "a", "b")], allowances=SLOWLY, max_recipients=1) as stage:
        await stage.put(mine) if recipients > 1 else await stage.put(letter(0), mine)
        await until(lambda: fakes["a"].sent and stage.relays["a"].limiter.waiting)
        fakes["a"].away = "refused"
        for each in fakes["a"].sessions:
            each.alive = False
        await stage.settled(1 if recipients > 1 else 2)
    assert stage.sent() == {"a": 1, "b": 1}


async def test_that_another_route_changes_ends_no_attempt() -> None:
    """A letter between two transactions waits for the relay that they shared, which is well."""
    fakes = pair()
    plans = [route("r1", "a"), route("r2", "a", "b")]
    async with fleet(fakes, plans, allowances=SLOWLY, max_recipients=1) as scene:
        limiter = scene.relays["a"].limiter
        await scene.put(letter(1, "x@example.test", "y@example.test", "z@example.test", route="r2"))
        await until(lambda: fakes["a"].sent and limiter.waiting)
        change(scene.routes["r1"], route("r1", "b"), scene.relays)
        assert not limiter.waiting, "all have a look"
        await until(lambda: limiter.waiting)
        limiter.change(Allowance(letters=0, period=1.0))
        (done,) = await scene.settled(1)
    assert (done.status, done.attempts, scene.sent()) == (Status.SENT, 1, {"a": 3, "b": 0})


@pytest.mark.parametrize("away", ["refused", ""], ids=["a session", "a slot"])
async def test_nobody_waits_for_a_route_that_is_gone(away: str) -> None:
    """They would have turns of what others share, under a name without a share."""
    fakes = {"a": FakeRelay(name="a.test:25", away=away)}
    async with fleet(fakes, [route("r1", "a"), route("r2", "a")], allowances=SLOWLY) as scene:
        relay = scene.relays["a"]
        await scene.put(letter(1, route="r1"), letter(2, route="r1"), letter(3, route="r1"))
        await until(lambda: relay.pool._others_wait() or relay.limiter.waiting)
        plans = [route("r2", "a")]
        scene.dispatcher.change([scene.routes["r2"]], RouteTable(plans))
        await until(lambda: not (relay.pool._others_wait() or relay.limiter.waiting))


async def test_what_the_last_relay_says_stands_although_the_route_has_one_relay_meanwhile() -> None:
    fakes = pair(answers(said("deferred", "rcpt", 450, "4.2.0")))
    fakes["b"].hold = asyncio.Event()
    async with fleet(fakes, [route("default", "a", "b")]) as stage:
        await stage.put(letter(1))
        await fakes["b"].started.wait()
        change(stage.routes["default"], route("default", "b"), stage.relays)
        fakes["b"].hold.set()
        (done,) = await stage.settled(1)
    assert (done.relay, done.recipients[0].relay, done.attempts) == ("b.example:25", "b.example:25", 1)


async def test_relays_that_do_not_answer_at_the_end_hold_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes are to be written yet, and other relays' letters to be given back."""
    monkeypatch.setattr(dispatcher, "GOODBYE", 0.05)
    fakes = {name: FakeRelay(name=f"{name}.test:25") for name in "abcd"}
    answers_quit, asked = asyncio.Event(), 0

    async def silent() -> None:
        nonlocal asked
        asked += 1
        await answers_quit.wait()

    async with fleet(fakes, [route(f"r{name}", name) for name in fakes]) as stage:
        await stage.put(*[letter(n, route=f"r{name}") for n, name in enumerate(fakes)])
        await stage.settled(4)
        for fake in fakes.values():
            for each in fake.sessions:
                monkeypatch.setattr(each, "close", silent)
        stage.dispatcher.stop_claiming()
        async with asyncio.timeout(5):
            assert await stage.dispatcher.finish(0.2)
        assert asked == 4
        answers_quit.set()


async def test_a_letter_that_nobody_can_send_is_not_a_trial_without_end() -> None:
    """It shows nothing about the relay, whose next trial is another letter's."""
    fakes, senders = pair(), {"a": ("x.test",), "b": ("y.test",)}
    async with fleet(fakes, [route("default", "a", "b")], senders=senders) as stage:
        relay = stage.relays["a"]
        relay.breaker.trip("no", "mail", relay._clock.monotonic() - 60.0)
        await stage.put(letter(1))
        await until(lambda: fakes["a"].asked)
        await asyncio.sleep(0.3)
        assert fakes["a"].asked == 1
        stored = await stage.queue.look_up(letter(1).id)
        assert stored is not None
        assert stored.due is not None
        assert stored.due.timestamp() > SystemClock().epoch() + 20


@pytest.mark.parametrize("waits_for", ["a slot", "a session"])
async def test_a_letter_whose_time_is_over_between_two_transactions_ends_then(waits_for: str) -> None:
    """It is not told with the next slot, which may come in an hour."""
    fakes = pair()
    expires = now_ms(SystemClock().epoch() + 1.0)
    mine = letter(1, "x@example.test", "y@example.test", expires=expires, route="mine")
    plans = [route("mine", "a"), route("other", "a")]
    async with fleet(fakes, plans, allowances=SLOWLY, max_recipients=1, sessions=1) as stage:
        limiter = stage.relays["a"].limiter
        await stage.put(mine)
        await until(lambda: fakes["a"].sent and limiter.waiting)
        if waits_for == "a session":
            stage.relays["a"].look_again()
            await stage.put(letter(2, route="other"), letter(3, route="other"))
            await until(stage.relays["a"].pool._others_wait)
        (done,) = await stage.settled(1)
    assert SystemClock().epoch() > expires.timestamp()
    assert (done.status, len(fakes["a"].sent)) == (Status.SENT, 1)
    assert [(each.accepted, each.open) for each in done.recipients] == [(True, False), (False, False)]
