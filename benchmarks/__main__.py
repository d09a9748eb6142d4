"""Measures mailsender beside its peers: `make bench` and `make bench-quick`.

Prints the tables, writes the medians to `build/bench.json`, and with `--write` the tables to
docs/performance/tables.md and their short form to docs/performance.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks import depth, goals, idle, latency, replicas, shapes, where
from benchmarks.compare import OURS, SMALL_BATCHES, TWO, all_peers, compare, quick_peers
from benchmarks.parts import ROOT, Stage, install_missing
from benchmarks.run import machine, say, staged
from benchmarks.table import Section, comparison, put_between, short, summaries, to_json

JSON = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "performance.md"
TABLES = ROOT / "docs" / "performance" / "tables.md"

SECTIONS: dict[str, Callable[[Stage], Section]] = {
    "depth": depth.measure,
    "shapes": shapes.measure,
    "replicas": replicas.measure,
    "idle": idle.measure,
    "latency": latency.measure,
    "where": where.measure,
}
"""The further measurements, each runnable alone as `python -m benchmarks.<name>`."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="ours beside the bare aiosmtplib loop, nothing else"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each peer (5, with --quick 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of letters (1)")
    parser.add_argument("--only", nargs="*", choices=[*SECTIONS, "peers"], help="these parts of the full run")
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {TABLES.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("--write is for the full run: it replaces all tables")
    return options


def _peers(stage: Stage, options: argparse.Namespace) -> list[Section]:
    peers = quick_peers() if options.quick else all_peers()
    count = options.rounds or (3 if options.quick else 5)
    rounds, skipped = compare(stage, peers, count, options.scale)
    JSON.parent.mkdir(exist_ok=True)
    rows = summaries(rounds)
    JSON.write_text(to_json(rows))
    return [comparison(rounds, skipped, [OURS, SMALL_BATCHES, TWO]), goals.beside(rows)]


def _run(options: argparse.Namespace) -> list[Section]:
    wanted = ["peers"] if options.quick else options.only or ["peers", *SECTIONS]
    sections = []
    with staged() as stage:
        for name in wanted:
            began = time.monotonic()
            sections += _peers(stage, options) if name == "peers" else [SECTIONS[name](stage)]
            say(f"{name}: {time.monotonic() - began:.0f} s")
    return sections


def _page(here: str, sections: Sequence[Section]) -> str:
    return "\n".join([f"Measured {here}.\n", *map(str, sections)])


def main() -> None:
    options = _parse()
    install_missing({"smtp-sink": "postfix"} | ({} if options.quick else {"redis-server": "redis-server"}))
    here = machine()
    try:
        sections = _run(options)
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
