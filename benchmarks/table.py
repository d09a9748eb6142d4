"""Rounds as rows, rows as a table and as JSON. Pure."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import Round

SHORT = ("sender", "letters/s", "CPU s/1000", "peak MB")
"""The columns of a comparison that its short form has, beside the first one with ratios."""

SPEED: Callable[[Round], float] = operator.attrgetter("letters_per_s")
CPU: Callable[[Round], float] = operator.attrgetter("cpu_s_per_1000")

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


def per_second(value: float) -> str:
    """A speed, as exact as one reads it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


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


CLEAR_OF_LIMIT = 2.0
"""How many times as fast as a sender a sink has to be, or what is measured may be the sink."""


@dataclass(frozen=True)
class Choice:
    """Ours with one setting changed: rounds of each form, in turn, the one to compare with first.

    `limits` are the rounds of the bare pipelined client into the same sink, by the same names, where the sink
    is one that could be the limit.
    """

    title: str
    rounds: Mapping[str, Sequence[Round]]
    limits: Mapping[str, Sequence[Round]] = field(default_factory=dict)
    notes: Sequence[str] = field(default=())

    def times(self, name: str, of: Callable[[Round], float]) -> float:
        """How many times what it is for the first form, taken round by round; the median."""
        first = next(iter(self.rounds.values()))
        return median(of(each) / of(base) for each, base in zip(self.rounds[name], first, strict=True))

    def limit(self, name: str) -> float:
        """Letters a second that the sink took from the bare client; 0 where it was not measured."""
        found = self.limits.get(name)
        return median(map(SPEED, found)) if found else 0.0

    def may_be_the_sink(self, name: str) -> bool:
        """Whether the sink could be what was measured."""
        return self.limit(name) < CLEAR_OF_LIMIT * median(map(SPEED, self.rounds[name]))


def choice(made: Choice) -> Section:
    """A row for each form, its ratios to the first, and the sink's limit; says where that may be it."""
    head = ["sender", "letters/s", "min", "max", "÷ first", "CPU s/1000", "÷ first", "stores' CPU s/1000"]
    head += ["peak MB", "sink, % of a core"] + (["sink's limit, letters/s"] if made.limits else [])
    near = [name for name in made.limits if made.may_be_the_sink(name)]
    every = [each for rounds in made.rounds.values() for each in rounds]
    notes = [f"{len(every) // len(made.rounds)} rounds of each, of {_sizes(every)} letters, in turn."]
    notes += ["The sink's limit is what it took from the bare pipelined client."] if made.limits else []
    notes += [
        f"{name}: that may be the sink, whose limit is not {CLEAR_OF_LIMIT:g} times it." for name in near
    ]
    return Section(made.title, head, [_form(made, name) for name in made.rounds], [*notes, *made.notes])


def _form(made: Choice, name: str) -> list[str]:
    rounds = made.rounds[name]
    row, speeds = summary(name, rounds), list(map(SPEED, rounds))
    return [
        name,
        *(f"{value:,.0f}" for value in (row["letters_per_s"], min(speeds), max(speeds))),
        f"{made.times(name, SPEED):.2f}",
        f"{row['cpu_s_per_1000']:.3f}",
        f"{made.times(name, CPU):.2f}",
        f"{row['stores_cpu_s_per_1000']:.3f}",
        f"{row['rss_mb']:.0f}",
        f"{median(each.sink_share for each in rounds) * 100:.0f}",
        *([f"{made.limit(name):,.0f}"] if made.limits else []),
    ]


def before_and_after(pairs: Mapping[str, tuple[Sequence[Round], Sequence[Round]]]) -> Section:
    """What each measurement came to for another tree and for this one: medians, and their ratios."""
    columns: Sequence[tuple[str, Callable[[Round], float], Callable[[float], str]]] = (
        ("letters/s", SPEED, per_second),
        ("CPU s/1000", CPU, "{:.3f}".format),
        ("stores' CPU s/1000", operator.attrgetter("stores_cpu_s_per_1000"), "{:.3f}".format),
        ("peak MB", operator.attrgetter("rss_mb"), "{:.0f}".format),
    )
    head = ["letters", *(word for name, _, _ in columns for word in (f"{name} before", "after", "times"))]
    body = []
    for name, (before, after) in pairs.items():
        cells = [name]
        for _, of, form in columns:
            old, new = (median(map(of, rounds)) for rounds in (before, after))
            times = median(of(b) / of(a) for a, b in zip(before, after, strict=True))
            cells += [form(old), form(new), f"{times:.2f}"]
        body.append(cells)
    notes = ["Medians; times is after ÷ before, taken round by round, then its median."]
    return Section("Before and after", head, body, notes)


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
