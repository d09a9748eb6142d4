"""Pipelined sessions (RFC 2920): which letter and which step each reply, or a lost connection, belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lab.parts import SmtpSink
from lab.scripted import BODY, DOT, OFFERS, Act, Peer, Script, ScriptedRelay, drop, pieces, stall, then
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Outcome, Phase
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import NotBegun
from mailsender.smtp.session import SmtpSession
from tests.sessions import (
    ACCEPTED,
    DEFERRED,
    LARGE,
    MESSAGE,
    REFUSED,
    SENDER,
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

PIPELINING = (*OFFERS, "PIPELINING")
MAIL = f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}"


@asynccontextmanager
async def pipelined(script: Script | None = None) -> AsyncIterator[tuple[ScriptedRelay, SmtpSession]]:
    async with ScriptedRelay(script, offers=PIPELINING) as relay, opened(relay) as session:
        assert session.pipeline_depth == 2
        yield relay, session


async def both(session: SmtpSession, first: str = A, second: str = B) -> list[Outcome | BaseException]:
    """Two letters at once, in this order."""
    return await asyncio.gather(send(session, first), send(session, second), return_exceptions=True)


def verdict_of(outcome: Outcome | BaseException) -> object:
    return verdicts(outcome)[0] if isinstance(outcome, Outcome) else type(outcome)


@pytest.mark.asyncio
async def test_a_relay_that_does_not_offer_it_is_asked_for_one_at_a_time() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        assert session.pipeline_depth == 1
        first, second = await both(session)
    assert verdict_of(first) is verdict_of(second) is ACCEPTED
    assert [c.partition(" ")[0] for c in mail_commands(relay)] == ["MAIL", "RCPT", "DATA"] * 2


@pytest.mark.asyncio
async def test_the_next_envelope_is_heard_before_the_reply_to_the_dot_is_read() -> None:
    """Message, dot and the next MAIL come in one piece: the relay finds them when it reads the message."""
    seen: list[int] = []

    async def look(peer):  # type: ignore[no-untyped-def]
        seen.append(bytes(peer.reader._buffer).count(b"MAIL FROM"))
        await peer.say("250 2.0.0 Ok")

    async with pipelined({DOT: [look]}) as (relay, session):
        first, second = await both(session)
    assert verdict_of(first) is verdict_of(second) is ACCEPTED
    assert seen == [1]
    assert relay.messages == [MESSAGE, MESSAGE]


@pytest.mark.asyncio
async def test_each_letter_gets_its_own_answers() -> None:
    script: Script = {
        f"RCPT TO:<{B}>": "550 5.1.1 No B",
        DOT: ["250 2.0.0 one", "250 2.0.0 two", "451 4.3.0 three", "250 2.0.0 four"],
    }
    async with pipelined(script) as (_, session):
        letters = [(A, B), (C,), (A,), (B, C)]
        outcomes = await asyncio.gather(*(send(session, *addresses) for addresses in letters))
    told = [[(r.verdict, r.text) for r in outcome.results.values()] for outcome in outcomes]
    assert told == [
        [(ACCEPTED, "one"), (REFUSED, "No B")],
        [(ACCEPTED, "two")],
        [(DEFERRED, "three")],
        [(REFUSED, "No B"), (ACCEPTED, "four")],
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("reply", ["550 5.7.1 No", "451 4.7.1 Later", "503 5.5.1 Sequence"])
@pytest.mark.parametrize("data", ["354 Go on", "503 5.5.1 No MAIL", "554 5.5.1 No recipients"])
async def test_a_refused_mail_in_mid_pipeline_is_for_its_letter_alone(reply: str, data: str) -> None:
    after = {"RCPT": ["250 2.1.5 Ok", "503 5.5.1 Need MAIL"], "DATA": ["354 Go on", data]}
    async with pipelined({"MAIL": ["250 2.1.0 Ok", reply], **after}) as (relay, session):
        first, second = await both(session)
        third = await send(session, C)
    expected = DEFERRED if reply.startswith("4") else REFUSED
    assert [verdict_of(each) for each in (first, second, third)] == [ACCEPTED, expected, ACCEPTED]
    assert isinstance(second, Outcome)
    assert (second.results[B].phase, second.results[B].text) == (Phase.MAIL, reply[10:])
    assert relay.messages == [MESSAGE, *[b""] * data.startswith("354"), MESSAGE]
    assert mail_commands(relay).count("RSET") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("first_dot", ["250 2.0.0 Ok", "554 5.7.1 Spam"])
@pytest.mark.parametrize("mail", ["550 5.7.1 No", "503 5.5.1 Nested MAIL"])
async def test_a_relay_that_takes_recipients_without_a_mail_gets_no_dot(first_dot: str, mail: str) -> None:
    """The dot would send an empty message to them, and to those of the letter before that it holds on to."""
    async with pipelined({"MAIL": ["250 2.1.0 Ok", mail], DOT: [first_dot]}) as (relay, session):
        first, second = await both(session)
        assert not await session.check_alive()
    assert verdict_of(first) is (ACCEPTED if first_dot.startswith("250") else REFUSED)
    held_on = first_dot.startswith("554") and mail.startswith("503")
    assert verdict_of(second) is (NotBegun if held_on else REFUSED)
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
@pytest.mark.parametrize("mail", ["250 2.1.0 Ok", "550 5.7.1 No", "503 5.5.1 Nested MAIL"])
async def test_nor_does_one_that_goes_on_with_the_recipients_of_a_refused_letter(mail: str) -> None:
    """It refuses those of the second one, and its 354 is for those of the first."""
    script: Script = {
        DOT: ["554 5.7.1 Spam"],
        "MAIL": ["250 2.1.0 Ok", mail],
        "RCPT": ["250 2.1.5 Ok", "550 5.1.1 No"],
    }
    async with pipelined(script) as (relay, session):
        first, second = await both(session)
        assert not await session.check_alive()
    assert verdict_of(first) is REFUSED
    assert verdict_of(second) is (NotBegun if mail.startswith("503") else REFUSED)
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
@pytest.mark.parametrize("lone", ["250 2.0.0 Ok: queued", "554 5.5.1 No valid recipients", "503 5.5.1 What?"])
async def test_what_a_lone_dot_comes_to_is_nobodys_answer(lone: str) -> None:
    async with pipelined({f"RCPT TO:<{A}>": "550 5.1.1 No", DOT: [lone]}) as (relay, session):
        first, second = await both(session)
    assert (verdict_of(first), verdict_of(second)) == (REFUSED, ACCEPTED)
    assert relay.messages == [b"", MESSAGE]


@pytest.mark.asyncio
@pytest.mark.parametrize("how", [drop, then("421 4.3.2 Bye", drop)], ids=["drop", "421"])
async def test_a_connection_lost_at_the_dot_leaves_one_letter_uncertain_at_most(how: Act) -> None:
    async with pipelined({DOT: how}) as (relay, session):
        first, second = await both(session)
        assert not await session.check_alive()
    assert (verdict_of(first), verdict_of(second)) == (DEFERRED if how is not drop else UNCERTAIN, NotBegun)
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
@pytest.mark.parametrize("moment", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", [drop, then("421 4.3.2 Bye", drop)], ids=["drop", "421"])
async def test_a_session_that_ends_at_the_second_letter(moment: str, how: Act) -> None:
    """What ended before a word was said about it is nothing about it; from then on it is deferred."""
    good = {"MAIL": "250 2.1.0 Ok", "RCPT": "250 2.1.5 Ok", "DATA": "354 Go on"}[moment]
    async with pipelined({moment: [good, how]}) as (_, session):
        first, second = await both(session)
    assert verdict_of(first) is ACCEPTED
    assert verdict_of(second) is (NotBegun if moment == "MAIL" else DEFERRED)


@pytest.mark.asyncio
async def test_a_refused_dot_does_not_end_the_letter_behind_it() -> None:
    """No RSET then: it would take back the envelope that was said already."""
    async with pipelined({DOT: ["554 5.7.1 Spam"]}) as (relay, session):
        first, second = await both(session)
    assert (verdict_of(first), verdict_of(second)) == (REFUSED, ACCEPTED)
    assert "RSET" not in mail_commands(relay)


@pytest.mark.asyncio
async def test_a_relay_that_holds_on_to_a_refused_letter_is_reset_and_the_next_one_tried_again() -> None:
    script: Script = {
        DOT: ["554 5.7.1 Spam"],
        "MAIL": ["250 2.1.0 Ok", "503 5.5.1 Nested MAIL"],
        "RCPT": ["250 2.1.5 Ok", "503 5.5.1 Sequence"],
        "DATA": ["354 Go on", "503 5.5.1 Sequence"],
    }
    async with pipelined(script) as (relay, session):
        first, second = await both(session)
        assert await session.check_alive()
        again = await send(session, B)
    assert [verdict_of(each) for each in (first, second, again)] == [REFUSED, NotBegun, ACCEPTED]
    assert mail_commands(relay).count("RSET") == 1


@pytest.mark.asyncio
async def test_replies_in_pieces_and_of_many_lines() -> None:
    script: Script = {
        "MAIL": [pieces(b"250-2.1.0 a\r\n2", b"50 2.1.0 b\r\n")],
        DOT: [pieces(b"250 2.", b"0.0 one\r", b"\n")],
        f"RCPT TO:<{B}>": [pieces(b"550-5.1.1 not\r\n550 5.1.1 he", b"re\r", b"\n")],
    }
    async with pipelined(script) as (_, session):
        first, second = await asyncio.gather(send(session, A), send(session, B, C))
    assert first.results[A].text == "one"
    assert (second.results[B].verdict, second.results[B].text) == (REFUSED, "not here")
    assert second.results[C].verdict is ACCEPTED


@pytest.mark.asyncio
@pytest.mark.parametrize("more", [b"250 2.0.0 Ok\r\n", b"250-half", b" \r\n", b"nonsense\r\n"])
async def test_what_nobody_asked_for_ends_the_session_and_sends_nothing_more(more: bytes) -> None:
    """Three replies to DATA's one: they could be taken for those of the message behind it."""
    async with pipelined({"DATA": [then(b"354 Go on\r\n" + more)]}) as (relay, session):
        first, second = await both(session)
    assert (verdict_of(first), verdict_of(second)) == (DEFERRED, NotBegun)
    assert relay.messages == []


