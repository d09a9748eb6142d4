"""`mailsender explain`: what a reply would mean, before any relay says it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.model.letter import Phase
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing.plan import Match, Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.presets import PRESETS
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.reply_rule import STAGES, Action, ReplyRule, Scope, Suppress
from mailsender.routing.retry import RetryPolicy
from mailsender.routing.table import Traits
from mailsender.routing.way import way_of
from mailsender.sending.explain import NoReply, explained, span

SETTINGS = {
    "SMTP_HOST": "mx.example.test",
    "SMTP_USER": "a@example.test",
    "SMTP_PASSWORD": "p",
    "KAFKA_BROKERS": "k:9092",
    "MONGODB_URI": "mongodb://m/mts",
}
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
SES = PRESETS["ses"].rules


def told(*words: str, **environment: str) -> tuple[int, str]:
    made = CliRunner().invoke(app, ["explain", *words], prog_name="mailsender", env=environment)
    return made.exit_code, made.output


def test_it_says_which_rule_fits_what_is_done_to_whom_and_until_when() -> None:
    found = explained(SES, "454 Throttling failure: Maximum sending rate exceeded", Phase.DOT)
    assert list(found.lines(NOW)) == [
        "reply   454 Throttling failure: Maximum sending rate exceeded (at dot)",
        "rule    ses/rate",
        "does    slow: nothing that the rule is about begins for a while, and then less at a time",
        "to      relay: all that goes over the relay",
        "until   2026-11-30T12:00:05Z: 5 s from now",
        "then    50% of the rate for 10 min",
        "letter  tried again; the attempt does not count",
        "why     AWS: SES developer guide, manage-sending-quotas-errors",
    ]
    document = found.document(NOW)
    assert document["then"] == {"rate": 0.5, "seconds": 600.0}
    assert (document["until"], document["counts"], document["verified"]) == (
        "2026-11-30T12:00:05Z",
        False,
        True,
    )


@pytest.mark.parametrize(
    ("line", "stage", "words"),
    [
        ("550 5.1.1 No such user", "rcpt", ["not tried again", "suppressed at once", "default/mailbox"]),
        ("550 No", "rcpt", ["a second letter"]),
        ("550 5.1.2 No such domain", "rcpt", ["suppressed at once"]),
        ("551 5.1.6 Moved", "rcpt", ["suppressed at once"]),
        ("553 5.1.1 No such user", "rcpt", ["suppressed at once"]),
        ("550 Too many messages", "rcpt", ["default/rate", "the attempt does not count"]),
        ("450 4.2.0 Greylisted", "rcpt", ["tried again later, as it says", "the attempt counts"]),
        ("554 5.7.1 Spam", "dot", ["weigh", "a 5xx is final only if"]),
        ("535 5.7.8 No", "auth", ["default/session", "does not count"]),
        ("450", "rcpt", ["reply   450 (at rcpt)"]),
        ("450-4.2.1 Too\n450 4.2.1 fast", "rcpt", ["450 4.2.1 Too fast"]),
        ("450-4.2.1 Too\r\n450 4.2.1 fast", "rcpt", ["450 4.2.1 Too fast"]),
    ],
)
def test_the_defaults_are_explained_as_well(line: str, stage: str, words: list[str]) -> None:
    text = "\n".join(explained((), line, Phase(stage)).lines(NOW))
    assert all(word in text for word in words), text


SUPPRESSES = ReplyRule(
    name="r/mine", text="closed", action=Action.FAIL, scope=Scope.RECIPIENT, suppress=Suppress.AT_ONCE
)
LEARNS = "where the service learns (SUPPRESSION_LEARN) "
AT_RCPT = "nothing is put there: of a refusal in these words only one at RCPT counts (--stage rcpt)"


@pytest.mark.parametrize(
    ("line", "stage", "suppress", "said"),
    [
        ("550 5.1.1 No such user", "rcpt", "at_once", f"{LEARNS}the address is suppressed at once"),
        ("551 5.1.6 Moved", "rcpt", "at_once", f"{LEARNS}the address is suppressed at once"),
        (
            "550 No",
            "rcpt",
            "second",
            f"{LEARNS}the address is suppressed when a second letter is refused so",
        ),
        ("550 5.7.1 Policy", "rcpt", "never", None),
        ("450 4.1.1 No", "rcpt", "never", None),
        ("550 5.1.1 No such user", "dot", "never", AT_RCPT),
        ("550 5.1.1 No such user", "data", "never", AT_RCPT),
        ("554 5.7.1 Spam", "dot", "never", None),
        ("535 5.7.8 No", "auth", "never", None),
        ("550 5.7.1 closed", "dot", "at_once", f"{LEARNS}the address is suppressed at once"),
    ],
)
def test_it_says_what_a_refusal_puts_on_the_list(
    line: str, stage: str, suppress: str, said: str | None
) -> None:
    """As `suppression.rules.refusals_of` would have it, which is what learns."""
    for taken in (False, True):
        found = explained((SUPPRESSES,), line, Phase(stage), taken=taken)
        lines = [each for each in found.lines(NOW) if each.startswith("list ")]
        assert lines == ([] if said is None else [f"list    {said}"])
        assert (found.document(NOW)["suppress"], found.document(NOW)["learns"]) == (suppress, None)


@pytest.mark.parametrize(
    ("learns", "said"),
    [
        ("true", "list    the address is suppressed at once"),
        (
            "false",
            "list    nothing is put there: the service does not learn from refusals (SUPPRESSION_LEARN)",
        ),
    ],
)
def test_of_a_relay_of_the_settings_it_says_whether_the_service_learns(
    learns: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    words = ("550 5.1.1 No such user", "--stage", "rcpt", "--relay")
    status, text = told(*words, "default", SUPPRESSION_LEARN=learns)
    assert (status, said in text.splitlines()) == (0, True), text
    assert json.loads(told(*words, "default", "--json", SUPPRESSION_LEARN=learns)[1])["learns"] is (
        learns == "true"
    )
    path = tmp_path / "relays.toml"
    path.write_text(f"{FILE}[suppression]\nlearn = {learns}\n")
    status, text = told(*words, "one", MAILSENDER_CONFIG=str(path))
    assert (status, said in text.splitlines()) == (0, True), text


def test_what_is_split_is_sent_to_at_once() -> None:
    lines = list(explained((), "452 4.5.3 Too many recipients", Phase.RCPT, taken=True).lines(NOW))
    assert "letter  sent to at once; the attempt does not count" in lines


@pytest.mark.parametrize(
    ("line", "stage"),
    [("501 No", "rcpt"), ("501 5.1.3 No", "rcpt"), ("550 Relaying denied", "rcpt")],
)
def test_no_word_of_the_list_where_nothing_is_learned(line: str, stage: str) -> None:
    assert not [each for each in explained((), line, Phase(stage)).lines(NOW) if each.startswith("list")]


def test_what_went_before_changes_what_it_means() -> None:
    assert explained((), "554 No", Phase.RCPT, taken=True).decision.rule == "default/rcpt-others-taken"
    assert explained((), "451 Later", Phase.MAIL, carried=True).decision.rule == "default/session-full"


@pytest.mark.parametrize("line", ["", "hello", "250 Ok", "600 No", "599 No", "45 No", "4500 No", "5501"])
def test_what_is_no_refusal_is_told_so(line: str) -> None:
    with pytest.raises(NoReply):
        explained((), line, Phase.DOT)


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[45][0-5][0-9] ", fullmatch=True), st.text(max_size=40), st.sampled_from(STAGES))
def test_any_reply_is_explained(code: str, text: str, stage: Phase) -> None:
    found = explained(SES, code + text, stage)
    assert list(found.lines(NOW))
    json.dumps(found.document(NOW))


def test_the_command_asks_no_setting_for_a_preset() -> None:
    status, text = told("454 Throttling failure: Daily message quota exceeded", "--preset", "ses")
    assert (status, "rule    ses/daily-quota" in text, "until   " in text) == (0, True, True)
    status, text = told("550 5.4.5 Daily limit", "--json")
    assert (status, json.loads(text)["rule"]) == (0, "default/account")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("250 Ok",), "a reply begins with its code"),
        (("450 No", "--preset", "nobody"), "preset: nobody is none; there are ses"),
        (("450 No", "--stage", "rset"), "--stage: rset is none; there are connect"),
        (("450 No", "--relay", "default", "--preset", "ses"), "--preset and --relay say two things"),
        (("450 No", "--relay", "nobody"), "relay: nobody is none; there are default"),
        (("450 No", "--to", "ann@example.org"), "one of REPLY, --to and --letter is needed"),
        (("450 No", "--letter", "0" * 24), "one of REPLY, --to and --letter is needed"),
    ],
)
def test_what_is_typed_wrong_is_said(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    status, text = told(*words)
    assert (status, said in text) == (2, True), text
    status, text = told(*words, "--json")
    assert said in json.loads(text[: text.rindex("}") + 1])["error"]["text"]


def test_a_span_is_told_in_its_largest_unit() -> None:
    assert [span(each) for each in (0.5, 5, 90, 600, 7200, 86400)] == [
        "0.5 s",
        "5 s",
        "90 s",
        "10 min",
        "2 h",
        "1 d",
    ]


# --- the way of a letter ---------------------------------------------------------------------------


def relay_plan(name: str, **more: Any) -> RelayPlan:
    policy = RelayPolicy(reverse_path="s@example.test", max_recipients=1, sessions=PoolLimits(sessions=1))
    return RelayPlan(name=name, allowance=Allowance(letters=0, period=1.0), policy=policy, **more)


RETRY = RetryPolicy(max_attempts=1, delay=1.0)
PLAN = Plan(
    relays=(
        relay_plan("ses", preset="ses", senders=("example.com",)),
        relay_plan("sendgrid"),
        relay_plan("postfix"),
    ),
    routes=(
        RoutePlan(name="default", relays=("postfix",), retry=RETRY),
        RoutePlan(
            name="newsletter",
            match=Match(streams=("newsletter",)),
            relays=("ses", "sendgrid"),
            weights=(3, 1),
            fallback=("postfix",),
            retry=RETRY,
            expire=172_800.0,
            window="Mon-Fri 08:00-20:00 Europe/Moscow",
        ),
        RoutePlan(name="mine", relays=("ses",), retry=RETRY, open=True),
    ),
)


def test_the_way_of_a_letter_names_its_route_and_the_relays_in_their_order() -> None:
    way = way_of(PLAN, Traits(stream="newsletter", senders=("a@example.org",)), "anna@gmail.com")
    assert list(way.lines()) == [
        "route   newsletter: the first whose match fits",
        "1       ses, weight 3, preset ses, takes no mail from this sender",
        "2       sendgrid, weight 1",
        "3       postfix, only where none of the others goes",
        "window  Mon-Fri 08:00-20:00 Europe/Moscow",
        "expires after 48 h",
    ]
    document = way.document()
    assert (document["route"], document["expire"]) == ("newsletter", 172_800.0)
    assert [each["takes_sender"] for each in document["relays"]] == [False, True, True]


@pytest.mark.parametrize(
    ("traits", "head"),
    [
        (Traits(), "route   default: no other one is for it"),
        (Traits(wish="mine"), "route   mine: the letter names it"),
        (
            Traits(wish="newsletter"),
            "route   default: no other one is for it;"
            " the route 'newsletter' is not open to letters that name it",
        ),
        (
            Traits(wish="nowhere", stream="newsletter"),
            "route   newsletter: the first whose match fits; there is no route 'nowhere'",
        ),
    ],
)
def test_it_is_said_why_it_is_that_route(traits: Traits, head: str) -> None:
    assert next(way_of(PLAN, traits, "anna@gmail.com").lines()) == head


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--to", "anna@gmail.com"), 0, "route   default: no other one is for it"),
        (("--to", "anna@gmail.com", "--json"), 0, '"takes_sender": true'),
        (("--to", "anna@gmail.com", "--route", "default"), 0, "route   default: no other one is for it"),
        (
            ("--to", "anna@gmail.com", "--route", "nix"),
            1,
            "route   none: there is no route 'nix'; a letter that names it is an error",
        ),
        (("--to", "anna@gmail.com", "--route", "nix", "--json"), 1, '"route": null'),
        (("--to", "nobody"), 2, ""),
        (("--to", "anna@gmail.com", "--priority", "urgent"), 2, "--priority: urgent is none; there are high"),
        (("--to", "anna@gmail.com", "--from", "x"), 2, ""),
        ((), 2, "one of REPLY, --to and --letter is needed"),
    ],
)
def test_the_command_says_the_way(
    words: tuple[str, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    found, text = told(*words)
    assert (found, said in text) == (status, True), text


FILE = """\
[relays.one]
host = "mx.example.test"
[routes.default]
relays = ["one"]
[routes.news]
match = { stream = "news" }
relays = ["one"]
[routes.mine]
open = true
relays = ["one"]
"""


@pytest.mark.parametrize(
    ("route", "status", "said"),
    [
        ("mine", 0, "route   mine: the letter names it"),
        (
            "news",
            1,
            "route   none: the route 'news' is not open to letters that name it; a letter that names it is an"
            " error",
        ),
        ("default", 1, "route   none: the route 'default' is not open"),
        ("nix", 1, "route   none: there is no route 'nix'; a letter that names it is an error"),
    ],
)
def test_a_letter_that_may_not_have_its_route_is_an_error(
    route: str, status: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "relays.toml"
    path.write_text(FILE)
    for name, value in {**SETTINGS, "MAILSENDER_CONFIG": str(path)}.items():
        monkeypatch.setenv(name, value)
    words = ("--to", "anna@gmail.com", "--stream", "news", "--route", route)
    found, text = told(*words)
    assert (found, text.startswith(said)) == (status, True), text
    document = json.loads(told(*words, "--json")[1])
    assert document["route"] == (None if status else route)
    assert bool(document["relays"]) is not bool(status)
