"""Measures mailsender beside its peers: `make bench` and `make bench-quick`.

Prints the tables, writes the medians to `build/bench.json`, and with `--write` the tables to
docs/performance/tables.md and their short form to docs/performance.md. With `--against` it measures another
commit's service beside this one's instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    against,
    depth,
    driver,
    goals,
    idle,
    kinds,
    latency,
    relays,
    replicas,
    shapes,
    tls,
    where,
)
from benchmarks.compare import OURS, SMALL_BATCHES, TWO, all_peers, compare, quick_peers
from benchmarks.parts import ROOT, Stage, install_missing
from benchmarks.run import machine, say, staged
from benchmarks.table import (
    Choice,
    Section,
    choice,
    comparison,
    put_between,
    short,
    summaries,
    to_json,
)
from mailsender.dev.process import PartMissing

JSON = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "performance.md"
TABLES = ROOT / "docs" / "performance" / "tables.md"

CHOICES: dict[str, Callable[[Stage, float], Choice]] = {
    "tls": tls.measure,
    "driver": driver.measure,
    "kinds": kinds.measure,
    "relays": relays.measure,
}
"""Ours with one setting changed, each runnable alone as `python -m benchmarks.<name>`."""

SECTIONS: dict[str, Callable[[Stage], Section]] = {
    "depth": depth.measure,
    "shapes": shapes.measure,
    "replicas": replicas.measure,
    "idle": idle.measure,
    "latency": latency.measure,
    "where": where.measure,
}
"""The further measurements, likewise."""


def _parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="ours beside the bare aiosmtplib loop, nothing else"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each peer (5, with --quick 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of letters (1)")
    parser.add_argument(
        "--only", nargs="*", choices=["peers", *CHOICES, *SECTIONS], help="these parts of the full run"
    )
    parser.add_argument(
        "--against", type=Path, metavar="TREE", help="a checkout of another commit, in turn with this one"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {TABLES.relative_to(ROOT)}"
    )
    options = parser.parse_args(words)
    if options.write and (options.quick or options.only or options.against):
        parser.error("--write is for the full run: it replaces all tables")
    if options.against and (options.quick or options.only):
        parser.error("--against is a run of its own")
    return options


def _run(stage: Stage, options: argparse.Namespace) -> list[Section]:
    """Everything that is wanted; of the sections the comparison and the goals come first."""
    if options.against:
        tree = against.other_tree(options.against, stage.room("before"))
        return against.measure(stage, tree, options.rounds or against.ROUNDS, options.scale)
    wanted = ["peers"] if options.quick else options.only or ["peers", *CHOICES, *SECTIONS]
    first: list[Section] = []
    others: list[Section] = []
    rows: list[dict[str, Any]] = []
    choices: list[Choice] = []
    for name in wanted:
        began = time.monotonic()
        if name == "peers":
            peers = quick_peers() if options.quick else all_peers()
            count = options.rounds or (3 if options.quick else 5)
            rounds, skipped = compare(stage, peers, count, options.scale)
            first = [comparison(rounds, skipped, [OURS, SMALL_BATCHES, TWO])]
            rows = summaries(rounds)
        elif name in CHOICES:
            choices.append(CHOICES[name](stage, options.scale))
            others.append(choice(choices[-1]))
        else:
            others.append(SECTIONS[name](stage))
        say(f"{name}: {time.monotonic() - began:.0f} s")
    if rows:
        first.append(goals.beside(rows, choices))
        JSON.parent.mkdir(exist_ok=True)
        JSON.write_text(to_json([*rows, *(row for each in choices for row in summaries(each.rounds))]))
    return [*first, *others]


def _page(here: str, sections: Sequence[Section]) -> str:
    return "\n".join([f"Measured {here}.\n", *map(str, sections)])


def main() -> None:
    options = _parse()
    few = options.quick or options.against
    install_missing({"smtp-sink": "postfix"} | ({} if few else {"redis-server": "redis-server"}))
    here = machine()
    try:
        with staged() as stage:
            sections = _run(stage, options)
    except PartMissing as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; every part was stopped.")
    text = _page(here, sections)
    print(text)
    if options.write:
        TABLES.write_text(put_between(TABLES.read_text("utf-8"), text), "utf-8")
        brief = f"Measured {here}.\n\n{short(*sections[:2])}"
        PAGE.write_text(put_between(PAGE.read_text("utf-8"), brief), "utf-8")


if __name__ == "__main__":
    main()
