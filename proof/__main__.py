"""`make proof`: runs experiments, prints the table, writes `docs/proof.md`.

    python -m proof [PART …] [--runs N] [--seed S] [--rate R] [--short] [--no-page]

Without a part all are run. Exits with 1 when a promise was broken.
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
from proof import table
from proof.experiments.kills import FORMS
from proof.parts import PARTS, Options
from proof.stage import open_stage

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / ".cache" / "proof.jsonl", ROOT / "docs" / "proof.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make proof", description="Tries to break the promises.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without one")
    parser.add_argument("--runs", type=int, help="blows, or inputs, of each part")
    parser.add_argument("--seed", type=int, help="printed when it is chosen at random")
    parser.add_argument("--rate", type=int, default=0, help="letters a second; for `kills` alone")
    parser.add_argument("--form", default="without", choices=tuple(FORMS), help="of `kills` alone")
    parser.add_argument("--short", action="store_true", help="a few of each, as in `make test`")
    parser.add_argument("--no-page", action="store_true", help="leave docs/proof.md as it is")
    parser.add_argument("--directory", type=Path, help="where logs stay; a temporary one without it")
    given = parser.parse_args()
    unknown = set(given.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    directory = given.directory or Path(tempfile.mkdtemp(prefix="proof-"))
    print(f"seed {seed}, logs in {directory}", flush=True)
    options = Options(seed=seed, runs=given.runs, short=given.short, rate=given.rate, form=given.form)
    rows: list[table.Row] = []
    with open_stage(directory) as stage:
        for name in given.parts or PARTS:
            print(f"… {name}", flush=True)
            made = PARTS[name](stage, options)
            for each in made:
                print(f"  {each.experiment}: {each.verdict} ({each.notes}; {each.seconds:.0f} s)", flush=True)
                print("".join(f"    {line}\n" for line in each.details), end="", flush=True)
            rows += made
    print(table.as_text(rows))
    if not given.no_page:
        table.keep(table.merged(table.kept(ROWS), rows), ROWS)
        PAGE.write_text(table.as_page(table.kept(ROWS), _machine()), "utf-8")
    return 0 if all(each.good for each in rows) else 1


def _machine() -> str:
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, Apache Kafka {KAFKA_VERSION},"
        f" mongod {mongod_version()}"
    )


if __name__ == "__main__":
    sys.exit(main())
