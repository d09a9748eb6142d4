"""The judge: compares what went in with what came out. Pure, and knows nothing of the service's insides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proof.history import Allowed, History, Published, Report
from proof.ledger import Acceptance

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A broken promise: which one (P1 … of the design), in what way, and where."""

    promise: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.promise} {self.kind}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was counted and what was found.

    `accepted` counts pairs of letter and recipient by how often they were accepted (2 stands for more, too),
    `reports` letters by how many reports they have. `twice` gives the letters of which some recipient was
    accepted more than once, with the moments on the monotonic clock. `most_in_a_period` is the fullest window
    of the rate.
    """

    letters: int
    accepted: Counter[int] = field(default_factory=Counter)
    reports: Counter[int] = field(default_factory=Counter)
    twice: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    uncertain: int = 0
    most_in_a_period: int | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def duplicates(self) -> int:
        """How many letters some recipient has more than once."""
        return len(self.twice)

    @property
    def good(self) -> bool:
        """Whether no promise was broken."""
        return not self.faults

    def kinds(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(fault.kind for fault in self.faults)

    def __str__(self) -> str:
        if self.good:
            return "kept"
        shown = [f"{kind} ×{count}" for kind, count in sorted(self.kinds().items())]
        return "BROKEN: " + ", ".join(shown)

    def details(self) -> list[str]:
        """A few faults of each kind, in full."""
        lines, seen = [], Counter[str]()
        for fault in self.faults:
            seen[fault.kind] += 1
            if seen[fault.kind] <= _MOST_SHOWN:
                lines.append(str(fault))
        return lines


def check(history: History, allowed: Allowed | None = None) -> Verdict:
    """Judge one run."""
    judge = _Judge(history, allowed or Allowed())
    faults = tuple(judge.faults())
    counted = Counter(min(2, count) for count in judge.times_accepted().values())
    return Verdict(
        letters=len(judge.letters),
        accepted=counted,
        reports=Counter(min(2, len(judge.reports[each.mark])) for each in judge.letters),
        twice={mark: tuple(each.at for each in found) for mark, found in judge.doubled().items()},
        uncertain=sum(1 for each in judge.letters if judge.is_uncertain(each.mark)),
        most_in_a_period=_fullest(history.mails, history.rate.period) if history.rate else None,
        faults=faults,
    )


class _Judge:
    def __init__(self, history: History, allowed: Allowed) -> None:
        self.history = history
        self.allowed = allowed
        self.acceptances: dict[str, list[Acceptance]] = defaultdict(list)
        for acceptance in sorted(history.acceptances, key=lambda each: each.at):
            self.acceptances[acceptance.mark].append(acceptance)
        self.reports: dict[str, list[Report]] = defaultdict(list)
        for report in history.reports:
            self.reports[report.mark].append(report)
        self.stored = {each.mark: each for each in history.stored}
        # Once a letter of which nobody knew is anywhere, it is one like all others.
        self.letters = [*history.published, *(each for each in history.unsure if self._is_anywhere(each))]
        self.published = {each.mark: each for each in self.letters}
        self.refused = {each.mark for each in history.refused}

    def _is_anywhere(self, letter: Published) -> bool:
        mark = letter.mark
        return bool(self.acceptances.get(mark) or self.reports.get(mark) or mark in self.stored)

    def faults(self) -> Iterator[Fault]:
        if len(self.published) != len(self.letters):
            raise ValueError("two published letters have the same mark, so nothing can be told")
        for letter in self.letters:
            yield from self._answered(letter)
            yield from self._truthful(letter)
            yield from self._kept(letter)
        yield from self._duplicates()
        yield from self._one_relay()
        yield from self._remembered()
        yield from self._uncertain()
        yield from self._refused()
        yield from self._strangers()
        yield from self._blind()
        yield from self._offsets()
        yield from self._rate()
        yield from self._stops()
        yield from self._poison()
        for violation in self.history.violations:
            yield Fault(promise="P8", kind="broke SMTP", what=violation)
        for seen in self.history.faults:
            yield Fault(promise="-", kind="seen", what=seen)

    # --- letter by letter ------------------------------------------------------------------------

    def _unfinished(self, mark: str) -> bool:
        """Whether it may wait still, and does."""
        stored = self.stored.get(mark)
        waits = stored is None or stored.status == "awaiting"
        return self.allowed.unfinished and waits and not self.reports[mark]

    def _answered(self, letter: Published) -> Iterator[Fault]:
        reports = self.reports[letter.mark]
        if not reports:
            if self._unfinished(letter.mark):
                return
            accepted = bool(self.acceptances[letter.mark])
            kind = "unreported" if accepted else "lost"
            yield Fault(promise="P4" if accepted else "P1", kind=kind, what=letter.mark)
            return
        if len({report.words for report in reports}) > 1:
            yield Fault(promise="P4", kind="other words", what=letter.mark)
        if len({report.letter for report in reports}) > 1:
            yield Fault(promise="P2", kind="two IDs", what=letter.mark)

    def _truthful(self, letter: Published) -> Iterator[Fault]:
        """What is told is what happened, as a whole and recipient by recipient."""
        for report in self.reports[letter.mark][:1]:
            happened = self._accepted_recipients(letter.mark)
            if report.status == "sent" and not happened:
                yield Fault(promise="P4", kind="told sent, not accepted", what=letter.mark)
            if report.status == "error" and happened and not report.uncertain:
                yield Fault(promise="P4", kind="told error, accepted", what=letter.mark)
            if report.status not in {"sent", "error"}:
                yield Fault(promise="P4", kind="told neither", what=f"{letter.mark}: {report.status}")
            yield from self._truthful_of_each(letter, report, happened)
            yield from self._same_message(letter, report)

    def _truthful_of_each(self, letter: Published, report: Report, happened: set[str]) -> Iterator[Fault]:
        told = {address.lower(): each for address, each in report.recipients.items()}
        may_fail = {address.lower() for address in letter.may_fail}
        everybody = {each.lower() for each in letter.addresses}
        if not told and (report.omitted or report.status == "error"):
            # It ended before anybody was asked of them, or there was no room.
            if report.status == "error" and not report.uncertain and not everybody <= may_fail | happened:
                yield Fault(promise="P14", kind="failed for no fault of its own", what=letter.mark)
            return
        for address in everybody:
            if address not in told:
                yield Fault(promise="P4", kind="recipient not told", what=f"{letter.mark} {address}")
                continue
            each = told[address]
            if each.status == "accepted" and address not in happened:
                yield Fault(promise="P4", kind="told accepted, was not", what=f"{letter.mark} {address}")
            if each.status != "accepted" and address in happened and not each.uncertain:
                what = f"{letter.mark} {address}: {each.status}"
                yield Fault(promise="P4", kind="told not accepted, was", what=what)
            elif each.status != "accepted" and not each.uncertain and address not in may_fail:
                what = f"{letter.mark} {address}: {each.status} at {each.phase}"
                yield Fault(promise="P14", kind="failed for no fault of its own", what=what)

    def _same_message(self, letter: Published, report: Report) -> Iterator[Fault]:
        ids = {each.message_id for each in self.acceptances[letter.mark]}
        if report.message_id and ids and ids != {report.message_id}:
            what = f"{letter.mark}: {sorted(ids)}, told {report.message_id}"
            yield Fault(promise="P4", kind="other Message-ID", what=what)

    def _kept(self, letter: Published) -> Iterator[Fault]:
        """The collection agrees with what was told, and nothing is left in hand."""
        stored = self.stored.get(letter.mark)
        reports = self.reports[letter.mark]
        waits = self._unfinished(letter.mark)
        if waits and self._accepted_recipients(letter.mark) >= {a.lower() for a in letter.addresses}:
            # It would be sent again by whoever comes next.
            yield Fault(promise="P6", kind="accepted, waits still", what=letter.mark)
        if stored is None:
            if not waits:
                yield Fault(promise="P1", kind="not in the collection", what=letter.mark)
            return
        if stored.status == "processing" or (stored.status == "awaiting" and not self.allowed.unfinished):
            yield Fault(promise="P6", kind=f"left {stored.status}", what=letter.mark)
        if stored.status in {"sent", "error"} and not stored.reported:
            yield Fault(promise="P4", kind="left in the outbox", what=letter.mark)
        if reports and stored.status != reports[0].status:
            what = f"{letter.mark}: told {reports[0].status}, stored {stored.status}"
            yield Fault(promise="P4", kind="stored otherwise", what=what)

    # --- over all --------------------------------------------------------------------------------

    def times_accepted(self) -> Counter[tuple[str, str]]:
        """How often each recipient of each letter was accepted."""
        counts = Counter({(p.mark, a.lower()): 0 for p in self.letters for a in p.addresses})
        for acceptance in self.history.acceptances:
            for address in acceptance.recipients:
                counts[acceptance.mark, address.lower()] += 1
        return counts

    def _accepted_recipients(self, mark: str) -> set[str]:
        return {address.lower() for each in self.acceptances[mark] for address in each.recipients}

    def is_uncertain(self, mark: str) -> bool:
        """Whether its report says so."""
        return any(report.uncertain for report in self.reports[mark])

    def doubled(self) -> dict[str, list[Acceptance]]:
        """Letters of which some recipient was accepted more than once, with the acceptances."""
        marks = {mark for (mark, _), count in self.times_accepted().items() if count > 1}
        return {mark: self.acceptances[mark] for mark in sorted(marks)}

    def _duplicates(self) -> Iterator[Fault]:
        doubled = self.doubled()
        most = self.allowed.duplicates
        if most is not None and len(doubled) > most:
            what = f"{len(doubled)} letters, {most} allowed, such as {', '.join(list(doubled)[:3])}"
            yield Fault(promise="P3", kind="too many twice", what=what)
        for mark, acceptances in doubled.items():
            again: set[str] = set()
            unexplained = False
            for each in reversed(acceptances):
                taken = {address.lower() for address in each.recipients}
                unexplained = unexplained or (not again.isdisjoint(taken) and not self._explained(each))
                again |= taken
            if unexplained:
                times = ", ".join(f"{each.at:.3f}" for each in acceptances)
                yield Fault(promise="P3", kind="twice without a break", what=f"{mark} at {times}")

    def _one_relay(self) -> Iterator[Fault]:
        """P12: whom one relay took no other one takes, unless the report says that it may be so."""
        by: dict[tuple[str, str], set[str]] = defaultdict(set)
        for each in self.history.acceptances:
            for address in each.recipients:
                by[each.mark, address.lower()].add(each.relay)
        for (mark, address), relays in sorted(by.items()):
            if len(relays) > 1 and not self._names(mark, address):
                what = f"{mark} {address}: {', '.join(sorted(relays))}"
                yield Fault(promise="P12", kind="by two relays", what=what)

    def _explained(self, acceptance: Acceptance) -> bool:
        """Whether something kept the service from knowing of it, or from writing it down.

        A relay may well accept a moment after its client was killed, so the whole transaction counts.
        """
        if not acceptance.told:
            return True
        window = self.allowed.window
        return any(
            each.start - window <= acceptance.at and acceptance.mail_at <= each.end
            for each in self.history.breaks
        )

    def _remembered(self) -> Iterator[Fault]:
        """P11: of what was known nothing is forgotten, and what was not known is named."""
        if self.allowed.once:
            for mark in self.doubled():
                yield Fault(promise="P11", kind="twice instead of an error", what=mark)
        if self.allowed.named:
            yield from self._named()
        most = self.allowed.a_break
        for place, marks in sorted(self._by_break().items()):
            if most is not None and len(marks) > most:
                what = f"{len(marks)} at break {place} ({self.history.breaks[place].what}), {most} sessions"
                yield Fault(promise="P11", kind="more twice than sessions", what=what)

    def _uncertain(self) -> Iterator[Fault]:
        """P11: few are told as uncertain, and only what somebody could not know."""
        told = [each.mark for each in self.letters if self.is_uncertain(each.mark)]
        most = self.allowed.uncertain
        if most is not None and len(told) > most:
            what = f"{len(told)} letters, {most} allowed, such as {', '.join(told[:3])}"
            yield Fault(promise="P11", kind="too many uncertain", what=what)
        unfounded = [mark for mark in told if not self._doubtful(mark)]
        nameless = sum(each.startswith("?") for each in self.history.doubted)
        if len(unfounded) > nameless + self.allowed.doubts * len(self.history.breaks):
            what = f"{len(unfounded)} letters, such as {', '.join(unfounded[:3])}"
            yield Fault(promise="P11", kind="told as uncertain, was not", what=what)

    def _doubtful(self, mark: str) -> bool:
        """Whether the relay knows of a dot of which its client may have heard nothing."""
        return mark in self.history.doubted or any(map(self._explained, self.acceptances[mark]))

    def _named(self) -> Iterator[Fault]:
        for (mark, address), count in sorted(self.times_accepted().items()):
            if count > 1 and not self._names(mark, address):
                yield Fault(promise="P11", kind="twice, not named uncertain", what=f"{mark} {address}")
        for mark, reports in self.reports.items():
            first = reports[0].recipients if reports else {}  # that it has none is told elsewhere
            for address, told in first.items():
                if told.status == "uncertain" and not (told.uncertain and told.phase == "dot"):
                    what = f"{mark} {address}: {told.phase}"
                    yield Fault(promise="P11", kind="uncertain, but not at the dot", what=what)

    def _names(self, mark: str, address: str) -> bool:
        """Whether a report says of this recipient that it may have the letter already."""
        told = [each for report in self.reports[mark] for each in report.recipients.items()]
        return any(to.lower() == address and each.uncertain for to, each in told)

    def _by_break(self) -> dict[int, set[str]]:
        """The letters that came twice, by the break that cost their sender what it knew.

        That is the first one to end after the MAIL of an acceptance that was not the last: its client lived
        at the MAIL, while the relay may accept when it is dead.
        """
        ends = [each.end for each in self.history.breaks]
        found: dict[int, set[str]] = defaultdict(set)
        for mark, acceptances in self.doubled().items():
            for each in acceptances[:-1]:
                following = [place for place, end in enumerate(ends) if end >= each.mail_at]
                if following:
                    found[min(following, key=ends.__getitem__)].add(mark)
        return found

    def _refused(self) -> Iterator[Fault]:
        """P2: who is told that nothing was taken will publish it again, and then it would come twice."""
        for letter in self.history.refused:
            if self._is_anywhere(letter):
                yield Fault(promise="P2", kind="refused, yet taken", what=letter.mark)

    def _strangers(self) -> Iterator[Fault]:
        """Nothing arrived, and nothing was told, that nobody asked for."""
        for mark, acceptances in self.acceptances.items():
            letter = self.published.get(mark)
            if mark in self.refused:
                continue  # see `_refused`
            if letter is None:
                yield Fault(promise="P8", kind="a letter nobody wrote", what=repr(mark))
                continue
            meant = {address.lower() for address in letter.addresses}
            for each in acceptances:
                others = {address.lower() for address in each.recipients} - meant
                if others:
                    what = f"{mark}: {sorted(others)}"
                    yield Fault(promise="P8", kind="a recipient nobody named", what=what)
        for mark in self.reports.keys() - self.published.keys() - self.refused:
            yield Fault(promise="P4", kind="a report nobody waits for", what=repr(mark))

    def _blind(self) -> Iterator[Fault]:
        for each in self.history.acceptances:
            if each.leaked:
                what = f"{each.mark}: {', '.join(each.leaked)}"
                yield Fault(promise="P7", kind="a blind copy was seen", what=what)

    def _offsets(self) -> Iterator[Fault]:
        for partition, (committed, end) in sorted(self.history.offsets.items()):
            if committed > end:
                what = f"partition {partition}: {committed} of {end}"
                yield Fault(promise="P1", kind="committed beyond the end", what=what)
            if committed < end and not self.allowed.unfinished:
                what = f"partition {partition}: {committed} of {end}"
                yield Fault(promise="P1", kind="not committed to the end", what=what)

    def _rate(self) -> Iterator[Fault]:
        rate = self.history.rate
        if rate is None:
            return
        fullest = _fullest(self.history.mails, rate.period)
        if fullest > rate.letters + rate.burst:
            what = f"{fullest} in {rate.period:g} s, {rate.letters} + {rate.burst} allowed"
            yield Fault(promise="P5", kind="too fast", what=what)

    def _stops(self) -> Iterator[Fault]:
        """P6: after the end nothing is begun; what was written ahead and is read after it does not count."""
        for stop in self.history.stops:
            after = [at for at in self.history.live_mails if stop.start < at < stop.end]
            if after:
                late = ", ".join(f"{at - stop.start:.3f}" for at in after[:_MOST_SHOWN])
                what = f"{stop.what}: {len(after)} transactions, {late} s after it"
                yield Fault(promise="P6", kind="begun after the end", what=what)

    def _poison(self) -> Iterator[Fault]:
        dead = set(self.history.dead)
        for value in self.history.poison:
            if value not in dead:
                yield Fault(promise="P9", kind="swallowed", what=f"{value[:60]!r}")
        for value in dead - set(self.history.poison):
            yield Fault(promise="P9", kind="dead without need", what=f"{value[:60]!r}")


def _fullest(times: Sequence[float] | Iterable[float], period: float) -> int:
    """The most of `times` that lie in any window of `period` seconds, its beginning not counted in."""
    ordered = sorted(times)
    most = start = 0
    for end, time in enumerate(ordered):
        while ordered[start] <= time - period:
            start += 1
        most = max(most, end - start + 1)
    return most
