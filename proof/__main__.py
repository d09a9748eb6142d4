"""`make proof`: runs experiments, prints the table, writes `docs/proof.md` and the rows beside it.

    python -m proof [PART …] [--missing] [--runs N] [--seed S] [--rate R] [--form F] [--short] [--no-page]

Without a part all are run. A row is kept as soon as it is there; `--missing` runs what no row is kept of for
these very sources, and so goes on where a run was interrupted. Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
from pathlib import Path

from mailsender.dev.kafka import KAFKA_VERSION
from mailsender.dev.mongod import mongod_version
from proof import page, table
from proof.experiments.kills import FORMS
from proof.parts import PARTS, steps_of
from proof.stage import Stage, open_stage
from proof.steps import Options, Step, left, minutes

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
    parser.add_argument("--tree", type=Path, default=ROOT, help="try the package that lies there")
    parser.add_argument("--no-page", action="store_true", help="leave docs/proof.md and the rows as they are")
    parser.add_argument("--directory", type=Path, help="where logs stay; a temporary one without it")
    given = parser.parse_args()
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    options = Options(seed=seed, runs=given.runs, short=given.short, rate=given.rate, form=given.form)
    steps = steps_of(given.parts, options)
    if given.missing:
        steps = left(steps, table.kept(ROWS), given.tree)
    if given.plan:
        print("".join(f"{step.seconds:6.0f} s  {step.name}\n" for step in steps), end="")
    print(f"{len(steps)} steps, about {minutes(steps):.0f} minutes", flush=True)
    if given.plan:
        return 0
    directory = given.directory or Path(tempfile.mkdtemp(prefix="proof-"))
    print(f"seed {seed}, logs in {directory}", flush=True)
    with open_stage(directory) as stage:
        stage.tree = given.tree.absolute()
        rows = [_run(step, stage, options, keep=not given.no_page) for step in steps]
    print(table.as_text(rows))
    return 0 if all(each.good for each in rows) else 1


def _run(step: Step, stage: Stage, options: Options, *, keep: bool) -> table.Row:
    """Run one, say what came of it, and keep it."""
    print(f"… {step.name}, about {step.seconds:.0f} s", flush=True)
    made = step.row(stage, options)
    print(f"  {made.experiment}: {made.verdict} ({made.notes}; {made.seconds:.0f} s)", flush=True)
    print("".join(f"    {line}\n" for line in made.details), end="", flush=True)
    if keep:
        table.keep(table.merged(table.kept(ROWS), [made]), ROWS)
        publish(_machine())
    return made


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
