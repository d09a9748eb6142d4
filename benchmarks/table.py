"""Rounds as rows, rows as a table and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Round

SHORT = ("sender", "letters/s", "CPU s/1000", "peak MB")
"""The columns of a comparison that its short form has, beside the first one with ratios."""

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@dataclass(frozen=True)
class Section:
    """A table with a title, and what has to be said about it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())

    def __str__(self) -> str:
        notes = "".join(f"\n- {note}" for note in self.notes)
        table = grid(self.head, self.rows) if self.rows else "(nothing was measured)"
        return f"### {self.title}\n\n{table}\n" + (f"{notes}\n" if notes else "")


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned so that it reads well on a terminal, too: numbers to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]) + " |"

    rule = "| " + " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]) + " |"
    return "\n".join([line(head), rule, *map(line, rows)])


def summary(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """The medians of a peer's rounds, as `build/bench.json` holds them."""
    return {
        "name": name,
        "letters_per_s": round(median(each.letters_per_s for each in rounds), 1),
        "cpu_s_per_1000": round(median(each.cpu_s_per_1000 for each in rounds), 4),
        "stores_cpu_s_per_1000": round(median(each.stores_cpu_s_per_1000 for each in rounds), 4),
        "rss_mb": round(median(each.rss_mb for each in rounds), 1),
    }


def summaries(rounds: Mapping[str, Sequence[Round]]) -> list[dict[str, Any]]:
    """One summary a peer that was measured, in their order."""
    return [summary(name, each) for name, each in rounds.items() if each]


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """The text of `build/bench.json`."""
    return json.dumps(rows, indent=2) + "\n"


def ratio(ours: float, theirs: float) -> str:
    """How many times as fast ours is."""
    return f"{ours / theirs:.2f}" if theirs else "-"


def comparison(
    rounds: Mapping[str, Sequence[Round]], skipped: Mapping[str, str], ours: Sequence[str]
) -> Section:
    """All peers in one table; a column of ratios for each of `ours` that was measured."""
    rows = summaries(rounds)
    speed = {row["name"]: row["letters_per_s"] for row in rows}
    measured = [name for name in ours if name in speed]
    head = ["sender", "letters/s", "min", "max", "CPU s/1000", "stores' CPU s/1000", "peak MB"]
    body = []
    for row in rows:
        speeds = [each.letters_per_s for each in rounds[row["name"]]]
        cells = [
            row["name"],
            *(f"{value:,.0f}" for value in (row["letters_per_s"], min(speeds), max(speeds))),
        ]
        cells += [
            f"{row['cpu_s_per_1000']:.3f}",
            f"{row['stores_cpu_s_per_1000']:.3f}",
            f"{row['rss_mb']:.0f}",
        ]
        body.append(cells + [ratio(speed[name], row["letters_per_s"]) for name in measured])
    counts = "; ".join(f"{name} {len(each)} × {_sizes(each)}" for name, each in rounds.items() if each)
    notes = [f"Rounds × letters: {counts}."]
    notes += [f"{name} is left out: {why}" for name, why in skipped.items()]
    return Section("Letters per second", [*head, *(f"{name} ÷ this" for name in measured)], body, notes)


def short(comparison: Section, goals: Section) -> str:
    """What somebody who has five minutes wants to see of a comparison and of its goals."""
    wanted = [comparison.head.index(name) for name in SHORT if name in comparison.head]
    ours = [index for index, name in enumerate(comparison.head) if name.endswith("÷ this")][:1]
    columns = wanted + ours
    rows = [[row[index] for index in columns] for row in comparison.rows]
    table = grid([comparison.head[index] for index in columns], rows)
    return f"{table}\n\n{grid(goals.head, goals.rows)}"


def _sizes(rounds: Sequence[Round]) -> str:
    sizes = [each.letters for each in rounds]
    return f"{max(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"


def put_between(text: str, table: str) -> str:
    """`text` with what stands between the markers replaced.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"one {BEGIN} and then one {END} are needed")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"
