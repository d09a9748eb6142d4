"""The judge: which promises a ledger shows broken. Pure, and blind to the service's insides."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

import orjson

from mailsender.model.letter import Status
from mailsender.ratelimit.gcra import Allowance, day_bounds
from simulation.ledger import Begun, Broken, Dot, Ledger, Reported, Told
from simulation.store import START

SHOWN = 3
"""Faults of a kind that are shown in full."""

INTAKE = 5.0
"""Seconds after which a letter that was published is taken in: its time counts from then on."""

LATEST = 1000.0
"""Seconds after a dot in which its outcome is known or given up, and written down."""

WRITTEN = 1.0
"""Seconds after an answer in which it is written down, where nothing is broken: settlements are gathered for
0.15 s, and take a way to the store and back."""

REPLACED = 66.0
"""Seconds after a kill in which what the next process on its host reads of the journal is settled: it starts
within six, and after a life of silence, 60, others may give back what the dead one held."""

SOON = 0.001
"""Seconds within which a reply reaches all who are at work in a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A broken promise of the design: which one, in what way, and where."""

    promise: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise} {self.kind}: {self.what}"


HEARD = 6.0
"""Seconds within which other replicas hear what one was told: they look every five, and slots that they lease
last as long."""


EVEN = 0.02
"""The part of all letters by which a relay may have more or less of them than its weight is."""

ENOUGH = 500
"""Transactions from which on parts of them say something."""

SELDOM = 0.01
"""The part of the replies, after a relay has told of its limit, that may tell of it again."""

Hours = Callable[[float], bool]
"""Whether there may be sent at a time, in epoch seconds."""


class Obeyed(StrEnum):
    """By whom a relay's words are obeyed."""

    ALONE = "the replica that was told"
    ALL = "all replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was agreed on in a world, against which its ledger is held.

    `allowances` are by the relays' names, all of one's hold; `connections` is how many sessions each takes,
    `weights` what they get of the letters, where there are any. `resends` is how often an uncertain recipient
    is sent to again. `prompt` are routes whose letters have to be begun within so many seconds of their being
    there, whatever becomes of others. `patience` is for how many seconds at least everybody is tried whom no
    relay refuses. `hours` and `expire` say of routes when they send, and for how many
    seconds after they got a letter. `moderate` are relays that have to tell of a limit hardly ever once they
    did. `journal`: what a killed process had sent is known to the next one on its host. `obeyed` by whom a
    reply that says wait is obeyed, `on_its_way` for how many seconds after it transactions may still begin.
    """

    allowances: Mapping[str, Sequence[Allowance]] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    resends: int = 1
    patience: float = math.inf
    journal: bool = False
    prompt: Mapping[str, float] = field(default_factory=dict)
    hours: Mapping[str, Hours] = field(default_factory=dict)
    expire: Mapping[str, float] = field(default_factory=dict)
    moderate: Collection[str] = ()
    silent: Collection[str] = ()
    obeyed: Obeyed = Obeyed.ALONE
    on_its_way: float = 0.0


def faults(ledger: Ledger, terms: Terms) -> list[Fault]:
    """All that is wrong, in the order of the promises."""
    judge = _Judge(ledger, terms)
    found = [*judge.owners(), *judge.answers(), *judge.rates(), *judge.doubles(), *judge.promptness()]
    found += [*judge.obedience(), *judge.moderation(), *judge.schedules(), *judge.evenness()]
    found += [Fault(promise="-", kind="seen", what=each) for each in ledger.seen]
    return found


def counts(ledger: Ledger) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """Pairs of letter and recipient by how often they were taken, letters by their reports, letters twice."""
    dots = dict(ledger.dots_by_recipient())
    taken = {each: sum(dot.taken is True for dot in dots.get(each, ())) for each in _everybody(ledger)}
    reports = Counter(each.letter for each in ledger.reported)
    twice = {dot.letter for each, count in taken.items() if count > 1 for dot in dots[each]}
    return _by_number(taken.values()), _by_number([reports[each] for each in ledger.published]), len(twice)


def _everybody(ledger: Ledger) -> list[str]:
    return [each for letter in ledger.published.values() for each in letter.recipients]


def _by_number(found: Iterable[int]) -> tuple[int, int, int]:
    """How many are 0, 1, and more."""
    number = Counter(min(2, each) for each in found)
    return number[0], number[1], number[2]


def shown(found: Sequence[Fault]) -> list[str]:
    """A few of each kind, and how many there are."""
    kinds: defaultdict[tuple[str, str], list[Fault]] = defaultdict(list)
    for each in found:
        kinds[each.promise, each.kind].append(each)
    lines = []
    for (promise, kind), some in kinds.items():
        lines.append(f"{promise} {kind} ×{len(some)}")
        lines += [f"    {each.what}" for each in some[:SHOWN]]
    return lines


class _Judge:
    def __init__(self, ledger: Ledger, terms: Terms) -> None:
        self.ledger = ledger
        self.terms = terms
        self.reports: defaultdict[str, list[Reported]] = defaultdict(list)
        for each in ledger.reported:
            self.reports[each.letter].append(each)
        self.dots = dict(ledger.dots_by_recipient())

    # --- P3 ----------------------------------------------------------------------------------------

    def owners(self) -> Iterator[Fault]:
        """Nobody begins, or writes a dot, with a letter that is not his."""
        for begun in self.ledger.begun:
            if not begun.owned:
                what = f"{begun.letter} by {begun.process} at {begun.at:.3f}"
                yield Fault(promise="P3", kind="begun by one who does not own it", what=what)
        for dot in self.ledger.dots:
            if not dot.owned:
                what = f"{dot.letter} to {dot.recipient} by {dot.process} at {dot.at:.3f}"
                yield Fault(promise="P3", kind="a dot by one who does not own it", what=what)

    # --- P4, and P14 of its words ------------------------------------------------------------------

    def answers(self) -> Iterator[Fault]:
        """Each letter is answered, in the same words, truly, and not before its end is durable."""
        known = {each.recipient for each in self.ledger.refused}
        for letter, published in self.ledger.published.items():
            reports = self.reports.get(letter, [])
            if not reports:
                taken = any(dot.taken for each in published.recipients for dot in self.dots.get(each, ()))
                yield Fault(promise="P4", kind="unreported" if taken else "lost", what=letter)
                continue
            if len({each.words for each in reports}) > 1:
                yield Fault(promise="P4", kind="other words", what=letter)
            for each in reports:
                if each.stored is None or not each.stored.final:
                    what = f"{letter} at {each.at:.3f} while it was {each.stored}"
                    yield Fault(promise="P4", kind="reported before it was durable", what=what)
                elif each.stored is not Status(each.status):
                    yield Fault(promise="P4", kind="reported as something else", what=letter)
            yield from self._truth(letter, reports[0], known)
        for letter in self.reports.keys() - self.ledger.published.keys():
            yield Fault(promise="P4", kind="a report about nothing", what=letter)

    def _truth(self, letter: str, report: Reported, refused: set[str]) -> Iterator[Fault]:
        told = orjson.loads(report.words)
        everybody = {each["Address"]: each for each in told["Recipients"]}
        named = dict.fromkeys(self.ledger.published[letter].recipients)
        for address in named.keys() - everybody.keys():
            yield Fault(promise="P4", kind="a recipient is not told", what=f"{address} of {letter}")
        for address in everybody.keys() - named.keys():
            yield Fault(promise="P4", kind="a recipient nobody named", what=f"{address} of {letter}")
        for address in named:
            if address in everybody:
                yield from self._truth_of_each(report, everybody[address], address in refused)
        accepted = any(each["Status"] == "accepted" for each in everybody.values())
        if (told["Status"] == "sent") is not accepted:
            yield Fault(promise="P4", kind="a status that its recipients deny", what=letter)

    def _truth_of_each(self, report: Reported, told: Mapping[str, object], refused: bool) -> Iterator[Fault]:
        address, status, uncertain = str(told["Address"]), told["Status"], told["Uncertain"]
        what, dots = f"{address} of {report.letter}", self.dots.get(address, [])
        taken = {dot.relay for dot in dots if dot.taken}
        if status == "accepted" and told["Relay"] not in taken:
            yield Fault(promise="P4", kind="told accepted, and was not", what=what)
        if status != "accepted" and taken and not uncertain:
            yield Fault(promise="P4", kind="told not accepted, and was", what=what)
        if not uncertain and any(self._doubted(dot) for dot in dots):
            yield Fault(promise="P4", kind="a doubt that is not told", what=what)
        if uncertain and not any(self._doubtful(dot) for dot in dots):
            yield Fault(promise="P11", kind="told as uncertain, and was not", what=what)
        if status == "refused" and not refused:
            words = f"{what}: {told['Code']} {told['Text']}"
            yield Fault(promise="P14", kind="failed for no fault of its own", what=words)
        if status not in {"accepted", "refused"} and not self._tried_enough(report, status, dots):
            words = f"{what}: {status}, {told['Code']} {told['Text']}"
            yield Fault(promise="P4", kind="given up before its time", what=words)

    def _tried_enough(self, report: Reported, status: object, dots: Sequence[Dot]) -> bool:
        """Whether somebody whom nobody refused may end: it was in doubt too often, or its time is over."""
        published = self.ledger.published[report.letter]
        doubts = sum(self._doubtful(dot) for dot in dots)
        if status == "uncertain" and doubts > self.terms.resends:
            return True
        most = min(self.terms.patience, self.terms.expire.get(published.route, math.inf))
        return report.at - published.at >= most

    def _doubtful(self, dot: Dot) -> bool:
        """Whether somebody may be in doubt about a dot: its answer was lost, or whoever had it was broken."""
        return dot.answered == math.inf or self._broken_amid(dot)

    def _broken_amid(self, dot: Dot, *, until: float = math.inf) -> bool:
        """Whether something kept whoever wrote a dot from knowing of its outcome, or from writing it down."""
        known = min(dot.answered, dot.given_up) + WRITTEN
        return any(
            each.process in {dot.process, ""} and each.start <= min(known, until) and each.end >= dot.at
            for each in self.ledger.broken
        )

    def _doubted(self, dot: Dot) -> bool:
        """Whether the answer to a dot was lost, and whoever wrote it lived on to tell."""
        return dot.answered == math.inf and not any(
            each.process in {dot.process, ""} and each.end >= dot.at and each.start <= dot.at + LATEST
            for each in self.ledger.broken
        )

    # --- P5 ----------------------------------------------------------------------------------------

    def rates(self) -> Iterator[Fault]:
        """All together begin no more than is allowed, in any period and on any day, over no more sessions."""
        by_relay = self._by_relay()
        for relay, allowances in self.terms.allowances.items():
            for each in allowances:
                yield from _excess(relay, by_relay.get(relay, []), each)
        for relay, allowed in self.terms.connections.items():
            most = self.ledger.sessions.get(relay, 0)
            if most > allowed:
                what = f"{relay}: {most} at once, where {allowed} are allowed"
                yield Fault(promise="P5", kind="too many connections", what=what)

    def _by_relay(self) -> Mapping[str, Sequence[float]]:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for each in self.ledger.begun:
            found[each.relay].append(each.at)
        return found

    def evenness(self) -> Iterator[Fault]:
        """Relays that share letters have as many as their weights say, each by where it went first."""
        first = {each.letter: each.relay for each in reversed(self.ledger.begun)}
        if not self.terms.weights or len(first) < ENOUGH:
            return
        count, every, total = Counter(first.values()), sum(self.terms.weights.values()), len(first)
        for relay, weight in self.terms.weights.items():
            if abs(count[relay] / total - weight / every) > EVEN:
                what = f"{relay}: {count[relay]} of {total}, where it has a weight of {weight} of {every}"
                yield Fault(promise="-", kind="not by weight", what=what)

    def schedules(self) -> Iterator[Fault]:
        """Nothing begins when a route is closed, or when the letter's time is over."""
        for each in self.ledger.begun:
            published = self.ledger.published.get(each.letter)
            if published is None:
                continue
            hours, what = self.terms.hours.get(published.route), f"{each.letter} at {each.at:.3f}"
            if hours is not None and not hours(START + each.at):
                yield Fault(promise="-", kind="begun outside the window", what=what)
            if each.at - published.at > self.terms.expire.get(published.route, math.inf) + INTAKE:
                yield Fault(promise="-", kind="begun after its time", what=what)

    # --- P12, and duplicates -----------------------------------------------------------------------

    def doubles(self) -> Iterator[Fault]:
        """Nobody gets a letter twice, or over a second relay, but for a reason that nobody can help."""
        for recipient, dots in self.dots.items():
            unknown = 0
            for before, after in pairwise(dots):
                if before.taken is False:
                    continue
                death = self._death(before, after)
                if before.answered > after.at:
                    unknown += self._known_doubts(before, after, death)
                if self._excused(before, after, unknown, death):
                    continue
                times = [f"{each.at:.3f} by {each.process} over {each.relay}" for each in (before, after)]
                yield self._twice(before, after, death, f"{recipient} at {times[0]}, {times[1]}")

    def _twice(self, before: Dot, after: Dot, death: Broken | None, what: str) -> Fault:
        if before.relay != after.relay:
            return Fault(promise="P12", kind="given to a second relay", what=what)
        if death is not None and self.terms.journal:
            return Fault(promise="P11", kind="sent twice, though it was written down", what=what)
        return Fault(promise="P3", kind="sent twice", what=what)

    def _known_doubts(self, before: Dot, after: Dot, death: Broken | None) -> int:
        """How many doubts are known by a dot without an answer; more than enough if it is waited for."""
        if death is not None and self.terms.journal:
            return 1
        if self._broken_amid(before, until=after.at):
            return 0
        return 1 if before.given_up <= after.at else self.terms.resends + 1

    def _excused(self, before: Dot, after: Dot, unknown: int, death: Broken | None) -> bool:
        """Whether nobody could know that a relay had taken it: the answer was lost, or who had it was."""
        if before.answered > after.at and 0 < unknown <= self.terms.resends:
            return True
        if not self._broken_amid(before, until=after.at):
            return False
        return death is None or not self.terms.journal or self._journal_unread(before, death)

    def _journal_unread(self, dot: Dot, death: Broken) -> bool:
        """Whether more was broken than who wrote the dot, so that others may have given the letter back."""
        host = dot.process.partition("/")[0]
        return any(
            each is not death
            and (each.process == "" or each.process.partition("/")[0] == host)
            and each.start <= death.start + REPLACED
            and each.end >= dot.at
            and (each.process != dot.process or each.what != "killed")
            for each in self.ledger.broken
        )

    def _death(self, before: Dot, after: Dot) -> Broken | None:
        """The end of whoever wrote a dot, if that kept the outcome from being written down."""
        latest = min(before.answered, before.given_up) + WRITTEN
        return next(
            (
                each
                for each in self.ledger.broken
                if each.process == before.process and each.what == "killed"
                if before.at <= each.start <= min(latest, after.at)
            ),
            None,
        )

    # --- P13 ---------------------------------------------------------------------------------------

    def promptness(self) -> Iterator[Fault]:
        """What depends on nothing that is ill goes on."""
        first: dict[str, float] = {}
        for each in self.ledger.begun:
            first.setdefault(each.letter, each.at)
        for letter, published in self.ledger.published.items():
            most = self.terms.prompt.get(published.route, math.inf)
            waited = first.get(letter, math.inf) - published.at
            if waited > most and not self._anything_broken(published.at, published.at + most):
                what = f"{letter} of {published.route} waited {waited:.1f} s from {published.at:.1f} on"
                yield Fault(promise="P13", kind="held up by others", what=what)

    def _anything_broken(self, start: float, end: float) -> bool:
        return any(each.start <= end and each.end >= start for each in self.ledger.broken)

    # --- P14 ---------------------------------------------------------------------------------------

    def obedience(self) -> Iterator[Fault]:
        """After a reply that says wait nobody whom it concerns begins anything, until its time is over."""
        late = SOON + self.terms.on_its_way
        by_relay: defaultdict[str, list[Begun]] = defaultdict(list)
        for each in self.ledger.begun:
            by_relay[each.relay].append(each)
        for told in self.ledger.told:
            for each in _between(by_relay[told.relay], told.reached + late, told.reached + told.seconds):
                if self._bound(told, each):
                    after = each.at - told.reached
                    what = (
                        f"{each.letter} over {told.relay} by {each.process} {after:.2f} s after {told.words}"
                    )
                    yield Fault(promise="P14", kind="not obeyed", what=what)

    def moderation(self) -> Iterator[Fault]:
        """Who was told of a limit hardly ever has to be told again."""
        for relay in self.terms.moderate:
            said = [each.reached for each in self.ledger.told if each.relay == relay]
            count = sum(said[:1] < [each.at] for each in self.ledger.begun if each.relay == relay)
            if said and count >= ENOUGH and len(said) - 1 > SELDOM * count:
                what = f"{relay}: {len(said) - 1} of {count} replies after the first"
                yield Fault(promise="P14", kind="told of its limit again and again", what=what)
        for told in self.ledger.told:
            if told.relay in self.terms.silent:
                what = f"{told.relay} at {told.reached:.3f}: {told.words}"
                yield Fault(promise="P5", kind="more than a relay allows that was known", what=what)

    def _bound(self, told: Told, begun: Begun) -> bool:
        """Whether who began had to know; others have to hear of it, and nothing may keep them from that."""
        if not told.concerns(begun):
            return False
        if begun.process == told.process:
            return True
        if self.terms.obeyed is not Obeyed.ALL or begun.at <= told.reached + HEARD:
            return False
        return begun.at > self._heard(told, begun)

    def _heard(self, told: Told, begun: Begun) -> float:
        """When whoever began has heard of it at the latest; inf where who was told died with it."""
        latest = told.reached + HEARD
        for each in self.ledger.broken:
            if each.process not in {begun.process, told.process, ""} or each.end < told.reached:
                continue
            if each.start > (told.reached + WRITTEN if each.what == "killed" else latest):
                continue
            latest = max(latest, each.end)
        return latest


