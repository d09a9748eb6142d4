"""Relays as they are in the field, and what becomes of letters: nobody fails for somebody else's fault.

Claim, session, dialogue, rules and settlement are the real ones, over a queue in memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from lab.parts import missing
from lab.relay_zoo import (
    EverySecond,
    FreshSessionRefused,
    Gmail,
    Greylister,
    HeloCritic,
    LateReply,
    Microsoft365,
    RateLimit,
    RefusesEverybody,
    SenderNotOwned,
    Ses,
    SessionLimit,
    TooManyRecipients,
    ZooRelay,
)
from lab.restricted_postfix import PostfixRecipientLimit, RealPostfix
from mailsender.dev.process import PartMissing
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Letter, Status
from mailsender.ratelimit.gcra import Allowance
from mailsender.routing import breaker, slow_replies, weighing
from mailsender.routing.breaker import PUT_OFF_RUN
from mailsender.sending import dispatcher, judge, sender
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.protocol import Timeouts
from tests.dispatching import Scene, letter, running, until
from tests.sessions import config

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held relay is tried again at once, so that a test need not wait for it."""
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(breaker, "LAST_WAIT", 0.1)
    monkeypatch.setattr(sender, "LOOK", 0.02)
    monkeypatch.setattr(dispatcher, "POLL", 0.02)


@asynccontextmanager
async def sending(
    relay: ZooRelay | RealPostfix, letters: list[Letter], **policy: Any
) -> AsyncIterator[Scene]:
    timeouts = policy.pop("timeouts", Timeouts(connect=5, greeting=5, command=5, data=5, block=5, dot=5))
    async with relay:
        there = SmtpRelay(config(relay.host, relay.port, timeouts=timeouts), SystemClock())
        async with running(there, **policy) as scene:
            await scene.queue.insert(letters)
            scene.dispatcher.nudge()
            yield scene


def many(count: int) -> list[Letter]:
    return [letter(number) for number in range(count)]


def to_many(count: int) -> Letter:
    return letter(1, *[f"r{number}@example.test" for number in range(count)])


def copies(relay: ZooRelay) -> Counter[str]:
    return Counter(each for message in relay.taken for each in message.recipients)


def once_each(relay: ZooRelay, letters: list[Letter]) -> bool:
    return copies(relay) == Counter(each for one in letters for each in one.addresses)


TOO_MANY = ["452 4.5.3 Too many recipients", "452 Too many", "552 5.5.3 Too many recipients", "552 Too many"]


@pytest.mark.parametrize("text", TOO_MANY)
async def test_who_was_not_taken_for_want_of_room_goes_in_a_further_transaction_at_once(text: str) -> None:
    relay, large = TooManyRecipients(limit=10, text=text), to_many(100)
    async with sending(relay, [large], max_attempts=1, senders=1) as scene:
        [done] = await scene.settled(1)
    assert (done.status, done.attempts) == (Status.SENT, 1)
    assert once_each(relay, [large])
    commands = Counter(command.partition(" ")[0] for command in relay.commands)
    assert commands["MAIL"] == 10
    assert commands["RCPT"] == 100 + 9 * 10, "the limit was learnt for the session"


async def test_who_has_no_room_at_a_real_postfix_goes_in_a_further_transaction_at_once() -> None:
    try:
        relay = PostfixRecipientLimit()
        large = to_many(100)
        async with sending(relay, [large], max_attempts=1, senders=1) as scene:
            [done] = await scene.settled(1)
            await until(lambda: relay.log.count(" nrcpt=10 ") == 10)  # it writes its log behind its reply
    except PartMissing as error:
        missing(str(error))
    assert (done.status, done.attempts) == (Status.SENT, 1)
    assert all(each.accepted for each in done.recipients)


async def test_one_who_is_refused_beside_those_without_room_stays_refused() -> None:
    class Picky(TooManyRecipients):
        def reply(self, visit: Any, moment: str, command: str) -> Any:
            if moment == "RCPT" and "<r3@" in command:
                return "550 5.1.1 No such user"
            return super().reply(visit, moment, command)

    relay, large = Picky(limit=4), to_many(12)
    async with sending(relay, [large], max_attempts=1, senders=1) as scene:
        [done] = await scene.settled(1)
    assert [r.address for r in done.recipients if not r.accepted] == ["r3@example.test"]
    assert done.status is Status.SENT
    assert max(copies(relay).values()) == 1


