"""Over which relay of a route a letter goes."""

from __future__ import annotations

from collections import Counter

import pytest

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.ratelimit.gcra import Allowance
from mailsender.ratelimit.order import Order
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import Relay
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.route import Route
from mailsender.routing.routes import made, waiting_for
from tests.clocks import ManualClock
from tests.dispatching import known_relay
from tests.fleet import route
from tests.relays import FakeRelay

REFUSED = Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, code=421)


class Stage:
    """Relays a, b and f, of which a test says how they are."""

    def __init__(self, **plan: object) -> None:
        self.clock = ManualClock()
        self.relays: dict[str, Relay] = {}
        for name in "abf":
            self.relays[name] = known_relay(FakeRelay(), self.clock)
            self.relays[name].name = name
        self.plan = route("default", "a", "b", fallback=("f",), **plan)
        self.route: Route = made(self.plan, self.relays, self.clock)

    def away(self, *names: str) -> None:
        for name, relay in self.relays.items():
            relay.pool.reach.trouble = "refused" if name in names else ""

    def refuses(self, name: str) -> None:
        self.relays[name].hold("1" * 24, REFUSED)

    def turn(self) -> str:
        relay, trial = self.route.turn()
        return relay.name + "?" * bool(trial)

    def next(self, *tried: str, senders: tuple[str, ...] = ()) -> str | None:
        found = self.route.next([self.relays[name] for name in tried], senders)
        return found and found.name


@pytest.mark.parametrize(
    ("away", "turn"), [("", "a"), ("a", "b"), ("b", "a"), ("ab", "f"), ("abf", "a"), ("af", "b")]
)
def test_in_order_the_first_that_goes_takes_all(away: str, turn: str) -> None:
    stage = Stage()
    stage.away(*away)
    assert [stage.turn() for _ in range(3)] == [turn] * 3


def test_one_that_refused_letters_is_tried_with_one_when_it_is_time() -> None:
    stage = Stage()
    stage.refuses("a")
    assert stage.turn() == "b"
    stage.clock.forward(1.0)
    assert [stage.turn(), stage.turn()] == ["a?", "b"]
    stage.route.done(stage.relays["a"], trial=1, sent=False)
    assert stage.turn() == "a?"


def test_no_more_are_at_hand_than_all_rates_let_out_in_two_seconds() -> None:
    clock = ManualClock()
    relay = known_relay(FakeRelay(), clock, sessions=PoolLimits(sessions=20))
    relay.limiter.change(
        Allowance(letters=14, period=1.0),
        (Allowance(letters=100, period=3600.0), Allowance(letters=0, period=1.0)),
    )
    limited = Route("default", [relay], retry=RetryPolicy(max_attempts=2, delay=1.0), clock=clock)
    assert limited.target() == 2


def test_one_behind_another_that_goes_is_not_tried() -> None:
    stage = Stage()
    stage.refuses("b")
    stage.refuses("f")
    stage.clock.forward(1.0)
    assert [stage.turn() for _ in range(3)] == ["a"] * 3


def test_where_all_that_can_be_reached_refuse_they_are_no_more_than_tried() -> None:
    stage = Stage()
    stage.refuses("a")
    assert not stage.route.tried
    stage.away("b", "f")
    assert stage.route.tried
    stage.away("a", "b", "f")
    assert not stage.route.tried, "nobody is there to be tried"


def test_by_weight_those_that_go_share_the_letters() -> None:
    stage = Stage(weights=(3, 1))
    assert Counter(stage.turn() for _ in range(400)) == {"a": 300, "b": 100}
    stage.away("a")
    assert {stage.turn() for _ in range(10)} == {"b"}
    stage.away("a", "b")
    assert {stage.turn() for _ in range(10)} == {"f"}
    stage.away()
    assert Counter(stage.turn() for _ in range(400)) == {"a": 300, "b": 100}


def test_a_turn_of_which_nothing_came_counts_for_nobody() -> None:
    stage = Stage(weights=(1, 1))
    turns = []
    for number in range(100):
        turns.append(relay := stage.route.turn()[0])
        stage.route.done(relay, trial=0, sent=number % 2 == 0)
    assert abs(Counter(turns[::2])[stage.relays["a"]] - 25) <= 1


def test_by_weight_one_that_refused_has_a_single_letter_before_it_has_its_share_again() -> None:
    stage = Stage(weights=(1, 1))
    stage.refuses("b")
    assert {stage.turn() for _ in range(4)} == {"a"}
    stage.clock.forward(1.0)
    assert [stage.turn() for _ in range(3)] == ["b?", "a", "a"]


@pytest.mark.parametrize(
    ("away", "tried", "found"),
    [
        ("", "a", "b"),
        ("", "b", "a"),
        ("", "ab", None),
        ("b", "a", None),
        ("ab", "a", "f"),
        ("ab", "af", None),
        ("abf", "a", None),
    ],
)
def test_the_next_one_is_behind_the_first_ones_only_if_none_of_those_goes(
    away: str, tried: str, found: str | None
) -> None:
    stage = Stage()
    stage.away(*away)
    assert stage.next(*tried) == found


def test_those_that_take_no_mail_from_the_sender_are_as_good_as_not_there() -> None:
    stage = Stage()
    stage.relays["a"].senders = stage.relays["b"].senders = ("example.com",)
    assert stage.next("a", senders=("x@example.com",)) == "b"
    assert stage.next("a", senders=("x@example.com", "y@other.com")) == "f"
    assert stage.next("a") == "b"


@pytest.mark.parametrize(
    ("author", "resting", "found"),
    [("x@example.com", "ab", "f"), ("", "", None), ("y@example.com", "a", "b")],
)
def test_those_that_were_told_to_rest_by_the_sender_are_as_good_as_not_there(
    author: str, resting: str, found: str | None
) -> None:
    stage = Stage()
    for name, whose in (("a", "x@example.com"), ("b", "x@example.com"), ("a", "y@example.com")):
        stage.relays[name].limiter.order(
            Order(key=f"sender:{whose}", rule="r", said="554 No", until=stage.clock.epoch() + 60)
        )
    held = stage.route.resting(author)
    assert "".join(relay.name for relay in held) == resting
    relay = stage.route.next([stage.relays["a"], *([stage.relays["b"]] if not author else [])], (), held)
    assert (relay and relay.name) == found
    stage.clock.forward(61)
    assert stage.route.resting(author) == ()


def test_slots_are_leased_for_the_letters_that_will_want_them() -> None:
    stage = Stage()
    stage.route.backlog._letters.extend(("t", letter) for letter in [object()] * 12)  # type: ignore[misc]
    waits = {name: waiting_for(name, [stage.route]) for name in "abf"}
    assert waits == {"a": 12, "b": 0, "f": 0}
    stage.away("a")
    assert waiting_for("b", [stage.route]) == 12
    stage.away()
    stage.route.change(
        [stage.relays["a"], stage.relays["b"]], retry=stage.plan.retry, weights=(3, 1), fallback=()
    )
    assert {name: waiting_for(name, [stage.route]) for name in "ab"} == {"a": 9, "b": 3}


def test_what_blocks_it_is_told_of_each_relay() -> None:
    stage = Stage()
    assert stage.route.blocked_because() == ""
    stage.away("a", "b", "f")
    assert stage.route.blocked_because() == "a: refused; b: refused; f: refused"
    stage.away("a", "b")
    assert stage.route.blocked_because() == ""
    stage.relays["f"].pool.allow(0)
    assert stage.route.blocked_because().endswith("f: other replicas have all the sessions that it takes")
