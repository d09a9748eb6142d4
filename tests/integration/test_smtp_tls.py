"""TLS on the way to a relay, as the relay's adapter sees it and as its errors explain it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
import uvloop

from lab.parts import Certificates
from lab.scripted import BODY, ScriptedRelay, freeze, stall, then
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase
from mailsender.smtp.connect import SmtpConfig, SmtpRelay, tls_context
from mailsender.smtp.port import RelayAway
from tests.sessions import ACCEPTED, DEFERRED, LARGE, MESSAGE, SHORT, SHORTLY, config, opened, send, verdicts

MODES = ["implicit", "starttls"]


def serving(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def secured(mode: str, context: ssl.SSLContext, **options: Any) -> ScriptedRelay:
    return ScriptedRelay(tls=context, implicit=mode == "implicit", **options)


async def refused(relay: ScriptedRelay, **changes: Any) -> RelayAway:
    async with relay:
        with pytest.raises(RelayAway) as caught:
            async with opened(relay, **changes):
                pass
    assert not any(command.startswith(("AUTH", "MAIL")) for command in relay.commands)
    return caught.value


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_private_ca_is_trusted_when_it_is_named(
    certificates: Certificates, mode: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    many = b"line\r\n" * 100_000

    async def scenario() -> None:
        relay = secured(mode, serving(certificates.cert, certificates.key))
        login = {"user": "u", "password": "p"}
        async with relay, opened(relay, tls=mode, ca_file=str(certificates.ca), **login) as session:
            assert verdicts(await send(session)) == [ACCEPTED]
            assert verdicts(await send(session, message=many)) == [ACCEPTED]
            assert await session.check_alive()
        assert relay.messages == [MESSAGE, many]
        assert any(command.startswith("AUTH PLAIN") for command in relay.commands)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_relay_that_reads_no_more_is_left_under_tls_too(
    certificates: Certificates, mode: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario() -> None:
        context = serving(certificates.cert, certificates.key)
        relay = secured(mode, context, script={BODY: freeze}, receive_buffer=4096)
        changes = {"ca_file": str(certificates.ca), "timeouts": replace(SHORTLY, block=SHORT)}
        async with relay, opened(relay, tls=mode, **changes) as session:
            outcome = await send(session, message=LARGE)
        assert verdicts(outcome) == [DEFERRED]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_a_certificate_for_another_name_is_refused(certificates: Certificates, mode: str) -> None:
    context = serving(certificates.wrong_name_cert, certificates.wrong_name_key)
    error = await refused(secured(mode, context), tls=mode, ca_file=str(certificates.ca))
    assert error.permanent
    assert error.phase == ("connect" if mode == "implicit" else "starttls")
    assert "127.0.0.1" in str(error)
    assert "SMTP_HOST" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("named", [True, False])
async def test_a_certificate_of_an_unknown_ca_is_refused(
    certificates: Certificates, mode: str, named: bool
) -> None:
    context = serving(certificates.untrusted_cert, certificates.untrusted_key)
    error = await refused(secured(mode, context), tls=mode, ca_file=str(certificates.ca) if named else "")
    assert error.permanent
    assert "SMTP_TLS_CA_FILE" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("start", "end", "words"), [(-2, -1, "renew"), (1, 2, "clock")], ids=["expired", "not yet valid"]
)
async def test_a_certificate_out_of_its_time_is_refused(
    tmp_path: Path, mode: str, start: int, end: int, words: str
) -> None:
    now = datetime.now(UTC)
    authority = trustme.CA()
    leaf = authority.issue_cert(
        "127.0.0.1", not_before=now + timedelta(days=start), not_after=now + timedelta(days=end)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    error = await refused(secured(mode, context), tls=mode, ca_file=str(tmp_path / "ca.pem"))
    assert error.permanent
    assert words in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_any_certificate_will_do_when_told_so_and_that_is_said(
    certificates: Certificates, mode: str
) -> None:
    relay = secured(mode, serving(certificates.untrusted_cert, certificates.untrusted_key))
    with structlog.testing.capture_logs() as logs:
        async with relay, opened(relay, tls=mode, verify=False) as session:
            assert verdicts(await send(session)) == [ACCEPTED]
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "relay_certificate_not_verified"
    ]


@pytest.mark.asyncio
async def test_starttls_that_is_not_offered_ends_it() -> None:
    """Somebody on the way may have taken the offer out."""
    error = await refused(ScriptedRelay(), tls="starttls", user="u", password="p")
    assert (error.phase, error.permanent) == (Phase.STARTTLS, True)
    assert "SMTP_TLS=implicit" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "permanent"), [("454 4.7.0 TLS not available", False), ("502 5.5.1 What?", True)]
)
async def test_starttls_that_is_refused_ends_it(
    certificates: Certificates, answer: str, permanent: bool
) -> None:
    relay = secured("starttls", serving(certificates.cert, certificates.key), script={"STARTTLS": answer})
    error = await refused(relay, tls="starttls", ca_file=str(certificates.ca))
    assert (error.phase, error.code, error.permanent) == (Phase.STARTTLS, int(answer[:3]), permanent)


@pytest.mark.asyncio
async def test_what_was_sent_in_clear_text_behind_the_220_counts_for_nothing(
    certificates: Certificates,
) -> None:
    """STARTTLS injection: the words of somebody on the way, read as if they had come through TLS."""
    injected = "220 2.0.0 Go\r\n250-evil.example.test\r\n250 SIZE 1"
    context = serving(certificates.cert, certificates.key)
    relay = secured("starttls", context, script={"STARTTLS": injected})
    async with relay, opened(relay, tls="starttls", ca_file=str(certificates.ca)) as session:
        assert session.supports_8bit
        assert session.tls == "TLSv1.3"
        assert verdicts(await send(session)) == [ACCEPTED]
    assert [command for command in relay.commands if command.startswith("EHLO")] == [
        "EHLO client.example.test"
    ] * 2


@pytest.mark.asyncio
async def test_what_was_offered_before_tls_is_forgotten(certificates: Certificates) -> None:
    before = "250-relay.example.test\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250 8BITMIME"
    context = serving(certificates.cert, certificates.key)
    relay = secured("starttls", context, script={"EHLO": [before, "250 relay.example.test"]})
    async with relay, opened(relay, tls="starttls", ca_file=str(certificates.ca)) as session:
        assert not session.supports_8bit


@pytest.mark.asyncio
async def test_a_port_without_tls_is_recognised() -> None:
    error = await refused(ScriptedRelay(), tls="implicit")
    assert error.permanent
    assert "SMTP_TLS=starttls" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_old_tls_is_refused(certificates: Certificates, mode: str) -> None:
    assert tls_context(SmtpConfig(host="h", port=1, tls="implicit")).minimum_version is ssl.TLSVersion.TLSv1_2
    context = serving(certificates.cert, certificates.key)
    context.set_ciphers("ALL:@SECLEVEL=0")  # without which OpenSSL 3 would not even try
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    error = await refused(secured(mode, context), tls=mode, ca_file=str(certificates.ca))
    assert error.phase == ("connect" if mode == "implicit" else "starttls")
    assert "TLS 1.2 or later" in str(error)


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_a_handshake_that_does_not_come_about_is_bounded_as_the_connection(mode: str) -> None:
    """By SMTP_TIMEOUT_CONNECT, not by the five minutes that a greeting may take."""
    script: dict[str, Any] = (
        {"greeting": stall}
        if mode == "implicit"
        else {
            "EHLO": ["250-relay.example.test\r\n250 STARTTLS"],
            "STARTTLS": then("220 2.0.0 Go ahead\r\n", stall),
        }
    )
    timeouts = replace(SHORTLY, connect=SHORT, greeting=60, command=60)
    error = await asyncio.wait_for(refused(ScriptedRelay(script), tls=mode, timeouts=timeouts), 5)
    assert error.phase == ("connect" if mode == "implicit" else "starttls")
    assert not error.permanent


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    relay = SmtpRelay(SmtpConfig(host="h", port=1, tls="implicit", ca_file=str(path)), SystemClock())
    with pytest.raises(RelayAway, match="SMTP_TLS_CA_FILE") as caught:
        await relay.connect()
    assert caught.value.permanent


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_a_ca_that_is_replaced_while_we_run_is_read_again(tmp_path: Path, mode: Any) -> None:
    path, before, after = tmp_path / "ca.pem", trustme.CA(), trustme.CA()
    before.cert_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    before.issue_cert("127.0.0.1").configure_cert(context)
    async with secured(mode, context) as relay:
        client = SmtpRelay(config(relay.host, relay.port, tls=mode, ca_file=str(path)), SystemClock())
        await (await client.connect()).close()
        path.unlink()
        await (await client.connect()).close()
        after.cert_pem.write_to_path(path)
        with pytest.raises(RelayAway, match="not to be trusted"):
            await client.connect()
        after.issue_cert("127.0.0.1").configure_cert(context)
        await (await client.connect()).close()


@pytest.mark.asyncio
async def test_a_certificate_that_is_not_trusted_has_the_cas_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's CAs have no one file that could be looked at."""
    made: list[SmtpConfig] = []

    def counted(given: SmtpConfig) -> ssl.SSLContext:
        made.append(given)
        return tls_context(given)

    monkeypatch.setattr("mailsender.smtp.connect.tls_context", counted)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with secured("implicit", context) as relay:
        client = SmtpRelay(config(relay.host, relay.port, tls="implicit"), SystemClock())
        for _ in range(2):
            with pytest.raises(RelayAway, match="not to be trusted"):
                await client.connect()
    assert len(made) == 2
