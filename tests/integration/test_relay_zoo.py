"""The relays of the zoo do what they are said to, seen by a client that knows nothing of the service."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lab import parts, relay_zoo, restricted_postfix
from lab.relay_zoo import PASSWORD, USER, ZooRelay
from lab.restricted_postfix import (
    PostfixHelo,
    PostfixPostscreen,
    PostfixRate,
    PostfixRecipientLimit,
    PostfixSenderLogin,
    PostfixUnknownDomain,
    RealPostfix,
)
from mailsender.dev.process import PartMissing

LETTER = ["MAIL FROM:<news@example.org>", "RCPT TO:<a@example.test>", "DATA", "Subject: Hi\r\n\r\nHi\r\n."]
PLAIN = "AUTH PLAIN " + base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()


class Client:
    """Says what it is told, command by command, and keeps the last line of each reply."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def hear(self) -> str:
        async with asyncio.timeout(10):
            while True:
                line = (await self.reader.readline()).decode().rstrip("\r\n")
                if line[3:4] != "-":
                    return line

    async def say(self, *commands: str) -> list[str]:
        replies = []
        for command in commands:
            self.writer.write(command.encode() + b"\r\n")
            replies.append(await self.hear())
        return replies


@asynccontextmanager
async def visiting(relay: Any, ehlo: str = "client.example.test") -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(relay.host, relay.port))
    assert (await client.hear()).startswith("220")
    await client.say(f"EHLO {ehlo}")
    try:
        yield client
    finally:
        client.writer.close()


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def codes(replies: list[str]) -> list[str]:
    return [reply[:3] for reply in replies]


ACCEPTED = ["250", "250", "354", "250"]
LOGIN, NAME, SECRET = "AUTH LOGIN", coded(USER), coded(PASSWORD)
TO = [f"RCPT TO:<{each}@example.test>" for each in "abcd"]

