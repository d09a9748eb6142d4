"""`make proof`: runs experiments, prints the table, writes `docs/proof.md` and the rows beside it.

    python -m proof [PART …] [--missing] [--runs N] [--seed S] [--rate R] [--form F] [--short] [--jobs N]

Without a part all are run, two steps at a time where there are two cores (`--jobs`). A row is kept as soon as
it is there; `--missing` runs what no row is kept of for these very sources, and so goes on where a run was
interrupted. Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mailsender.dev.kafka import KAFKA_VERSION
from mailsender.dev.mongod import mongod_version
from proof import page, table
from proof.experiments.kills import FORMS
from proof.lanes import Work, minutes, rows
from proof.parts import PARTS, steps_of
from proof.steps import Options, Step, left

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "proof.md"
ROWS, ROWS_PAGE = PAGE.with_suffix("") / "rows.jsonl", PAGE.with_suffix("") / "rows.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make proof", description="Tries to break the promises.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without one")
    parser.add_argument("--runs", type=int, help="blows, or inputs, of each part")
    parser.add_argument("--seed", type=int, help="printed when it is chosen at random")
    parser.add_argument("--rate", type=int, help="letters a second, 0 for full load; for `kills` alone")
    parser.add_argument("--form", default="", choices=("", *FORMS), help="of `kills` alone")
    parser.add_argument("--short", action="store_true", help="a few of each, as in `make test`")
    parser.add_argument("--missing", action="store_true", help="only what is not kept of these sources yet")
    parser.add_argument("--plan", action="store_true", help="say what would be run and how long it takes")
    two = min(2, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=two, help="steps at a time, each with parts of its own")
    parser.add_argument("--tree", type=Path, default=ROOT, help="try the package that lies there")
    parser.add_argument("--no-page", action="store_true", help="leave docs/proof.md and the rows as they are")
    parser.add_argument("--directory", type=Path, help="where logs stay; a temporary one without it")
    given = parser.parse_args()
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    options = Options(
        seed=seed,
        runs=given.runs,
        short=given.short,
        rate=given.rate,
        form=given.form,
        jobs=max(1, given.jobs),
    )
    steps = steps_of(given.parts, options)
    if given.missing:
        steps = left(steps, table.kept(ROWS), given.tree)
    if given.plan:
        print("".join(f"{step.seconds:6.0f} s  {step.name}\n" for step in steps), end="")
    print(f"{len(steps)} steps, about {minutes(steps, options.jobs):.0f} minutes", flush=True)
    if given.plan:
        return 0
    directory = given.directory or Path(tempfile.mkdtemp(prefix="proof-"))
    print(f"seed {seed}, logs in {directory}", flush=True)
    work = Work(parts=given.parts, options=options, tree=given.tree.absolute(), directory=directory)
    made = []
    for row in rows(steps, work, options.jobs, _say_begun):
        _take(row, keep=not given.no_page)
        made.append(row)
    print(table.as_text(in_order(made)))
    return 0 if all(each.good for each in made) else 1


def _say_begun(step: Step) -> None:
    print(f"… {step.name}, about {step.seconds:.0f} s", flush=True)


def _take(made: table.Row, *, keep: bool) -> None:
    """Say what came of a step, and keep it."""
    lines = [f"  {made.experiment}: {made.verdict} ({made.notes}; {made.seconds:.0f} s)"]
    print("\n    ".join([*lines, *made.details]), flush=True)
    if keep:
        table.keep(in_order(table.merged(table.kept(ROWS), [made])), ROWS)
        publish(_machine())


def in_order(rows: Sequence[table.Row]) -> list[table.Row]:
    """Rows as their steps stand in the plan, whichever ended first."""
    places = {step.name: place for place, step in enumerate(steps_of([], Options(seed=0)))}
    return sorted(rows, key=lambda each: places.get(each.step, len(places)))


def publish(machine: str) -> None:
    """Write the pages from the rows that are kept."""
    rows = table.kept(ROWS)
    PAGE.write_text(page.as_page(rows, machine), "utf-8")
    ROWS_PAGE.write_text(page.as_rows(rows), "utf-8")


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, Apache Kafka {KAFKA_VERSION},"
        f" mongod {mongod_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
