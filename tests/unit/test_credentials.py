"""Logins without a loop: SCRAM-SHA-256's vectors, what tokens are told as, what an endpoint's answers say."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiosmtplib import SMTPResponse
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from lab.sasl import ScramServer, bearer
from mailsender.smtp.bearer import MAX_TOKEN, complaint, is_token, oauthbearer, xoauth2
from mailsender.smtp.credentials import Credentials, TokenEndpoint, TokenFile
from mailsender.smtp.logins import Logins
from mailsender.smtp.mechanisms import FORMS
from mailsender.smtp.of_file import file_words
from mailsender.smtp.port import RelayAway
from mailsender.smtp.scram import BadServer, Scram, fits
from mailsender.smtp.token_endpoint import LONGEST_LIFE, USUAL_LIFE, Answer, Granted, NoToken, granted_by
from tests.clocks import ManualClock

ENDPOINT = TokenEndpoint(
    url="https://login.example.com/token?key=1", client_id="app", client_secret="s3 cret"
)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)

# --- SCRAM-SHA-256 -------------------------------------------------------------------------------

NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_scram_says_what_rfc_7677_has_as_its_example() -> None:
    scram = Scram("user", "pencil", NONCE)
    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert scram.final(CHALLENGE) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert scram.proves(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize(
    "outcome",
    [
        b"",
        b"v=",
        b"v=AAAA",
        b"v=!",
        b"e=invalid-proof",
        b"\xff",
        b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G0=",
    ],
)
def test_what_proves_nothing(outcome: bytes) -> None:
    scram = Scram("user", "pencil", NONCE)
    assert not scram.proves(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), "before it was asked"
    scram.final(CHALLENGE)
    assert not scram.proves(outcome)


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        (b"r=rOpr", b"r=other"),
        (b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b""),
        (b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        (b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=*"),
        (b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=\xff"),
        (b",i=4096", b""),
        (b"i=4096", b"i=4095"),
        (b"i=4096", b"i=1000001"),
        (b"i=4096", b"i=-4096"),
        (b"i=4096", "i=٤٠٩٦".encode()),
        (b"i=4096", b"i=" + b"9" * 5000),
        (b"r=rOpr", b"m=extension,r=rOpr"),
    ],
)
def test_a_challenge_that_is_none_of_scram(part: bytes, instead: bytes) -> None:
    assert part in CHALLENGE
    with pytest.raises(BadServer) as caught:
        Scram("user", "pencil", NONCE).final(CHALLENGE.replace(part, instead))
    assert len(str(caught.value)) < 100


@given(user=PRINTABLE, password=PRINTABLE)
def test_a_relay_that_knows_the_password_is_convinced_and_convinces(user: str, password: str) -> None:
    assert fits(user, password)
    scram, relay = Scram(user, password, NONCE), ScramServer(user, password)
    outcome = relay.outcome(scram.final(relay.challenge(scram.first().decode()).encode()).decode())
    assert outcome is not None
    assert scram.proves(outcome.encode())


def test_a_relay_that_knows_another_password_is_neither() -> None:
    scram, relay = Scram("user", "pencil", NONCE), ScramServer("user", "pen")
    assert relay.outcome(scram.final(relay.challenge(scram.first().decode()).encode()).decode()) is None


@pytest.mark.parametrize(
    ("user", "password"), [("юзер", "p"), ("u", "пароль"), ("u", "tab\there"), ("u", "\xa0")]
)
def test_what_saslprep_would_have_to_prepare_does_not_fit(user: str, password: str) -> None:
    assert not fits(user, password)


# --- tokens --------------------------------------------------------------------------------------


def test_the_first_words_are_those_of_the_providers_pages() -> None:
    assert xoauth2("someuser@example.com", "ya29.vF9") == (
        "user=someuser@example.com\x01auth=Bearer ya29.vF9\x01\x01"
    )
    # RFC 7628 §4.1
    assert oauthbearer(
        "user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", "server.example.com", 143
    ) == (
        "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
        "auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    )


@given(user=PRINTABLE, token=st.from_regex(r"[A-Za-z0-9._~+/-]{1,50}={0,2}", fullmatch=True))
def test_a_relay_reads_user_and_token_as_they_are(user: str, token: str) -> None:
    assert bearer("XOAUTH2", xoauth2(user, token)) == (user, token)
    assert bearer("OAUTHBEARER", oauthbearer(user, token, "mail.example.com", 587)) == (user, token)


@pytest.mark.parametrize("text", ["", " ", "a b", "a\x01auth=Bearer b", "a\r\nb", "т", "x" * (MAX_TOKEN + 1)])
def test_what_is_no_token(text: str) -> None:
    assert not is_token(text)


TOLD = st.dictionaries(st.sampled_from(["status", "scope"]), st.text() | st.none())


@given(challenge=st.binary() | TOLD.map(lambda told: json.dumps(told).encode()))
def test_whatever_a_relay_complains_of_is_one_short_line(challenge: bytes) -> None:
    assert len(complaint(challenge)) <= 500
    assert "\n" not in complaint(challenge)


def test_what_a_relay_complains_of() -> None:
    said = b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
    assert complaint(said) == "status 400, scope https://mail.google.com/"
    assert complaint(b'{"status": ["x"], "scope": 1}') == ""


# --- what an endpoint answers --------------------------------------------------------------------


def answered(status: int, told: object) -> Granted:
    return granted_by(Answer(status, json.dumps(told).encode()), ENDPOINT, "refresh-1")


@pytest.mark.parametrize(
    ("told", "life"),
    [
        (3599, 3599.0),
        ("3599", 3599.0),
        (None, USUAL_LIFE),
        ("soon", USUAL_LIFE),
        (float("nan"), USUAL_LIFE),
        (float("inf"), USUAL_LIFE),
        (10**400, USUAL_LIFE),
        (-5, 0.0),
        (10**9, LONGEST_LIFE),
        ([], USUAL_LIFE),
    ],
)
def test_how_long_a_token_lives(told: Any, life: float) -> None:
    granted = answered(200, {"access_token": "t", "token_type": "bearer", "expires_in": told})
    assert granted == Granted("t", life, "")


def test_a_token_without_a_word_of_its_kind_or_life() -> None:
    assert answered(200, {"access_token": "t", "refresh_token": "r"}) == Granted("t", USUAL_LIFE, "r")
    assert answered(200, {"access_token": "t", "refresh_token": "r 1"}).refresh_token == ""


@pytest.mark.parametrize(
    "told",
    [
        [],
        {},
        {"access_token": ""},
        {"access_token": "a b"},
        {"access_token": 5},
        {"access_token": "t", "token_type": "mac"},
    ],
)
def test_an_answer_without_a_token(told: Any) -> None:
    with pytest.raises(NoToken, match=r"login\.example\.com answered without an access token") as caught:
        answered(200, told)
    assert caught.value.permanent
    assert "key=1" not in str(caught.value), "some put keys into the query"


@pytest.mark.parametrize(
    ("status", "error", "permanent", "advice"),
    [
        (401, "invalid_client", True, "SMTP_TOKEN_CLIENT_SECRET"),
        (400, "invalid_grant", True, "SMTP_TOKEN_REFRESH_FILE"),
        (400, "invalid_scope", True, "SMTP_TOKEN_SCOPE"),
        (400, "unauthorized_client", True, "what it was registered for"),
        (400, "unsupported_grant_type", True, "SMTP_TOKEN_URL"),
        (404, None, True, "SMTP_TOKEN_URL"),
        (302, "found", True, "SMTP_TOKEN_URL"),
        (429, "slow_down", False, "it is asked again"),
        (503, None, False, "it is asked again"),
    ],
)
def test_an_error_says_what_to_do(status: int, error: str | None, permanent: bool, advice: str) -> None:
    with pytest.raises(NoToken) as caught:
        answered(status, {"error": error} if error else "<html>")
    assert caught.value.permanent is permanent
    assert advice in str(caught.value)


def test_no_secret_is_in_an_error_whatever_the_endpoint_repeats() -> None:
    with pytest.raises(NoToken) as caught:
        answered(400, {"error": "s3 cret", "error_description": "refresh-1,\n s3+cret and " + "x" * 5000})
    assert "*** ***, *** and xxx" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "s3" not in repr(ENDPOINT)


@given(
    status=st.integers(100, 599),
    body=st.binary() | st.text().map(lambda t: json.dumps({"error": t}).encode()),
)
def test_every_answer_is_a_token_or_a_reason(status: int, body: bytes) -> None:
    with pytest.raises(NoToken) as caught:
        granted_by(Answer(status, body), ENDPOINT, "")
    assert str(caught.value).isprintable()


# --- what goes together --------------------------------------------------------------------------

FILE = TokenFile(path="/run/token")


def test_which_mechanisms_fit() -> None:
    assert Credentials(user="u", password="p").mechanisms == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert Credentials(user="u", tokens=FILE).mechanisms == ("XOAUTH2", "OAUTHBEARER")
    assert Credentials(user="u", password="p", mechanism="LOGIN").mechanisms == ("LOGIN",)
    known = {*Credentials(password="p").mechanisms, *Credentials(tokens=FILE).mechanisms}
    assert {form.mechanism for form in FORMS} == known


@pytest.mark.parametrize(
    ("given_", "complete"),
    [
        ({}, False),
        ({"user": "u"}, False),
        ({"password": "p"}, False),
        ({"user": "u", "password": "p"}, True),
        ({"user": "u", "tokens": FILE}, True),
        ({"user": "u", "tokens": ENDPOINT}, True),
    ],
)
def test_who_logs_in(given_: dict[str, Any], complete: bool) -> None:
    assert Credentials(**given_).complete is complete
    assert Credentials(**given_).fault == ""


@pytest.mark.parametrize(
    ("given_", "fault"),
    [
        ({"user": "u", "password": "p", "tokens": FILE}, "only one of them"),
        ({"tokens": FILE}, "the user is missing"),
        ({"user": "u", "tokens": FILE, "mechanism": "PLAIN"}, "no mechanism for tokens"),
        ({"user": "u", "password": "p", "mechanism": "XOAUTH2"}, "no mechanism for a password"),
        ({"user": "u", "tokens": TokenEndpoint(url="https://h/t", client_id="a")}, "secret is missing"),
        ({"user": "u", "tokens": TokenEndpoint(url="https://h/t", client_id="")}, "id is missing"),
        ({"user": "u", "tokens": TokenEndpoint(url="h/t", client_id="a")}, "has to be a URL"),
        ({"user": "u", "tokens": TokenEndpoint(url="https://u:p@h/t", client_id="a")}, "has to be a URL"),
        (
            {"user": "u", "tokens": TokenEndpoint(url="http://h.example/t", client_id="a")},
            "begin with https://",
        ),
        ({"user": "u", "tokens": TokenEndpoint(url="https://[h/t", client_id="a")}, "has to be a URL"),
        ({"user": "u", "tokens": TokenEndpoint(url="https://h:99999/t", client_id="a")}, "has to be a URL"),
        ({"user": "u", "tokens": TokenEndpoint(url="https:///t", client_id="a")}, "has to be a URL"),
    ],
)
def test_what_does_not_go_together(given_: dict[str, Any], fault: str) -> None:
    assert fault in Credentials(**given_).fault


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_on_this_machine_an_endpoint_needs_no_tls(host: str) -> None:
    assert TokenEndpoint(url=f"http://{host}:8080/t", client_id="a", refresh_file="/r").fault == ""


def test_no_secret_is_shown() -> None:
    for value in (Credentials(user="u", password="s3cret"), Credentials(user="u", tokens=ENDPOINT)):
        assert "s3" not in repr(value)


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_login_that_nothing_set_allows_names_whole_settings_and_keys() -> None:
    logins = Logins(Credentials(user="ann", password="s3cret"), "h.test", 587, ManualClock())
    with pytest.raises(RelayAway) as refused:
        await logins.log_in(AsyncMock(), ["CRAM-MD5"], await logins.next())
    assert "without SMTP_PASSWORD, SMTP_TOKEN_FILE and SMTP_TOKEN_URL nobody" in str(refused.value)
    assert "without password, oauth.token_file and oauth.token_url nobody" in file_words(str(refused.value))


@pytest.mark.asyncio
async def test_a_form_of_login_is_told_with_the_relay() -> None:
    logins = Logins(Credentials(user="ann", password="s3cret"), "h.test", 587, ManualClock(), told="ses")
    say = AsyncMock(side_effect=[SMTPResponse(code, "") for code in (501, 334, 235)])
    with capture_logs() as logs:
        await logins.log_in(say, ["PLAIN"], await logins.next())
    (line,) = [each for each in logs if each["event"] == "relay_login_form"]
    assert line["relay"] == "ses"
