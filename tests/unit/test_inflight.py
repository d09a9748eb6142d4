from __future__ import annotations

from mailsender.journal.port import NoJournal
from mailsender.model.letter import Claim, Letter, replica_of
from mailsender.queue.inflight import InFlight

NEVER = float("-inf")


def claimed(token: str, *names: str) -> Claim:
    letters = [Letter(id=each, addresses=("a@example.test",), subject="", body="x" * 100) for each in names]
    return Claim(token=token, letters=tuple(letters))


class Ending(NoJournal):
    """A journal that tells what ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, list[str]]] = []

    def done(self, ended: dict[str, list[str]]) -> None:  # type: ignore[override]
        self.ended += [(token, sorted(ids)) for token, ids in ended.items()]


def test_letters_are_ours_for_as_long_as_this_replica_is_alive() -> None:
    flight = InFlight()
    flight.take(claimed("t", "a", "b"))
    assert (len(flight), flight.token("b"), flight.lasts("t", "a")) == (2, "t", NEVER)
    flight.alive_until = 50.0
    assert flight.lasts("t", "a") == 50.0


def test_a_letter_that_is_not_in_flight_has_no_time_left() -> None:
    flight = InFlight()
    flight.alive_until = 50.0
    flight.take(claimed("t", "a"))
    assert flight.lasts("t", "b") == NEVER
    assert flight.lasts("another", "a") == NEVER


def test_what_is_dropped_is_told_to_the_journal_and_weighs_nothing() -> None:
    journal = Ending()
    flight = InFlight(journal)
    flight.take(claimed("t", "a", "b"))
    flight.drop(["a", "a"])
    flight.drop(["b", "unknown"])
    assert (len(flight), flight.bytes) == (0, 0)
    assert journal.ended == [("t", ["a"]), ("t", ["b"])]


def test_one_that_comes_back_belongs_to_its_new_claim() -> None:
    flight = InFlight()
    flight.alive_until = 50.0
    flight.take(claimed("old", "a"))
    flight.take(claimed("new", "a"))
    assert (len(flight), flight.lasts("old", "a"), flight.lasts("new", "a")) == (1, NEVER, 50.0)


def test_whoever_was_declared_dead_begins_anew_under_another_name() -> None:
    flight = InFlight()
    was, token = flight.replica, flight.new_token()
    assert replica_of(token) == was
    flight.alive_until = 50.0
    flight.take(claimed(token, "a", "b"))
    assert flight.begin_anew() == 2
    assert (len(flight), flight.bytes, flight.alive_until) == (0, 0, NEVER)
    assert flight.replica != was
    assert replica_of(flight.new_token()) == flight.replica


def test_what_was_asked_for_is_in_doubt_until_it_is_answered() -> None:
    flight = InFlight()
    assert not flight.in_doubt
    first, second = flight.ask(), flight.ask()
    flight.answered(first)
    assert (flight.in_doubt, flight.asked) == (True, {second})
    flight.unanswered(second)
    assert (flight.in_doubt, flight.asked, flight.doubts) == (True, set(), 1)


def test_others_know_us_by_a_name_when_a_life_was_promised() -> None:
    flight = InFlight()
    assert not flight.joined
    flight.alive_until = 50.0
    assert flight.joined
    flight.begin_anew()
    assert not flight.joined
