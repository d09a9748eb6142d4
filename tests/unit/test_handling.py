"""What letters ask of the service: their keys, and what becomes of them when they come in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailsender.intake.batch import decode, read_letter
from mailsender.intake.placing import Placing
from mailsender.intake.schema import Limits
from mailsender.message.values import BadKey
from mailsender.model.handling import PLAIN, Handling, Priority
from mailsender.model.letter import Letter, Origin, Status

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ORIGIN = Origin(topic="in", partition=0, offset=1, index=0, timestamp=1_700_000_000_000)
GOOD = {"Addresses": ["a@example.test"], "Subject": "s", "Body": "b"}


def read(**keys: Any) -> Letter:
    (element,) = decode(json.dumps([GOOD | keys]).encode())
    return read_letter(element, ORIGIN, None, Limits(), now=NOW)


def test_all_of_them() -> None:
    letter = read(
        Stream="newsletter",
        Tags=["b", "кампания 5", "b"],
        priority="High",
        Route="slow",
        Retry="60s, 5m*2",
        NotBefore="2026-12-01T11:00:00.1234567+03:00",
        ExpireAt="2026-12-02t08:00:00z",
    )
    assert (letter.status, letter.reason) == (Status.AWAITING, "")
    assert letter.handling == Handling(
        stream="newsletter",
        tags=("b", "кампания 5"),
        priority=Priority.HIGH,
        route="slow",
        retry="1m, 5m*2",
        not_before=datetime(2026, 12, 1, 8, 0, 0, 123000, UTC),
        expire_at=datetime(2026, 12, 2, 8, tzinfo=UTC),
    )
    assert letter.mail == "", "its message is the same as without them"


def test_who_asks_for_nothing_is_as_ever() -> None:
    plain = read()
    assert plain.handling is PLAIN
    empty = read(Stream="", Tags=[], Priority=None, Retry="", NotBefore=None)
    assert empty.handling is PLAIN
    assert empty == plain
    assert read(Priority="normal").handling.text == ""


def test_who_asks_for_the_same_is_the_same_letter() -> None:
    own = {"ID": "6b03f03e1c3fe5165a363fce", "Stream": "a"}
    one = read(**own, Tags=["x", "y"], Retry="60s", ExpireAt="2026-12-02T08:00:00Z")
    other = read(**own, Tags=["y", "x"], Retry="1m", ExpireAt="2026-12-02T10:00:00+02:00")
    assert one.digest == other.digest
    assert one.digest != read(**own).digest
    assert read(**own).digest != read(ID=own["ID"]).digest


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("Stream", 7, "must be a string, not a number"),
        ("Stream", "a b", "may have letters, digits"),
        ("Stream", "a\n", "may have letters, digits"),
        ("Stream", "й", "may have letters, digits"),
        ("Stream", "a" * 65, "has 65 characters; 64 are allowed"),
        ("Route", "$x", "may have letters, digits"),
        ("Priority", "urgent", "is none of high, normal, low"),
        ("Priority", 1, "must be a string"),
        ("Tags", "a", "must be an array of strings"),
        ("Tags", ["a"] * 11, "holds 11 tags; 10 are allowed"),
        ("Tags", ["a", ""], "has 0 characters"),
        ("Tags", ["a", "b" * 65], "has 65 characters"),
        ("Tags", ["a\r\nb"], "holds a line break"),
        ("Tags", [1], "must be a string"),
        ("Retry", "soon", "is no schedule"),
        ("NotBefore", "tomorrow", "is no time"),
        ("NotBefore", "2026-12-01T08:00:00", "is no time"),
        ("NotBefore", "2026-13-01T08:00:00Z", "is no time"),
        ("NotBefore", "2026-12-01T08:00:00Z\n", "is no time"),
        ("ExpireAt", 1_700_000_000, "must be a string"),
        ("ExpireAt", "2026-02-30T08:00:00+00:00", "is no time"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(key: str, value: object, fault: str) -> None:
    letter = read(**{key: value})
    assert letter.status is Status.ERROR
    assert letter.reason.startswith(key)
    assert fault in letter.reason


def test_several_faults_are_told_together() -> None:
    letter = read(Stream="a b", Priority="x", Importance="y", Subject=7)
    assert [part.split()[0] for part in letter.reason.split("; ")] == [
        *("Importance", "Stream", "Priority", "Subject")
    ]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_times_at_the_ends_of_the_calendar_are_taken(text: str) -> None:
    assert read(NotBefore=text).status is Status.AWAITING


# --- placing ---------------------------------------------------------------------------------------


def by_stream(letter: Letter) -> str:
    if letter.handling.route == "shut":
        raise BadKey("Route", "names a route that letters may not choose")
    return letter.handling.route or letter.handling.stream or "default"


def test_without_routes_there_is_nothing_to_decide_of_plain_letters() -> None:
    assert not Placing().everybody
    assert not Placing(expire={"default": float("inf")}).everybody
    assert Placing(expire={"default": 60.0}).everybody
    assert Placing(by_stream).everybody
    assert Placing().placed(read(), NOW) == read()


def test_a_letter_takes_its_route() -> None:
    placing = Placing(by_stream)
    assert placing.placed(read(), NOW).route == "default"
    assert placing.placed(read(Stream="news"), NOW).route == "news"
    assert placing.placed(read(Stream="news", Route="open"), NOW).route == "open"


@pytest.mark.parametrize(("placing", "route"), [(Placing(by_stream), "shut"), (Placing(), "other")])
def test_who_names_what_is_not_for_letters_is_an_error(placing: Placing, route: str) -> None:
    letter = read(Route=route)
    refused = placing.placed(letter, NOW)
    assert refused.status is Status.ERROR
    assert refused.reason.startswith("Route names")
    assert (refused.content, refused.finished_at) == (letter.content, NOW)


def test_the_default_route_may_be_named() -> None:
    assert Placing().placed(read(Route="default"), NOW).status is Status.AWAITING


def test_it_expires_when_it_asks_or_its_route_says_whichever_comes_first() -> None:
    placing = Placing(by_stream, {"news": 3600.0})
    hour = NOW + timedelta(hours=1)
    assert placing.placed(read(), NOW).expires is None
    assert placing.placed(read(Stream="news"), NOW).expires == hour
    later = read(Stream="news", ExpireAt="2026-12-02T08:00:00Z")
    assert placing.placed(later, NOW).expires == hour
    sooner = read(Stream="news", ExpireAt="2026-11-30T12:30:00Z")
    assert placing.placed(sooner, NOW).expires == NOW + timedelta(minutes=30)
    assert Placing().placed(sooner, NOW).expires == NOW + timedelta(minutes=30)


@pytest.mark.parametrize(
    "keys",
    [
        {"ExpireAt": "2026-11-30T12:00:00Z"},
        {"ExpireAt": "2026-12-01T12:00:00Z", "NotBefore": "2026-12-01T12:00:00Z"},
    ],
)
def test_what_is_both_late_and_expired_is_never_sent(keys: dict[str, str]) -> None:
    letter = read(**keys)
    late = Placing().placed(letter, NOW)
    assert late.status is Status.ERROR
    assert late.reason.startswith("expired: ")
    assert late.content == letter.content, "read again, it is known"


def test_an_error_stays_as_it_is() -> None:
    bad = read(Stream=7)
    assert Placing(by_stream).placed(bad, NOW) is bad
