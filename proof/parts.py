"""The parts of the proof by their names on the command line, and how often each does its worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proof.experiments.drains import drains, drains_without
from proof.experiments.failovers import failovers
from proof.experiments.frozen import frozen
from proof.experiments.http_abuse import http_abuse
from proof.experiments.kills import kills
from proof.experiments.misbehaving import WAYS as MISBEHAVIOURS
from proof.experiments.misbehaving import misbehaving
from proof.experiments.network import network
from proof.experiments.outages import COMBINATIONS, WAYS, outage
from proof.experiments.poison import poison
from proof.experiments.rate import rate
from proof.experiments.rebalances import rebalances
from proof.experiments.secrets import canary
from proof.experiments.smuggling import through_aiosmtpd, through_postfix
from proof.fuzz.guided import TARGETS as GUIDED
from proof.fuzz.guided import guided
from proof.fuzz.volume import TARGETS, volume
from proof.mutants import MUTANTS, hunt
from proof.stage import Stage
from proof.table import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. `runs` of None: as many as the part finds right.

    `rate` is in letters a second; with one the kills are at that rate only.
    """

    seed: int
    runs: int | None = None
    short: bool = False
    rate: int = 0
    form: str = "without"

    def count(self, full: int, short: int) -> int:
        """How many blows or inputs."""
        return self.runs or (short if self.short else full)


SLOW = 50
"""Letters a second at which kills ought to cost next to nothing."""

Part = Callable[[Stage, Options], list[Row]]


def _kills(stage: Stage, options: Options) -> list[Row]:
    latest = 0.9 if options.short else 1.8
    return [
        kills(
            stage,
            options.seed,
            runs=options.count(20, 20),
            latest=3.0 if options.rate else latest,
            rate=options.rate,
            form=options.form,
        )
    ]


def _drains(stage: Stage, options: Options) -> list[Row]:
    rows = [drains(stage, options.seed, runs=options.count(200, 6))]
    if not options.short:
        runs = min(20, options.count(20, 0))
        rows += [drains_without(stage, options.seed, part=part, runs=runs) for part in ("mongodb", "broker")]
    return rows


def _outages(stage: Stage, options: Options) -> list[Row]:
    seconds = 10.0 if options.short else 60.0
    wanted: list[tuple[tuple[str, ...], str]]
    if options.short:
        wanted = [(("mongodb", "relay"), "killed")]
    else:
        wanted = [(parts, way) for parts in COMBINATIONS for way in WAYS]
    return [outage(stage, options.seed, parts=parts, way=way, seconds=seconds) for parts, way in wanted]


def _rate(stage: Stage, options: Options) -> list[Row]:
    if options.short:
        return [rate(stage, options.seed, replicas=2, seconds=4, failover=False)]
    counts = [(1, False), (2, False), (3, False), (4, False), (2, True), (4, True)]
    return [rate(stage, options.seed, replicas=n, seconds=60, failover=over) for n, over in counts]


def _frozen(stage: Stage, options: Options) -> list[Row]:
    return [frozen(stage, options.seed, runs=options.count(40, 1))]


def _rebalances(stage: Stage, options: Options) -> list[Row]:
    return [rebalances(stage, options.seed, runs=options.count(120, 6))]


def _failovers(stage: Stage, options: Options) -> list[Row]:
    return [failovers(stage, options.seed, runs=options.count(40, 1))]


def _network(stage: Stage, options: Options) -> list[Row]:
    return [network(stage, options.seed, runs=options.count(60, 2))]


def _misbehaving(stage: Stage, options: Options) -> list[Row]:
    letters = options.count(10_000, 500)
    ways = ("pipelining", "TLS and AUTH") if options.short else MISBEHAVIOURS
    return [misbehaving(stage, options.seed, letters=letters, way=each) for each in ways]


def _poison(stage: Stage, options: Options) -> list[Row]:
    return [poison(stage, options.seed)]


def _smuggling(stage: Stage, options: Options) -> list[Row]:
    return [through_postfix(stage, options.seed), through_aiosmtpd(stage, options.seed)]


def _secrets(stage: Stage, options: Options) -> list[Row]:
    return [canary(stage, options.seed)]


def _http(stage: Stage, options: Options) -> list[Row]:
    return [http_abuse(stage, options.seed, callers=options.count(100, 10))]


def _inputs(stage: Stage, options: Options) -> list[Row]:
    del stage
    count = options.count(1_000_000, 4000)
    # Settings take a millisecond each to read, a hundred times as long as a reply.
    counts = {name: count // 8 if options.short and name == "settings" else count for name in TARGETS}
    return [volume(name, options.seed, count=count) for name, count in counts.items()]


def _guided(stage: Stage, options: Options) -> list[Row]:
    seconds = options.count(120, 10)
    where = stage.directory / "guided"
    return [guided(name, options.seed, seconds=seconds, directory=where) for name in GUIDED]


def _mutants(stage: Stage, options: Options) -> list[Row]:
    return [hunt(stage, each, options.seed) for each in MUTANTS]


LONG = {"guided", "mutants"}
"""Parts without a short form in `make test`."""

PARTS: dict[str, Part] = {
    "kills": _kills,
    "frozen": _frozen,
    "rebalances": _rebalances,
    "outages": _outages,
    "failovers": _failovers,
    "network": _network,
    "misbehaving": _misbehaving,
    "rate": _rate,
    "drains": _drains,
    "poison": _poison,
    "smuggling": _smuggling,
    "secrets": _secrets,
    "http": _http,
    "inputs": _inputs,
    "guided": _guided,
    "mutants": _mutants,
}
