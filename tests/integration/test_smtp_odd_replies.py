"""Whatever a relay says on the way to a session: it opens, or `RelayAway` says why, and no more is raised."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from lab.scripted import GOOD, GREETING, ScriptedRelay, pieces
from mailsender.model.letter import Outcome, Verdict
from mailsender.smtp.port import NotBegun, RelayAway
from tests.sessions import ACCEPTED, SHORTLY, A, B, opened, send, verdicts

LINES = [
    b"220 ok\r\n",
    b"220\r\n",
    b"220-\r\n220 ok\r\n",
    b"220-a\r\n250 b\r\n",
    b"250 ok\r\n",
    b"250-x\r\n250-SIZE\r\n250-SIZE 1e9\r\n250-SIZE -1\r\n250 SIZE 99999999999999999999999999\r\n",
    b"250-x\r\n250-AUTH\r\n250 AUTH=\r\n",
    b"250-x\r\n250-AUTH PLAIN\xff\r\n250 \xd0\xb6\r\n",
    b"250-x\r\n250 auth=plain login\r\n",
    b"250-" + b"x" * 5000 + b"\r\n250 y\r\n",
    b"250-x\r\n" * 3000 + b"250 y\r\n",
    b"250 " + b"x" * 70_000 + b"\r\n",
    b"334 \r\n",
    b"334\r\n",
    b"334 =\r\n",
    b"334 VXNlcm5hbWU6\r\n",
    b"334 UGFzc3dvcmQ6\r\n",
    b"235 in\r\n",
    b"354 go\r\n",
    b"421 bye\r\n",
    b"500\r\n",
    b"535 5.7.8 no\r\n",
    b"599-a\r\n599 b\r\n",
    b"600 x\r\n",
    b"099 x\r\n",
    b"-12 x\r\n",
    b"+25 x\r\n",
    b" 25 x\r\n",
    b"2 5 x\r\n",
    "٢٥٠ x\r\n".encode(),
    b"25\xb2 x\r\n",
    b"\r\n",
    b"\n",
    b"\0",
    b"250 \0\x1b[31m\r\n",
    b"250 ok\n",
    b"250 ok\r",
    b"250",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"",
]
MOMENTS = [GREETING, "EHLO", "HELO", "AUTH", "MAIL", "RCPT", "DATA", "dot", "RSET", "NOOP", "QUIT"]
QUICK = replace(SHORTLY, connect=1, greeting=0.03, command=0.03, data=0.03, dot=0.03)


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(120))
async def test_whatever_a_relay_says_a_session_opens_or_does_not(seed: int) -> None:
    chance = random.Random(seed)
    odd = chance.sample(MOMENTS[:4] if seed % 2 else MOMENTS, 2)
    script = {moment: [chance.choice(LINES) for _ in range(3)] for moment in odd}
    offers = ["PIPELINING", "AUTH PLAIN LOGIN"] if chance.random() < 0.8 else ["AUTH LOGIN"]
    login = {"user": "u", "password": "p", "auth_cleartext": True} if chance.random() < 0.7 else {}
    words = "it opened"
    async with ScriptedRelay(script, offers=offers) as relay, asyncio.timeout(20):
        try:
            async with opened(relay, timeouts=QUICK, **login) as session:
                made = await asyncio.gather(send(session, A), send(session, B), return_exceptions=True)
                assert all(isinstance(each, Outcome | NotBegun) for each in made), made
                await session.check_alive()
        except RelayAway as error:
            words = str(error)
    assert 0 < len(words) < 1000
    assert words.isprintable()


@pytest.mark.asyncio
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("moment", [GREETING, "EHLO", "AUTH"])
async def test_every_odd_line_at_every_step_of_the_way(moment: str, line: bytes) -> None:
    words = "it opened"
    async with ScriptedRelay({moment: line}) as relay, asyncio.timeout(20):
        try:
            async with opened(relay, timeouts=QUICK, user="u", password="p", auth_cleartext=True):
                pass
        except RelayAway as error:
            words = str(error)
    assert 0 < len(words) < 1000
    assert words.isprintable()


@pytest.mark.asyncio
@pytest.mark.parametrize("line", ["221 bye", "220 welcome", "354 go", "150 wait"])
async def test_what_says_nothing_of_the_message_behind_its_dot_leaves_it_uncertain(line: str) -> None:
    async with ScriptedRelay({"dot": line}) as relay, opened(relay) as session:
        (result,) = (await send(session, A)).results.values()
    assert result.verdict is Verdict.UNCERTAIN


@pytest.mark.asyncio
@pytest.mark.parametrize("moment", ["MAIL", "RCPT"])
async def test_a_relay_that_says_goodbye_before_the_message_took_none(moment: str) -> None:
    async with ScriptedRelay({moment: "221 bye"}) as relay, opened(relay) as session:
        (result,) = (await send(session, A)).results.values()
    assert result.verdict is Verdict.DEFERRED


EMPTY = [b"\r\n", b"\n", b"\r\n\r\n\r\n"]


@pytest.mark.asyncio
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("offers", [["PIPELINING"], []])
async def test_empty_lines_between_replies_cost_nothing(
    offers: list[str], empty: bytes, *, late: bool
) -> None:
    def behind(reply: str) -> Any:
        line = reply.encode() + b"\r\n"
        return pieces(line, empty) if late else line + empty

    script = {moment: behind(reply) for moment, reply in GOOD.items()}
    script["EHLO"] = behind("\r\n".join(["250-x", *(f"250-{each}" for each in offers), "250 AUTH PLAIN"]))
    script["AUTH"] = behind("235 2.7.0 in")
    script["DATA"] = GOOD["DATA"].encode() + b"\r\n" + empty
    login = {"user": "u", "password": "p", "auth_cleartext": True}
    async with ScriptedRelay(script) as relay, asyncio.timeout(20):
        async with opened(relay, **login) as session:
            made = await asyncio.gather(send(session, A), send(session, B), send(session, A))
            assert [verdicts(each) for each in made] == [[ACCEPTED]] * 3
            assert (await session.try_sender(A)).verdict is ACCEPTED
        assert len(relay.peers) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("moment", ["EHLO", "MAIL", "dot"])
async def test_a_relay_that_writes_nothing_but_empty_lines_is_left(moment: str) -> None:
    async with ScriptedRelay({moment: b"\r\n" * 100}) as relay, asyncio.timeout(5):
        try:
            async with opened(relay) as session:
                words = [result.text for result in (await send(session, A)).results.values()]
        except RelayAway as error:
            words = [str(error)]
    assert "empty lines" in words[0]