SESSION_LIMITS = [
    ("MAIL", "452 4.4.5 Too many messages in this session"),
    ("MAIL", "451 4.7.0 Enough"),
    ("MAIL", "530 5.7.0 Log in again"),
    ("MAIL", "421 4.7.0 Enough"),
    ("DATA", "451 4.7.0 Enough"),
    ("DATA", "530 5.7.0 Log in again"),
]


@pytest.mark.parametrize(("stage", "text"), SESSION_LIMITS)
async def test_a_session_that_takes_so_many_is_replaced_and_no_attempt_is_lost(stage: str, text: str) -> None:
    relay, letters = SessionLimit(per_session=10, stage=stage, text=text), many(100)
    async with sending(relay, letters, max_attempts=1, senders=2) as scene:
        done = await scene.settled(100)
        assert scene.known.reason == ""
    assert {(each.status, each.attempts) for each in done} == {(Status.SENT, 1)}
    assert once_each(relay, letters)


async def test_how_many_a_session_takes_is_learnt() -> None:
    relay = SessionLimit(per_session=10)
    async with sending(relay, many(100), max_attempts=1, senders=1) as scene:
        await scene.settled(100)
        assert scene.known.pool.share == 10
    refused = sum(command.startswith("MAIL") for command in relay.commands) - 100
    assert 2 <= refused <= 4, "twice to learn it, and what was said ahead"


class EverySecondAtRcpt(EverySecond):
    def reply(self, visit: Any, moment: str, command: str) -> Any:
        moments = {"RCPT": "MAIL", "MAIL": ""}  # it says so one step later
        return super().reply(visit, moments.get(moment, moment), command)


@pytest.mark.parametrize("kind", [EverySecond, EverySecondAtRcpt])
async def test_recipients_that_no_attempt_reached_are_never_given_up(kind: type[EverySecond]) -> None:
    relay, large = kind(), to_many(6)
    async with sending(relay, [large], max_recipients=1, max_attempts=2, senders=1) as scene:
        [done] = await scene.settled(1)
    assert done.status is Status.SENT
    assert once_each(relay, [large])


async def test_a_quota_that_ends_in_mid_letter_gives_up_nobody() -> None:
    relay, large, two = ZooRelay(), to_many(5), Allowance(letters=0, period=1.0, quota=2)
    async with sending(relay, [large], max_recipients=1, max_attempts=1, senders=1, allowance=two) as scene:
        await until(lambda: scene.known.limiter.exhausted_until is not None)
        await scene.stats_are(awaiting=1)
        found = await scene.queue.get(large.id)
    assert found is not None
    assert (found.status, found.pending) == (Status.AWAITING, large.addresses[2:])


async def test_a_relay_that_refuses_each_fresh_session_is_away_and_costs_no_attempt() -> None:
    relay, letters = FreshSessionRefused(), many(20)
    async with sending(relay, letters, max_attempts=1) as scene:
        await until(lambda: len(relay.peers) > 8)
        assert "421 4.3.2" in scene.known.reason
        assert scene.reported == []
        await scene.stats_are(awaiting=20)
        assert {found.attempts for one in letters if (found := await scene.queue.get(one.id))} == {0}
        assert len(relay.peers) < 60, "it is asked with pauses, by one at a time"


LIMITED = ["450 4.7.1 Error: too much mail", "550 5.7.0 Too many emails per second", "421 4.7.0 Slow down"]


@pytest.mark.parametrize("text", LIMITED)
async def test_a_limit_of_messages_in_a_time_fails_nobody(text: str) -> None:
    relay, letters = RateLimit(limit=5, seconds=0.3, text=text), many(30)
    async with sending(relay, letters, max_attempts=0, delay=0.05) as scene:
        done = await scene.settled(30)
    assert {each.status for each in done} == {Status.SENT}
    assert once_each(relay, letters)


async def test_greylisted_recipients_come_through_and_hold_up_nobody() -> None:
    few = PUT_OFF_RUN - 1  # as many as may all be put off before one of them comes again
    relay, letters = Greylister(seconds=0.5), many(few)
    async with sending(relay, letters, max_attempts=0, delay=0.05) as scene:
        await until(lambda: len({c for c in relay.commands if c.startswith("RCPT")}) == few)
        assert scene.known.reason == ""
        done = await scene.settled(few)
    assert {each.status for each in done} == {Status.SENT}


