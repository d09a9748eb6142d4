"""Broker, MongoDB and relay away for a while in mid-flow, each alone and each two together."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.world import Replica
from mailsender.dev.process import Part
from proof.checker import check
from proof.history import Allowed
from proof.load import Filler
from proof.run import Run, rest, run
from proof.stage import Stage
from proof.table import Row, row

PARTS = ("broker", "mongodb", "relay")
WAYS = ("killed", "frozen")
COMBINATIONS: list[tuple[str, ...]] = [(one,) for one in PARTS] + [*itertools.combinations(PARTS, 2)]

NOTICE, RECOVERY = 15.0, 60.0
"""Seconds in which readiness has to notice that a part is away, and that all are back."""

MOST_LINES = 60
"""Lines of log above `info` that an outage may cost, however long it is."""

MOST_GROWTH = 64.0
"""MiB by which the process may have grown at the outage's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen of the service. `away` and `back` are seconds until readiness noticed."""

    away: float
    back: float
    lines: int
    grown: float


def outage(stage: Stage, seed: int, *, parts: tuple[str, ...], way: str, seconds: float) -> Row:
    """The parts are away for so many seconds, then come back."""
    began = time.monotonic()
    settings = {"SMTP_RATE_LIMIT_MAX_LETTERS": "100", "SMTP_RATE_LIMIT_PERIOD": "1s"}
    settings |= {"MONGODB_LEASE": "6s", "MONGODB_TIMEOUT": "5s", "SMTP_TIMEOUT_DOT": "5s"}
    settings |= {"SMTP_TIMEOUT_COMMAND": "5s", "SMTP_TIMEOUT_GREETING": "5s", "SMTP_TIMEOUT_DATA": "5s"}
    name = f"outage-{'-'.join(parts)}-{way}"
    with run(stage, name, seed, settings=settings, replica_set=True) as world:
        service = world.world.started()
        world.publisher.publish(200)
        filler = Filler(world.publisher, _accepted_until_now(world), 150) if "broker" not in parts else None
        world.relay.wait_for(world.chance.randint(20, 120))
        seen = _outage(world, service, parts, way, seconds)
        if filler:
            filler.stop()
        world.publisher.publish(100)
        world.wait_done(RECOVERY + 30)
        world.stop_services()
        # Only a relay that went between its acceptance and its answer can make a duplicate: one a session.
        verdict = check(world.history(), Allowed(duplicates=5 if "relay" in parts else 0))
    return row(
        f"{' and '.join(parts)} {way} for {seconds:g} s",
        seed,
        1,
        verdict,
        notes=(
            f"unready after {seen.away:.1f} s, ready {seen.back:.1f} s after its return,"
            f" {seen.lines} lines above info, {seen.grown:+.0f} MiB"
        ),
        seconds=time.monotonic() - began,
        repeat=f'make proof ARGS="outages --seed {seed}"',
    )


def _accepted_until_now(world: Run) -> Callable[[], int]:
    """The number of accepted letters; while the relay is away the last one known."""
    known = 0

    def count() -> int:
        nonlocal known
        with contextlib.suppress(OSError):
            known = max(known, len(world.relay.read().acceptances))
        return known

    return count


def _outage(world: Run, service: Replica, parts: tuple[str, ...], way: str, seconds: float) -> Seen:
    lines, memory = _loud_lines(service), resident(service.child.pid)
    pid = service.child.pid
    with world.broken(" and ".join(parts)):
        began = time.monotonic()
        away = [back for each in parts for back in _take(world, each, way)]
        noticed = _wait_ready(service, ready=False, timeout=min(NOTICE, seconds))
        rest(max(0.0, seconds - (time.monotonic() - began)))
        if service.get("/readyz").status == 200:
            world.fault("it says that it is ready while a part is away")
        grown = resident(service.child.pid) - memory
        for back in away:
            back()
    recovered = _wait_ready(service, ready=True, timeout=RECOVERY)
    if noticed is None:
        world.fault(f"readiness did not notice within {min(NOTICE, seconds):g} s")
    if recovered is None:
        world.fault(f"not ready again {RECOVERY:g} s after all parts were back")
    if not service.child.running or service.child.pid != pid:
        world.fault("the service ended in an outage")
    loud = _loud_lines(service) - lines
    if loud > MOST_LINES:
        world.fault(f"{loud} lines above info in one outage")
    if grown > MOST_GROWTH:
        world.fault(f"grew by {grown:.0f} MiB in an outage")
    return Seen(
        away=-1 if noticed is None else noticed,
        back=-1 if recovered is None else recovered,
        lines=loud,
        grown=grown,
    )


def _take(world: Run, name: str, way: str) -> list[Callable[[], None]]:
    """Take a part away; what brings it back."""
    members: list[Part] = [world.relay]
    if name == "broker":
        members = [world.stage.broker]
    elif name == "mongodb":
        members = list(world.stage.replica_set.members)
    for each in members:
        each.freeze() if way == "frozen" else each.kill()
    if way == "frozen":
        return [each.thaw for each in members]
    return [world.stage.replica_set.start] if name == "mongodb" else [members[0].start]


def _wait_ready(service: Replica, *, ready: bool, timeout: float) -> float | None:
    """Seconds until readiness says so, None when it never does."""
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        if (service.get("/readyz").status == 200) is ready:
            return time.monotonic() - began
        rest(0.1)
    return None


def _loud_lines(service: Replica) -> int:
    return sum(1 for event in service.log if event.get("level") in {"warning", "error", "critical"})


def resident(pid: int) -> float:
    """The memory of a process now, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
