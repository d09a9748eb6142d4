"""Logins in the forms that relays want: what is asked is what is told, and what worked is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from lab.relay_zoo import (
    PASSWORD,
    USER,
    Exchange,
    PlainOnRequest,
    PlainRefused,
    Stalwart,
    ZooRelay,
)
from lab.restricted_postfix import PostfixSenderLogin
from lab.scripted import Peer, drop
from mailsender.model.clock import Clock, SystemClock
from mailsender.model.letter import Envelope
from mailsender.smtp.auth import FIRST_PAUSE, LAST_PAUSE
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.port import RelayAway
from tests.clocks import ManualClock
from tests.integration.test_relay_zoo import real
from tests.sessions import ACCEPTED, MESSAGE, A, Permit, config, send, verdicts

OTHER_REFUSALS = [
    "504 5.5.4 PLAIN authentication is not permitted",
    "534 5.7.9 Authentication mechanism is too weak",
    "535 5.7.8 Error: authentication failed: Invalid authentication mechanism",
    "553 5.3.0 Auth failure",
    "500 5.5.1 Command unrecognized",
]


def logging_in(relay: Any, clock: Clock | None = None, **changes: Any) -> SmtpRelay:
    account = {"user": USER, "password": PASSWORD, "auth_cleartext": True}
    return SmtpRelay(config(relay.host, relay.port, **(account | changes)), clock or SystemClock())


async def log_in(adapter: SmtpRelay) -> None:
    """Log in, send a letter, leave."""
    session = await asyncio.wait_for(adapter.connect(), 10)
    try:
        assert verdicts(await send(session)) == [ACCEPTED]
    finally:
        await session.close()


@asynccontextmanager
async def refused(relay: ZooRelay, **changes: Any) -> AsyncIterator[RelayAway]:
    async with relay:
        with pytest.raises(RelayAway) as caught:
            await log_in(logging_in(relay, **changes))
        yield caught.value


def auth_commands(relay: ZooRelay) -> list[str]:
    return [" ".join(command.split()[:2]) for command in relay.commands if command.startswith("AUTH")]


def nothing_was_told_that_was_not_asked(relay: ZooRelay) -> None:
    for prompt, said in relay.asked:
        if "ser" in prompt:
            assert said == USER
        else:
            assert PASSWORD in said


KINDS = [
    (ZooRelay, {"needs_login": True}, 1),
    (Exchange, {"initial": "501"}, 1),
    (Exchange, {"initial": "535"}, 1),
    (Exchange, {"initial": "ignored"}, 1),
    (PlainOnRequest, {"initial": "501"}, 2),
    (PlainOnRequest, {"initial": "ignored"}, 1),
    *[(PlainRefused, {"refusal": refusal}, 2) for refusal in OTHER_REFUSALS],
    (Stalwart, {}, 1),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("kind", "options", "tries"), KINDS)
async def test_each_form_of_login_that_a_relay_may_want(
    kind: type[ZooRelay], options: dict[str, Any], tries: int
) -> None:
    async with kind(**options) as relay:
        adapter = logging_in(relay)
        await log_in(adapter)
        assert relay.logins == 1
        assert len(auth_commands(relay)) == tries
        nothing_was_told_that_was_not_asked(relay)
        await log_in(adapter)  # what worked comes first now
        assert relay.logins == 2
        assert len(auth_commands(relay)) == tries + 1
        nothing_was_told_that_was_not_asked(relay)


@pytest.mark.asyncio
async def test_who_is_barred_does_not_even_connect_and_another_password_has_another_mark() -> None:
    async with ZooRelay(needs_login=True) as relay:
        marks: list[str] = []

        def barred(mark: str) -> str:
            marks.append(mark)
            return "barred"

        for password in ("wrong", "another"):
            adapter = logging_in(relay, password=password)
            adapter.bar_logins(barred)
            with pytest.raises(RelayAway, match="barred") as caught:
                await log_in(adapter)
            assert (caught.value.phase, caught.value.reply) == ("auth", None)
        assert len(set(marks)) == 2
        assert relay.commands == []


@pytest.mark.asyncio
async def test_a_refusal_that_is_repeated_is_no_reply() -> None:
    """A rule would begin its time anew each time."""
    async with ZooRelay(needs_login=True) as relay:
        adapter = logging_in(relay, password="wrong")
        told = []
        for _ in range(2):
            with pytest.raises(RelayAway) as caught:
                await log_in(adapter)
            told.append(caught.value)
    first, again = told
    assert first.reply is not None
    assert again.reply is None
    assert first.login == again.login != ""
    assert str(first) == str(again)


class NameInTheCommandOnly(ZooRelay):
    """LOGIN that wants the name with the command, and refuses it without."""

    MECHANISMS = ("LOGIN",)

    async def _authenticate(self, peer: Peer, command: str) -> None:
        if command == "AUTH LOGIN":
            await peer.say("501 5.5.4 Syntax: AUTH LOGIN name")
        else:
            await super()._authenticate(peer, command)


@pytest.mark.asyncio
async def test_a_login_that_wants_the_name_with_the_command() -> None:
    async with NameInTheCommandOnly(needs_login=True) as relay:
        await log_in(logging_in(relay))
        assert relay.asked == [("Password:", PASSWORD)]


@pytest.mark.asyncio
async def test_a_real_postfix_takes_our_login() -> None:
    async with real(PostfixSenderLogin) as relay:
        session = await logging_in(relay).connect()
        mine = Envelope(reverse_path=USER, recipients=(A,))
        assert verdicts(await session.transact(mine, MESSAGE, Permit())) == [ACCEPTED]
        await session.close()


# --- a wrong password ----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_wrong_password_is_tried_in_one_further_form_once_and_for_all() -> None:
    """Each try counts towards the lock of the account."""
    clock = ManualClock()
    async with ZooRelay(needs_login=True) as relay:
        adapter = logging_in(relay, clock, password="wrong")
        judged = []
        for _ in range(3):
            with pytest.raises(RelayAway) as caught:
                await log_in(adapter)
            assert (caught.value.phase, caught.value.code, caught.value.permanent) == ("auth", 535, True)
            assert "SMTP_PASSWORD" in str(caught.value)
            judged.append(len(auth_commands(relay)))
            clock.forward(LAST_PAUSE)
    assert judged == [2, 3, 4]


@pytest.mark.asyncio
@pytest.mark.parametrize("worked_before", [False, True])
async def test_many_sessions_do_not_lock_an_account(worked_before: bool) -> None:
    """Relays lock an account, or an address, after some wrong logins; each session comes for one again."""
    clock = ManualClock()
    async with ZooRelay(needs_login=True) as relay:
        adapter = logging_in(relay, clock)
        if worked_before:
            await log_in(adapter)
        relay.accounts = {}
        tried = []
        for pause in (FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4):
            before = len(auth_commands(relay))
            for _ in range(3):
                made = await asyncio.gather(*(adapter.connect() for _ in range(8)), return_exceptions=True)
                assert {str(each) for each in made} == {str(made[0])}
                assert all(isinstance(each, RelayAway) and each.code == 535 for each in made)
            tried.append(len(auth_commands(relay)) - before)
            clock.forward(pause - 1)
            with pytest.raises(RelayAway):
                await adapter.connect()
            assert len(auth_commands(relay)) == before + tried[-1]
            clock.forward(1)
        relay.accounts = {USER: PASSWORD}
        await log_in(adapter)
        await log_in(adapter)
    # While it works sessions log in side by side, so several may find out at once that it no longer does.
    assert tried[0] <= 8 if worked_before else tried[0] == 2
    assert tried[1:] == [1, 1]


@pytest.mark.asyncio
async def test_too_many_logins_are_not_answered_by_more_of_them() -> None:
    """Google says 454 4.7.0 for ten minutes then."""
    clock = ManualClock()
    async with ZooRelay(script={"AUTH": "454 4.7.0 Too many login attempts"}) as relay:
        adapter = logging_in(relay, clock)
        for _ in range(5):
            with pytest.raises(RelayAway) as caught:
                await adapter.connect()
            assert (caught.value.code, caught.value.permanent) == (454, False)
        assert len(auth_commands(relay)) == 1


@pytest.mark.asyncio
async def test_a_password_that_no_longer_holds_is_not_tried_in_other_forms() -> None:
    async with ZooRelay(needs_login=True) as relay:
        adapter = logging_in(relay)
        await log_in(adapter)
        relay.accounts = {USER: "changed"}
        with pytest.raises(RelayAway):
            await log_in(adapter)
        assert len(auth_commands(relay)) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("reply", ["454 4.7.0 Temporary authentication failure", "421 4.7.0 Try later"])
async def test_a_login_that_is_refused_for_now_is_not_tried_in_other_forms(reply: str) -> None:
    async with refused(ZooRelay(script={"AUTH": reply})) as error:
        assert (error.phase, error.code, error.permanent) == ("auth", int(reply[:3]), False)


@pytest.mark.asyncio
async def test_a_relay_that_closes_after_a_refused_form_finds_the_next_one_at_the_next_login() -> None:
    class Closing(PlainRefused):
        async def _authenticate(self, peer: Peer, command: str) -> None:
            await super()._authenticate(peer, command)
            if command.startswith("AUTH PLAIN"):
                peer.writer.close()

    async with Closing() as relay:
        adapter = logging_in(relay)
        with pytest.raises(RelayAway) as caught:
            await log_in(adapter)
        assert "504" in str(caught.value)  # and not the end of the connection, which says nothing
        await log_in(adapter)
        assert relay.logins == 1


@pytest.mark.asyncio
async def test_a_connection_that_ends_in_the_middle_of_a_login_is_no_refusal() -> None:
    async with refused(ZooRelay(script={"AUTH": [drop]})) as error:
        assert (error.phase, error.code, error.permanent) == ("auth", None, False)


# --- a secret only where it is asked for ---------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mechanisms", "prompts"),
    [
        (("LOGIN",), ("Username:", "Username:")),
        (("LOGIN",), ("Password:", "Username:")),
    ],
)
async def test_the_password_is_never_given_where_the_name_is_asked(
    mechanisms: tuple[str, ...], prompts: tuple[str, str]
) -> None:
    class Muddled(ZooRelay):
        MECHANISMS = mechanisms
        PROMPTS = prompts

    relay = Muddled(needs_login=True)
    async with refused(relay) as error:
        assert error.phase == "auth"
        for prompt, said in relay.asked:
            assert said != (PASSWORD if "ser" in prompt else USER)


@pytest.mark.asyncio
@pytest.mark.parametrize("challenge", ["334 !?", "334", "334 \xff\xfe", "334 " + "A" * 3000, "334 w7/DvA=="])
async def test_whatever_a_relay_asks_ends_a_login_at_worst(challenge: str) -> None:
    async def ask_on(peer: Peer) -> None:
        while True:
            await peer.say(challenge.encode("latin-1") + b"\r\n")
            if not await peer.line():
                return

    async with refused(ZooRelay(script={"AUTH": ask_on}), timeouts=config("h", 1).timeouts) as error:
        assert error.phase == "auth"


@pytest.mark.asyncio
async def test_a_form_that_was_found_is_told_once() -> None:
    with structlog.testing.capture_logs() as logs:
        async with PlainRefused() as relay:
            adapter = logging_in(relay)
            await log_in(adapter)
            await log_in(adapter)
    told = [entry for entry in logs if entry["event"] == "relay_login_form"]
    assert [entry["form"] for entry in told] == ["LOGIN"]