DIALOGUES: list[tuple[type[ZooRelay], dict[str, Any], list[str], list[str]]] = [
    (relay_zoo.ZooRelay, {}, [*LETTER, *LETTER], ACCEPTED * 2),
    (relay_zoo.ZooRelay, {}, ["RCPT TO:<a@b.c>", "DATA"], ["503", "503"]),
    (relay_zoo.ZooRelay, {"needs_login": True}, [LETTER[0], PLAIN, LETTER[0]], ["530", "235", "250"]),
    (relay_zoo.ZooRelay, {}, ["AUTH PLAIN " + coded("\0a\0b"), "AUTH SCRAM-SHA-1"], ["535", "504"]),
    (relay_zoo.ZooRelay, {}, [LOGIN, "*", LOGIN, "!"], ["334", "501", "334", "501"]),
    (relay_zoo.Exchange, {}, [f"{LOGIN} {NAME}", LOGIN, NAME, SECRET], ["501", "334", "334", "235"]),
    (relay_zoo.Exchange, {"initial": "535"}, [f"{LOGIN} {NAME}"], ["535"]),
    (
        relay_zoo.Exchange,
        {"initial": "ignored"},
        [f"{LOGIN} {NAME}", NAME, SECRET],
        ["334", "334", "235"],
    ),
    (
        relay_zoo.Exchange,
        {"per_session": 1, "needs_login": False},
        [*LETTER, LETTER[0]],
        [*ACCEPTED, "421"],
    ),
    (
        relay_zoo.PlainOnRequest,
        {},
        [PLAIN, "AUTH PLAIN", PLAIN.split()[-1]],
        ["501", "334", "235"],
    ),
    (
        relay_zoo.PlainOnRequest,
        {"initial": "ignored"},
        [PLAIN, PLAIN.split()[-1]],
        ["334", "235"],
    ),
    (relay_zoo.PlainRefused, {}, [PLAIN, f"{LOGIN} {NAME}", SECRET], ["504", "334", "235"]),
    (
        relay_zoo.Stalwart,
        {"per_session": 1},
        [f"{LOGIN} {NAME}", SECRET, *LETTER, *LETTER[:3]],
        ["334", "235", *ACCEPTED, "250", "250", "452"],
    ),
    (relay_zoo.SessionLimit, {"per_session": 1}, [*LETTER, LETTER[0]], [*ACCEPTED, "452"]),
    (
        relay_zoo.TooManyRecipients,
        {"limit": 2},
        [LETTER[0], *TO, *LETTER[2:]],
        ["250", "250", "250", "452", "452", "354", "250"],
    ),
    (relay_zoo.RateLimit, {"limit": 1}, [*LETTER, LETTER[0]], [*ACCEPTED, "450"]),
    (relay_zoo.Greylister, {}, LETTER[:2], ["250", "450"]),
    (relay_zoo.Greylister, {"seconds": 0}, LETTER, ACCEPTED),
    (relay_zoo.FreshSessionRefused, {}, [LETTER[0], "NOOP"], ["421", ""]),
    (relay_zoo.EverySecond, {}, [*LETTER, LETTER[0], "NOOP"], [*ACCEPTED, "421", ""]),
    (relay_zoo.SenderNotOwned, {}, LETTER[:2], ["250", "553"]),
    (relay_zoo.SenderNotOwned, {"stage": "MAIL"}, LETTER[:1], ["553"]),
    (relay_zoo.Ses, {"limit": 1}, [*LETTER, *LETTER], [*ACCEPTED, "250", "250", "354", "454"]),
    (relay_zoo.Ses, {"trouble": "unverified"}, LETTER, ["250", "250", "354", "554"]),
    (relay_zoo.Gmail, {"limit": 0}, LETTER, ["250", "250", "354", "421"]),
    (relay_zoo.Gmail, {"trouble": "daily", "limit": 1}, [*LETTER, LETTER[0]], [*ACCEPTED, "550"]),
    (relay_zoo.Gmail, {"trouble": "recipients", "limit": 1}, [LETTER[0], *TO[:2]], ["250", "250", "452"]),
    (relay_zoo.Microsoft365, {"limit": 0}, LETTER, ["250", "250", "354", "432"]),
    (relay_zoo.Microsoft365, {"trouble": "quota", "limit": 0}, LETTER, ["250", "250", "354", "554"]),
    (relay_zoo.HeloCritic, {}, [*LETTER, "EHLO vm", *LETTER[:2]], [*ACCEPTED, "250", "250", "504"]),
    (relay_zoo.HeloCritic, {}, ["EHLO [127.0.0.1]", *LETTER], ["250", *ACCEPTED]),
    (relay_zoo.RefusesEverybody, {}, LETTER[:1], ["452"]),
    (relay_zoo.LateReply, {"seconds": 0.05}, LETTER, ACCEPTED),
    (relay_zoo.BrokenFirewall, {}, LETTER, ACCEPTED),
    (relay_zoo.BrokenFirewall, {"drops": "dot"}, [*LETTER, *LETTER], ACCEPTED * 2),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("kind", "options", "said", "heard"), DIALOGUES)
async def test_a_scripted_relay_says_what_real_ones_say(
    kind: type[ZooRelay], options: dict[str, Any], said: list[str], heard: list[str]
) -> None:
    async with kind(**options) as relay, visiting(relay) as client:
        assert codes(await client.say(*said)) == heard
        assert len(relay.taken) == sum(
            text.endswith(".") and code == "250" for text, code in zip(said, heard, strict=True)
        )


@pytest.mark.asyncio
async def test_what_was_asked_at_a_login_is_noted() -> None:
    """So that a test can tell a password that was given where the name was asked."""
    async with relay_zoo.Exchange(initial="ignored") as relay, visiting(relay) as client:
        assert codes(await client.say(f"{LOGIN} {NAME}", SECRET, SECRET)) == ["334", "334", "535"]
        assert relay.asked == [("Username:", PASSWORD), ("Password:", PASSWORD)]
        assert relay.logins == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(("drops", "answers"), [("packet", 1), ("dot", 3)])
