"""kill -9 of the service under load, at random instants, with a restart in place."""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import time
from bisect import bisect
from collections import Counter
from dataclasses import dataclass

from proof.checker import Verdict, check
from proof.history import Allowed, History
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row
from tests.acceptance.harness import Replica

MOST_LETTERS = 120
"""Letters up to which a process may come before it is killed at an acceptance."""

PER_KILL = 60
"""Duplicates that one kill may cost: what the workers hold, and what waits for one bulk write."""


SORTS = {
    "clock": "by the clock",
    "before": "before the 250",
    "after": "after the 250",
    "soon": "soon after",
}

SOON = 0.03
"""Seconds within which an outcome is written, reported and marked on an idle machine, with some to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """When a process is killed: so many seconds after its start, or at its so manieth acceptance.

    `when` is `clock`; `before` or `after` the relay answered the dot; or `soon`, so many seconds after that,
    when the outcome is being written, reported and marked.
    """

    when: str
    seconds: float = 0.0
    letters: int = 0


def blow(chance: random.Random, latest: float) -> Blow:
    """One of the four sorts; dense around the dot, where the only window for a duplicate is."""
    when = chance.choice(list(SORTS))
    if when == "clock":
        return by_clock(chance, latest)
    return Blow(when=when, letters=chance.randint(1, MOST_LETTERS), seconds=chance.uniform(0.0, SOON))


def by_clock(chance: random.Random, latest: float) -> Blow:
    """At any instant of a life."""
    return Blow(when="clock", seconds=chance.uniform(0.0, latest))


def strike(world: Run, service: Replica, hit: Blow) -> None:
    """Wait for the moment, kill, and note when it was."""
    child = service.child
    # Told before the process can send its first letter; a life that sends nothing is ended all the same.
    with contextlib.suppress(TimeoutError):
        if hit.when == "clock":
            rest(hit.seconds)
        elif hit.when == "soon":
            world.relay.wait_for(world.relay.accepted() + hit.letters, timeout=20)
            rest(hit.seconds)
        else:
            before = world.relay.tell("count").get("killed", 0)
            world.relay.tell("kill", pid=child.pid, when=hit.when, **{"in": hit.letters})
            world.relay.wait_for(before + 1, "killed", timeout=20)
    world.relay.tell("spare")
    child.signal(signal.SIGKILL)
    child.wait(10)
    world.note_break(SORTS[hit.when])


def kills(stage: Stage, seed: int, *, runs: int, latest: float, rate: int = 0, backlog: int = 400) -> Row:
    """`runs` lives, each ended by SIGKILL, then one to the end.

    Up to `latest` seconds after its start a process is killed by the clock: it sends after half a second, and
    reclaims what its forerunner left after one and a half. With a `rate`, in letters a second, all kills are
    by the clock, for kills at the dot would make the few duplicates that are to be counted.
    """
    began = time.monotonic()
    settings = {"KAFKA_GROUP_INSTANCE_ID": "replica-0"}
    settings |= {"SMTP_RATE_LIMIT_MAX_LETTERS": str(rate), "SMTP_RATE_LIMIT_PERIOD": "1s"}
    name = f"kills-{rate}" if rate else "kills"
    with run(stage, name, seed, settings=settings) as world:
        service = world.world.replica()
        filler = Filler(world.publisher, world.relay.accepted, min(backlog, rate * 2 or backlog))
        starts = []
        for _ in range(runs):
            starts.append(time.monotonic())
            service.start()
            hit = by_clock(world.chance, latest) if rate else blow(world.chance, latest)
            strike(
                world, service, Blow(when="clock", seconds=world.chance.uniform(0, latest)) if rate else hit
            )
            world.read_reports(0.001)
        filler.stop()
        starts.append(time.monotonic())
        service.start()
        world.wait_done(120)
        world.stop_services()
        history = world.history()
        verdict = check(history, Allowed(duplicates=PER_KILL * runs))
    full = "" if rate == 0 else f" --rate {rate}"
    return row(
        f"kill -9 at {rate} letters a second" if rate else "kill -9 under full load",
        seed,
        runs,
        verdict,
        notes=f"{_by_sort(verdict, history)}; {_first_mail(starts, history)}",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="kills --runs {runs} --seed {seed}{full}"',
    )


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


def _first_mail(starts: list[float], history: History) -> str:
    """How long after its start a process sent its first letter, over all lives that got so far."""
    mails = sorted(history.mails)
    waits = []
    for start, following in zip(starts, [*starts[1:], float("inf")], strict=True):
        at = bisect(mails, start)
        if at < len(mails) and mails[at] < following:
            waits.append(mails[at] - start)
    if not waits:
        return "nothing was ever sent"
    return f"first MAIL {statistics.median(waits):.2f} s after a start, at most {max(waits):.2f} s"
