"""What was asked for beside what came out. Pure.

Speeds are ratios of one run, so that the machine does not matter much. CPU seconds are a machine's own, and
the goal for them names none. So ours are also shown as one machine of reference would take them, by how much
more others take here than they took there: an estimate, which is as good as its spread is narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.compare import OURS
from benchmarks.table import CPU as OWN_CPU
from benchmarks.table import SPEED, Choice, Section, ratio

SPEEDS = {"Postfix end to end": (8, 5), "taskiq on Redis streams": (3.5, 2)}
"""How many times as fast, and at the least."""

CPU = 0.10
"""CPU seconds of the service for 1000 letters."""

REFERENCE = {
    "Postfix end to end": 1.459,
    "taskiq on Redis streams": 0.383,
    "Celery on Redis": 0.773,
    "bare aiosmtplib loop": 0.151,
}
"""CPU seconds for 1000 letters on the machine of reference: that of the first published table of the compiled
form, of 2026-11-24, 2 cores (AMD EPYC), Linux 6.18.44, Python 3.11.2. mailsender took 0.113 then."""


def beside(rows: Sequence[Mapping[str, Any]], choices: Sequence[Choice] = ()) -> Section:
    """Every goal that the senders which were measured say something about, and what each choice costs.

    No goal was set for choices.
    """
    found = {row["name"]: row for row in rows}
    ours = found[OURS]
    body = []
    for name, (goal, least) in SPEEDS.items():
        if name in found:
            times = ratio(ours["letters_per_s"], found[name]["letters_per_s"])
            body.append([f"letters/s, times those of {name}", f"{goal:g}, at least {least:g}", times])
    factors = sorted(
        found[name]["cpu_s_per_1000"] / there for name, there in REFERENCE.items() if name in found
    )
    if factors:
        spread = [f"{each:.2f}" for each in (median(factors), factors[0], factors[-1])]
        body.append(["CPU of others, times the reference's", "", f"{spread[0]} ({spread[1]} to {spread[2]})"])
        taken = ours["cpu_s_per_1000"] / median(factors)
        body.append(["CPU s/1000, as the reference would take", f"{CPU:.2f}", f"{taken:.3f}"])
    body.append(["CPU s/1000 here", f"{CPU:.2f}", f"{ours['cpu_s_per_1000']:.3f}"])
    for each in choices:
        first, *others = each.rounds
        for name in others:
            for what, of in (("letters/s", SPEED), ("CPU s/1000", OWN_CPU)):
                against = f"{name.removeprefix(OURS)}, times those{first.removeprefix(OURS)}"
                body.append([f"{what}{against}", "", f"{each.times(name, of):.2f}"])
    return Section("Goals", ["what", "goal", OURS], body)