async def test_a_broken_firewall_loses_the_rest_of_a_packet(drops: str, answers: int) -> None:
    async with relay_zoo.BrokenFirewall(drops=drops) as relay, visiting(relay) as client:
        client.writer.write("".join(f"{line}\r\n" for line in LETTER[:3]).encode())
        for _ in range(answers):
            await client.hear()
        if drops == "packet":
            assert relay.commands[1:] == LETTER[:1]
            return
        client.writer.write((LETTER[3] + "\r\n" + LETTER[0] + "\r\n").encode())
        assert codes([await client.hear()]) == ["250"]
        assert codes(await client.say(LETTER[1])) == ["503"]  # its MAIL never came


@pytest.mark.asyncio
async def test_one_that_never_greets() -> None:
    async with relay_zoo.NeverGreets(after=1) as relay:
        async with visiting(relay):
            pass
        reader, writer = await asyncio.open_connection(relay.host, relay.port)
        writer.write(b"EHLO x\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.1)
        writer.close()


def test_each_has_a_name_and_says_what_it_does() -> None:
    known = relay_zoo.kinds()
    assert len(known) > 20
    for kind in known.values():
        first = (kind.__doc__ or "").strip().splitlines()[0]
        assert first.endswith((".", ":")), kind


# --- real ones -----------------------------------------------------------------------------------


@asynccontextmanager
async def real(kind: type[RealPostfix]) -> AsyncIterator[RealPostfix]:
    try:
        relay = kind()
        await relay.__aenter__()
    except PartMissing as error:
        parts.missing(str(error))
    try:
        yield relay
    finally:
        await relay.__aexit__(None, None, None)


REAL: list[tuple[type[RealPostfix], str, list[str], list[str]]] = [
    (restricted_postfix.RealPostfix, "c.example.test", LETTER, ACCEPTED),
    (
        PostfixRecipientLimit,
        "c.example.test",
        [LETTER[0], *[f"RCPT TO:<{n}@example.test>" for n in range(11)]],
        ["250"] * 11 + ["452"],
    ),
    (PostfixHelo, "vm", LETTER[:2], ["250", "504"]),
    (PostfixHelo, "[127.0.0.1]", LETTER, ACCEPTED),
    (PostfixRate, "c.example.test", LETTER * 5 + LETTER[:1], ACCEPTED * 5 + ["450"]),
    (
        PostfixSenderLogin,
        "c.example.test",
        [PLAIN, "MAIL FROM:<owner@example.org>", LETTER[1], "RSET", f"MAIL FROM:<{USER}>", *LETTER[1:]],
        ["235", "250", "553", "250", *ACCEPTED],
    ),
    (PostfixSenderLogin, "c.example.test", [LOGIN, NAME, SECRET], ["334", "334", "235"]),
    (PostfixSenderLogin, "c.example.test", ["AUTH PLAIN " + coded("\0a\0b")], ["535"]),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("kind", "ehlo", "said", "heard"), REAL)
async def test_a_real_postfix_with_a_restriction(
    kind: type[RealPostfix], ehlo: str, said: list[str], heard: list[str]
) -> None:
    async with real(kind) as relay, visiting(relay, ehlo) as client:
        assert codes(await client.say(*said)) == heard, relay.log


@pytest.mark.asyncio
async def test_a_real_postfix_that_does_not_know_a_domain() -> None:
    """With DNS it says that there is none, without that it cannot tell; both are 450 or 550."""
    async with real(PostfixUnknownDomain) as relay, visiting(relay) as client:
        mail, rcpt = await client.say(LETTER[0], "RCPT TO:<a@no-such-domain.invalid>")
        assert mail.startswith("250")
        assert rcpt.startswith(("450 4.1.2", "450 4.3.0", "451 4.3.0", "550 5.1.2")), rcpt


@pytest.mark.asyncio
async def test_a_real_postscreen_greets_late_and_says_come_again() -> None:
    async with real(PostfixPostscreen) as relay:
        async with visiting(relay) as client:
            assert codes(await client.say(*LETTER[:2])) == ["250", "450"]
        async with visiting(relay) as client:
            assert codes(await client.say(*LETTER)) == ACCEPTED, relay.log
