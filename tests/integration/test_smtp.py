"""Transactions against scripted relays, aiosmtpd and smtp-sink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import SMTP

from lab.parts import SmtpSink
from lab.scripted import (
    BODY,
    DOT,
    OFFERS,
    Answer,
    Script,
    ScriptedRelay,
    drop,
    freeze,
    then,
)
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import NotBegun
from tests.sessions import (
    ACCEPTED,
    DEFERRED,
    LARGE,
    MESSAGE,
    REFUSED,
    SENDER,
    SHORT,
    SHORTLY,
    UNCERTAIN,
    A,
    B,
    C,
    Permit,
    config,
    mail_commands,
    opened,
    send,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("pipelined")

# --- what goes well ---------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_letter_is_carried_and_every_recipient_accepted() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        outcome = await send(session, A, B)
    accepted = Result(verdict=ACCEPTED, phase=Phase.DOT, code=250, enhanced="2.0.0", text="Ok: queued as 42")
    assert outcome == Outcome(results={A: accepted, B: accepted}, session_usable=True)
    assert relay.commands == [
        "EHLO client.example.test",
        f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}",
        f"RCPT TO:<{A}>",
        f"RCPT TO:<{B}>",
        "DATA",
        "QUIT",
    ]
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
async def test_a_session_carries_many_letters() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        for _ in range(5):
            assert verdicts(await send(session)) == [ACCEPTED]
            assert await session.check_alive()
    assert relay.messages == [MESSAGE] * 5
    assert len(relay.peers) == 1


@pytest.mark.asyncio
async def test_a_relay_without_extensions_hears_of_none() -> None:
    async with ScriptedRelay({"EHLO": "502 5.5.1 What?"}) as relay, opened(relay) as session:
        assert not session.supports_8bit
        outcome = await send(session, message="Subject: x\r\n\r\nж\r\n".encode())
    assert verdicts(outcome) == [ACCEPTED]
    assert relay.commands[1:3] == ["HELO client.example.test", f"MAIL FROM:<{SENDER}>"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("message", "parameters"),
    [(MESSAGE, ""), ("\r\nж\r\n".encode(), " BODY=8BITMIME")],
)
async def test_8bitmime_is_said_when_it_matters(message: bytes, parameters: str) -> None:
    async with ScriptedRelay(offers=["8BITMIME"]) as relay, opened(relay) as session:
        assert session.supports_8bit
        await send(session, message=message)
    assert f"MAIL FROM:<{SENDER}>{parameters}" in relay.commands


@pytest.mark.asyncio
async def test_an_address_beyond_ascii_goes_with_smtputf8() -> None:
    async with ScriptedRelay(offers=["SMTPUTF8"]) as relay, opened(relay) as session:
        outcome = await send(session, "иван@пример.рф", A)
    assert verdicts(outcome) == [ACCEPTED, ACCEPTED]
    assert relay.commands[1:3] == [f"MAIL FROM:<{SENDER}> SMTPUTF8", "RCPT TO:<иван@xn--e1afmkfd.xn--p1ai>"]


@pytest.mark.asyncio
async def test_without_smtputf8_the_one_recipient_who_needs_it_is_refused_alone() -> None:
    async with ScriptedRelay(offers=[]) as relay, opened(relay) as session:
        outcome = await send(session, "иван@example.test", "ivan@пример.рф")
        assert verdicts(await send(session, "иван@example.test")) == [REFUSED]
    assert verdicts(outcome) == [REFUSED, ACCEPTED]
    refused = outcome.results["иван@example.test"]
    assert (refused.phase, refused.code, refused.enhanced) == (Phase.RCPT, None, "5.6.7")
    assert mail_commands(relay) == [f"MAIL FROM:<{SENDER}>", "RCPT TO:<ivan@xn--e1afmkfd.xn--p1ai>", "DATA"]


@pytest.mark.asyncio
async def test_a_message_over_the_relays_limit_is_refused_before_it_is_sent() -> None:
    go = Permit(may_begin=False)
    async with ScriptedRelay(offers=["SIZE 20"]) as relay, opened(relay) as session:
        outcome = await send(session, A, B, go=go)
        assert await session.check_alive()
    assert verdicts(outcome) == [REFUSED, REFUSED]
    assert outcome.results[A].phase is Phase.MAIL
    assert "at most 20" in outcome.results[A].text
    assert outcome.session_usable
    assert mail_commands(relay) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("offer", ["SIZE", "SIZE 0", "SIZE many"])
async def test_size_without_a_limit_limits_nothing(offer: str) -> None:
    async with ScriptedRelay(offers=[offer]) as relay, opened(relay) as session:
        assert verdicts(await send(session)) == [ACCEPTED]
    assert f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}" in relay.commands


@pytest.mark.asyncio
async def test_an_empty_reverse_path_is_the_null_path() -> None:
    async with ScriptedRelay(offers=[]) as relay, opened(relay) as session:
        await session.transact(Envelope(reverse_path="", recipients=(A,)), MESSAGE, Permit())
    assert "MAIL FROM:<>" in relay.commands


# --- what the wire may carry ------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bad",
    ["a@b.c>\r\nRCPT TO:<d@e.f", "a@b.c SIZE=1", "a@b.c, d@e.f", "", "<a@b.c>", "a@b.c\n", 'x"@b.c'],
)
async def test_no_address_can_add_a_command(bad: str) -> None:
    async with ScriptedRelay(offers=[]) as relay, opened(relay) as session:
        outcome = await send(session, A, bad)
        whole = await session.transact(Envelope(reverse_path=bad or "x", recipients=(A,)), MESSAGE, Permit())
    assert verdicts(outcome) == [ACCEPTED, REFUSED]
    assert verdicts(whole) == [REFUSED]
    assert mail_commands(relay) == [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{A}>", "DATA"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "message", [b"a\n.\nMAIL FROM:<x@y.z>\r\n", b"a\r.\r\n", b"a\n.\r\nb\r\n", b"a\r\n.\rb\r\n", b"a\n"]
)
async def test_a_bare_cr_or_lf_never_reaches_the_wire(message: bytes) -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        with pytest.raises(ValueError, match="bare CR or LF"):
            await send(session, message=message)
        assert verdicts(await send(session)) == [ACCEPTED]
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
async def test_leading_dots_are_doubled_and_the_last_line_is_ended() -> None:
    message = b".first\r\n.\r\n..\r\nx.\r\n.last"
    async with ScriptedRelay() as relay, opened(relay) as session:
        assert verdicts(await send(session, message=message)) == [ACCEPTED]
    assert relay.messages == [b"..first\r\n..\r\n...\r\nx.\r\n..last\r\n"]


@pytest.mark.asyncio
async def test_a_large_message_arrives_whole() -> None:
    message = b"".join(b"%d .\r\n.line\r\n" % number for number in range(100_000))
    async with ScriptedRelay() as relay, opened(relay) as session:
        assert verdicts(await send(session, message=message)) == [ACCEPTED]
    assert relay.messages == [message.replace(b"\r\n.", b"\r\n..")]


@pytest.mark.asyncio
async def test_a_slow_relay_gets_a_large_message_whole() -> None:
    async with ScriptedRelay(receive_buffer=4096) as relay, opened(relay) as session:
        assert verdicts(await send(session, message=LARGE)) == [ACCEPTED]
    assert relay.messages == [LARGE]


# --- permission -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_without_permission_nothing_is_written_and_the_session_is_as_it_was() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        with pytest.raises(NotBegun):
            await send(session, go=Permit(may_begin=False))
        assert await session.check_alive()
        go = Permit(relay)
        assert verdicts(await send(session, go=go)) == [ACCEPTED]
    assert go.heard_at_begin == ["EHLO client.example.test"]
    assert go.asked_for_dot == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("message", [MESSAGE, b"x" * 900 + b"\r\n" + b"line\r\n" * 100_000])
async def test_without_permission_for_the_dot_the_connection_ends_before_it(message: bytes) -> None:
    async with ScriptedRelay() as relay:
        async with opened(relay) as session:
            outcome = await send(session, A, B, message=message, go=Permit(may_end=False))
            assert not await session.check_alive()
        await relay.peers[0].over.wait()
    assert verdicts(outcome) == [DEFERRED, DEFERRED]
    assert outcome.results[A].phase is Phase.DATA
    assert not outcome.session_usable
    assert relay.messages == []
    assert b"\r\n.\r\n" not in relay.raw


@pytest.mark.asyncio
async def test_permission_for_the_dot_is_asked_when_a_slow_relay_has_taken_the_message() -> None:
    """Not before: what was asked early may no longer hold when the message is out."""
    go = Permit()
    message = b"line\r\n" * 2_000_000
    async with (
        ScriptedRelay({BODY: then(b"", freeze)}, receive_buffer=4096) as relay,
        opened(relay) as session,
    ):
        sending = asyncio.create_task(send(session, message=message, go=go))
        await relay.reached(BODY)
        done, _ = await asyncio.wait([sending], timeout=SHORT)
        assert not done
        assert go.asked_for_dot == 0
        session.abort()
        assert verdicts(await sending) == [DEFERRED]


# --- what the relay refuses -------------------------------------------------------------------


@pytest.mark.asyncio
async def test_one_refused_recipient_does_not_harm_the_others() -> None:
    script: Script = {
        f"RCPT TO:<{A}>": "550 5.1.1 No such user",
        f"RCPT TO:<{B}>": "451 4.7.1 Try again later",
    }
    async with ScriptedRelay(script) as relay, opened(relay) as session:
        outcome = await send(session, A, B, C)
        assert verdicts(await send(session, C)) == [ACCEPTED]
    assert outcome.results[A] == Result(
        verdict=REFUSED, phase=Phase.RCPT, code=550, enhanced="5.1.1", text="No such user"
    )
    assert outcome.results[B] == Result(
        verdict=DEFERRED, phase=Phase.RCPT, code=451, enhanced="4.7.1", text="Try again later"
    )
    assert outcome.results[C].verdict is ACCEPTED
    assert outcome.session_usable
    assert list(outcome.results) == [A, B, C]


@pytest.mark.asyncio
async def test_without_a_recipient_there_is_no_message_but_a_reset(pipelined: bool) -> None:
    """RFC 2920 §3.1: to a 354 that comes although nobody was taken a lone dot is the answer."""
    async with ScriptedRelay({"RCPT": "550 5.1.1 No"}) as relay, opened(relay) as session:
        outcome = await send(session, A, B)
        assert verdicts(await send(session, C)) == [REFUSED]
    assert verdicts(outcome) == [REFUSED, REFUSED]
    assert {result.code for result in outcome.results.values()} == {550}
    assert outcome.session_usable
    heard = [c.partition(" ")[0] for c in mail_commands(relay)]
    data = ["DATA"] if pipelined else []
    assert heard == ["MAIL", "RCPT", "RCPT", *data, "RSET", "MAIL", "RCPT", *data, "RSET"]
    assert relay.messages == [b"", b""] * pipelined


@pytest.mark.asyncio
@pytest.mark.parametrize(("code", "verdict"), [("451 4.3.0", DEFERRED), ("554 5.7.1", REFUSED)])
@pytest.mark.parametrize(("moment", "phase"), [("MAIL", Phase.MAIL), ("DATA", Phase.DATA), (DOT, Phase.DOT)])
async def test_a_refusal_of_the_letter_is_for_all_and_the_session_is_reset(
    moment: str, phase: Phase, code: str, verdict: Verdict, pipelined: bool
) -> None:
    script: dict[str, list[Answer]] = {moment: [f"{code} No"], f"RCPT TO:<{B}>": ["550 5.1.1 No such user"]}
    if pipelined and phase is Phase.MAIL:  # what was said with the refused MAIL
        script |= {f"RCPT TO:<{A}>": ["503 5.5.1 Need MAIL"], "DATA": ["503 5.5.1 Need RCPT"]}
    async with ScriptedRelay(script) as relay, opened(relay) as session:
        outcome = await send(session, A, B)
        assert verdicts(await send(session, C)) == [ACCEPTED]
    expected = [verdict, verdict if phase is Phase.MAIL else REFUSED]
    assert verdicts(outcome) == expected
    result = outcome.results[A]
    assert (result.phase, f"{result.code} {result.enhanced}", result.text) == (phase, code, "No")
    assert outcome.session_usable
    assert mail_commands(relay).count("RSET") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    ["502 5.5.1 What?", "354 Go on", drop, then("421 4.3.2 Bye", drop)],
    ids=["502", "354", "drop", "421"],
)
async def test_a_session_that_cannot_be_reset_is_not_used_again(answer: Answer) -> None:
    async with ScriptedRelay({"MAIL": "554 5.7.1 No", "RSET": answer}) as relay, opened(relay) as session:
        outcome = await send(session)
        assert not await session.check_alive()
    assert verdicts(outcome) == [REFUSED]
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_a_verdict_is_what_the_first_digit_says() -> None:
    """What it means beyond that is for the rules: here 552 after some were taken is the limit of old."""
    script: Script = {f"RCPT TO:<{B}>": "552 Too many recipients", f"RCPT TO:<{C}>": "452 4.2.2 Mailbox full"}
    async with ScriptedRelay(script) as relay, opened(relay) as session:
        outcome = await send(session, A, B, C)
    assert verdicts(outcome) == [ACCEPTED, REFUSED, DEFERRED]
    assert outcome.results[B].phase is Phase.RCPT


# --- other relays, other loops ----------------------------------------------------------------


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_both_event_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop], pipelined: bool) -> None:
    async def scenario() -> None:
        many = b"line\r\n" * 100_000
        async with ScriptedRelay({f"RCPT TO:<{B}>": "550 5.1.1 No"}) as relay, opened(relay) as session:
            assert verdicts(await send(session, A, B, message=many)) == [ACCEPTED, REFUSED]
            assert verdicts(await send(session, B)) == [REFUSED]
            assert verdicts(await send(session)) == [ACCEPTED]
        assert relay.messages == [many, *[b""] * pipelined, MESSAGE]
        timeouts = replace(SHORTLY, block=SHORT)
        async with (
            ScriptedRelay({BODY: freeze}, receive_buffer=4096) as relay,
            opened(relay, timeouts=timeouts) as session,
        ):
            assert verdicts(await send(session, message=LARGE)) == [DEFERRED]
        async with ScriptedRelay({DOT: drop}) as relay, opened(relay) as session:
            assert verdicts(await send(session)) == [UNCERTAIN]

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


class Keep(Message):
    """Keeps what aiosmtpd took."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[list[str], bytes]] = []

    def handle_message(self, message: Any) -> None:
        self.kept.append((message["X-RcptTo"].split(", "), message.get_payload(decode=True)))


@pytest.mark.asyncio
async def test_aiosmtpd() -> None:
    keep = Keep()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: SMTP(keep, enable_SMTPUTF8=True), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        session = await SmtpRelay(config("127.0.0.1", port), SystemClock()).connect()
        assert session.supports_8bit
        message = "Subject: Hi\r\n\r\n.Привет\r\n".encode()
        for _ in range(3):
            assert verdicts(await send(session, A, "иван@example.test", message=message)) == [ACCEPTED] * 2
        await session.close()
    assert keep.kept == [([A, "иван@example.test"], ".Привет\r\n".encode())] * 3


@pytest.mark.asyncio
async def test_smtp_sink(smtp_sink: SmtpSink) -> None:
    session = await SmtpRelay(config(smtp_sink.host, smtp_sink.port), SystemClock()).connect()
    for _ in range(200):
        assert verdicts(await send(session, A, B)) == [ACCEPTED, ACCEPTED]
    assert await session.check_alive()
    await session.close()


def test_the_extensions_used_here_are_offered_by_default() -> None:
    """The tests above would prove less if the scripted relay offered nothing."""
    assert {"8BITMIME", "SMTPUTF8"} < set(OFFERS)