class Healing:
    """Whose fault it is: what a relay says to everybody, until somebody has mended it."""

    def __init__(self, kind: type[ZooRelay], **options: Any) -> None:
        self.mended = False
        healing = self

        class Sick(kind):  # type: ignore[misc, valid-type]
            def reply(self, visit: Any, moment: str, command: str) -> Any:
                return None if healing.mended else super().reply(visit, moment, command)

        self.relay: ZooRelay = Sick(**options)


ACCOUNTS = [
    Healing(SenderNotOwned, stage="RCPT"),
    Healing(SenderNotOwned, stage="MAIL"),
    Healing(Gmail, trouble="daily", limit=0),
    Healing(Gmail, trouble="daily", limit=3),
    Healing(Gmail, trouble="rate", limit=3),
    Healing(Ses, trouble="daily", limit=2),
    Healing(Ses, trouble="unverified"),
    Healing(Microsoft365, trouble="quota", limit=2),
    Healing(RefusesEverybody, text="452 4.3.1 Insufficient system storage", stage="MAIL"),
    Healing(RefusesEverybody, text="550 5.7.1 Blocked", stage="MAIL"),
    Healing(RefusesEverybody, text="554 No", stage="MAIL"),
    Healing(RefusesEverybody, text="554 No", stage="RCPT"),
    Healing(RefusesEverybody, text="554 5.7.1 Policy", stage="RCPT"),
    Healing(RefusesEverybody, text="550 5.7.1 Relaying denied", stage="RCPT"),
    Healing(RefusesEverybody, text="550 Relaying denied", stage="RCPT"),
    Healing(RefusesEverybody, text="550 Email account has exceeded rate overlimit", stage="RCPT"),
    Healing(RefusesEverybody, text="552 Message would take you over your relay quota of 5", stage="DOT"),
    Healing(RefusesEverybody, text="550 authentication required", stage="RCPT"),
    Healing(RefusesEverybody, text="530 5.7.57 Client not authenticated", stage="RCPT"),
    Healing(RefusesEverybody, text="554 5.7.1 Policy", stage="DATA"),
    Healing(RefusesEverybody, text="554 5.7.1 Spam", stage="DOT"),
    Healing(RefusesEverybody, text="550 5.7.26 Unauthenticated sender", stage="DOT"),
]


def _named(healing: Healing) -> str:
    words = {k: v for k, v in vars(healing.relay).items() if k in {"_stage", "_text", "_trouble", "_limit"}}
    return f"{type(healing.relay).__base__.__name__}-{'-'.join(map(str, words.values()))}"  # type: ignore[union-attr]


@pytest.mark.parametrize("sick", ACCOUNTS, ids=_named)
async def test_what_is_the_accounts_fault_fails_nobody_and_is_said(sick: Healing) -> None:
    relay, letters = sick.relay, many(30)
    async with sending(relay, letters, max_attempts=2, delay=0.01) as scene:
        await until(lambda: scene.known.breaker.open)
        assert "refuses letters: " in scene.known.reason
        begun = len(relay.commands)
        await until(lambda: len(relay.commands) > begun + 20)
        assert [each for each in scene.reported if each.status is Status.ERROR] == []
        sick.mended = True
        done = await scene.settled(30)
        assert scene.known.reason == ""
    assert {each.status for each in done} == {Status.SENT}
    assert once_each(relay, letters)


async def test_a_greeting_that_the_relay_does_not_like_fails_nobody() -> None:
    relay = HeloCritic()
    async with relay:
        there = SmtpRelay(config(relay.host, relay.port, helo_name="vm"), SystemClock())
        async with running(there) as scene:
            await scene.queue.insert(many(3))
            scene.dispatcher.nudge()
            await until(lambda: "504 5.5.2" in scene.known.reason)
            assert scene.reported == []


BAD_RECIPIENTS = ["550 5.1.1 No such user", "550 No such user", "550 5.2.1 Disabled", "553 5.1.3 Bad address"]


@pytest.mark.parametrize("text", BAD_RECIPIENTS)
async def test_a_list_of_bad_addresses_ends_at_once_and_opens_no_breaker(text: str) -> None:
    relay = RefusesEverybody(text=text, stage="RCPT")
    async with sending(relay, many(20)) as scene:
        done = await scene.settled(20)
        assert scene.known.reason == ""
    assert {(each.status, each.attempts) for each in done} == {(Status.ERROR, 1)}


