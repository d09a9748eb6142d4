"""Worlds, one after another: `python -m simulation [KIND …] [--seed N] [--worlds N] [--hours H]`.

Prints the seed of each that breaks a promise, and how to see it again. Exits with 1 when one does.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import sys
import time

from simulation.mutants import break_

HANGS = 600.0
"""Seconds after which a world is ended: somebody does not let go of the only thread."""


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description="Worlds that try the promises.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="all without one")
    parser.add_argument("--seed", type=int, help="of the first world; the next ones follow it")
    parser.add_argument("--worlds", type=int, default=1, help="how many of each kind")
    parser.add_argument("--hours", type=float, help="simulated, of each")
    parser.add_argument("--stop", action="store_true", help="end with the first that breaks a promise")
    parser.add_argument("--json", action="store_true", help="an object a line, for programs")
    parser.add_argument("--mutant", help="try the service broken in this way: see simulation/mutants.py")
    given = parser.parse_args()
    if given.mutant:
        break_(given.mutant)
    from simulation.worlds import KINDS  # not earlier: it imports the service

    unknown = set(given.kinds) - KINDS.keys()
    if unknown:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have one order then, and a seed one history
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    first = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    bad = 0
    for name in given.kinds or KINDS:
        for seed in range(first, first + given.worlds):
            bad += _tell(name, seed, given.hours, as_json=given.json)
            if bad and given.stop:
                return 1
    return 1 if bad else 0


def _tell(name: str, seed: int, hours: float | None, *, as_json: bool) -> bool:
    """Run a world and say what came of it; whether a promise was broken."""
    from simulation.judge import shown
    from simulation.worlds import KINDS, run_seed

    kind = KINDS[name]
    if not as_json:
        print(f"{name} {seed}", end="", flush=True)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    began = time.process_time()
    outcome = run_seed(kind, seed, hours).run(hours or kind.hours)
    used, lines = time.process_time() - began, shown(outcome.faults)
    again = f"python -m simulation {name} --seed {seed}" + (f" --hours {hours:g}" if hours else "")
    if as_json:
        told = {
            "letters": outcome.letters,
            "accepted": outcome.accepted,
            "reports": outcome.reports,
            "twice": outcome.twice,
            "hours": outcome.hours,
            "cpu": used,
            "broken": lines,
            "again": again,
        }
        print(json.dumps(told), flush=True)
        return bool(lines)
    print(
        f": {outcome.letters} letters, {outcome.transactions} transactions,"
        f" {outcome.hours:.1f} h, {outcome.hours / used * 60:.0f} h/min, {outcome.digest}",
        flush=True,
    )
    if lines:
        print("\n".join([f"BROKEN, to see it again: {again}", *lines]), flush=True)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
