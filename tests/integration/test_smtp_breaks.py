"""What a session makes of relays that break off, stall, babble or end it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lab.scripted import (
    BODY,
    DOT,
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
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Phase, Verdict
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import NotBegun
from mailsender.smtp.replies import MAX_EMPTY
from tests.clocks import ManualClock
from tests.sessions import (
    ACCEPTED,
    DEFERRED,
    LARGE,
    MESSAGE,
    REFUSED,
    SHORT,
    SHORTLY,
    UNCERTAIN,
    A,
    B,
    config,
    opened,
    send,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("pipelined")

# --- what breaks ------------------------------------------------------------------------------

PHASES = [
    ("MAIL", Phase.MAIL),
    ("RCPT", Phase.RCPT),
    ("DATA", Phase.DATA),
    (BODY, Phase.DATA),
    (DOT, Phase.DOT),
]
BREAKS: dict[str, Act] = {"drop": drop, "reset": reset}


@pytest.mark.asyncio
@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize(("moment", "phase"), PHASES)
async def test_a_lost_connection_is_deferred_before_the_dot_and_uncertain_after_it(
    moment: str, phase: Phase, how: str, pipelined: bool
) -> None:
    async with ScriptedRelay({moment: BREAKS[how]}, receive_buffer=4096) as relay, opened(relay) as session:
        outcome = await send(session, A, B, message=LARGE if moment == BODY else MESSAGE)
        assert not await session.check_alive()
    assert verdicts(outcome) == [UNCERTAIN if phase is Phase.DOT else DEFERRED] * 2
    assert {result.phase for result in outcome.results.values()} <= known_phases(phase, pipelined)
    assert not outcome.session_usable


def known_phases(phase: Phase, pipelined: bool) -> set[Phase]:
    """How far a transaction may seem to have come that was in `phase` when the connection went.

    Pipelined replies that were on their way then are not always seen.
    """
    if not pipelined or phase is Phase.DOT:
        return {phase}
    phases = [Phase.MAIL, Phase.RCPT, Phase.DATA]
    return set(phases[: phases.index(phase) + 1])


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
async def test_each_step_has_a_time_out_of_its_own(
    moment: str, phase: Phase, step: str, pipelined: bool
) -> None:
    timeouts = replace(SHORTLY, **{step: SHORT})
    message = LARGE if moment == BODY else MESSAGE
    act = freeze if moment == BODY else stall
    async with ScriptedRelay({moment: act}, receive_buffer=4096) as relay:
        adapter = SmtpRelay(config(relay.host, relay.port, timeouts=timeouts), SystemClock())
        if pipelined and moment in {"MAIL", "RCPT", "DATA"}:
            # What was sent ahead may have been lost on the way: that is tried once more without.
            with pytest.raises(NotBegun):
                await send(await adapter.connect())
        session = await adapter.connect()
        outcome = await asyncio.wait_for(send(session, message=message), 3)
    [result] = outcome.results.values()
    assert (result.verdict, result.phase) == (UNCERTAIN if phase is Phase.DOT else DEFERRED, phase)
    assert f"{SHORT:g}s" in result.text
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_a_reply_that_drips_does_not_stretch_its_time_out(pipelined: bool) -> None:
    drip = pieces(*[b"250-x\r\n"] * 60, b"250 x\r\n")
    timeouts = replace(SHORTLY, command=SHORT)
    async with ScriptedRelay({"MAIL": drip}) as relay, opened(relay, timeouts=timeouts) as session:
        if pipelined:
            with pytest.raises(NotBegun):
                await send(session)
        else:
            assert verdicts(await send(session)) == [DEFERRED]


@pytest.mark.asyncio
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(("moment", "phase"), [p for p in PHASES if p[0] != BODY])
async def test_421_defers_and_ends_the_session(moment: str, phase: Phase, closes: bool) -> None:
    bye = "421 4.3.2 Shutting down"
    async with (
        ScriptedRelay({moment: then(f"{bye}\r\n".encode(), *[drop] * closes)}) as relay,
        opened(relay) as session,
    ):
        outcome = await send(session, A, B)
        assert not await session.check_alive()
    assert verdicts(outcome) == [DEFERRED, DEFERRED]
    result = outcome.results[A]
    assert (result.phase, result.code, result.enhanced) == (phase, 421, "4.3.2")
    assert "Shutting down" in result.text
    assert not outcome.session_usable
    assert "RSET" not in relay.commands


@pytest.mark.asyncio
async def test_421_in_the_middle_of_the_message_says_why_it_was_deferred() -> None:
    async with (
        ScriptedRelay({BODY: then("421 4.3.1 Disk full", freeze)}, receive_buffer=4096) as relay,
        opened(relay) as session,
    ):
        outcome = await send(session, message=LARGE)
    [result] = outcome.results.values()
    assert (result.verdict, result.phase, result.code) == (DEFERRED, Phase.DATA, 421)
    assert "Disk full" in result.text


@pytest.mark.asyncio
async def test_a_refused_recipient_stays_refused_when_the_rest_is_lost() -> None:
    async with (
        ScriptedRelay({f"RCPT TO:<{A}>": "550 5.1.1 No", "DATA": drop}) as relay,
        opened(relay) as session,
    ):
        assert verdicts(await send(session, A, B)) == [REFUSED, DEFERRED]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n" * (MAX_EMPTY + 1),
        b" \r\n",
        b"ok\r\n",
        b"\xff\x00\r\n",
        b"999 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 " + b"x" * 5000 + b"\r\n",
        b"250-x\r\n" * 200,
        b"x" * 10_000,
    ],
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
    async with (
        ScriptedRelay({"MAIL": "550 5.0.0 \x1b[2J" + "very " * 500 + "long"}) as relay,
        opened(relay) as session,
    ):
        outcome = await send(session)
    [result] = outcome.results.values()
    assert len(result.text) == 500
    assert result.text.isprintable()


# --- between transactions ---------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "more",
    [b"421 4.4.2 Idle too long\r\n", b"250 2.0.0 Ok\r\n", b"250-half", b" \r\n", b"\r\n" * (MAX_EMPTY + 1)],
    ids=["421", "250", "half", "a space", "too many empty"],
)
async def test_what_comes_unasked_ends_the_session_and_answers_nothing(more: bytes) -> None:
    async with (
        ScriptedRelay({DOT: [then(b"250 2.0.0 Ok\r\n" + more)]}) as relay,
        opened(relay) as session,
    ):
        outcome = await send(session)
        assert verdicts(outcome) == [ACCEPTED]
        assert not outcome.session_usable
        assert not await session.check_alive()
        with pytest.raises(
            NotBegun
        ):  # it had carried a letter: what ended it has nothing to do with this one
            await send(session)
    assert len([c for c in relay.commands if c.startswith("MAIL")]) == 1


@pytest.mark.asyncio
async def test_a_relay_that_goes_while_the_session_idles_is_noticed() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        await send(session)
        await relay.peers[0].say("421 4.4.2 Idle too long")
        await asyncio.wait_for(relay.peers[0].over.wait(), 5)  # we have closed it at once
        assert not await session.check_alive()
        with pytest.raises(NotBegun):
            await send(session)


@pytest.mark.asyncio
async def test_the_first_letter_of_a_session_that_has_gone_is_told_so() -> None:
    """Else a relay that drops every session would be asked again and again, at once, without end."""
    async with ScriptedRelay() as relay, opened(relay) as session:
        await relay.peers[0].say("421 4.4.2 Not today")
        await asyncio.wait_for(relay.peers[0].over.wait(), 5)
        outcome = await send(session)
        with pytest.raises(NotBegun):
            await send(session)
    [result] = outcome.results.values()
    assert (result.verdict, result.phase, result.code) == (DEFERRED, Phase.MAIL, 421)


@pytest.mark.asyncio
async def test_after_idling_the_relay_is_asked_whether_it_is_there() -> None:
    clock = ManualClock()
    async with ScriptedRelay() as relay, opened(relay, clock) as session:
        assert await session.check_alive()
        assert "NOOP" not in relay.commands
        clock.forward(3.5)
        assert await session.check_alive()
        assert await session.check_alive()
        assert relay.commands.count("NOOP") == 1
        clock.forward(2)
        await send(session)
        clock.forward(2)
        assert await session.check_alive()
        assert relay.commands.count("NOOP") == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer", ["421 4.4.2 Bye", "500 What?", stall, drop], ids=["421", "500", "stall", "drop"]
)
async def test_a_session_that_does_not_answer_well_is_not_ready(answer: Answer) -> None:
    clock = ManualClock()
    async with (
        ScriptedRelay({"NOOP": answer}) as relay,
        opened(relay, clock, timeouts=replace(SHORTLY, command=SHORT)) as session,
    ):
        clock.forward(3.5)
        assert not await session.check_alive()


@pytest.mark.asyncio
@pytest.mark.parametrize(("moment", "phase"), PHASES)
async def test_abort_ends_a_transaction_at_once(moment: str, phase: Phase, pipelined: bool) -> None:
    act = freeze if moment == BODY else stall
    async with ScriptedRelay({moment: act}, receive_buffer=4096) as relay, opened(relay) as session:
        sending = asyncio.create_task(send(session, A, B, message=LARGE if moment == BODY else MESSAGE))
        await relay.reached(moment)
        session.abort()
        outcome = await asyncio.wait_for(sending, 1)
        assert not await session.check_alive()
    assert verdicts(outcome) == [UNCERTAIN if phase is Phase.DOT else DEFERRED] * 2
    assert outcome.results[A].phase in known_phases(phase, pipelined)
    assert not outcome.session_usable


@pytest.mark.asyncio
async def test_a_cancelled_transaction_leaves_no_session_that_is_out_of_step() -> None:
    async with ScriptedRelay({"RCPT": stall}) as relay, opened(relay) as session:
        sending = asyncio.create_task(send(session))
        await relay.reached("RCPT")
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not await session.check_alive()


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [stall, drop, reset, "500 What?"], ids=["stall", "drop", "reset", "500"])
async def test_close_ends_whatever_the_relay_does(answer: Answer) -> None:
    async with ScriptedRelay({"QUIT": answer}) as relay:
        async with opened(relay, timeouts=replace(SHORTLY, command=SHORT)) as session:
            await send(session)
        await asyncio.wait_for(session.close(), 1)  # a second time does no harm
        assert not await session.check_alive()
