"""PIPELINING that is offered but lost on the way: found out soon, remembered, and told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import structlog

from lab.relay_zoo import BrokenFirewall, LateReply
from lab.scripted import Peer, ScriptedRelay, stall
from mailsender.model.letter import Outcome, Verdict
from mailsender.smtp import learned as smtp_learned
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.learned import BROKEN_FOR
from mailsender.smtp.port import NotBegun
from tests.clocks import ManualClock
from tests.dispatching import letter, running
from tests.sessions import ACCEPTED, SHORT, SHORTLY, UNCERTAIN, A, B, config, send, verdicts

SOON = 0.1


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_learned, "PROBATION", SOON)


def meeting(relay: ScriptedRelay, clock: ManualClock | None = None, **changes: object) -> SmtpRelay:
    return SmtpRelay(config(relay.host, relay.port, **changes), clock or ManualClock())


async def tell(adapter: SmtpRelay, *recipients: str) -> list[Verdict | type[BaseException]]:
    """Letters at once over a fresh session; what became of each."""
    session = await adapter.connect()
    made = await asyncio.gather(*(send(session, each) for each in recipients), return_exceptions=True)
    await session.close()
    return [verdicts(each)[0] if isinstance(each, Outcome) else type(each) for each in made]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("drops", "first"), [("packet", [NotBegun, NotBegun]), ("dot", [ACCEPTED, NotBegun])]
)
async def test_what_a_firewall_loses_is_sent_again_one_command_at_a_time(
    drops: str, first: list[Verdict | type[BaseException]]
) -> None:
    async with BrokenFirewall(drops=drops) as relay:
        adapter = meeting(relay)
        async with asyncio.timeout(10 * SOON):
            assert await tell(adapter, A, B) == first
            assert await tell(adapter, A, B) == [ACCEPTED, ACCEPTED]
        session = await adapter.connect()
        assert session.pipeline_depth == 1
        await session.close()
    assert "SMTP_PIPELINING" in adapter.remark


@pytest.mark.asyncio
async def test_sessions_that_are_open_already_speak_one_command_at_a_time_too() -> None:
    async with BrokenFirewall() as relay:
        adapter = meeting(relay)
        early = await adapter.connect()
        assert early.pipeline_depth == 2
        await tell(adapter, A)
        assert early.pipeline_depth == 1
        assert verdicts(await send(early)) == [ACCEPTED]
        await early.close()


@pytest.mark.asyncio
async def test_it_is_told() -> None:
    with structlog.testing.capture_logs() as logs:
        async with BrokenFirewall() as relay:
            await tell(meeting(relay), A, B)
    told = [entry for entry in logs if entry["event"] == "relay_pipelining_broken"]
    assert [entry["log_level"] for entry in told] == ["warning"]
    assert told[0]["relay"] == f"{relay.host}:{relay.port}"
    assert "SMTP_PIPELINING=off" in told[0]["action"]


@pytest.mark.asyncio
async def test_it_is_tried_again_after_an_hour() -> None:
    """What hung once for a while is no reason to be slow for ever."""
    clock = ManualClock()
    async with BrokenFirewall() as relay:
        adapter = meeting(relay, clock)
        await tell(adapter, A)
        relay._drops = "nothing"
        clock.forward(BROKEN_FOR - 1)
        assert await tell(adapter, A, B) == [ACCEPTED, ACCEPTED]
        assert adapter.remark
        clock.forward(2)
        session = await adapter.connect()
        assert session.pipeline_depth == 2
        assert not adapter.remark
        await session.close()


@pytest.mark.asyncio
async def test_a_relay_that_has_shown_that_it_takes_it_gets_all_its_time() -> None:
    slow = 3 * SOON

    async def slowly(peer: Peer) -> None:
        await asyncio.sleep(slow)
        await peer.say("250 2.1.5 Ok")

    script = {"RCPT": ["250 2.1.5 Ok", "250 2.1.5 Ok", slowly]}
    async with ScriptedRelay(script, offers=["PIPELINING"]) as relay:
        adapter = meeting(relay)
        assert await tell(adapter, A, B) == [ACCEPTED, ACCEPTED]
        assert await tell(adapter, A) == [ACCEPTED]
        assert not adapter.remark


@pytest.mark.asyncio
async def test_a_firewall_that_is_put_between_later_is_found_after_a_time_out() -> None:
    async with BrokenFirewall(drops="nothing") as relay:
        adapter = meeting(relay, timeouts=replace(SHORTLY, command=SHORT, data=SHORT))
        assert await tell(adapter, A, B) == [ACCEPTED, ACCEPTED]
        relay._drops = "packet"
        assert await tell(adapter, A) == [NotBegun]
        assert await tell(adapter, A) == [ACCEPTED]


@pytest.mark.asyncio
async def test_a_relay_that_is_silent_where_nothing_was_sent_ahead_is_not_blamed_on_it() -> None:
    async with ScriptedRelay({"RCPT": stall}) as relay:
        adapter = meeting(relay, timeouts=replace(SHORTLY, command=SHORT))
        assert await tell(adapter, A) == [Verdict.DEFERRED]
        assert not adapter.remark


@pytest.mark.asyncio
async def test_a_late_answer_to_the_dot_alone_is_not_blamed_on_it() -> None:
    async with LateReply(seconds=5) as relay:
        adapter = meeting(relay, timeouts=replace(SHORTLY, dot=SHORT))
        assert await tell(adapter, A) == [UNCERTAIN]
        assert not adapter.remark


@pytest.mark.asyncio
async def test_what_is_uncertain_stays_so() -> None:
    """The dot was sent, and with it the next letter's commands: nobody knows whether it arrived."""
    async with LateReply(seconds=5) as relay:
        adapter = meeting(relay, timeouts=replace(SHORTLY, dot=SHORT))
        assert await tell(adapter, A, B) == [UNCERTAIN, NotBegun]


@pytest.mark.asyncio
async def test_it_can_be_switched_off() -> None:
    async with BrokenFirewall() as relay:
        adapter = meeting(relay, pipelining=False)
        session = await adapter.connect()
        assert session.pipeline_depth == 1
        await session.close()
        assert await tell(adapter, A, B) == [ACCEPTED, ACCEPTED]


@pytest.mark.asyncio
@pytest.mark.parametrize("drops", ["packet", "dot"])
async def test_no_letter_pays_for_it(drops: str) -> None:
    """With the sending loops: every letter goes out once, at its first attempt, within a moment."""
    async with BrokenFirewall(drops=drops) as relay, asyncio.timeout(10):
        adapter = SmtpRelay(config(relay.host, relay.port), ManualClock())
        async with running(adapter, senders=2) as scene:  # type: ignore[arg-type]
            await scene.queue.insert([letter(n, f"r{n}@example.test") for n in range(12)])
            done = await scene.settled(12)
        assert sorted(each for taken in relay.taken for each in taken.recipients) == sorted(
            f"r{n}@example.test" for n in range(12)
        )
        assert {each.attempts for each in done} == {1}
