"""The relay's adapter against scripted relays, aiosmtpd and smtp-sink."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvloop
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from mailsender.adapters.smtp import SmtpConfig, SmtpRelay
from mailsender.adapters.smtp_dialogue import SmtpSession, Timeouts
from mailsender.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.ports import Clock, NotBegun, RelayAway, SystemClock
from tests.clocks import ManualClock
from tests.parts import SmtpSink
from tests.scripted import (
    BODY,
    DOT,
    GREETING,
    OFFERS,
    Act,
    Answer,
    Script,
    ScriptedRelay,
    drop,
    freeze,
    pieces,
    reset,
    stall,
    then,
)

MESSAGE = b"Subject: Hi\r\n\r\n<p>Hi</p>\r\n"
SENDER = "news@example.org"
A, B, C = "a@example.test", "b@example.test", "c@example.test"
SHORT = 0.15
SHORTLY = Timeouts(connect=5, greeting=5, command=5, data=5, block=5, dot=5)
ACCEPTED, DEFERRED, REFUSED, UNCERTAIN = (
    Verdict.ACCEPTED,
    Verdict.DEFERRED,
    Verdict.REFUSED,
    Verdict.UNCERTAIN,
)


@dataclass
class Permit:
    """`Go` that answers as told, and notes what the relay had heard by then."""

    relay: ScriptedRelay | None = None
    may_begin: bool = True
    may_end: bool = True
    heard_at_begin: list[str] = field(default_factory=list)
    asked_for_dot: int = 0

    def begin(self) -> bool:
        self.heard_at_begin += self.relay.commands if self.relay else []
        return self.may_begin

    def dot(self) -> bool:
        self.asked_for_dot += 1
        return self.may_end


def config(host: str, port: int, **changes: Any) -> SmtpConfig:
    plain = SmtpConfig(host=host, port=port, tls="none", helo_name="client.example.test", timeouts=SHORTLY)
    return replace(plain, **changes)


@asynccontextmanager
async def opened(
    relay: ScriptedRelay, clock: Clock | None = None, **changes: Any
) -> AsyncIterator[SmtpSession]:
    session = await SmtpRelay(config(relay.host, relay.port, **changes), clock or SystemClock()).connect()
    try:
        yield session
    finally:
        await session.close()


async def send(
    session: SmtpSession, *recipients: str, message: bytes = MESSAGE, go: Permit | None = None
) -> Outcome:
    envelope = Envelope(reverse_path=SENDER, recipients=recipients or (A,))
    return await asyncio.wait_for(session.transact(envelope, message, go or Permit()), 20)


def verdicts(outcome: Outcome) -> list[Verdict]:
    return [result.verdict for result in outcome.results.values()]


def mail_commands(relay: ScriptedRelay) -> list[str]:
    return [command for command in relay.commands if not command.startswith(("EHLO", "QUIT"))]


# --- what goes well ------------------------------------------------------------------------------


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
            assert await session.ready()
    assert relay.messages == [MESSAGE] * 5
    assert len(relay.peers) == 1


@pytest.mark.asyncio
async def test_a_relay_without_extensions_hears_of_none() -> None:
    async with ScriptedRelay({"EHLO": "502 5.5.1 What?"}) as relay, opened(relay) as session:
        assert not session.accepts_8bit()
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
        assert session.accepts_8bit()
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
        assert await session.ready()
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


# --- what the wire may carry -----------------------------------------------------------------------


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


# --- permission --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_without_permission_nothing_is_written_and_the_session_is_as_it_was() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        with pytest.raises(NotBegun):
            await send(session, go=Permit(may_begin=False))
        assert await session.ready()
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
            assert not await session.ready()
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
        while not relay.commands or relay.commands[-1] != "DATA":
            await asyncio.sleep(0.005)
        done, _ = await asyncio.wait([sending], timeout=SHORT)
        assert not done
        assert go.asked_for_dot == 0
        session.abort()
        assert verdicts(await sending) == [DEFERRED]


# --- what the relay refuses ----------------------------------------------------------------------------


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
async def test_without_a_recipient_there_is_no_data_but_a_reset() -> None:
    async with ScriptedRelay({"RCPT": "550 5.1.1 No"}) as relay, opened(relay) as session:
        outcome = await send(session, A, B)
    assert verdicts(outcome) == [REFUSED, REFUSED]
    assert outcome.session_usable
    assert [c.partition(" ")[0] for c in mail_commands(relay)] == ["MAIL", "RCPT", "RCPT", "RSET"]


@pytest.mark.asyncio
@pytest.mark.parametrize(("code", "verdict"), [("451 4.3.0", DEFERRED), ("554 5.7.1", REFUSED)])
@pytest.mark.parametrize(("moment", "phase"), [("MAIL", Phase.MAIL), ("DATA", Phase.DATA), (DOT, Phase.DOT)])
async def test_a_refusal_of_the_letter_is_for_all_and_the_session_is_reset(
    moment: str, phase: Phase, code: str, verdict: Verdict
) -> None:
    script: Script = {moment: [f"{code} No"], f"RCPT TO:<{B}>": ["550 5.1.1 No such user"]}
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
        assert not await session.ready()
    assert verdicts(outcome) == [REFUSED]
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_too_many_recipients_in_the_words_of_old_is_not_final() -> None:
    """RFC 5321 §4.5.3.1.10: after some were taken, a bare 552 is the limit on their number."""
    script: Script = {f"RCPT TO:<{B}>": "552 Too many recipients", f"RCPT TO:<{C}>": "552 5.2.2 Mailbox full"}
    async with ScriptedRelay(script) as relay, opened(relay) as session:
        assert verdicts(await send(session, A, B, C)) == [ACCEPTED, DEFERRED, REFUSED]


# --- what breaks -------------------------------------------------------------------------------------

PHASES = [
    ("MAIL", Phase.MAIL),
    ("RCPT", Phase.RCPT),
    ("DATA", Phase.DATA),
    (BODY, Phase.DATA),
    (DOT, Phase.DOT),
]
BREAKS: dict[str, Act] = {"drop": drop, "reset": reset}
LARGE = b"line\r\n" * 1_000_000


@pytest.mark.asyncio
@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize(("moment", "phase"), PHASES)
async def test_a_lost_connection_is_deferred_before_the_dot_and_uncertain_after_it(
    moment: str, phase: Phase, how: str
) -> None:
    async with ScriptedRelay({moment: BREAKS[how]}) as relay, opened(relay) as session:
        outcome = await send(session, A, B, message=LARGE)
        assert not await session.ready()
    assert verdicts(outcome) == [UNCERTAIN if phase is Phase.DOT else DEFERRED] * 2
    assert {result.phase for result in outcome.results.values()} == {phase}
    assert not outcome.session_usable


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("moment", "phase", "step"),
    [
        ("MAIL", Phase.MAIL, "command"),
        ("RCPT", Phase.RCPT, "command"),
        ("DATA", Phase.DATA, "data"),
        (BODY, Phase.DATA, "block"),
        (DOT, Phase.DOT, "dot"),
    ],
)
async def test_each_step_has_a_time_out_of_its_own(moment: str, phase: Phase, step: str) -> None:
    timeouts = replace(SHORTLY, **{step: SHORT})
    act = freeze if moment == BODY else stall
    async with (
        ScriptedRelay({moment: act}, receive_buffer=4096) as relay,
        opened(relay, timeouts=timeouts) as session,
    ):
        outcome = await asyncio.wait_for(send(session, message=LARGE * 2), 3)
    [result] = outcome.results.values()
    assert (result.verdict, result.phase) == (UNCERTAIN if phase is Phase.DOT else DEFERRED, phase)
    assert f"{SHORT:g}s" in result.text
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_a_reply_that_drips_does_not_stretch_its_time_out() -> None:
    drip = pieces(*[b"250-x\r\n"] * 60, b"250 x\r\n")
    timeouts = replace(SHORTLY, command=SHORT)
    async with ScriptedRelay({"MAIL": drip}) as relay, opened(relay, timeouts=timeouts) as session:
        assert verdicts(await send(session)) == [DEFERRED]


@pytest.mark.asyncio
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(("moment", "phase"), [p for p in PHASES if p[0] != BODY])
async def test_421_defers_and_ends_the_session(moment: str, phase: Phase, closes: bool) -> None:
    bye = "421 4.3.2 Shutting down"
    async with ScriptedRelay({moment: then(f"{bye}\r\n".encode(), *[drop] * closes)}) as relay:
        async with opened(relay) as session:
            outcome = await send(session, A, B)
            assert not await session.ready()
    assert verdicts(outcome) == [DEFERRED, DEFERRED]
    result = outcome.results[A]
    assert (result.phase, result.code, result.enhanced) == (phase, 421, "4.3.2")
    assert "Shutting down" in result.text
    assert not outcome.session_usable
    assert "RSET" not in relay.commands


@pytest.mark.asyncio
async def test_421_in_the_middle_of_the_message_says_why_it_was_deferred() -> None:
    async with ScriptedRelay({BODY: then("421 4.3.1 Disk full", freeze)}, receive_buffer=4096) as relay:
        async with opened(relay) as session:
            outcome = await send(session, message=LARGE)
    [result] = outcome.results.values()
    assert (result.verdict, result.phase, result.code) == (DEFERRED, Phase.DATA, 421)
    assert "Disk full" in result.text


@pytest.mark.asyncio
async def test_a_refused_recipient_stays_refused_when_the_rest_is_lost() -> None:
    async with ScriptedRelay({f"RCPT TO:<{A}>": "550 5.1.1 No", "DATA": drop}) as relay:
        async with opened(relay) as session:
            assert verdicts(await send(session, A, B)) == [REFUSED, DEFERRED]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n",
        b"ok\r\n",
        b"\xff\x00\r\n",
        b"999 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 " + b"x" * 5000 + b"\r\n",
    ]
    + [b"250-x\r\n" * 200, b"x" * 10_000],
)
@pytest.mark.parametrize("moment", ["MAIL", DOT])
async def test_garbage_ends_the_session(moment: str, garbage: bytes) -> None:
    async with ScriptedRelay({moment: then(garbage)}) as relay, opened(relay) as session:
        outcome = await send(session)
    assert verdicts(outcome) == [UNCERTAIN if moment == DOT else DEFERRED]
    assert not outcome.session_usable


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("moment", "reply", "verdict"),
    [
        ("MAIL", "354 x", DEFERRED),
        ("RCPT", "354 x", DEFERRED),
        ("DATA", "250 x", DEFERRED),
        (DOT, "354 x", UNCERTAIN),
    ],
)
async def test_a_reply_that_makes_no_sense_ends_the_session(
    moment: str, reply: str, verdict: Verdict
) -> None:
    async with ScriptedRelay({moment: then(f"{reply}\r\n".encode())}) as relay, opened(relay) as session:
        outcome = await send(session)
    assert verdicts(outcome) == [verdict]
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_replies_in_pieces_and_of_many_lines_are_understood() -> None:
    script: Script = {
        "MAIL": pieces(b"2", b"50-one\r", b"\n250", b" two\r\n"),
        f"RCPT TO:<{A}>": then(b"550-5.1.1 No\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n"),
        DOT: pieces(b"250-2.0.0 a\r\n", b"250 2.0.0 b\r\n"),
    }
    async with ScriptedRelay(script) as relay, opened(relay) as session:
        outcome = await send(session, A, B)
    assert outcome.results[A].text == "No such user"
    assert outcome.results[B].text == "a b"
    assert outcome.session_usable


@pytest.mark.asyncio
async def test_the_relays_words_are_cleaned_and_cut() -> None:
    async with ScriptedRelay({"MAIL": "550 5.0.0 \x1b[2J" + "very " * 500 + "long"}) as relay:
        async with opened(relay) as session:
            outcome = await send(session)
    [result] = outcome.results.values()
    assert len(result.text) == 500
    assert result.text.isprintable()


# --- between transactions -------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "more",
    [b"421 4.4.2 Idle too long\r\n", b"250 2.0.0 Ok\r\n", b"250-half", b"\r\n"],
    ids=["421", "250", "half", "empty"],
)
async def test_what_comes_unasked_ends_the_session_and_answers_nothing(more: bytes) -> None:
    async with ScriptedRelay({DOT: [then(b"250 2.0.0 Ok\r\n" + more)]}) as relay:
        async with opened(relay) as session:
            outcome = await send(session)
            assert verdicts(outcome) == [ACCEPTED]
            assert not outcome.session_usable
            assert not await session.ready()
            assert verdicts(await send(session)) == [DEFERRED]
    assert len([c for c in relay.commands if c.startswith("MAIL")]) == 1


@pytest.mark.asyncio
async def test_a_relay_that_goes_while_the_session_idles_is_noticed() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        await send(session)
        await relay.peers[0].say("421 4.4.2 Idle too long")
        while await session.ready():
            await asyncio.sleep(0)
        assert [(r.verdict, r.phase) for r in (await send(session)).results.values()] == [
            (DEFERRED, Phase.MAIL)
        ]


@pytest.mark.asyncio
async def test_after_idling_the_relay_is_asked_whether_it_is_there() -> None:
    clock = ManualClock()
    async with ScriptedRelay() as relay, opened(relay, clock) as session:
        assert await session.ready()
        assert "NOOP" not in relay.commands
        clock.forward(3.5)
        assert await session.ready()
        assert await session.ready()
        assert relay.commands.count("NOOP") == 1
        clock.forward(2)
        await send(session)
        clock.forward(2)
        assert await session.ready()
        assert relay.commands.count("NOOP") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer", ["421 4.4.2 Bye", "500 What?", stall, drop], ids=["421", "500", "stall", "drop"]
)
async def test_a_session_that_does_not_answer_well_is_not_ready(answer: Answer) -> None:
    clock = ManualClock()
    async with ScriptedRelay({"NOOP": answer}) as relay:
        async with opened(relay, clock, timeouts=replace(SHORTLY, command=SHORT)) as session:
            clock.forward(3.5)
            assert not await session.ready()


@pytest.mark.asyncio
@pytest.mark.parametrize(("moment", "phase"), PHASES)
async def test_abort_ends_a_transaction_at_once(moment: str, phase: Phase) -> None:
    act = freeze if moment == BODY else stall
    reached = asyncio.Event()

    async def reach(_: Any) -> None:
        reached.set()

    async with ScriptedRelay({moment: then(b"", reach, act)}, receive_buffer=4096) as relay:
        async with opened(relay) as session:
            sending = asyncio.create_task(send(session, A, B, message=LARGE * 2))
            await asyncio.wait_for(reached.wait(), 5)
            session.abort()
            outcome = await asyncio.wait_for(sending, 1)
            assert not await session.ready()
    assert verdicts(outcome) == [UNCERTAIN if phase is Phase.DOT else DEFERRED] * 2
    assert outcome.results[A].phase is phase
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_a_cancelled_transaction_leaves_no_session_that_is_out_of_step() -> None:
    async with ScriptedRelay({"RCPT": stall}) as relay, opened(relay) as session:
        sending = asyncio.create_task(send(session))
        while "RCPT" not in "".join(relay.commands):
            await asyncio.sleep(0.005)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not await session.ready()


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [stall, drop, reset, "500 What?"], ids=["stall", "drop", "reset", "500"])
async def test_close_ends_whatever_the_relay_does(answer: Answer) -> None:
    async with ScriptedRelay({"QUIT": answer}) as relay:
        async with opened(relay, timeouts=replace(SHORTLY, command=SHORT)) as session:
            await send(session)
        await asyncio.wait_for(session.close(), 1)  # a second time does no harm
        assert not await session.ready()


# --- opening a session --------------------------------------------------------------------------------


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
    async with ScriptedRelay({GREETING: pieces(*[b""] * 30, b"220 at last\r\n")}) as relay:
        async with opened(relay, timeouts=timeouts) as session:
            assert verdicts(await send(session)) == [ACCEPTED]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("offer", "commands"),
    [
        ("AUTH PLAIN LOGIN", ["AUTH PLAIN " + base64.b64encode("\0us@er\0пароль".encode()).decode()]),
        (
            "AUTH LOGIN",
            [
                "AUTH LOGIN " + base64.b64encode(b"us@er").decode(),
                base64.b64encode("пароль".encode()).decode(),
            ],
        ),
    ],
)
async def test_the_session_logs_in(offer: str, commands: list[str]) -> None:
    async with ScriptedRelay(offers=[offer]) as relay:
        async with opened(relay, user="us@er", password="пароль", auth_cleartext=True) as session:
            assert verdicts(await send(session)) == [ACCEPTED]
    assert relay.commands[1 : 1 + len(commands)] == commands


@pytest.mark.asyncio
async def test_a_mechanism_that_the_relay_does_not_know_after_all_gives_way_to_the_next() -> None:
    script: Script = {"AUTH": ["504 5.5.4 No PLAIN", "235 2.7.0 Ok"]}
    async with ScriptedRelay(script) as relay:
        error = await refused(relay, user="u", password="p", auth_cleartext=True)
    assert [c.split()[1] for c in relay.commands if c.startswith("AUTH")] == ["PLAIN", "LOGIN"]
    assert error.phase == "auth"  # this script does not ask for the password


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "permanent", "hint"),
    [("535 5.7.8 Bad credentials", True, True), ("454 4.7.0 Temporary failure", False, False)],
)
async def test_a_refused_login_says_which_settings_to_look_at(
    reply: str, permanent: bool, hint: bool
) -> None:
    async with ScriptedRelay({"AUTH": reply}) as relay:
        error = await refused(relay, user="u", password="p", auth_cleartext=True)
    assert (error.phase, error.code, error.permanent) == ("auth", int(reply[:3]), permanent)
    assert ("SMTP_PASSWORD" in str(error)) is hint


@pytest.mark.asyncio
async def test_a_password_that_the_relay_repeats_stays_out_of_the_error() -> None:
    secret = "geheim123"
    coded = base64.b64encode(f"\0u\0{secret}".encode()).decode()
    async with ScriptedRelay({"AUTH": f"535 5.7.8 {coded} means {secret}"}) as relay:
        error = await refused(relay, user="u", password=secret, auth_cleartext=True)
    assert secret not in str(error)
    assert coded not in str(error)


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


def test_the_configuration_shows_no_password() -> None:
    assert "geheim" not in repr(config("h", 1, password="geheim"))


def test_a_relay_is_named_by_host_and_port() -> None:
    assert SmtpRelay(config("mx.example.test", 25), SystemClock()).name == "mx.example.test:25"
    assert SmtpRelay(config("::1", 25), SystemClock()).name == "[::1]:25"


# --- other relays, other loops ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_both_event_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        async with ScriptedRelay({f"RCPT TO:<{B}>": "550 5.1.1 No"}) as relay, opened(relay) as session:
            assert verdicts(await send(session, A, B, message=LARGE)) == [ACCEPTED, REFUSED]
            assert verdicts(await send(session, B)) == [REFUSED]
            assert verdicts(await send(session)) == [ACCEPTED]
        assert relay.messages == [LARGE, MESSAGE]
        timeouts = replace(SHORTLY, block=SHORT)
        async with ScriptedRelay({BODY: freeze}, receive_buffer=4096) as relay:
            async with opened(relay, timeouts=timeouts) as session:
                assert verdicts(await send(session, message=LARGE * 2)) == [DEFERRED]
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
    controller = Controller(keep, hostname="127.0.0.1", port=0, server_kwargs={"enable_SMTPUTF8": True})
    await asyncio.to_thread(controller.start)
    try:
        port = controller.server.sockets[0].getsockname()[1]
        session = await SmtpRelay(config("127.0.0.1", port), SystemClock()).connect()
        message = "Subject: Hi\r\n\r\n.Привет\r\n".encode()
        assert session.accepts_8bit()
        for _ in range(3):
            assert verdicts(await send(session, A, "иван@example.test", message=message)) == [
                ACCEPTED,
                ACCEPTED,
            ]
        await session.close()
    finally:
        await asyncio.to_thread(controller.stop)
    assert keep.kept == [([A, "иван@example.test"], ".Привет\r\n".encode())] * 3


@pytest.mark.asyncio
async def test_smtp_sink(smtp_sink: SmtpSink) -> None:
    session = await SmtpRelay(config(smtp_sink.host, smtp_sink.port), SystemClock()).connect()
    for _ in range(200):
        assert verdicts(await send(session, A, B)) == [ACCEPTED, ACCEPTED]
    assert await session.ready()
    await session.close()


def test_the_extensions_used_here_are_offered_by_default() -> None:
    """The tests above would prove less if the scripted relay offered nothing."""
    assert {"8BITMIME", "SMTPUTF8"} < set(OFFERS)
