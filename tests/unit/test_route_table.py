"""Which route a letter takes."""

from __future__ import annotations

import json

import pytest

from mailsender.model.handling import Handling
from mailsender.model.letter import Phase, Recipient, Result, Verdict
from mailsender.routing.patterns import named_in
from mailsender.routing.plan import Match, Priority, RoutePlan
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.table import RouteTable, Traits, fits, traits_of
from tests.dispatching import letter

RETRY = RetryPolicy(max_attempts=3, delay=1.0)
ACCEPTED = Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT, code=250)


def route(name: str, match: Match | None = None, *, open: bool = False) -> RoutePlan:  # noqa: A002  the field
    return RoutePlan(name=name, match=match, retry=RETRY, open=open)


@pytest.mark.parametrize(
    ("patterns", "address", "named"),
    [
        (("gmail.com",), "anna@gmail.com", True),
        (("gmail.com",), "anna@GMail.com", True),
        (("Gmail.com",), "anna@gmail.com", True),
        (("gmail.com",), "anna@mail.gmail.com", False),
        (("*.example.com",), "a@b.example.com", True),
        (("*.example.com",), "a@c.b.example.com", True),
        (("*.example.com",), "a@example.com", False),
        (("*.example.com",), "a@notexample.com", False),
        (("*.Example.com",), "a@b.example.com", True),
        (("a@example.com",), "a@EXAMPLE.com", True),
        (("A@example.com",), "a@example.com", False),
        (("no", "a@example.com"), "a@example.com", True),
        (("@", "a@example.com"), "a@example.com", True),
        (("xn--bcher-kva.example",), "a@bücher.example", True),
        ((), "a@example.com", False),
        (("example.com",), "nothing", False),
    ],
)
def test_an_address_is_named_by_itself_its_domain_or_a_domain_above(
    patterns: tuple[str, ...], address: str, named: bool
) -> None:
    assert named_in(patterns, address) is named


@pytest.mark.parametrize(
    ("match", "traits", "fit"),
    [
        (Match(), Traits(), True),
        (Match(streams=("news", "ads")), Traits(stream="ads"), True),
        (Match(streams=("news",)), Traits(), False),
        (Match(priorities=(Priority.HIGH,)), Traits(priority=Priority.HIGH), True),
        (Match(priorities=(Priority.HIGH,)), Traits(), False),
        (Match(tags=("a", "b")), Traits(tags=("x", "b")), True),
        (Match(tags=("a",)), Traits(tags=("x",)), False),
        (Match(larger=100), Traits(size=101), True),
        (Match(larger=100), Traits(size=100), False),
        (Match(smaller=100), Traits(size=99), True),
        (Match(smaller=100), Traits(size=100), False),
        (Match(senders=("example.com",)), Traits(senders=("x@other.com", "s@example.com")), True),
        (Match(senders=("example.com",)), Traits(senders=()), False),
        (Match(destinations=("gmail.com",)), Traits(), True),
        (Match(destinations=("gmail.com",), streams=("news",)), Traits(), False),
    ],
)
def test_all_that_a_match_says_has_to_fit(match: Match, traits: Traits, fit: bool) -> None:
    assert fits(match, traits, "anna@gmail.com") is fit


def test_the_first_route_that_fits_is_taken_and_else_the_default() -> None:
    table = RouteTable(
        [
            route("news", Match(streams=("news",))),
            route("large", Match(larger=10)),
            route("all news", Match(streams=("news", "ads"))),
            route("default"),
        ]
    )
    short = Traits(stream="ads", size=1)
    assert table.route_for(Traits(stream="news", size=100), "a@b.c") == "news"
    assert table.route_for(Traits(stream="ads", size=100), "a@b.c") == "large"
    assert table.route_for(short, "a@b.c") == "all news"
    assert table.route_for(Traits(), "a@b.c") == "default"
    assert not table.by_destination
    assert not table.plain


def test_with_one_route_for_all_nothing_is_looked_at() -> None:
    def looked(_: object) -> Traits:
        raise AssertionError("nothing is asked")

    table = RouteTable([route("default"), route("unused")], looked)
    assert table.plain
    assert table.of(letter(1)) == "default"
    assert table.parts(letter(1), ("a@b.c",)) == {"default": ("a@b.c",)}


def test_without_a_default_the_first_route_is_for_the_others() -> None:
    assert RouteTable([route("only")]).of(letter(1)) == "only"


def test_a_letter_may_name_a_route_that_is_open_and_no_other_one() -> None:
    table = RouteTable([route("news", Match(streams=("news",))), route("vip", open=True), route("default")])
    assert table.route_for(Traits(stream="news", wish="vip"), "a@b.c") == "vip"
    assert table.route_for(Traits(stream="news", wish="default"), "a@b.c") == "news"
    assert table.route_for(Traits(wish="gone"), "a@b.c") == "default"
    assert table.denial("vip") == ""
    assert "not open" in table.denial("news")
    assert "no route 'gone'" in table.denial("gone")


def test_recipients_of_one_letter_take_the_routes_of_their_destinations() -> None:
    table = RouteTable(
        [
            route("gmail", Match(destinations=("gmail.com",))),
            route("corp", Match(destinations=("*.corp.example", "corp.example"))),
            route("default"),
        ]
    )
    addresses = ("a@x.example", "b@gmail.com", "c@corp.example", "d@eu.corp.example", "e@GMAIL.com")
    mixed = letter(1, *addresses)
    assert table.by_destination
    assert table.parts(mixed, addresses) == {
        "default": ("a@x.example",),
        "gmail": ("b@gmail.com", "e@GMAIL.com"),
        "corp": ("c@corp.example", "d@eu.corp.example"),
    }
    assert table.of(mixed) == "default"
    done = Recipient(address="a@x.example", result=ACCEPTED)
    assert table.of(mixed.evolve(recipients=(done, *mixed.recipients[1:]))) == "gmail"


def test_what_chooses_a_route_is_read_from_the_letter() -> None:
    keys = {"From": '"News, Inc." <news@example.com>', "ReversePath": "bounces@example.com"}
    asked = Handling(stream="newsletter", priority=Priority.HIGH, tags=("spring", "sale"), route="vip")
    traits = traits_of(letter(1, mail=json.dumps(keys), handling=asked), "robot@example.com")
    assert traits.senders == ("news@example.com", "bounces@example.com")
    assert (traits.stream, traits.priority, traits.tags, traits.wish) == (
        "newsletter",
        Priority.HIGH,
        ("spring", "sale"),
        "vip",
    )
    plain = traits_of(letter(1), "robot@example.com")
    assert plain.senders == ("robot@example.com",)
    assert plain.size == len("letter 1") + len("b")


@pytest.mark.parametrize("mail", ['{"From": 5}', "[]", "nonsense", "[" * 100_000])
def test_keys_that_cannot_be_read_say_nothing(mail: str) -> None:
    assert traits_of(letter(1, mail=mail)) == Traits(size=9 + len(mail))
