"""The parts of the proof by their names on the command line, how often each does its worst, and how long.

The seconds were measured on two cores, and are to be measured anew when a count or an experiment changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from lab.provider_replies import SAID
from proof.experiments.builds import builds
from proof.experiments.callers import KINDS as CALLERS
from proof.experiments.callers import callers
from proof.experiments.clocks import OF as CLOCKS
from proof.experiments.clocks import clocks
from proof.experiments.cluster import LOSSES, lost, sick
from proof.experiments.cluster import TOPICS as SICK_TOPICS
from proof.experiments.cluster import WAYS as SICKNESSES
from proof.experiments.drains import drains, drains_without
from proof.experiments.failovers import failovers
from proof.experiments.frozen import frozen
from proof.experiments.full_disk import full_disk
from proof.experiments.http_abuse import http_abuse
from proof.experiments.kills import FORMS, kills
from proof.experiments.lagging import lagging
from proof.experiments.misbehaving import WAYS as MISBEHAVIOURS
from proof.experiments.misbehaving import misbehaving
from proof.experiments.network import network
from proof.experiments.offsets import WAYS as CHANGES
from proof.experiments.offsets import offsets
from proof.experiments.outages import COMBINATIONS, WAYS, outage
from proof.experiments.poison import poison
from proof.experiments.publishers import publishers
from proof.experiments.rate import rate
from proof.experiments.rebalances import rebalances
from proof.experiments.relays import WAYS as RELAY_WAYS
from proof.experiments.relays import relays, weights
from proof.experiments.replies import replies
from proof.experiments.secrets import canary
from proof.experiments.shares import FORMS as SHARE_FORMS
from proof.experiments.shares import shares, windows
from proof.experiments.simulated import simulated, simulated_mutant
from proof.experiments.smuggling import through_aiosmtpd, through_postfix
from proof.experiments.strangers import strangers
from proof.experiments.tls import tls
from proof.experiments.vanished import WHAT as FILES
from proof.experiments.vanished import vanished
from proof.experiments.whole import whole
from proof.fuzz.guided import TARGETS as GUIDED
from proof.fuzz.guided import guided
from proof.fuzz.volume import TARGETS, volume
from proof.hostile import KINDS
from proof.mutants import MUTANTS, hunt
from proof.stage import Stage
from proof.steps import Options, Step
from proof.table import Row
from simulation.mutants import MUTANTS as SIMULATED_MUTANTS

SLOW = 50
"""Letters a second at which kills ought to cost next to nothing."""

Part = Callable[[Options], list[Step]]

KILLS = {
    ("notes", 0): 700,
    ("notes", SLOW): 100,
    ("error", 0): 60,
    ("error", SLOW): 40,
    ("without", 0): 60,
    ("without", SLOW): 40,
}
"""A thousand, most of them in the form in which the service is run."""


def _step(name: str, takes: float, make: Callable[..., Row], *arguments: Any, **more: Any) -> Step:
    """A step whose function takes the stage first."""
    return Step(name=name, seconds=takes, make=lambda stage: make(stage, *arguments, **more))


def _kills(options: Options) -> list[Step]:
    wanted = {
        (form, speed): runs
        for (form, speed), runs in KILLS.items()
        if options.form in {"", form} and options.rate in {None, speed}
    }
    if options.short:
        wanted = {(form, 0): runs for form, runs in SHORT_KILLS.items()}
    if not wanted:  # another rate than those of the proof
        wanted = {(form, options.rate or 0): 100 for form in FORMS if options.form in {"", form}}
    steps = []
    for (form, speed), full in wanted.items():
        runs = options.runs or full
        latest = 3.0 if speed else 0.9 if options.short else 1.8
        name = f"kills {form} {speed or 'full'}"
        counts = {"runs": runs, "latest": latest, "rate": speed, "form": form}
        steps.append(_step(name, 6 + (1.7 if speed else 2.0) * runs, kills, options.seed, **counts))
    return steps


SHORT_KILLS = {"without": 5, "notes": 10, "error": 5}


def _drains(options: Options) -> list[Step]:
    runs, frozen = options.count(200, 6), min(20, options.count(15, 0))
    steps = [_step("drains", 5 + 2.0 * runs, drains, options.seed, runs=runs)]
    for part, seconds in (("mongodb", 7.7), ("broker", 4.6)) if not options.short else ():
        more = {"part": part, "runs": frozen}
        steps.append(_step(f"drains without {part}", seconds * frozen, drains_without, options.seed, **more))
    return steps


def _outages(options: Options) -> list[Step]:
    if options.short:
        wanted: list[tuple[tuple[str, ...], str, float]] = [
            (("mongodb", "relay"), "killed", 10.0),
            (("mongodb",), "frozen", 8.0),  # longer than a replica may be silent
            (("broker",), "killed", 8.0),
            (("broker",), "frozen", 8.0),
        ]
    else:
        # A part that is gone is refused at once, a frozen one runs into every time-out within 20 s.
        wanted = [(parts, way, OUTAGE[way]) for parts in COMBINATIONS for way in WAYS]
    return [
        _step(
            f"outage {' '.join(parts)} {way}",
            seconds + (20 if way == "killed" else 8),
            outage,
            options.seed,
            parts=parts,
            way=way,
            seconds=seconds,
        )
        for parts, way, seconds in wanted
    ]


OUTAGE = {"killed": 60.0, "frozen": 20.0}
"""Seconds."""


def _rate(options: Options) -> list[Step]:
    counts = [(1, False), (2, False), (3, False), (4, False), (2, True), (4, True)]
    seconds = 4.0 if options.short else 60.0
    return [
        _step(
            f"rate {n} {'failovers' if over else ''}",
            seconds * 1.2 + 5,
            rate,
            options.seed,
            replicas=n,
            seconds=seconds,
            failover=over,
        )
        for n, over in ([(2, False)] if options.short else counts)
    ]


def _relays(options: Options) -> list[Step]:
    runs = options.count(20, 2)
    ways = ("kill -9",) if options.short else RELAY_WAYS
    steps = [
        _step(
            f"relays {way}",
            15 + 5 * runs,
            relays,
            options.seed,
            way=way,
            runs=runs,
            replicas=2 if options.short else number,
        )
        for number, way in enumerate(ways, 1)
    ]
    letters = options.count(4000, 500)
    for replicas in (1,) if options.short else (1, 4):
        more = {"letters": letters, "replicas": replicas}
        name = f"relays weights {replicas}"
        steps.append(_step(name, 10 + letters / 200, weights, options.seed, **more))
    return [*steps, *_replies(options), *_shares(options)]


def _replies(options: Options) -> list[Step]:
    """All of them do not fit into one file: it may have a hundred relays."""
    if options.short:
        some = Random(options.seed).sample(SAID, 6)
        return [_step("relays replies", 25, replies, options.seed, said=some, replicas=2)]
    half = len(SAID) // 2
    halves = (SAID[:half], 1), (SAID[half:], 3)
    return [
        _step(f"relays replies {n}", 75, replies, options.seed, said=said, replicas=n) for said, n in halves
    ]


def _shares(options: Options) -> list[Step]:
    if options.short:
        return []
    letters = options.count(400, 0)
    steps = []
    for form, n in zip(SHARE_FORMS, (2, 4), strict=True):
        more = {"form": form, "letters": letters, "replicas": n}
        step = _step(f"relays shares {n}", 15 + letters / 9, shares, options.seed, **more)
        steps.append(replace(step, quiet=True))  # a process that gets no time loses its slots
    return [*steps, _step("relays window", 130, windows, options.seed, replicas=3)]


def _repeated(
    name: str, full: int, short: int, make: Callable[..., Row], *, each: float, options: Options
) -> list[Step]:
    """A part of one step, of which each run takes so many seconds."""
    runs = options.count(full, short)
    return [_step(name, 5 + each * runs, make, options.seed, runs=runs)]


def _misbehaving(options: Options) -> list[Step]:
    letters = options.count(10_000, 500)
    ways = ("pipelining", "TLS and AUTH") if options.short else MISBEHAVIOURS
    return [
        _step(f"misbehaving {way}", 4 + letters / 450, misbehaving, options.seed, letters=letters, way=way)
        for way in ways
    ]


def _smuggling(options: Options) -> list[Step]:
    return [
        _step("smuggling postfix", 6, through_postfix, options.seed),
        _step("smuggling aiosmtpd", 3, through_aiosmtpd, options.seed),
    ]


def _http(options: Options) -> list[Step]:
    return [_step("http", 15, http_abuse, options.seed, callers=options.count(100, 10))]


def _tls(options: Options) -> list[Step]:
    # Each relay takes three seconds, for it has to be refused twice.
    modes = ("starttls",) if options.short else ("starttls", "implicit")
    return [_step("tls", 4 + 14 * len(modes), tls, options.seed, modes=modes)]


def _publishers(options: Options) -> list[Step]:
    wanted = [QUICK_KINDS] if options.short else [(kind,) for kind in KINDS]
    return [
        _step(f"publishers {' '.join(kinds)}", 4 + 9 * len(kinds), publishers, options.seed, kinds=kinds)
        for kinds in wanted
    ]


def _offsets(options: Options) -> list[Step]:
    ways = ("remade while it runs",) if options.short else tuple(CHANGES)
    return [_step(f"offsets {way}", 12, offsets, options.seed, way=way) for way in ways]


def _callers(options: Options) -> list[Step]:
    wanted = [tuple(CALLERS)] if options.short else [(kind,) for kind in CALLERS]
    return [_step(f"callers {' '.join(kinds)}", 14, callers, options.seed, kinds=kinds) for kinds in wanted]


def _sick(options: Options) -> list[Step]:
    steps = []
    for topic in SICK_TOPICS:
        seconds = 100 if topic == "letters" else 30
        for way in SICKNESSES:
            more = {"topic": topic, "way": way}
            steps.append(_step(f"sick {topic} {way}", seconds, sick, options.seed, **more))
    return steps + [_step(f"lost {what}", 40, lost, options.seed, what=what) for what in LOSSES]


QUICK_KINDS = ("headers", "packed", "elements")

INPUTS = {
    "records": 255,
    "messages": 225,
    "wire": 235,
    "replies": 95,
    "dialogue": 470,
    "http": 870,
    "settings": 650,
}
"""Seconds for a million each, in one process."""


def _inputs(options: Options) -> list[Step]:
    count = options.count(1_000_000, 4000)
    # Settings take a millisecond each to read, a hundred times as long as a reply.
    counts = {name: count // 8 if options.short and name == "settings" else count for name in TARGETS}
    workers = max(1, (os.cpu_count() or 1) // options.jobs)
    steps = []
    for name, count in counts.items():
        seconds = INPUTS[name] / workers * count / 1_000_000
        more = {"count": count, "workers": workers}
        step = _step(f"inputs {name}", seconds, _volume, name, options.seed, **more)
        steps.append(replace(step, cores=float(workers)))
    return steps


def _volume(stage: Stage, name: str, seed: int, *, count: int, workers: int) -> Row:
    del stage  # they need no parts
    return volume(name, seed, count=count, workers=workers)


def _guided_one(stage: Stage, name: str, seed: int, seconds: int) -> Row:
    return guided(name, seed, seconds=seconds, directory=stage.directory / "guided")


def _guided(options: Options) -> list[Step]:
    seconds = options.count(60, 10)
    return [_step(f"guided {name}", seconds + 1, _guided_one, name, options.seed, seconds) for name in GUIDED]


def _mutants(options: Options) -> list[Step]:
    return [
        replace(_step(f"mutant {each.name}", each.seconds, hunt, each, options.seed), cores=each.cores)
        for each in MUTANTS
    ] + [
        replace(_step(f"mutant {each.name}, simulated", each.seconds, simulated_mutant, each), cores=1.0)
        for each in SIMULATED_MUTANTS
    ]


WORLDS = {
    "calm": (60, 0.4),
    "dying": (150, 1.0),
    "ill": (150, 1.4),
    "rated": (60, 1.8),
    "throttled": (60, 1.0),
    "ordered": (40, 2.0),
    "several": (50, 3.0),
    "routes": (100, 1.8),
    "shared": (40, 1.4),
    "spare": (60, 2.6),
    "metered": (20, 4.2),
    "exact": (40, 2.0),
    "capped": (10, 14.0),
    "narrow": (40, 2.0),
    "timed": (40, 2.3),
    "mass": (52, 8.0),
    "everything": (100, 1.6),
}
"""Worlds of each kind, and seconds of one: a million letters in all. The short form has one of some kinds."""


def _simulation(options: Options) -> list[Step]:
    kinds = Random(options.seed).sample(list(WORLDS), 5) if options.short else list(WORLDS)
    return [
        replace(
            _step(
                f"simulation {kind}",
                2 + seconds * options.count(full, 1),
                simulated,
                options.seed,
                kind=kind,
                worlds=options.count(full, 1),
            ),
            cores=1.0,
        )
        for kind in kinds
        for full, seconds in [WORLDS[kind]]
    ]


def _once(name: str, seconds: float, make: Callable[..., Row], options: Options) -> list[Step]:
    """A part of one step that does all it can each time."""
    return [_step(name, seconds, make, options.seed)]


LONG = {
    "guided",
    "mutants",
    "simulated mutants",
    "callers",
    "clocks",
    "sick",
    "vanished",
    "builds",
    "lagging",
    "strangers",
}
"""Parts without a short form."""

PARTS: dict[str, Part] = {
    "kills": _kills,
    "frozen": lambda options: _repeated("frozen", 40, 1, frozen, each=4.0, options=options),
    "rebalances": lambda options: _repeated("rebalances", 120, 6, rebalances, each=1.4, options=options),
    "outages": _outages,
    "failovers": lambda options: _repeated("failovers", 30, 1, failovers, each=3.5, options=options),
    "network": lambda options: _repeated("network", 40, 2, network, each=3.2, options=options),
    "misbehaving": _misbehaving,
    "rate": _rate,
    "relays": _relays,
    "drains": _drains,
    "poison": lambda options: _once("poison", 7, poison, options),
    "smuggling": _smuggling,
    "secrets": lambda options: _once("secrets", 9, canary, options),
    "tls": _tls,
    "disk": lambda options: _repeated("disk", 20, 1, full_disk, each=3.2, options=options),
    "http": _http,
    "publishers": _publishers,
    "offsets": _offsets,
    "clocks": lambda options: [
        _step(f"clocks {whose}", 35, clocks, options.seed, whose=whose)
        for whose in (("producers",) if options.short else CLOCKS)
    ],
    "callers": _callers,
    "sick": _sick,
    "vanished": lambda options: [
        _step(f"vanished {what}", 25, vanished, options.seed, what=what) for what in FILES
    ],
    "builds": lambda options: _repeated("builds", 20, 2, builds, each=3.5, options=options),
    "whole": lambda options: [
        _step("whole", 15 + options.count(60, 8), whole, options.seed, seconds=options.count(60, 8))
    ],
    "lagging": lambda options: [_step("lagging", 35, lagging, options.seed, letters=options.count(800, 600))],
    "strangers": lambda options: _repeated("strangers", 400, 100, strangers, each=0.1, options=options),
    "simulation": _simulation,
    "inputs": _inputs,
    "guided": _guided,
    "mutants": _mutants,
}


CORES = {
    "builds": 1.0,
    "callers": 0.7,
    "clocks": 0.8,
    "disk": 0.4,
    "guided": 1.0,
    "http": 0.9,
    "kills": 1.4,
    "lagging": 0.5,
    "misbehaving": 1.6,
    "network": 0.4,
    "offsets": 0.4,
    "outages": 0.3,
    "publishers": 1.0,
    "rate": 0.6,
    "rebalances": 1.3,
    "relays": 1.2,
    "sick": 0.5,
    "tls": 0.5,
    "vanished": 0.5,
    "whole": 1.0,
}
"""Cores that a step of a part keeps busy, on average, with all that it starts."""

USUAL = 0.7
"""The same of all others."""

QUIET = {"callers", "http", "kills", "publishers", "rate", "whole"}
"""Parts that judge times which a busy machine would spoil."""


def steps_of(parts: Sequence[str], options: Options) -> list[Step]:
    """The steps of some parts, in their order; without any, of all, or of those that have a short form."""
    names = parts or [name for name in PARTS if not options.short or name not in LONG]
    return [_measured(step, name) for name in names for step in PARTS[name](options)]


def _measured(step: Step, part: str) -> Step:
    """A step with what its part needs, where it does not say so itself."""
    return replace(step, cores=step.cores or CORES.get(part, USUAL), quiet=step.quiet or part in QUIET)
