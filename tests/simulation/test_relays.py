"""Scripted relays: they keep count, they say what their script says, and they forget no letter."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mailsender.model.letter import Envelope, Outcome, Phase, Result, Verdict
from mailsender.routing.reply_rule import Scope
from mailsender.smtp.port import NotBegun, RelayAway
from simulation.ledger import Ledger
from simulation.loop import Process, VirtualLoop, context_of
from simulation.manners import Limit, Mood, Says, Traits
from simulation.relays import ScriptedRelay, ScriptedSession

SLOW_DOWN = Says(code=454, enhanced="4.3.0", text="slow down", phase=Phase.DOT, holds=60.0)


@dataclass
class Leave:
    """A permit that says yes, or what it is told to say."""

    may_begin: bool = True
    may_dot: bool = True
    token: str = "token"
    letter_id: str = "letter"
    told: Mapping[str, Result] | None = None
    refusals: list[str] = field(default_factory=list)

    def begin(self) -> bool:
        return self.may_begin

    def dot(self) -> bool:
        return self.may_dot

    def refused(self, results: Mapping[str, Result]) -> None:
        assert self.told is None, "refused behind the reply to its dot"
        self.refusals += [f"{address} {each.phase}" for address, each in results.items()]

    def replied(self, results: Mapping[str, Result]) -> None:
        self.told = results


class Scene:
    def __init__(self, **traits: Any) -> None:
        self.loop = VirtualLoop()
        self.ledger = Ledger()
        self.process = Process("one")
        self.relay = ScriptedRelay(
            Traits(host="one.test", **traits), self.loop, self.ledger, random.Random(1), owns=lambda *_: True
        )

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(context_of(self.process).run(self.loop.create_task, work))

    def open(self) -> ScriptedSession:
        session: ScriptedSession = self.run(self.relay.connect())
        return session

    def send(self, session: ScriptedSession, *people: str, permit: Leave | None = None) -> Outcome:
        envelope = Envelope(reverse_path="s@x.test", recipients=people or ("r@x.test",))
        outcome: Outcome = self.run(session.transact(envelope, b"", permit or Leave()))
        return outcome


@pytest.fixture
def scenes() -> Iterator[list[Scene]]:
    made: list[Scene] = []
    yield made
    for each in made:
        each.loop.close()


def make(scenes: list[Scene], **traits: Any) -> Scene:
    scenes.append(Scene(**traits))
    return scenes[-1]


def verdicts(outcome: Outcome) -> list[Verdict]:
    return [each.verdict for each in outcome.results.values()]


def test_what_it_takes_stands_in_the_ledger(scenes: list[Scene]) -> None:
    scene, permit = make(scenes), Leave()
    outcome = scene.send(scene.open(), "a@x.test", "nobody@x.test", permit=permit)
    assert verdicts(outcome) == [Verdict.ACCEPTED, Verdict.REFUSED]
    assert permit.told == outcome.results
    assert [(each.recipient, each.taken) for each in scene.ledger.dots] == [("a@x.test", True)]
    assert [each.recipient for each in scene.ledger.refused] == ["nobody@x.test"]
    assert len(scene.ledger.begun) == 1


def test_nothing_begins_without_leave_and_no_dot_is_written(scenes: list[Scene]) -> None:
    scene = make(scenes)
    with pytest.raises(NotBegun):
        scene.send(scene.open(), permit=Leave(may_begin=False))
    outcome = scene.send(scene.open(), permit=Leave(may_dot=False))
    assert verdicts(outcome) == [Verdict.DEFERRED]
    assert not outcome.session_usable
    assert (len(scene.ledger.begun), scene.ledger.dots) == (1, [])


def test_one_that_is_lost_after_its_dot_may_have_been_taken(scenes: list[Scene]) -> None:
    scene = make(scenes, lost_after=1.0, taken_all_the_same=1.0)
    outcome = scene.send(scene.open())
    assert verdicts(outcome) == [Verdict.UNCERTAIN]
    (dot,) = scene.ledger.dots
    assert (dot.taken, dot.answered) == (True, float("inf"))


def test_what_has_its_dot_is_taken_although_the_process_dies(scenes: list[Scene]) -> None:
    scene = make(scenes)
    session = scene.open()
    envelope = Envelope(reverse_path="s@x.test", recipients=("r@x.test",))
    context_of(scene.process).run(scene.loop.create_task, session.transact(envelope, b"", Leave()))
    while not scene.ledger.dots:
        scene.loop.run_until_complete(asyncio.sleep(0.001))
    scene.process.dead = True
    scene.relay.cut(scene.process)
    scene.loop.run_until_complete(asyncio.sleep(1.0))
    (dot,) = scene.ledger.dots
    assert (dot.taken, dot.answered) == (True, float("inf"))


def test_a_limit_is_counted_over_any_period_and_told(scenes: list[Scene]) -> None:
    scene = make(scenes, limits=(Limit(count=2, period=10.0, says=SLOW_DOWN),))
    session = scene.open()
    found = [verdicts(scene.send(session)) for _ in range(3)]
    assert found == [[Verdict.ACCEPTED], [Verdict.ACCEPTED], [Verdict.DEFERRED]]
    assert [each.words for each in scene.ledger.told] == ["454 4.3.0 slow down"]
    scene.loop.run_until_complete(asyncio.sleep(10.0))
    assert verdicts(scene.send(session)) == [Verdict.ACCEPTED]


def test_what_it_says_of_a_domain_is_said_of_nobody_else(scenes: list[Scene]) -> None:
    scene = make(scenes)
    busy = Says(
        code=451, enhanced="4.7.500", text="busy", phase=Phase.RCPT, holds=60.0, scope=Scope.DESTINATION
    )
    scene.relay.mood = Mood(says=busy, domain="busy.test")
    outcome = scene.send(scene.open(), "a@x.test", "b@busy.test")
    assert verdicts(outcome) == [Verdict.ACCEPTED, Verdict.DEFERRED]
    assert [each.whom for each in scene.ledger.told] == ["@busy.test"]
    assert [each.recipients for each in scene.ledger.begun] == [("a@x.test", "b@busy.test")]


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.DOT])
def test_what_it_refuses_is_told_when_it_is_said(scenes: list[Scene], phase: Phase) -> None:
    scene, permit = make(scenes, dot=60.0), Leave()
    scene.relay.mood = Mood(says=replace(SLOW_DOWN, phase=phase), domain="busy.test")
    scene.send(scene.open(), "a@x.test", "b@busy.test", permit=permit)
    whom = ["b@busy.test"] if phase is Phase.RCPT else ["a@x.test", "b@busy.test"]
    assert permit.refusals == [f"{each} {phase}" for each in whom]
    assert (scene.ledger.told[0].reached < 1.0) is (phase is not Phase.DOT), "not at the transaction's end"


def test_how_many_sessions_there_were_at_once_stands_in_the_ledger(scenes: list[Scene]) -> None:
    scene = make(scenes)
    scene.open()
    scene.open().end()
    scene.open()
    assert scene.ledger.sessions == {"one.test:25": 2}


def test_recipients_may_be_what_is_counted(scenes: list[Scene]) -> None:
    scene = make(scenes, limits=(Limit(count=2, period=10.0, says=SLOW_DOWN, recipients=True),))
    session = scene.open()
    assert verdicts(scene.send(session, "a@x.test", "b@x.test", "c@x.test")) == [Verdict.ACCEPTED] * 3
    scene.loop.run_until_complete(asyncio.sleep(10.5))
    assert verdicts(scene.send(session)) == [Verdict.ACCEPTED], "one of them is to be paid off yet"
    assert verdicts(scene.send(session)) == [Verdict.DEFERRED]


def test_more_recipients_than_it_takes(scenes: list[Scene]) -> None:
    scene = make(scenes, recipients=2)
    outcome = scene.send(scene.open(), "nobody@x.test", "a@x.test", "b@x.test", "c@x.test")
    assert [each.code for each in outcome.results.values()] == [550, 250, 250, 452]


def test_more_sessions_than_it_takes_and_moods(scenes: list[Scene]) -> None:
    scene = make(scenes, sessions=1)
    scene.open()
    with pytest.raises(RelayAway, match="421"):
        scene.open()
    scene.relay.cut()
    scene.relay.mood = Mood(login=True)
    with pytest.raises(RelayAway, match="535"):
        scene.open()
    scene.relay.mood = Mood(away=True)
    with pytest.raises(RelayAway, match="refused"):
        scene.open()


def test_who_is_seen_for_the_first_time_has_to_wait(scenes: list[Scene]) -> None:
    scene = make(scenes, greylist=60.0)
    session = scene.open()
    assert verdicts(scene.send(session)) == [Verdict.DEFERRED]
    scene.loop.run_until_complete(asyncio.sleep(61.0))
    assert verdicts(scene.send(session)) == [Verdict.ACCEPTED]


@pytest.mark.parametrize(("depth", "together"), [(1, False), (2, True)])
def test_the_next_envelope_goes_with_a_message_where_it_takes_them_pipelined(
    scenes: list[Scene], depth: int, *, together: bool
) -> None:
    scene = make(scenes, depth=depth, dot=10.0)
    session = scene.open()
    envelope = Envelope(reverse_path="s@x.test", recipients=("r@x.test",))

    async def both() -> None:
        await asyncio.gather(*(session.transact(envelope, b"", Leave()) for _ in range(2)))

    scene.run(both())
    begun = [each.at for each in scene.ledger.begun]
    dots = [each.at for each in scene.ledger.dots]
    assert (begun[1] - begun[0] < 1.0) is together
    assert dots[1] - dots[0] > 4.0, "one dot at a time"
