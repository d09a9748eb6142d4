"""What a letter asks of its relay on its way through a sender, and whose fault an answer to it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailsender.message.composer import LetterComposer
from mailsender.model.letter import Letter, Phase, Result, Status, Verdict
from mailsender.model.terms import Terms
from mailsender.sending.mail import known_of
from mailsender.sending.reply_rules import ruled
from tests.dispatching import letter, running
from tests.relays import ACCEPTED, FakeRelay, FakeSession

COMPOSER = LetterComposer("Robot", "s@example.test")
OTHERS = range(2, 9)
DELAY = 0.5
"""Seconds until a letter is tried again: all others were tried once by then, on a busy machine, too."""


def asking(**keys: Any) -> Letter:
    return letter(1, mail=json.dumps(keys))


def refusing(result: Result) -> FakeRelay:
    """A relay that says so of the first letter, and takes all others."""
    return FakeRelay(answer=lambda address: result if address == "r1@example.test" else ACCEPTED)


async def sent(relay: FakeRelay, *letters: Letter) -> dict[str, Letter]:
    """What became of letters, by their subjects."""
    async with running(relay, composer=COMPOSER, senders=1, delay=DELAY) as scene:
        await scene.queue.insert(letters)
        scene.dispatcher.nudge()
        settled = await scene.settled(len(letters))
        assert not scene.known.breaker.open
        return {each.subject: each for each in settled}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("keys", "terms"),
    [
        ({"DSN": {"Notify": ["DELAY"], "EnvID": "7"}}, Terms(notify=("DELAY",), envid="7")),
        ({"RequireTLS": True}, Terms(require_tls=True)),
        ({"Importance": "high"}, None),
    ],
)
async def test_the_terms_of_a_letter_are_those_of_its_envelope(
    keys: dict[str, Any], terms: Terms | None
) -> None:
    relay = FakeRelay()
    await sent(relay, asking(**keys), letter(2))
    asked = {each.recipients: each.terms for each in relay.sent}
    assert asked == {("r1@example.test",): terms, ("r2@example.test",): None}


def bare(result: Result | None) -> Result | None:
    """What was said, without the rule that decided."""
    return result and ruled(result, "")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"DSN": {"EnvID": "7"}},
            Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=555, enhanced="5.5.4"),
        ),
        ({"DSN": {"EnvID": "7"}}, Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=501)),
        (
            {"RequireTLS": True},
            Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=550, enhanced="5.7.30"),
        ),
        ({"RequireTLS": True}, Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, enhanced="5.7.30")),
        (
            {"ReversePath": "иван@example.test"},
            Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, enhanced="5.6.7"),
        ),
    ],
)
async def test_what_is_the_letters_own_fault_holds_up_nobody(keys: dict[str, Any], said: Result) -> None:
    found = await sent(refusing(said), asking(**keys), *map(letter, OTHERS))
    assert found["letter 1"].status is Status.ERROR
    assert [bare(each.result) for each in found["letter 1"].recipients] == [said]
    assert {found[f"letter {number}"].status for number in OTHERS} == {Status.SENT}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"ReversePath": "a@other.test"},
            Result(verdict=Verdict.REFUSED, phase=Phase.RCPT, code=553, enhanced="5.7.1"),
        ),
        (
            {"ReversePath": "a@other.test"},
            Result(verdict=Verdict.DEFERRED, phase=Phase.MAIL, code=451, enhanced="4.1.8"),
        ),
        (
            {"From": "a@other.test"},
            Result(verdict=Verdict.REFUSED, phase=Phase.DOT, code=550, enhanced="5.7.60"),
        ),
    ],
)
async def test_a_sender_that_letters_chose_holds_up_nobody_however_many_they_are(
    keys: dict[str, Any], said: Result
) -> None:
    own = {f"r{number}@example.test" for number in range(100, 120)}
    relay = FakeRelay(answer=lambda address: said if address in own else ACCEPTED)
    letters = [letter(number, mail=json.dumps(keys)) for number in range(100, 120)]
    with capture_logs() as logs:
        found = await sent(relay, *letters, *map(letter, OTHERS))
    assert "relay_refuses_letters" not in {line["event"] for line in logs}
    assert {found[f"letter {number}"].status for number in OTHERS} == {Status.SENT}
    for number in range(100, 120):
        (recipient,) = found[f"letter {number}"].recipients
        assert found[f"letter {number}"].status is Status.ERROR
        assert bare(recipient.result) == said


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ({"Importance": "high"}, ""),
        ({"From": "a@example.test"}, "own sender"),
        ({"From": "Robot <s@example.test>", "ReversePath": "s@example.test"}, ""),
        ({"Sender": "a@example.test"}, "own sender"),
        ({"ReversePath": "a@example.test"}, "own path, own, own sender"),
        ({"DSN": {"Ret": "FULL"}}, "own"),
        ({"RequireTLS": False}, ""),
        ({"RequireTLS": True}, "own, tls"),
    ],
)
def test_what_is_known_of_a_letter_for_the_rules(keys: dict[str, Any], known: str) -> None:
    assert ", ".join(known_of(COMPOSER.mail(asking(**keys)), "s@example.test")) == known


@pytest.mark.asyncio
async def test_one_whose_address_the_relay_cannot_show_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a personal letter; each of its messages shows but the one who gets it."""
    monkeypatch.setattr(FakeSession, "supports_smtputf8", False)
    relay = FakeRelay()
    people = ("иван@example.test", "anna@example.test")
    found = (await sent(relay, letter(1, *people, mail='{"Personal":true}')))["letter 1"]
    assert [each.recipients for each in relay.sent] == [("anna@example.test",)]
    assert found.status is Status.SENT
    ivan, anna = found.recipients
    assert ivan.result is not None
    assert (ivan.result.verdict, anna.accepted) == (Verdict.REFUSED, True)
    assert "SMTPUTF8" in ivan.result.text
