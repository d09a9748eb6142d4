"""A sender that is tried without a letter: what the relay says, and what the session is like afterwards."""

from __future__ import annotations

import pytest

from lab.scripted import Answer, ScriptedRelay, drop
from mailsender.model.letter import Phase, Verdict
from tests.sessions import ACCEPTED, DEFERRED, REFUSED, SENDER, A, mail_commands, opened, send, verdicts

TRIED = [f"MAIL FROM:<{SENDER}>", "RSET"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "verdict", "code", "text"),
    [
        ("250 2.1.0 Ok", ACCEPTED, 250, "Ok"),
        ("451 4.7.1 Come back", DEFERRED, 451, "Come back"),
        ("550 5.7.1 Not you", REFUSED, 550, "Not you"),
    ],
)
async def test_the_relays_answer_is_told_and_the_session_is_as_before(
    answer: str, verdict: Verdict, code: int, text: str
) -> None:
    async with ScriptedRelay({"MAIL": [answer]}) as relay, opened(relay) as session:
        said = await session.try_sender(SENDER)
        assert (said.verdict, said.phase, said.code, said.text) == (verdict, Phase.MAIL, code, text)
        assert mail_commands(relay) == TRIED
        assert relay.messages == []
        assert verdicts(await send(session)) == [ACCEPTED], "what was tried has left nothing behind"
        assert len(relay.peers) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [drop, "421 4.3.2 Closing"])
async def test_a_connection_that_is_lost_is_no_judgement(answer: Answer) -> None:
    async with ScriptedRelay({"MAIL": answer}) as relay, opened(relay) as session:
        said = await session.try_sender(SENDER)
        assert said.verdict is DEFERRED
        assert said.text
        assert not await session.check_alive()


@pytest.mark.asyncio
async def test_no_sender_can_add_a_command() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        said = await session.try_sender(f"{A}>\r\nRCPT TO:<{A}")
        assert said.verdict is REFUSED
        assert "no address" in said.text
        assert mail_commands(relay) == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "verdict", "code"),
    [
        ("250 2.1.5 Ok", ACCEPTED, 250),
        ("450 4.2.0 Greylisted", DEFERRED, 450),
        ("504 5.5.2 <vm>: Helo command rejected: need fully-qualified hostname", REFUSED, 504),
    ],
)
async def test_a_recipient_is_tried_too_where_one_is_named(answer: str, verdict: Verdict, code: int) -> None:
    """Most relays judge greeting and sender only when they hear a recipient."""
    async with ScriptedRelay({"RCPT": [answer]}) as relay, opened(relay) as session:
        said = await session.try_sender(SENDER, A)
        assert (said.verdict, said.phase, said.code) == (verdict, Phase.RCPT, code)
        assert mail_commands(relay) == [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{A}>", "RSET"]
        assert relay.messages == []
        assert verdicts(await send(session)) == [ACCEPTED], "what was tried has left nothing behind"


@pytest.mark.asyncio
async def test_no_recipient_is_tried_after_a_sender_who_is_refused() -> None:
    async with ScriptedRelay({"MAIL": "550 5.7.1 Not you"}) as relay, opened(relay) as session:
        said = await session.try_sender(SENDER, A)
        assert (said.verdict, said.phase) == (REFUSED, Phase.MAIL)
        assert mail_commands(relay) == TRIED


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [drop, "421 4.3.2 Closing", "354 What?"])
async def test_a_connection_that_is_lost_at_the_recipient_is_no_judgement(answer: Answer) -> None:
    async with ScriptedRelay({"RCPT": answer}) as relay, opened(relay) as session:
        said = await session.try_sender(SENDER, A)
        assert (said.verdict, said.phase) == (DEFERRED, Phase.RCPT)
        assert not await session.check_alive()


@pytest.mark.asyncio
async def test_no_recipient_can_add_a_command() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        said = await session.try_sender(SENDER, f"{A}>\r\nDATA\r\n<")
        assert (said.verdict, said.phase) == (REFUSED, Phase.RCPT)
        assert mail_commands(relay) == []
