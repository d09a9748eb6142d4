"""A relay that gives each reply of each preset, beside two that take everything.

Every reply has a relay of the file to itself, with its preset, and a route over it: all are in trouble at the
same time. What is said of the account fails nobody, and goes over another relay; what was told to rest rests,
on all replicas (P14), and whom one relay took no other one has (P12).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lab.provider_replies import Said
from lab.vitals import slower
from mailsender.routing.reply_rule import Action, Scope
from proof.checker import check
from proof.history import Allowed, History, Published
from proof.ledger import MAIL, SAID, SESSION, Moment
from proof.relay import LedgerRelay
from proof.run import Run, rest
from proof.smtp_server import places
from proof.stage import Stage
from proof.table import Row, row
from proof.three import by_relay, history_of, plan_of, relay_table, relays_of, started, use

LETTERS = 4
"""Of each route, first until it has heard its reply, and then again."""

HEARD = 60.0
"""Seconds until each reply has to be given once. Three sessions over all replicas are shared out first."""

LATE, TOLD = 1.0, 6.0
"""Seconds after a reply within which what is under way still begins: at the replica that heard it, and at the
others, which keep no rate and look for orders each five seconds."""

DONE = 90.0
"""Seconds until all that has to end has ended."""

SOON = 10.0
"""Seconds of rest that are waited for, so that what rested comes once more."""

OWN = {Action.SPLIT, Action.RETRY}
"""What is done about a reply that says nothing of other letters: no fallback is there for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One of the replies, and the relay that gives it: `place` is where, `name` its route and stream.

    `ordered`: the other relays come behind it on the route, or else they are its fallback.
    """

    said: Said
    place: str
    name: str
    ordered: bool
    letters: list[Published] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        """Whether its letters end now: they are failed, or another relay takes them."""
        about_all = self.said.scope in {Scope.RELAY, Scope.SENDER}
        return about_all or self.said.action is Action.FAIL or self.said.action in OWN

    @property
    def watched(self) -> str:
        """What may not begin after the reply: a session, or a transaction."""
        return SESSION if self.said.stage in {"greeting", "ehlo", "auth"} else MAIL

    @property
    def rests(self) -> float:
        """Seconds for which everything of the experiment is to rest there: all is from one sender."""
        return 0.0 if self.said.scope is Scope.RECIPIENT else self.said.seconds


def replies(stage: Stage, seed: int, *, said: Sequence[Said], replicas: int) -> Row:
    """Each of these replies to several letters, twice."""
    began, times = time.monotonic(), slower()
    with relays_of(stage, "replies", seed, places=len(said)) as (world, three):
        cases = [
            Case(said=each, place=place, name=f"r{number}", ordered=each.action in OWN or number % 2 == 0)
            for number, (each, place) in enumerate(zip(said, places(len(said)), strict=True))
        ]
        world.relay.follow(plan_of(seed, script=[_rule(each) for each in cases]))
        use(world, *_file(cases, three))
        for _ in range(replicas):
            started(world)
        for case in _unheard(world, cases, HEARD * times):
            world.fault(f"no letter was told {_title(case)}")
        _publish(world, cases, LETTERS)
        _wait_ended(world, cases, DONE * times)
        # What rested for some seconds only may come once more, and is told the same.
        rest(min([each.rests for each in cases if 0 < each.rests <= SOON], default=0.0))
        _publish(world, cases, 1)
        _wait_ended(world, cases, DONE * times)
        world.stop_services()
        moments = world.relay.read().moments
        late = (LATE if replicas == 1 else TOLD) * times
        for case in cases:
            for at, after in begun_early(moments, case.place, case.watched, case.rests, late):
                world.fault(f"a {case.watched} {after:.1f} s after {_title(case)}, at {at:.3f}")
        history = _with_those_who_may_fail(history_of(world, three), cases)
        faults = (*history.faults, *_wrong_ends(history, cases))
        verdict = check(
            replace(history, faults=faults), Allowed(duplicates=None, named=True, unfinished=True)
        )
    count = sum(each.kind == SAID for each in moments)
    return row(
        f"{len(said)} replies of providers, {replicas} replicas",
        seed,
        len(said),
        verdict,
        notes=f"said {count} times; {by_relay(history)}",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="relays --seed {seed}"',
    )


def begun_early(
    moments: Sequence[Moment], place: str, kind: str, rests: float, late: float
) -> Iterator[tuple[float, float]]:
    """What began at a place while it was to rest: when, and how long after the reply.

    Within `late` seconds of a reply what was on its way still comes.
    """
    said = sorted(each.at for each in moments if each.place == place and each.kind == SAID)
    for each in moments:
        if each.place != place or each.kind != kind:
            continue
        before = bisect_left(said, each.at - late)
        if before and each.at < said[before - 1] + rests:
            yield each.at, each.at - said[before - 1]


# --- the world ------------------------------------------------------------------------------------


def _title(case: Case) -> str:
    return f"{case.said.reply!r} at {case.said.stage} by {case.said.preset}"


def _rule(case: Case) -> dict[str, str]:
    return {"phase": case.said.stage.upper(), "at": case.place, "do": "reply", "text": case.said.reply}


def _file(cases: Sequence[Case], three: Mapping[str, LedgerRelay]) -> Iterator[str]:
    for name in ("second", "third"):
        yield relay_table(name, three[name].port)
    for case in cases:
        port = three["first"].port
        yield relay_table(case.name, port, host=case.place, preset=case.said.preset, connections=2)
    for case in cases:
        yield f'[routes.{case.name}]\nmatch = {{ stream = "{case.name}" }}\nretry = "1s"\n'
        own, others = f'"{case.name}"', '"second", "third"'
        yield (
            f"relays = [{own}, {others}]\n" if case.ordered else f"relays = [{own}]\nfallback = [{others}]\n"
        )
    yield '[routes.default]\nrelays = ["second", "third"]\n'


def _publish(world: Run, cases: Sequence[Case], count: int) -> None:
    for case in cases:
        batch = [{**world.publisher.letter(), "Stream": case.name} for _ in range(count)]
        case.letters.extend(world.publisher.published[-count:])
        world.publisher.send(batch)
    world.publisher.flush()


def _unheard(world: Run, cases: Sequence[Case], timeout: float) -> list[Case]:
    """Publish until each reply was given; those that were not in all that time."""
    deadline = time.monotonic() + timeout
    left = list(cases)
    while left and time.monotonic() < deadline:
        _publish(world, left, LETTERS)
        rest(2.0)
        heard = {each.place for each in world.relay.read().moments if each.kind == SAID}
        left = [case for case in left if case.place not in heard]
    return left


def _wait_ended(world: Run, cases: Sequence[Case], timeout: float) -> None:
    """Wait for all letters that have to end."""
    owed = {letter.mark for case in cases if case.ends for letter in case.letters}
    if not world.wait_told_of(owed, timeout):
        world.fault("letters that another relay may have did not end")


# --- what came of it ------------------------------------------------------------------------------


def _with_those_who_may_fail(history: History, cases: Sequence[Case]) -> History:
    """Whoever is told a reply that fails letters may be, by a rule that says so."""
    failed = {each.mark for case in cases if case.said.action is Action.FAIL for each in case.letters}
    published = tuple(
        replace(each, may_fail=frozenset(each.addresses)) if each.mark in failed else each
        for each in history.published
    )
    return replace(history, published=published)


def _wrong_ends(history: History, cases: Sequence[Case]) -> Iterator[str]:
    """Letters that are nowhere, and those who were failed for what is not their own fault."""
    reports = {each.mark: each for each in history.reports}
    stored = {each.mark for each in history.stored}
    for case in cases:
        for letter in case.letters:
            report = reports.get(letter.mark)
            if report is None:
                if letter.mark not in stored:
                    yield f"{letter.mark} is nowhere, after {_title(case)}"
                continue
            own = letter.mark.endswith("unwanted") or case.said.action is Action.FAIL
            for address, told in report.recipients.items():
                if told.status != "accepted" and not own and not address.startswith("nobody"):
                    yield f"{letter.mark} {address} was told {told.status}, after {_title(case)}"
