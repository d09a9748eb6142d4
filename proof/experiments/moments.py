"""When a process is killed: by the clock, around the dot, or at what the world shows of its work."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from lab.world import Replica
from proof.run import Run, rest
from proof.watch import Watch

MOST_LETTERS = 120
"""Letters up to which a process may come before it is killed at an acceptance."""

SORTS = {
    "clock": "by the clock",
    "dot": "within the dot",
    "before": "before the 250",
    "after": "after the 250",
    "soon": "soon after",
    "insert": "after an insert",
    "commit": "after a commit",
    "claim": "after a claim",
    "announce": "before a settling",
    "settle": "after a settling",
    "report": "after a report",
    "acknowledge": "after an acknowledgement",
}
SEEN = {"insert", "commit", "claim", "announce", "settle", "report", "acknowledge"}
"""Moments that only the world shows, a few milliseconds late: then what comes next has just begun."""

IN_SIGHT = 10.0
"""Seconds that such a moment is waited for: on a busy machine a start alone takes some."""

SOON = 0.03
"""Seconds within which an outcome is written, reported and marked on an idle machine, with some to spare."""

BARELY = 0.008
"""Seconds after a moment that was seen: sometimes at once, sometimes in the middle of what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A moment: so many seconds after the start, or at the so manieth acceptance.

    `when` is `clock`; `dot`, when the relay has the whole message and has not accepted it yet; `before` or
    `after` it answered the dot; `soon`, so many seconds after that; or one of `SEEN`, the first one that
    comes so many seconds after the start.
    """

    when: str
    seconds: float = 0.0
    letters: int = 0


def blow(chance: random.Random, latest: float, sorts: Sequence[str] = tuple(SORTS)) -> Blow:
    """One of `sorts`; of all, dense around the dot, and around all that is written before and after it."""
    when = chance.choice(sorts)
    if when == "clock":
        return by_clock(chance, latest)
    if when in SEEN:
        return Blow(when=when, seconds=chance.uniform(0.0, latest * 0.7))
    return Blow(when=when, letters=chance.randint(1, MOST_LETTERS), seconds=chance.uniform(0.0, SOON))


def by_clock(chance: random.Random, latest: float) -> Blow:
    """At any instant of a life."""
    return Blow(when="clock", seconds=chance.uniform(0.0, latest))


def strike(world: Run, watch: Watch, service: Replica, hit: Blow) -> None:
    """Wait for the moment, kill, and note when it was."""
    child = service.child
    # Told before the process can send its first letter; a life that sends nothing is ended all the same.
    with contextlib.suppress(TimeoutError):
        if hit.when == "clock":
            rest(hit.seconds)
        elif hit.when in SEEN:
            rest(hit.seconds)
            watch.next(hit.when, IN_SIGHT)
            rest(world.chance.choice([0.0, world.chance.uniform(0.0, BARELY)]))
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
