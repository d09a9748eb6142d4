"""A relay that refuses everybody: when it is believed, and how it is tried again."""

from __future__ import annotations

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.routing.breaker import FIRST_WAIT, LAST_WAIT, MIXED_RUN, REMEMBERED, RUN, Breaker, Refusals

NO = Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=554)


def test_it_is_tried_by_one_at_a_time_with_growing_pauses() -> None:
    breaker, now, waits = Breaker(), 100.0, []
    assert not breaker.take_try(now)
    assert breaker.trip("554 No", "rcpt", now)
    for _ in range(12):
        waits.append(breaker.left(now))
        assert not breaker.may_try(now)
        now = breaker.until
        assert breaker.take_try(now)
        assert not breaker.take_try(now), "one at a time"
        assert not breaker.trip("554 No", "rcpt", now), "that is no news"
    assert waits[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits[-1] == LAST_WAIT
    assert breaker.why == "554 No"
    assert breaker.close()
    assert not breaker.close()
    assert (breaker.open, breaker.why, breaker.left(now)) == (False, "", 0.0)
    breaker.trip("again", "mail", now)
    assert breaker.left(now) == FIRST_WAIT


def test_those_who_were_on_their_way_when_it_opened_make_no_wait_longer() -> None:
    breaker = Breaker()
    breaker.trip("a", "mail", 0.0)
    for _ in range(5):
        breaker.trip("b", "mail", 0.1)
    assert (breaker.until, breaker.why) == (FIRST_WAIT, "a")


def test_a_try_of_which_nothing_came_is_another_ones() -> None:
    breaker = Breaker()
    breaker.trip("a", "mail", 0.0)
    number = breaker.take_try(FIRST_WAIT)
    assert number
    breaker.give_back(number)
    assert breaker.take_try(FIRST_WAIT)


def test_so_many_letters_in_a_row_are_everybody_and_one_taken_ends_the_run() -> None:
    refusals = Refusals()
    assert not any(refusals.note(str(n), NO) for n in range(RUN - 1))
    assert not refusals.note("0", NO), "the same letter again is no other one"
    assert refusals.note("other", NO)
    assert not refusals.taken(3), "it was begun before the last of them"
    assert refusals.others_taken_since("2")
    assert not refusals.others_taken_since("other")
    assert refusals.note("more", NO)
    assert refusals.taken(refusals.number)
    assert refusals.others_taken_since("other")
    assert not refusals.others_taken_since("unknown")
    assert not refusals.note("new", NO)


def test_refusals_in_many_words_are_everybody_too() -> None:
    refusals = Refusals()
    said = [Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=560 + n) for n in range(MIXED_RUN)]
    told = [refusals.note(str(n), result) for n, result in enumerate(said)]
    assert told == [False] * (MIXED_RUN - 1) + [True]


def test_what_is_remembered_is_bounded() -> None:
    refusals = Refusals()
    for number in range(2 * REMEMBERED):
        refusals.remember(str(number))
    refusals.taken(refusals.number)
    assert not refusals.others_taken_since("0")
    assert refusals.others_taken_since(str(2 * REMEMBERED - 1))
    refusals.settled(str(2 * REMEMBERED - 1))
    assert not refusals.others_taken_since(str(2 * REMEMBERED - 1))


def test_who_had_a_try_that_the_relay_ended_gives_back_nobody_elses() -> None:
    """Its letter may be under way yet, over another relay."""
    breaker, now = Breaker(), 0.0
    breaker.trip("no", "mail", now)
    first = breaker.take_try(FIRST_WAIT)
    breaker.trip("no", "mail", FIRST_WAIT)
    second = breaker.take_try(100.0)
    assert first
    assert second
    breaker.give_back(first)
    assert not breaker.take_try(100.0)
    breaker.give_back(second)
    assert breaker.take_try(100.0)
