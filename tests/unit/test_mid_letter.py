"""What a relay says in the midst of a letter of several transactions, when it took some of them before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Status, Verdict
from mailsender.routing import breaker, weighing
from mailsender.sending import sender
from mailsender.smtp.port import Permit
from tests.dispatching import Scene, letter, running, until
from tests.relays import ACCEPTED, FakeRelay, FakeSession

BLOCKED = [
    (554, "5.2.0", "STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed", Phase.DOT),
    (550, "5.1.8", "Access denied, bad outbound sender", Phase.DOT),
    (550, "5.7.501", "Access denied, spam abuse detected", Phase.DOT),
    (550, "5.4.6", "Mail rate exceeded limit. Click here to unblock", Phase.DOT),
    (554, "5.7.1", "<DATA>: limit of 400 rcpts per 24 hours for client x reached", Phase.DATA),
    (554, "5.7.1", "Recipient address rejected: You have exceeded your Outmail quota", Phase.RCPT),
    (554, None, "Your account is under review", Phase.DOT),
    (452, "4.3.1", "Insufficient system resources", Phase.MAIL),
]
"""As others report them: no address is at fault."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held relay is tried again at once, so that a test need not wait for it."""
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(breaker, "LAST_WAIT", 0.1)
    monkeypatch.setattr(sender, "LOOK", 0.02)


def reply(code: int, enhanced: str | None, text: str, phase: Phase) -> Result:
    verdict = Verdict.DEFERRED if code < 500 else Verdict.REFUSED
    return Result(verdict=verdict, phase=phase, code=code, enhanced=enhanced, text=text)


def addresses(count: int) -> list[str]:
    return [f"r{n}@example.test" for n in range(count)]


def refusing(bad: dict[str, Result]) -> Callable[[str], Result]:
    return lambda address: bad.get(address, ACCEPTED)


def refused(scene: Scene) -> list[str]:
    return [
        each.address
        for each in scene.reported[0].recipients
        if each.result is not None and each.result.verdict is Verdict.REFUSED
    ]


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("said", BLOCKED, ids=lambda said: f"{said[0]} {said[1]} at {said[3]}")
async def test_an_account_that_may_send_no_more_fails_nobody_who_is_left(
    said: tuple[int, str | None, str, Phase],
) -> None:
    asked: list[str] = []

    def answer(address: str) -> Result:
        asked.append(address)
        return ACCEPTED if len(asked) <= 4 or len(asked) > 9 else reply(*said)

    relay = FakeRelay(answer=answer)
    async with running(relay, senders=1, max_recipients=1, max_attempts=9) as scene:
        await scene.queue.insert([letter(1, *addresses(20))])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert refused(scene) == []
        assert all(each.accepted for each in done.recipients)
        assert {each.tries for each in done.recipients} == {0}, "no attempt counted"


@pytest.mark.asyncio
async def test_a_letter_goes_on_when_one_of_its_recipients_is_refused_in_words_that_do_not_tell() -> None:
    """What the relay says of the next one tells: nothing waits for that, and the relay is not held."""
    bad = dict.fromkeys(["r3@example.test", "r7@example.test"], reply(554, None, "No", Phase.DOT))
    relay = FakeRelay(answer=refusing(bad))
    async with running(relay, senders=1, max_recipients=1) as scene:
        await scene.queue.insert([letter(1, *addresses(10))])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert (done.status, done.attempts, refused(scene)) == (Status.SENT, 1, list(bad))
        assert len(relay.sent) == 10, "each was asked once"
        assert not scene.known.breaker.open


@pytest.mark.asyncio
async def test_the_last_ones_refusal_waits_for_what_others_are_told() -> None:
    relay = FakeRelay(answer=refusing({"r3@example.test": reply(554, None, "No", Phase.DOT)}))
    async with running(relay, senders=1, max_recipients=1) as scene:
        await scene.queue.insert([letter(1, *addresses(4))])
        scene.dispatcher.nudge()
        await until(lambda: len(scene.known.scale))
        assert scene.reported == []
        await scene.queue.insert([letter(2)])
        scene.dispatcher.nudge()
        await scene.settled(2)
        assert {each.status for each in scene.reported} == {Status.SENT}
        (large,) = [each for each in scene.reported if len(each.recipients) == 4]
        assert [each.accepted for each in large.recipients] == [True, True, True, False]


@pytest.mark.asyncio
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("text", ["No", "relaying denied"])
async def test_who_is_refused_first_keeps_no_other_recipient_from_being_asked(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """The service has no other letter that could show that it is about this one."""
    monkeypatch.setattr(weighing, "GRACE", 0.1)
    bad = {"r0@example.test": reply(554, None, text, Phase.RCPT)}
    relay = FakeRelay(answer=refusing(bad))
    async with running(relay, senders=1, max_recipients=1, max_attempts=3) as scene:
        await scene.queue.insert([letter(1, *addresses(5))])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert done.status is Status.SENT
        assert [each.accepted for each in done.recipients] == [False, True, True, True, True]


class Forgetful(FakeRelay):
    """Each of its sessions takes one transaction more than the one before, and then is out of step."""

    async def connect(self) -> FakeSession:
        await super().connect()
        self.sessions[-1] = ForgetfulSession(self, lasts=len(self.sessions))
        return self.sessions[-1]


class ForgetfulSession(FakeSession):
    """See `Forgetful`."""

    def __init__(self, relay: FakeRelay, *, lasts: int) -> None:
        super().__init__(relay)
        self.lasts = lasts

    async def _carry(self, envelope: Envelope, permit: Permit) -> Outcome:
        self.lasts -= 1
        if self.lasts >= 0:
            return await super()._carry(envelope, permit)
        out = reply(503, "5.5.1", "Bad sequence of commands", Phase.DATA)
        return Outcome(results=dict.fromkeys(envelope.recipients, out), session_usable=False)


@pytest.mark.asyncio
async def test_sessions_that_end_are_in_a_row_only_where_nothing_went_in_between() -> None:
    relay = Forgetful()
    async with running(relay, senders=1, max_recipients=1) as scene:
        await scene.queue.insert([letter(1, *addresses(25))])
        scene.dispatcher.nudge()
        (done,) = await scene.settled(1)
        assert all(each.accepted for each in done.recipients), refused(scene)
        assert (done.attempts, relay.connects > 4) == (1, True)
