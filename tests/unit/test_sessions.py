"""What is said of a relay that cannot be used: once, and again when it is something else."""

from __future__ import annotations

import asyncio
import random

from structlog.testing import capture_logs

from mailsender.model.letter import Phase, Result, Verdict
from mailsender.model.ports import RelayAway
from mailsender.sending.sessions import OwnSession, RelayState
from tests.clocks import ManualClock
from tests.relays import FakeRelay

REFUSED = RelayAway("nobody listens there: see SMTP_HOST and SMTP_PORT (connection refused)", phase="connect")
LOGIN = RelayAway("the relay refused the session (auth): 535 Wrong password", phase="auth", code=535)


class Line:
    """The session of a worker, told by a test what came of its tries."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.state = RelayState("relay:25", self.clock)
        self.own = OwnSession(
            FakeRelay(), self.state, self.clock, share=0, chance=random.Random(1), stopping=asyncio.Event()
        )

    def told(self, *tries: RelayAway, every: float = 1.0) -> list[tuple[str, object, object, object]]:
        """What is said of these in a row."""
        with capture_logs() as logs:
            for each in tries:
                self.own.note_away(each)
                self.clock.forward(every)
        return [(line["event"], line["phase"], line["code"], line["error"]) for line in logs]


def test_a_relay_that_is_away_is_told_once_and_again_when_something_else_is_wrong() -> None:
    line = Line()
    assert line.told(REFUSED, REFUSED, LOGIN, LOGIN) == [
        ("relay_away", "connect", None, str(REFUSED)),
        ("relay_away", "auth", 535, str(LOGIN)),
    ]
    assert line.state.since == ManualClock().epoch(), "it is one outage"
    line.clock.forward(60)
    code = RelayAway("the relay refused the session (auth): 534 Mechanism", phase="auth", code=534)
    other = RelayAway("no address was found for SMTP_HOST=relay", phase="connect")
    assert [error for *_, error in line.told(code, other, every=120)] == [str(code), str(other)]


def test_the_same_in_other_words_of_the_relay_is_no_news() -> None:
    tries = [
        RelayAway(f"the relay refused the session (greeting): 421 id {n}", phase="greeting", code=421)
        for n in range(10)
    ]
    assert len(Line().told(*tries, every=1000)) == 1


def test_troubles_that_alternate_are_told_ever_more_rarely() -> None:
    line = Line()
    assert len(line.told(*[REFUSED, LOGIN] * 1800)) <= 9, "in an hour"
    assert len(line.told(*[REFUSED, LOGIN] * 1800)) <= 1


def test_that_the_last_session_is_gone_is_another_trouble_than_that_it_opens_no_further_ones() -> None:
    line = Line()
    line.state.open_sessions = 1
    assert [event for event, *_ in line.told(REFUSED)] == ["relay_refuses_session"]
    line.state.open_sessions = 0
    assert [event for event, *_ in line.told(REFUSED, REFUSED)] == ["relay_away"]


def test_an_outage_that_begins_anew_is_told_at_once() -> None:
    line = Line()
    line.told(*[REFUSED, LOGIN] * 100)
    line.own._note_there()
    assert len(line.told(LOGIN)) == 1


def refusal(code: int, text: str) -> Result:
    return Result(verdict=Verdict.REFUSED, phase=Phase.MAIL, code=code, text=text)


def test_that_a_relay_refuses_letters_for_another_reason_is_told() -> None:
    clock = ManualClock()
    state = RelayState("relay:25", clock)
    with capture_logs() as logs:
        for code, text in ((550, "Sender not allowed"), (550, "Still not"), (451, "Quota"), (451, "Quota 2")):
            state.hold("1" * 24, refusal(code, text))
            clock.forward(400)
            assert state.breaker.take_try(clock.monotonic())
    told = [(line["event"], line["code"], line["text"]) for line in logs]
    assert told == [
        ("relay_refuses_letters", 550, "Sender not allowed"),
        ("relay_refuses_letters", 451, "Quota"),
    ]
    assert state.refusing_since == ManualClock().epoch(), "since then it takes none"
