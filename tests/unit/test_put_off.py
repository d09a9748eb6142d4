"""A relay that answers everything with 4xx is spoken to once a minute, not a thousand times."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from mailsender.model.letter import Phase, Result, Status, Verdict
from mailsender.routing.breaker import PUT_OFF_RUN, PUT_OFF_WAIT
from mailsender.routing.relay import Relay
from mailsender.routing.reply_rule import Scope, scope_key
from mailsender.smtp.of_file import OfFile
from tests.clocks import ManualClock
from tests.dispatching import known_relay, letter, running, until
from tests.relays import ACCEPTED, FakeRelay

GREY = Result(verdict=Verdict.DEFERRED, phase=Phase.RCPT, code=450, enhanced="4.2.0", text="Greylisted")


def put_off(relay: Relay, count: int) -> None:
    for number in range(count):
        relay.put_off(f"{number:024x}", GREY)


def test_it_takes_many_letters_in_a_row_for_each_says_it_of_itself() -> None:
    relay = known_relay(FakeRelay(), ManualClock())
    put_off(relay, PUT_OFF_RUN - 1)
    put_off(relay, PUT_OFF_RUN - 1)
    assert not relay.breaker.open, "the same letters again are no others"
    relay.put_off("f" * 24, GREY)
    assert relay.breaker.open


def test_one_that_is_taken_ends_the_run() -> None:
    relay = known_relay(FakeRelay(), ManualClock())
    put_off(relay, PUT_OFF_RUN - 1)
    assert relay.uneasy, "so that it is asked for"
    relay.took(relay.refusals.number)
    assert not relay.uneasy
    relay.put_off("f" * 24, GREY)
    assert not relay.breaker.open


def test_it_is_tried_once_a_minute_and_what_it_says_of_one_more_recipient_is_no_good_news() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock)
    with capture_logs() as logs:
        put_off(relay, PUT_OFF_RUN)
        tries = 0
        for _ in range(3600):
            clock.forward(1.0)
            if relay.breaker.take_try(clock.monotonic()):
                tries += 1
                relay.put_off(f"{tries + 100:024x}", GREY)
                relay.at_ease_if_held()
        assert relay.breaker.open
    assert 3600 / PUT_OFF_WAIT <= tries <= 3600 / PUT_OFF_WAIT + 6
    assert [line["event"] for line in logs] == ["relay_refuses_letters"]
    clock.forward(PUT_OFF_WAIT)
    assert relay.breaker.take_try(clock.monotonic())
    relay.took(relay.refusals.number)
    assert not relay.breaker.open


def test_a_relay_of_a_file_is_named_in_the_log_as_the_file_names_it() -> None:
    relay = known_relay(OfFile("ses", FakeRelay()), ManualClock())
    with capture_logs() as logs:
        put_off(relay, PUT_OFF_RUN)
        relay.took(relay.refusals.number)
    assert [(line["event"], line["relay"]) for line in logs] == [
        ("relay_refuses_letters", "ses"),
        ("relay_takes_letters", "ses"),
    ]


@pytest.mark.asyncio
async def test_of_a_thousand_letters_it_hears_a_few_and_the_others_count_no_attempt() -> None:
    taking = [False]
    fake = FakeRelay(answer=lambda _: ACCEPTED if taking[0] else GREY)
    async with running(fake, max_attempts=100, delay=1000.0) as scene:
        await scene.queue.insert([letter(n) for n in range(1000)])
        scene.dispatcher.nudge()
        await until(lambda: scene.known.breaker.open)
        await scene.stats_are(processing=0)
        assert PUT_OFF_RUN <= len(fake.sent) <= PUT_OFF_RUN + 8
        taking[0] = True
        done = await scene.settled(900)
    assert {each.status for each in done} == {Status.SENT}
    assert {each.attempts for each in done} == {1}


@pytest.mark.asyncio
async def test_a_letter_of_which_one_recipient_is_put_off_says_nothing_of_the_relay() -> None:
    fake = FakeRelay(answer=lambda address: GREY if address.startswith("no") else ACCEPTED)
    async with running(fake, max_attempts=100, delay=1000.0) as scene:
        mixed = [letter(n, f"no{n}@example.test", f"yes{n}@example.test") for n in range(2 * PUT_OFF_RUN)]
        await scene.queue.insert(mixed)
        scene.dispatcher.nudge()
        await until(lambda: len(fake.sent) == 2 * PUT_OFF_RUN)
        await scene.stats_are(awaiting=2 * PUT_OFF_RUN, processing=0)
        assert not scene.known.breaker.open
        assert len(fake.sent) == 2 * PUT_OFF_RUN


@pytest.mark.asyncio
async def test_a_destination_to_which_all_are_put_off_holds_up_no_other_one() -> None:
    """A batch to one domain is ahead of the others, and the relay would hear one letter of it a minute."""
    fake = FakeRelay(answer=lambda address: GREY if address.endswith("@grey.test") else ACCEPTED)
    async with running(fake, max_attempts=100, delay=1000.0) as scene:
        await scene.queue.insert([letter(n, f"r{n}@grey.test") for n in range(300)])
        await scene.queue.insert([letter(n, f"r{n}@fast.test") for n in range(300, 320)])
        scene.dispatcher.nudge()
        done = await scene.settled(20)
        assert {each.attempts for each in done} == {1}
        assert len(fake.sent) <= 20 + 2 * PUT_OFF_RUN


def test_letters_to_several_destinations_say_nothing_of_one() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock)
    for number in range(PUT_OFF_RUN):
        relay.put_off(f"{number:024x}", GREY, (f"r@{'a' if number else 'b'}.test",))
    assert relay.breaker.open
    assert not relay.ordered


def test_one_destination_rests_for_longer_than_the_relay_does() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock)
    for number in range(PUT_OFF_RUN):
        relay.put_off(f"{number:024x}", GREY, ("r@A.test", "s@a.test"))
    key = scope_key(Scope.DESTINATION, recipient="x@a.test")
    pause = relay.breaker.left(clock.monotonic())
    assert relay.held(key, clock.monotonic()) == 2 * pause > 0
    resting = relay.resting(key, clock.monotonic())
    assert resting is not None
    assert (resting.rule, resting.said) == ("default/put-off", "450 4.2.0 Greylisted")
    assert not relay.held(scope_key(Scope.DESTINATION, recipient="x@b.test"), clock.monotonic())
    clock.forward(2 * pause)
    assert not relay.held(key, clock.monotonic())
    relay.took(relay.refusals.number)
    relay.put_off("f" * 24, GREY, ("r@b.test",))
    assert not relay.breaker.open
