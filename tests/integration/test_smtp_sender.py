"""A sender that is tried without a letter: what the relay says, and what the session is like afterwards."""

from __future__ import annotations

import pytest

from mailsender.letter import Phase, Verdict
from tests.scripted import Answer, ScriptedRelay, drop
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
        assert not await session.ready()


@pytest.mark.asyncio
async def test_no_sender_can_add_a_command() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        said = await session.try_sender(f"{A}>\r\nRCPT TO:<{A}")
        assert said.verdict is REFUSED
        assert "no address" in said.text
        assert mail_commands(relay) == []