def fullest(times: Sequence[float], period: float) -> int:
    """The most of `times`, which are in order, in any window of `period` seconds."""
    most = start = 0
    for end, at in enumerate(times):
        while times[start] <= at - period:
            start += 1
        most = max(most, end - start + 1)
    return most


def _excess(relay: str, times: Sequence[float], allowance: Allowance) -> Iterator[Fault]:
    """Where there are more of `times` than a rate, or its quota, allows."""
    if allowance.letters:
        most = fullest(times, allowance.period)
        allowed = allowance.letters + allowance.burst
        if most > allowed:
            what = f"{relay}: {most} in {allowance.period:g} s, where {allowed} are allowed"
            yield Fault(promise="P5", kind="too fast", what=what)
    if allowance.quota and allowance.quota_period:
        most = fullest(times, allowance.quota_period)
        if most > allowance.quota:
            what = f"{relay}: {most} in {allowance.quota_period:g} s, where the quota is {allowance.quota}"
            yield Fault(promise="P5", kind="more than a quota", what=what)
    elif allowance.quota:
        for day, count in _by_day(times, allowance.timezone).items():
            if count > allowance.quota:
                what = f"{relay}: {count} on the day that began at {day:.0f}"
                yield Fault(promise="P5", kind="more than a day's quota", what=what)


def _by_day(times: Sequence[float], timezone: str) -> dict[float, int]:
    days: defaultdict[float, int] = defaultdict(int)
    begin = end = -math.inf
    for each in times:
        if not begin <= START + each < end:
            begin, end = day_bounds(START + each, timezone)
        days[begin] += 1
    return days


def _between(begun: Sequence[Begun], start: float, end: float) -> Iterator[Begun]:
    """Those within a time; they are in its order."""
    low, high = 0, len(begun)
    while low < high:
        middle = (low + high) // 2
        if begun[middle].at <= start:
            low = middle + 1
        else:
            high = middle
    for each in begun[low:]:
        if each.at >= end:
            return
        yield each