@pytest.mark.asyncio
async def test_a_letter_without_permission_is_left_out_of_the_write() -> None:
    async with pipelined() as (relay, session):
        outcomes = await asyncio.gather(
            send(session, A),
            send(session, B, go=Permit(may_begin=False)),
            send(session, C),
            return_exceptions=True,
        )
    assert [verdict_of(each) for each in outcomes] == [ACCEPTED, NotBegun, ACCEPTED]
    assert [c for c in mail_commands(relay) if c.startswith("RCPT")] == [f"RCPT TO:<{A}>", f"RCPT TO:<{C}>"]


@pytest.mark.asyncio
async def test_a_letter_that_may_not_be_ended_takes_the_next_one_with_it_unharmed() -> None:
    async with pipelined() as (relay, session):
        first = asyncio.create_task(send(session, A, go=Permit(may_end=False)))
        await asyncio.sleep(0)
        second = asyncio.create_task(send(session, B))
        assert verdict_of(await first) is DEFERRED
        with pytest.raises(NotBegun):
            await second
    assert relay.messages == []


@pytest.mark.asyncio
async def test_a_large_message_between_small_ones() -> None:
    async with pipelined() as (relay, session):
        outcomes = await asyncio.gather(send(session, A), send(session, B, message=LARGE), send(session, C))
    assert [verdict_of(each) for each in outcomes] == [ACCEPTED] * 3
    assert relay.messages == [MESSAGE, LARGE, MESSAGE]


