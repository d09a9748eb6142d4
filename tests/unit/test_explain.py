"""`mailsender explain`: what a reply would mean, before any relay says it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.model.letter import Phase
from mailsender.routing.presets import PRESETS
from mailsender.routing.reply_rule import STAGES
from mailsender.sending.explain import NoReply, explained, span

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
        ("550 No", "rcpt", ["a second time"]),
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
        (("450 No", "--relay", "nobody"), "relay: nobody is none; there are default"),
    ],
)
def test_what_is_typed_wrong_is_said(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SMTP_HOST": "mx.example.test",
        "SMTP_USER": "a@example.test",
        "SMTP_PASSWORD": "p",
        "KAFKA_BROKERS": "k:9092",
        "MONGODB_URI": "mongodb://m/mts",
    }.items():
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
