"""Shares and sending windows of a file, over a relay that keeps a rate: who goes first, and when nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from lab.vitals import slower
from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import rest
from proof.stage import Stage
from proof.table import Row, row
from proof.three import history_of, relay_table, relays_of, started, use

RATE = 20
"""Letters a second: slow enough that the relay is what they wait for."""

SHARES = {"a": 3, "b": 1}
"""Streams, and what is theirs while both wait."""

WITHIN = 0.05
"""By how much a stream's part of some hundred letters may differ from its share."""

CLAIMED = 4
"""Seconds of work that replicas have at hand: who comes later is behind that."""

FULL = 0.85
"""The part of the rate that one stream has at least while the other one does not want it."""

FORMS = {
    "streams of a route": '[routes.default]\nrelays = ["first"]\nshares = { a = 3, b = 1 }\n',
    "routes over a relay": (
        '[routes.a]\nmatch = { stream = "a" }\nrelays = ["first"]\nshare = 3\n'
        '[routes.b]\nmatch = { stream = "b" }\nrelays = ["first"]\nshare = 1\n'
        '[routes.default]\nrelays = ["first"]\n'
    ),
}

LATE = 1.0
"""Seconds after a window's end in which what was on its way still begins."""

SHUT = 60.0
"""Seconds for which a window is closed: its times are whole minutes."""


def shares(stage: Stage, seed: int, *, form: str, letters: int, replicas: int) -> Row:
    """So many letters of each of two streams, which come together."""
    began, times = time.monotonic(), slower()
    with relays_of(stage, f"shares-{replicas}", seed, names=("first",)) as (world, relays):
        use(world, relay_table("first", world.relay.port, rate=f"{RATE}/s"), FORMS[form])
        for _ in range(replicas):
            started(world)
        streams: dict[str, str] = {}
        for _ in range(letters):
            batch = [{**world.publisher.letter(), "Stream": name} for name in SHARES]
            streams |= {str(each["Token"]): str(each["Stream"]) for each in batch}
            world.publisher.send(batch)
        world.publisher.flush()
        world.wait_done((60 + 3 * letters / RATE) * times)
        world.stop_services()
        history = history_of(world, relays)
        found = sorted((each.at, streams[each.mark]) for each in history.acceptances)
        faults = (*history.faults, *unfair(found))
        verdict = check(replace(history, faults=faults), Allowed(duplicates=0))
    both, alone = _phases(found)
    return row(
        f"shares of {form}, {replicas} replicas",
        seed,
        1,
        verdict,
        notes=f"{_part(both):.1%} of {len(both)} were of the first; {_speed(alone):.1f}/s of one alone",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="relays --seed {seed}"',
    )


Found = Sequence[tuple[float, str]]
"""Letters as they were accepted, each with its stream."""


def unfair(found: Found) -> Iterator[str]:
    """What of these is not as the shares have it."""
    both, alone = _phases(found)
    due = SHARES["a"] / sum(SHARES.values())
    if not both or abs(_part(both) - due) > WITHIN:
        yield f"while both waited {_part(both):.1%} of {len(both)} letters were of a, {due:.1%} are its own"
    if _speed(alone) < FULL * _speed(both):
        yield f"one alone had {_speed(alone):.1f}/s where both had {_speed(both):.1f}/s"


def _phases(found: Found) -> tuple[Found, Found]:
    """The letters while both streams waited, and those while only one did.

    Without those at hand when a phase began, and at its end: a replica that has none of a stream left sends
    of the other one alone.
    """
    skipped = CLAIMED * RATE
    last = max([place for place, (_, stream) in enumerate(found) if stream == "a"], default=0)
    return found[skipped : max(skipped, last - skipped)], found[last + 1 :]


def _part(found: Found) -> float:
    return sum(stream == "a" for _, stream in found) / len(found) if found else 0.0


def _speed(found: Found) -> float:
    """Letters a second."""
    return (len(found) - 1) / (found[-1][0] - found[0][0]) if len(found) > 1 else 0.0


# --- windows --------------------------------------------------------------------------------------


def windows(stage: Stage, seed: int, *, replicas: int) -> Row:
    """A window that closes for a minute while letters wait, and others come."""
    began, times = time.monotonic(), slower()
    # Replicas have to be there, and to have sent for a while, before it closes.
    closes = 60 * (1 + (time.time() + 20 * times) // 60)
    opens = closes + SHUT
    with relays_of(stage, f"windows-{replicas}", seed, names=("first",)) as (world, relays):
        window = f"{_wall(closes - 3600)}-{_wall(closes)}, {_wall(opens)}-{_wall(opens + 3600)} UTC"
        route = f'[routes.default]\nrelays = ["first"]\nwindow = "{window}"\n'
        use(world, relay_table("first", world.relay.port, rate=f"{RATE}/s"), route)
        for _ in range(replicas):
            started(world)
        filler = Filler(world.publisher, world.relay.accepted, 5 * RATE)
        _rest_until(closes + 3 * LATE * times)
        world.publisher.publish(RATE)
        _rest_until(opens + 3 * times)
        filler.stop()
        world.wait_done(60 * times)
        world.stop_services()
        history = history_of(world, relays)
        faults = (*history.faults, *outside(history.mails, closes, opens, LATE * times))
        verdict = check(replace(history, faults=faults), Allowed(duplicates=0))
    return row(
        f"a sending window, {replicas} replicas",
        seed,
        1,
        verdict,
        notes=f"closed for {SHUT:.0f} s",
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="relays --seed {seed}"',
    )


def outside(mails: Sequence[float], closes: float, opens: float, late: float) -> Iterator[str]:
    """What began in the closed window, and what would show nothing."""
    away = time.time() - time.monotonic()
    begun = [at + away for at in mails]
    early = [at for at in begun if closes + late < at < opens]
    if early:
        yield f"{len(early)} began while the window was closed, {early[0] - closes:.1f} s after its end"
    if not any(closes - 10 < at < closes for at in begun) or not any(at >= opens for at in begun):
        yield "nothing was sent before the window closed, or when it was open again"


def _wall(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")


def _rest_until(at: float) -> None:
    rest(max(0.0, at - time.time()))