@pytest.mark.asyncio
@pytest.mark.parametrize("message", [MESSAGE, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("reached", ["RCPT", BODY])
async def test_nothing_is_asked_in_the_middle_of_a_letter(reached: str, message: bytes) -> None:
    """A NOOP behind DATA would be a line of the message, and the reply to the dot its answer."""
    go_on = asyncio.Event()

    async def wait(peer: Peer) -> None:
        await go_on.wait()
        if reached == "RCPT":
            await peer.say("250 2.1.5 Ok")

    async with pipelined({reached: wait}) as (relay, session):
        sending = asyncio.create_task(send(session, A, message=message))
        await relay.reached(reached)
        alive = asyncio.create_task(session.check_alive(ask=True))
        await asyncio.sleep(0.05)
        go_on.set()
        assert verdict_of(await sending) is ACCEPTED
        assert await alive
    assert relay.messages == [message]
    assert "NOOP" not in relay.commands


@pytest.mark.asyncio
async def test_a_letter_waits_for_the_answer_to_a_question() -> None:
    """Two may have places in a session that idled: one asks whether it is there, and the other begins."""
    go_on, behind = asyncio.Event(), []

    async def wait(peer: Peer) -> None:
        await go_on.wait()
        behind.append(bytes(peer.reader._buffer))
        await peer.say("250 2.0.0 Ok")

    async with pipelined({"NOOP": wait}) as (relay, session):
        alive = asyncio.create_task(session.check_alive(ask=True))
        await relay.reached("NOOP")
        sending = [asyncio.create_task(send(session, each)) for each in (A, B)]
        await asyncio.sleep(0.05)
        go_on.set()
        assert await alive
        assert [verdict_of(await each) for each in sending] == [ACCEPTED, ACCEPTED]
    assert relay.messages == [MESSAGE, MESSAGE]
    assert behind == [b""]


@pytest.mark.asyncio
async def test_the_deadline_of_a_dot_is_not_stretched_by_the_letters_behind_it() -> None:
    async with pipelined({DOT: stall}) as (relay, session):
        session._dialogue._learned.dot = 0.3
        first = asyncio.create_task(send(session, A))
        await relay.reached(DOT)
        second = asyncio.create_task(send(session, B))
        outcome = await asyncio.wait_for(first, 2)
        with pytest.raises(NotBegun):
            await second
    assert verdict_of(outcome) is UNCERTAIN
    assert "0.3s" in outcome.results[A].text


@pytest.mark.asyncio
async def test_a_cancelled_letter_that_was_not_begun_harms_nobody() -> None:
    async with pipelined() as (relay, session):
        first = asyncio.create_task(send(session, A))
        await asyncio.sleep(0)
        second = asyncio.create_task(send(session, B))
        await asyncio.sleep(0)
        second.cancel()
        assert verdict_of(await first) is ACCEPTED
        assert await session.check_alive()
    assert relay.messages == [MESSAGE]


@pytest.mark.asyncio
async def test_smtp_sink_takes_many_at_once(smtp_sink: SmtpSink) -> None:
    session = await SmtpRelay(config(smtp_sink.host, smtp_sink.port), SystemClock()).connect()
    assert session.pipeline_depth == 2
    outcomes = await asyncio.gather(*(send(session, A, B) for _ in range(300)))
    assert all(verdicts(each) == [ACCEPTED, ACCEPTED] for each in outcomes)
    await session.close()
