"""Notifications and RequireTLS on the wire, and what becomes of a letter whose relay cannot do as it asks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.parts import Certificates
from lab.scripted import OFFERS, ScriptedRelay
from mailsender.message.composer import LetterComposer
from mailsender.model.clock import SystemClock
from mailsender.model.letter import Envelope, Letter, Outcome, Status
from mailsender.model.terms import Terms
from mailsender.routing import breaker
from mailsender.sending import dispatcher, sender
from mailsender.smtp.connect import SmtpRelay
from mailsender.smtp.session import SmtpSession
from tests.dispatching import letter, running
from tests.sessions import (
    ACCEPTED,
    MESSAGE,
    REFUSED,
    SENDER,
    A,
    B,
    Permit,
    config,
    mail_commands,
    opened,
    server_tls,
    verdicts,
)

pytestmark = pytest.mark.asyncio

DSN = (*OFFERS, "DSN")
TLS = (*OFFERS, "DSN", "REQUIRETLS")
ASKED = Terms(notify=("SUCCESS", "DELAY"), ret="HDRS", envid="order 7")


async def transact(session: SmtpSession, terms: Terms, *recipients: str) -> Outcome:
    envelope = Envelope(reverse_path=SENDER, recipients=recipients or (A,), terms=terms)
    return await session.transact(envelope, MESSAGE, Permit())


async def test_notifications_are_asked_for_in_mail_and_rcpt() -> None:
    async with ScriptedRelay(offers=DSN) as relay, opened(relay) as session:
        assert verdicts(await transact(session, ASKED, A, B)) == [ACCEPTED, ACCEPTED]
        assert mail_commands(relay) == [
            f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)} RET=HDRS ENVID=order+207",
            f"RCPT TO:<{A}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;{A}",
            f"RCPT TO:<{B}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;{B}",
            "DATA",
        ]


async def test_a_relay_without_them_takes_the_letter_without_them() -> None:
    async with ScriptedRelay() as relay, opened(relay) as session:
        assert verdicts(await transact(session, ASKED)) == [ACCEPTED]
        assert mail_commands(relay)[:2] == [f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}", f"RCPT TO:<{A}>"]


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_tls_is_required_of_a_relay_that_offers_it(certificates: Certificates, mode: str) -> None:
    relay = ScriptedRelay(offers=TLS, tls=server_tls(certificates), implicit=mode == "implicit")
    async with relay, opened(relay, tls=mode, ca_file=str(certificates.ca)) as session:
        assert verdicts(await transact(session, Terms(require_tls=True))) == [ACCEPTED]
        assert f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)} REQUIRETLS" in relay.commands


@pytest.mark.parametrize(
    ("offers", "changes"),
    [
        (DSN, {"tls": "starttls", "verify": True}),
        (TLS, {"tls": "starttls", "verify": False}),
        (TLS, {"tls": "none"}),
    ],
    ids=["not offered", "not verified", "no TLS"],
)
async def test_where_it_cannot_be_nothing_is_sent_and_the_session_goes_on(
    certificates: Certificates, offers: tuple[str, ...], changes: dict[str, Any]
) -> None:
    relay = ScriptedRelay(offers=offers, tls=server_tls(certificates))
    async with relay, opened(relay, ca_file=str(certificates.ca), **changes) as session:
        outcome = await transact(session, Terms(require_tls=True), A, B)
        assert verdicts(outcome) == [REFUSED, REFUSED]
        assert {each.enhanced for each in outcome.results.values()} == {"5.7.30"}
        assert [each for each in mail_commands(relay) if each != "STARTTLS"] == []
        assert outcome.session_usable
        assert verdicts(await transact(session, Terms())) == [ACCEPTED]


# --- letters -------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held relay is tried again at once, so that a test need not wait for it."""
    monkeypatch.setattr(breaker, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(breaker, "LAST_WAIT", 0.1)
    monkeypatch.setattr(sender, "LOOK", 0.02)
    monkeypatch.setattr(dispatcher, "POLL", 0.02)


async def sent(relay: ScriptedRelay, *letters: Letter, **changes: Any) -> dict[str, Letter]:
    """What became of letters, by their subjects; the relay is open, `changes` say how it is reached."""
    there = SmtpRelay(config(relay.host, relay.port, **changes), SystemClock())
    async with running(there, composer=LetterComposer("Robot", SENDER), max_attempts=3) as scene:
        await scene.queue.insert(letters)
        scene.dispatcher.nudge()
        return {each.subject: each for each in await scene.settled(len(letters))}


def asking(number: int, **keys: Any) -> Letter:
    return letter(number, mail=json.dumps(keys))


async def test_a_letter_that_requires_tls_is_refused_and_its_neighbours_are_sent() -> None:
    async with ScriptedRelay(offers=TLS) as relay:
        found = await sent(relay, asking(1, RequireTLS=True), letter(2))
    refused = found["letter 1"]
    assert refused.status is Status.ERROR
    assert [each.result.enhanced for each in refused.recipients if each.result] == ["5.7.30"]
    assert found["letter 2"].status is Status.SENT
    assert len(relay.messages) == 1


async def test_a_way_without_tls_beyond_the_relay_is_no_fault_of_the_account(
    certificates: Certificates,
) -> None:
    """Google says 5.7.30, too, and means the account."""
    script = {"RCPT TO:<r1@example.test>": "550 5.7.30 REQUIRETLS support required"}
    async with ScriptedRelay(script, offers=TLS, tls=server_tls(certificates)) as relay:
        protected = {"tls": "starttls", "ca_file": str(certificates.ca)}
        found = await sent(relay, asking(1, RequireTLS=True), letter(2), **protected)
    assert found["letter 1"].status is Status.ERROR
    assert [each.result.code for each in found["letter 1"].recipients if each.result] == [550]
    assert found["letter 2"].status is Status.SENT


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("refusal", ["555 5.5.4 Unsupported option: ENVID", "501 5.5.4 Bad ENVID"])
async def test_a_parameter_that_is_refused_fails_its_letter_and_holds_up_no_other(refusal: str) -> None:
    async with ScriptedRelay(offers=DSN) as relay:
        taken = await sent(relay, asking(1, DSN={"EnvID": "7"}))
        assert taken["letter 1"].status is Status.SENT
        command = next(each for each in relay.commands if each.startswith("MAIL"))
    async with ScriptedRelay({command: refusal}, offers=DSN) as relay:
        found = await sent(relay, asking(1, DSN={"EnvID": "7"}), *(letter(number) for number in range(2, 9)))
    assert found["letter 1"].status is Status.ERROR
    assert found["letter 1"].recipients[0].result is not None
    assert found["letter 1"].recipients[0].result.text in refusal
    assert {each.status for subject, each in found.items() if subject != "letter 1"} == {Status.SENT}