class RefusesOne(ZooRelay):
    """Refuses one recipient, or the message to it."""

    def __init__(self, text: str, stage: str, **options: Any) -> None:
        super().__init__(**options)
        self._text, self._stage = text, stage

    def reply(self, visit: Any, moment: str, command: str) -> Any:
        mine = "r0@example.test" in command or "r0@example.test" in visit.recipients
        return self._text if mine and moment == self._stage else None


@pytest.mark.parametrize(("text", "stage"), [("554 No", "RCPT"), ("554 5.7.1 Spam", "dot")])
async def test_one_who_is_refused_among_others_ends_as_soon_as_another_is_taken(
    text: str, stage: str
) -> None:
    relay, letters = RefusesOne(text, stage), many(1)
    async with sending(relay, letters, senders=1) as scene:
        await until(lambda: len(scene.known.scale) == 1)
        assert scene.reported == []
        await scene.queue.insert([letter(1)])
        scene.dispatcher.nudge()
        done = {each.addresses[0]: each for each in await scene.settled(2)}
    assert done["r0@example.test"].status is Status.ERROR
    assert done["r1@example.test"].status is Status.SENT
    assert sum(command.startswith("MAIL") for command in relay.commands) == 2, "it was asked once"


async def test_one_who_is_refused_while_the_next_is_on_its_way_over_the_same_session() -> None:
    relay, letters = RefusesOne("554 5.7.1 Spam", "dot"), many(2)
    async with sending(relay, letters, senders=1) as scene:
        done = {each.addresses[0]: each.status for each in await scene.settled(2)}
    assert done == {"r0@example.test": Status.ERROR, "r1@example.test": Status.SENT}


async def test_alone_in_an_idle_service_it_ends_after_some_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "GRACE", 0.01)
    relay = RefusesOne("554 No", "RCPT")
    async with sending(relay, many(1), max_attempts=0, delay=0.01, senders=1) as scene:
        [done] = await scene.settled(1)
    assert (done.status, done.attempts) == (Status.ERROR, judge.DOUBTED_TRIES)
    assert done.recipients[0].result is not None
    assert done.recipients[0].result.code == 554


async def test_a_stop_gives_back_what_nobody_knows_yet() -> None:
    relay, letters = RefusesOne("554 No", "RCPT"), many(1)
    async with sending(relay, letters, senders=1) as scene:
        await until(lambda: len(scene.known.scale) == 1)
        scene.dispatcher.stop_claiming()
        assert await scene.dispatcher.finish(5.0)
        assert await scene.settler.flush(5.0)
        found = await scene.queue.get(letters[0].id)
    assert found is not None
    assert (found.status, found.attempts) == (Status.AWAITING, 0)


@pytest.mark.parametrize("pipelined", [True, False])
async def test_a_reply_that_comes_too_late_every_time_makes_two_copies_at_most(pipelined: bool) -> None:
    offers = ["PIPELINING"] if pipelined else []
    relay, short = LateReply(seconds=60.0, offers=offers), Timeouts(dot=0.1)
    async with sending(relay, many(1), max_attempts=0, delay=0.01, senders=1, timeouts=short) as scene:
        [done] = await scene.settled(1)
    assert copies(relay)["r0@example.test"] == 2
    assert (done.status, done.attempts) == (Status.ERROR, 2)
    assert done.recipients[0].uncertain


async def test_after_a_reply_that_came_too_late_the_next_one_is_waited_for_longer() -> None:
    relay, short = LateReply(seconds=0.3), Timeouts(dot=0.2)
    async with sending(relay, many(1), max_attempts=0, delay=0.01, senders=1, timeouts=short) as scene:
        [done] = await scene.settled(1)
    assert copies(relay)["r0@example.test"] == 2
    assert (done.status, done.recipients[0].uncertain) == (Status.SENT, True)


async def test_sessions_that_all_hang_after_the_dot_are_told_once_and_are_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slow_replies, "SLOW", 0.05)
    monkeypatch.setattr(dispatcher, "WATCH", 0.02)
    relay = LateReply(seconds=0.6)
    with capture_logs() as events:
        async with sending(relay, many(2), senders=2, timeouts=Timeouts(dot=5)) as scene:
            await until(lambda: scene.known.pool.dots.stuck)
            assert re.match("all [12] open sessions wait for the reply", scene.known.reason)
            await scene.settled(2)
            await until(lambda: scene.known.reason == "")
            await until(lambda: [e for e in events if e["event"] == "relay_slow_no_more"])
    assert [each["event"] for each in events].count("relay_slow") == 1
