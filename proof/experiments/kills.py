"""kill -9 of the service under load, at random instants, with a restart in place."""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lab.vitals import slower
from proof.checker import Verdict, check
from proof.experiments.moments import SORTS, blow, by_clock, strike
from proof.history import Allowed, History
from proof.load import Filler
from proof.run import Run, run
from proof.stage import Stage
from proof.table import NOT_RUN, Row, row
from proof.watch import Watch

PER_KILL = 60
"""Duplicates that one kill may cost a service without notes: what the workers hold, and what waits for one
bulk write."""

SESSIONS = 5
"""`SMTP_MAX_SENDERS`: with notes a kill may cost one letter of each session."""

RARELY = 100
"""With notes, at a slow rate, and on a machine as quick as `lab.vitals` means it: so many kills for each
letter that comes twice."""

FIRST_MAIL, FIRST_LETTER = 2.0, 5.0
"""Seconds after a start within which the first transaction begins, and the first new letter is stored.

They are for a machine as quick as `lab.vitals` means it. A start is mostly imports, so a slower one has as
much more time."""

STATE, UNCERTAIN = "MAILSENDER_STATE_DIR", "SMTP_UNCERTAIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the service is told to remember over a kill. `uncertain` of nothing: it keeps no notes."""

    title: str
    uncertain: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The settings without which there is no such form."""
        return (STATE, UNCERTAIN) if self.uncertain else ()

    def settings(self, world: Run) -> dict[str, str]:
        """All lives of a run have the same directory, and no two runs."""
        if not self.uncertain:
            return {STATE: ""}
        notes = world.directory / "notes"
        notes.mkdir()
        return {STATE: str(notes), UNCERTAIN: self.uncertain}

    def allowed(self, runs: int, rate: int, slower: float) -> Allowed:
        """How many letters may come twice.

        At a slow rate those whose kill fell between a dot and its reply: that takes as many times longer as
        the machine is `slower` than meant.
        """
        if not self.uncertain:
            return Allowed(duplicates=PER_KILL * runs)
        if self.uncertain == "error":
            return Allowed(duplicates=0, named=True, once=True, uncertain=SESSIONS * runs, doubts=SESSIONS)
        most = math.ceil(runs * slower / RARELY) if rate else SESSIONS * runs
        return Allowed(
            duplicates=most, named=True, a_break=SESSIONS, uncertain=SESSIONS * runs, doubts=SESSIONS
        )


FORMS = {
    "without": Form(title="without notes"),
    "notes": Form(title="with notes", uncertain="resend"),
    "error": Form(title="with notes, uncertain ends", uncertain="error"),
}


def kills(
    stage: Stage,
    seed: int,
    *,
    runs: int,
    latest: float,
    rate: int = 0,
    form: str = "without",
    backlog: int = 400,
    sorts: Sequence[str] = tuple(SORTS),
) -> Row:
    """`runs` lives, each ended by SIGKILL at a moment of one of `sorts`, then one to the end.

    Up to `latest` seconds after its start a process is killed by the clock: it sends after half a second, and
    reclaims what its forerunner left after one and a half. With a `rate`, in letters a second, all kills are
    by the clock, for kills at the dot would make the few duplicates that are to be counted.
    """
    began, chosen = time.monotonic(), FORMS[form]
    title = f"kill -9 {f'at {rate} letters a second' if rate else 'under full load'}, {chosen.title}"
    lacking = [name for name in chosen.needs if not stage.knows(name)]
    if lacking:
        why = f"{NOT_RUN}: the service knows no {' and no '.join(lacking)}"
        return Row(experiment=title, seed=seed, runs=0, verdict=why)
    settings = {"KAFKA_GROUP_INSTANCE_ID": "replica-0", "SMTP_MAX_SENDERS": str(SESSIONS)}
    settings |= {"SMTP_RATE_LIMIT_MAX_LETTERS": str(rate), "SMTP_RATE_LIMIT_PERIOD": "1s"}
    times = slower()
    # At a slow rate a relay that thinks for long would make the duplicates that are to be counted.
    plan: dict[str, Any] | None = {"delay": {}} if rate else None
    with run(stage, f"kills-{form}-{rate}", seed, settings=settings, plan=plan) as world:
        world.world.settings |= chosen.settings(world)
        watch = world.watch()
        starts = _lives(world, watch, runs=runs, latest=latest, rate=rate, backlog=backlog, sorts=sorts)
        history = world.history()
        waits = Waits.of(starts, history, watch, slower=times)
        watch.close()
        for fault in waits.faults:
            world.fault(fault)
        verdict = check(world.history(), chosen.allowed(runs, rate, times))
    again = f"kills --runs {runs} --seed {seed} --form {form}{f' --rate {rate}' if rate else ''}"
    return row(
        title,
        seed,
        runs,
        verdict,
        notes=f"{_by_sort(verdict, history)}; {waits}; {verdict.uncertain} told as uncertain",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="{again}"',
    )


def _lives(
    world: Run, watch: Watch, *, runs: int, latest: float, rate: int, backlog: int, sorts: Sequence[str]
) -> list[float]:
    """The moments of all starts."""
    service = world.world.replica()
    filler = Filler(world.publisher, world.relay.accepted, min(backlog, rate * 2 or backlog))
    starts = []
    for _ in range(runs):
        filler.check()
        starts.append(time.monotonic())
        service.start()
        hit = by_clock(world.chance, latest) if rate else blow(world.chance, latest, sorts)
        strike(world, watch, service, hit)
        world.read_reports(0.001)
    filler.stop()
    # The last one, too, has something new to read.
    world.publisher.publish(20)
    starts.append(time.monotonic())
    service.start()
    world.wait_done(120)
    world.stop_services()
    return starts


def _by_sort(verdict: Verdict, history: History) -> str:
    """Letters sent twice a kill, by the sort of the kill that explains them: the first that followed."""
    kills = Counter(each.what for each in history.breaks)
    twice: Counter[str] = Counter()
    for times in verdict.twice.values():
        # A relay may accept a few milliseconds after its client's death.
        near = (each for each in history.breaks if each.start > times[0] - 0.1)
        twice[min(near, key=lambda each: each.start).what] += 1
    shown = [f"{what} {twice[what] / count:.2f}" for what, count in sorted(kills.items())]
    return "letters twice a kill: " + ", ".join(shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long after its start a process began its first transaction, and stored its first new letter.

    Only of lives that got so far. `slower` is how many times slower than meant the machine is.
    """

    mails: tuple[float, ...]
    letters: tuple[float, ...]
    slower: float = 1.0
    faults: tuple[str, ...] = ()
    """The starts that were too slow."""

    @classmethod
    def of(cls, starts: list[float], history: History, watch: Watch, *, slower: float) -> Waits:
        """Of all lives; the last one's end is open."""
        mails = sorted(history.mails)

        def first_mail(start: float, end: float) -> float | None:
            at = bisect(mails, start)
            return mails[at] if at < len(mails) and mails[at] < end else None

        lives = list(pairwise([*starts, float("inf")]))
        late = []
        found: list[list[float]] = []
        looks: list[tuple[str, float, Callable[[float, float], float | None]]] = [
            ("began no transaction", FIRST_MAIL * slower, first_mail),
            ("stored no new letter", FIRST_LETTER * slower, watch.first_insert),
        ]
        for what, limit, first in looks:
            waits = [(life, first(*life)) for life in lives]
            found.append([at - life[0] for life, at in waits if at is not None])
            for (start, end), at in waits:
                if (end if at is None else at) - start > limit:
                    late.append(f"a start {what} for {(end if at is None else at) - start:.2f} s")
        return cls(mails=tuple(found[0]), letters=tuple(found[1]), slower=slower, faults=tuple(late))

    def __str__(self) -> str:
        waits = f"first MAIL {_spread(self.mails)}, first letter stored {_spread(self.letters)} after a start"
        return (
            waits if self.slower == 1.0 else f"{waits} on a machine {self.slower:.1f} times slower than meant"
        )


def _spread(waits: tuple[float, ...]) -> str:
    return f"{statistics.median(waits):.2f} s, at most {max(waits):.2f} s" if waits else "never"
