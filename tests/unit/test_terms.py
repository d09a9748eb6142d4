"""What a letter asks of a relay beside delivery: its keys, the commands that say it, what cannot be said."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mailsender.cli.schemas import letters_schema
from mailsender.intake.batch import faults, read_letter
from mailsender.intake.schema import Limits
from mailsender.message.composer import LetterComposer
from mailsender.model.letter import Envelope, Letter, Origin, Phase, Status, Verdict
from mailsender.model.terms import MAX_ENVID, MAX_ORCPT, BadTerms, Terms, xtext
from mailsender.smtp.commands import Offers, plan

LETTER = Draft202012Validator(letters_schema()["items"])
MESSAGE = b"Subject: Hi\r\n\r\n"
A, B = "a+b=c@example.test", "b@example.test"
ALL = Offers(notifications=True, require_tls=True, sizes=True, smtputf8=True)
NOTIFIED = Terms(notify=("SUCCESS", "FAILURE"), ret="HDRS", envid="order 1+1=2")


def letter(**keys: Any) -> Letter:
    origin = Origin(topic="in", partition=0, offset=1, index=0, timestamp=2)
    element = {"Addresses": [B], "Body": "<p>Hi</p>", **keys}
    return read_letter(element, origin, None, Limits(), now=datetime(2026, 11, 29, tzinfo=UTC))


def said(terms: Terms | None, offers: Offers = ALL, recipients: tuple[str, ...] = (A, B)) -> list[str]:
    """The commands of a transaction."""
    mail, rcpts, _ = plan(
        Envelope(reverse_path="s@example.test", recipients=recipients, terms=terms), MESSAGE, offers
    )
    commands = [mail, *rcpts.values()]
    assert all(each.endswith(b"\r\n") and each.count(b"\r\n") == 1 for each in commands)
    return [each.decode().removesuffix("\r\n") for each in commands]


# --- commands ------------------------------------------------------------------------------------


def test_notifications_are_asked_for_where_they_are_offered() -> None:
    assert said(NOTIFIED) == [
        "MAIL FROM:<s@example.test> SIZE=15 RET=HDRS ENVID=order+201+2B1+3D2",
        "RCPT TO:<a+b=c@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb+3Dc@example.test",
        "RCPT TO:<b@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@example.test",
    ]


@pytest.mark.parametrize("terms", [None, NOTIFIED])
def test_where_they_are_not_the_letter_goes_out_without(terms: Terms | None) -> None:
    assert said(terms, Offers(require_tls=True)) == [
        "MAIL FROM:<s@example.test>",
        f"RCPT TO:<{A}>",
        f"RCPT TO:<{B}>",
    ]


@pytest.mark.parametrize(
    ("terms", "mail", "rcpt"),
    [
        (Terms(notify=("NEVER",)), "", " NOTIFY=NEVER ORCPT=rfc822;b@example.test"),
        (Terms(ret="FULL"), " RET=FULL", " ORCPT=rfc822;b@example.test"),
        (Terms(envid="7"), " ENVID=7", " ORCPT=rfc822;b@example.test"),
        (Terms(require_tls=True), " REQUIRETLS", ""),
        (Terms(ret="FULL", require_tls=True), " RET=FULL REQUIRETLS", " ORCPT=rfc822;b@example.test"),
        (Terms(), "", ""),
    ],
)
def test_only_what_was_asked_for_is_said(terms: Terms, mail: str, rcpt: str) -> None:
    offers = Offers(notifications=True, require_tls=True)
    assert said(terms, offers, (B,)) == [f"MAIL FROM:<s@example.test>{mail}", f"RCPT TO:<{B}>{rcpt}"]


@pytest.mark.parametrize(
    ("address", "original"),
    [
        ("ann@пример.рф", " ORCPT=rfc822;ann@xn--e1afmkfd.xn--p1ai"),
        ("иван@example.test", ""),
        ("a..b@example.test", ' ORCPT=rfc822;"a..b"@example.test'),
        ("+" * 180 + "@example.test", ""),  # it would have over 500 characters
    ],
)
def test_the_original_recipient_is_the_one_of_the_command(address: str, original: str) -> None:
    (_, rcpt) = said(Terms(notify=("DELAY",)), recipients=(address,))
    assert rcpt.partition(" NOTIFY=DELAY")[2] == original
    assert len(original) <= MAX_ORCPT + len(" ORCPT=")


def test_tls_that_the_relay_cannot_promise_refuses_all_without_a_word() -> None:
    envelope = Envelope(reverse_path="s@example.test", recipients=(A, B), terms=Terms(require_tls=True))
    mail, rcpts, results = plan(envelope, MESSAGE, Offers(notifications=True))
    assert (mail, rcpts) == (b"", {})
    assert set(results) == {A, B}
    for each in results.values():
        assert (each.verdict, each.phase, each.code, each.enhanced) == (
            Verdict.REFUSED,
            Phase.MAIL,
            None,
            "5.7.30",
        )
        assert "RequireTLS" in each.text


@pytest.mark.parametrize(
    ("extensions", "protected", "offered"),
    [({"requiretls": ""}, True, True), ({"requiretls": ""}, False, False), ({}, True, False)],
)
def test_tls_is_promised_over_tls_alone(extensions: dict[str, str], protected: bool, offered: bool) -> None:
    assert Offers.of(extensions, protected=protected).require_tls is offered


def test_dsn_is_the_keyword_of_notifications() -> None:
    assert Offers.of({"dsn": ""}).notifications
    assert not Offers.of({}).notifications


# --- values --------------------------------------------------------------------------------------


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_xtext_can_be_read_back_and_ends_no_parameter(text: str) -> None:
    written = xtext(text)
    assert re.fullmatch(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", written)  # RFC 3461 §4
    assert re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), written) == text


@pytest.mark.parametrize(
    "terms",
    [
        {"notify": ("SOMETIMES",)},
        {"notify": ("NEVER", "DELAY")},
        {"notify": ("DELAY", "DELAY")},
        {"ret": "SOME"},
        {"envid": "a\r\nb"},
        {"envid": "ж"},
        {"envid": "\x7f"},
        {"envid": "a" * (MAX_ENVID + 1)},
        {"envid": " " * 34},
    ],
)
def test_what_smtp_cannot_say_is_no_value(terms: dict[str, Any]) -> None:
    with pytest.raises(BadTerms):
        Terms(**terms)


# --- keys ----------------------------------------------------------------------------------------

GOOD: list[dict[str, Any]] = [
    {"DSN": {"Notify": ["NEVER"]}},
    {"DSN": {"Notify": ["SUCCESS", "FAILURE", "DELAY"], "Ret": "FULL", "EnvID": "a" * MAX_ENVID}},
    {"DSN": {"EnvID": "order 1042"}},
    {"DSN": None, "RequireTLS": None},
    {"RequireTLS": True},
    {"RequireTLS": False},
]


@pytest.mark.parametrize("keys", GOOD)
def test_what_is_taken_the_schema_takes(keys: dict[str, Any]) -> None:
    assert letter(**keys).status is Status.AWAITING
    assert LETTER.is_valid({"Addresses": [B], **keys})


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"DSN": [7]}, "DSN"),
        ({"DSN": {"Notify": "NEVER"}}, "DSN.Notify"),
        ({"DSN": {"Notify": [7]}}, "DSN.Notify[0]"),
        ({"DSN": {"Notify": ["success"]}}, "DSN"),
        ({"DSN": {"Notify": ["NEVER", "DELAY"]}}, "DSN"),
        ({"DSN": {"Notify": ["DELAY", "DELAY"]}}, "DSN"),
        ({"DSN": {"Ret": "BODY"}}, "DSN"),
        ({"DSN": {"Ret": 7}}, "DSN.Ret"),
        ({"DSN": {"EnvID": 7}}, "DSN.EnvID"),
        ({"DSN": {"EnvID": "x" * 101}}, "DSN"),
        ({"DSN": {"Envelope": "x"}}, "DSN"),
        ({"RequireTLS": "yes"}, "RequireTLS"),
        ({"RequireTLS": 1}, "RequireTLS"),
    ],
)
def test_what_is_refused_the_schema_refuses(keys: dict[str, Any], field: str) -> None:
    refused = letter(**keys)
    assert refused.status is Status.ERROR
    assert refused.reason.startswith(f"{field} "), refused.reason
    assert [each.field for each in faults([{"Addresses": [B], **keys}])] == [field]
    assert not LETTER.is_valid({"Addresses": [B], **keys})


def test_a_letter_keeps_its_terms_and_its_message_knows_nothing_of_them() -> None:
    composer = LetterComposer("Robot", "robot@example.test")
    asking = letter(DSN={"Notify": ["SUCCESS"], "EnvID": "7"}, RequireTLS=True)
    assert composer.mail(asking).terms == Terms(notify=("SUCCESS",), envid="7", require_tls=True)
    assert composer.mail(letter(RequireTLS=True)).terms == Terms(require_tls=True)
    assert composer.mail(letter(RequireTLS=False)).terms is None
    date = datetime(2026, 11, 29, tzinfo=UTC)
    assert composer.compose(asking, eight_bit=True, date=date) == composer.compose(
        letter(), eight_bit=True, date=date
    )
