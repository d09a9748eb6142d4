"""The way to a session: connection, greeting, EHLO and login."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest

from lab.scripted import (
    GREETING,
    Answer,
    Script,
    ScriptedRelay,
    drop,
    pieces,
    stall,
)
from mailsender.model.clock import SystemClock
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import RelayAway
from tests.sessions import (
    ACCEPTED,
    SHORT,
    SHORTLY,
    config,
    opened,
    send,
    verdicts,
)

# --- opening a session ------------------------------------------------------------------------


async def refused(relay: ScriptedRelay, **changes: Any) -> RelayAway:
    with pytest.raises(RelayAway) as caught:
        async with opened(relay, **changes):
            pass
    return caught.value


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("moment", "answer", "code", "permanent"),
    [
        (GREETING, "554 5.7.1 Not you", 554, True),
        (GREETING, "421 4.3.2 Busy", 421, False),
        (GREETING, "SSH-2.0-OpenSSH_9.2", None, False),
        (GREETING, drop, None, False),
        (GREETING, stall, None, False),
        ("EHLO", "550 5.7.1 Not you", 550, True),
        ("EHLO", "421 4.3.2 Busy", 421, False),
        ("EHLO", drop, None, False),
        ("EHLO", stall, None, False),
    ],
)
async def test_a_session_that_does_not_open_says_how_far_it_came(
    moment: str, answer: Answer, code: int | None, permanent: bool
) -> None:
    timeouts = replace(SHORTLY, greeting=SHORT, command=SHORT)
    async with ScriptedRelay({moment: answer}) as relay:
        error = await refused(relay, timeouts=timeouts)
    assert (error.phase, error.code, error.permanent) == (moment.lower(), code, permanent)
    assert error.__cause__ is not None


@pytest.mark.asyncio
async def test_a_relay_that_says_too_much_gets_no_letter() -> None:
    """Its next words would be taken for the answer to the first MAIL."""
    async with ScriptedRelay({"EHLO": "250 relay.example.test\r\n250 2.1.0 Ok"}) as relay:
        error = await refused(relay)
    assert error.phase == "ehlo"
    assert "more than it was asked for" in str(error)


@pytest.mark.asyncio
async def test_a_port_on_which_nobody_listens() -> None:
    async with ScriptedRelay() as relay:
        pass
    error = await refused(relay)
    assert (error.phase, error.permanent) == ("connect", False)
    assert "SMTP_PORT" in str(error)


@pytest.mark.asyncio
async def test_a_host_that_has_no_address() -> None:
    error = await refused(ScriptedRelay(), host="no-such-host.invalid", port=25)
    assert error.phase == "connect"
    assert "SMTP_HOST=no-such-host.invalid" in str(error)


@pytest.mark.asyncio
async def test_a_host_that_is_no_name() -> None:
    error = await refused(ScriptedRelay(), host="a" * 70 + ".example", port=25)
    assert "SMTP_HOST" in str(error)


@pytest.mark.asyncio
async def test_the_connection_and_the_greeting_have_time_outs_of_their_own() -> None:
    """A relay may be slow to greet; that is not a connection that does not come about."""
    timeouts = replace(SHORTLY, connect=0.05)
    async with (
        ScriptedRelay({GREETING: pieces(*[b""] * 30, b"220 at last\r\n")}) as relay,
        opened(relay, timeouts=timeouts) as session,
    ):
        assert session.tls == ""
        assert verdicts(await send(session)) == [ACCEPTED]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("offer", "commands"),
    [
        ("AUTH PLAIN LOGIN", ["AUTH PLAIN " + base64.b64encode("\0us@er\0пароль".encode()).decode()]),
        (
            "AUTH LOGIN",
            [
                "AUTH LOGIN",
                base64.b64encode(b"us@er").decode(),
                base64.b64encode("пароль".encode()).decode(),
            ],
        ),
    ],
)
async def test_the_session_logs_in(offer: str, commands: list[str]) -> None:
    async with (
        ScriptedRelay(offers=[offer]) as relay,
        opened(relay, user="us@er", password="пароль", auth_cleartext=True) as session,
    ):
        assert verdicts(await send(session)) == [ACCEPTED]
    assert relay.commands[1 : 1 + len(commands)] == commands


@pytest.mark.asyncio
async def test_a_mechanism_that_the_relay_does_not_know_after_all_gives_way_to_the_next() -> None:
    script: Script = {"AUTH": ["504 5.5.4 No PLAIN", "235 2.7.0 Ok"]}
    async with ScriptedRelay(script) as relay, opened(relay, user="u", password="p", auth_cleartext=True):
        assert [c.split()[1] for c in relay.commands if c.startswith("AUTH")] == ["PLAIN", "LOGIN"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "permanent", "hint"),
    [
        ("535 5.7.8 Bad credentials", True, True),
        ("553 5.3.0 Auth failure", True, True),
        ("550 5.7.1 No such account", True, True),
        ("454 4.7.0 Temporary failure", False, False),
    ],
)
async def test_a_refused_login_says_which_settings_to_look_at(
    reply: str, permanent: bool, hint: bool
) -> None:
    async with ScriptedRelay({"AUTH": reply}) as relay:
        error = await refused(relay, user="u", password="p", auth_cleartext=True)
    assert (error.phase, error.code, error.permanent) == ("auth", int(reply[:3]), permanent)
    assert ("SMTP_PASSWORD" in str(error)) is hint
    assert error.reply is not None
    assert [str(error.reply.code), error.reply.enhanced] == reply.split()[:2]


@pytest.mark.asyncio
async def test_a_password_that_the_relay_repeats_stays_out_of_the_error() -> None:
    secret = "geheim123"
    coded = base64.b64encode(f"\0u\0{secret}".encode()).decode()
    async with ScriptedRelay({"AUTH": f"535 5.7.8 {coded} means {secret}"}) as relay:
        error = await refused(relay, user="u", password=secret, auth_cleartext=True)
    assert secret not in str(error)
    assert coded not in str(error)
    assert error.reply is not None
    assert secret not in str(error.reply)
    assert coded not in str(error.reply)


@pytest.mark.asyncio
@pytest.mark.parametrize(("user", "password"), [("u", ""), ("", "p")])
async def test_without_user_and_password_nobody_logs_in(user: str, password: str) -> None:
    async with ScriptedRelay() as relay, opened(relay, user=user, password=password) as session:
        assert verdicts(await send(session)) == [ACCEPTED]
    assert not any(command.startswith("AUTH") for command in relay.commands)


@pytest.mark.asyncio
async def test_no_password_goes_out_in_clear_text_unless_told_so() -> None:
    async with ScriptedRelay() as relay:
        error = await refused(relay, user="u", password="p")
    assert (error.phase, error.permanent) == ("auth", True)
    assert "SMTP_AUTH_CLEARTEXT" in str(error)
    assert relay.peers == []


@pytest.mark.asyncio
async def test_a_relay_that_offers_no_login_we_know() -> None:
    async with ScriptedRelay(offers=["AUTH CRAM-MD5"]) as relay:
        error = await refused(relay, user="u", password="p", auth_cleartext=True)
    assert (error.phase, error.permanent) == ("auth", True)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("machine", "said"), [("Box-1.example.test", "box-1.example.test"), ("my_box", "[127.0.0.1]")]
)
async def test_without_a_name_for_ehlo_the_machines_is_given(
    monkeypatch: pytest.MonkeyPatch, machine: str, said: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: machine)
    async with ScriptedRelay() as relay, opened(relay, helo_name=""):
        assert relay.commands == [f"EHLO {said}"]


def test_the_configuration_shows_no_password() -> None:
    assert "geheim" not in repr(config("h", 1, password="geheim"))


def test_a_relay_is_named_by_host_and_port() -> None:
    assert SmtpRelay(config("mx.example.test", 25), SystemClock()).name == "mx.example.test:25"
    assert SmtpRelay(config("::1", 25), SystemClock()).name == "[::1]:25"
