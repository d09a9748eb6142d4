"""Simulated worlds: a virtual clock, more letters and more deaths than the real parts have time for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proof.stage import Stage
from proof.table import Row
from simulation.mutants import Mutant, attempt

ROOT = Path(__file__).parents[2]


def simulated(stage: Stage, seed: int, *, kind: str, worlds: int) -> Row:
    """So many worlds of a kind, from `seed` on; see `simulation.worlds`."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-P",
        "-m",
        "simulation",
        kind,
        "--json",
        f"--seed={seed}",
        f"--worlds={worlds}",
    ]
    paths = os.pathsep.join([str(stage.tree), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found: list[dict[str, Any]] = [json.loads(line) for line in ended.stdout.splitlines()]
    broken = [each for each in found if each["broken"]]
    details = [f"{each['again']}: {'; '.join(each['broken'])}" for each in broken]
    if len(found) < worlds:  # it hung, or the harness itself is broken
        details += [f"world {seed + len(found)} did not end", *ended.stderr.splitlines()[-20:]]
    hours, used = sum(each["hours"] for each in found), sum(each["cpu"] for each in found)
    return Row(
        experiment=f"simulation, {kind}",
        seed=seed,
        runs=worlds,
        letters=sum(each["letters"] for each in found),
        accepted=_sums([each["accepted"] for each in found]),
        reports=_sums([each["reports"] for each in found]),
        duplicates=sum(each["twice"] for each in found),
        verdict=f"BROKEN: {len(broken) or 1} of {worlds} worlds" if details else "kept",
        notes=f"{hours:,.0f} simulated hours, {hours / max(used, 0.001) * 60:,.0f} a minute of CPU",
        seconds=time.monotonic() - began,
        repeat=f"python -m simulation {kind} --seed {seed} --worlds {worlds}",
        details=tuple(details),
    )


def _sums(found: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    none, one, more = (sum(each[number] for each in found) for number in range(3))
    return none, one, more


def simulated_mutant(stage: Stage, mutant: Mutant) -> Row:
    """The simulation of a service that is broken on purpose; good when it was found out."""
    del stage  # it needs no parts
    began = time.monotonic()
    seen = attempt(mutant)
    return Row(
        experiment=f"mutant: {mutant.name}, simulated",
        seed=mutant.seed,
        runs=mutant.worlds,
        verdict="kept" if seen else "BROKEN: the mutant was not found out",
        notes=f"simulation, {mutant.kind}: {seen.strip()}",
        seconds=time.monotonic() - began,
        repeat=f'python -m simulation {mutant.kind} --worlds {mutant.worlds} --mutant "{mutant.name}"',
    )
