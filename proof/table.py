"""The rows: one for each experiment, on the terminal and in a file, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proof.checker import Verdict

NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one experiment came to.

    `runs` is how often something was broken or done, `seconds` its length. `known` names a fault of the
    service that has a test of its own already, when that is all that was found. `step` and `tree` say which
    step of the full proof it is, and of which state of the sources; of a quick look there is no `tree`.
    """

    experiment: str
    seed: int
    runs: int
    letters: int = 0
    accepted: tuple[int, int, int] = (0, 0, 0)
    reports: tuple[int, int, int] = (0, 0, 0)
    duplicates: int = 0
    verdict: str = "kept"
    notes: str = ""
    seconds: float = 0.0
    repeat: str = ""
    details: tuple[str, ...] = field(default=())
    known: str = ""
    step: str = ""
    tree: str = ""

    @property
    def good(self) -> bool:
        """Whether no promise was broken; what was not run broke none, and says so."""
        return self.verdict == "kept" or self.verdict.startswith(NOT_RUN)


def row(experiment: str, seed: int, runs: int, verdict: Verdict, **more: Any) -> Row:
    """The row of a judged run."""
    return Row(
        experiment=experiment,
        seed=seed,
        runs=runs,
        letters=verdict.letters,
        accepted=(verdict.accepted[0], verdict.accepted[1], verdict.accepted[2]),
        reports=(verdict.reports[0], verdict.reports[1], verdict.reports[2]),
        duplicates=verdict.duplicates,
        verdict=str(verdict),
        details=tuple(verdict.details()),
        **more,
    )


_HEAD = (
    "experiment",
    "seed",
    "runs",
    "letters",
    "accepted 0 / 1 / 2+",
    "reports 0 / 1 / 2+",
    "twice",
    "verdict",
    "seconds",
)


def _cells(each: Row) -> tuple[str, ...]:
    sendings = each.letters > 0
    return (
        each.experiment,
        str(each.seed),
        f"{each.runs:,}",
        f"{each.letters:,}" if sendings else "",
        " / ".join(f"{n:,}" for n in each.accepted) if sendings else "",
        " / ".join(f"{n:,}" for n in each.reports) if sendings else "",
        f"{each.duplicates:,}" if sendings else "",
        each.verdict,
        f"{each.seconds:.0f}",
    )


def counts(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What was counted, as a table's head and lines."""
    return _HEAD, [_cells(each) for each in rows]


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, with what was seen."""
    return as_markdown((*_HEAD, "seen"), [(*_cells(each), each.notes) for each in rows])


def as_markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned so that it reads well as text, too."""
    lines = [head, *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([shown[0], ruler, *shown[1:]])


def keep(rows: Sequence[Row], path: Path) -> None:
    """Store rows, one JSON object a line, so that parts can be run one by one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in rows), "utf-8")


def kept(path: Path) -> list[Row]:
    """The rows that were stored."""
    if not path.exists():
        return []
    return [_row(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _row(value: dict[str, Any]) -> Row:
    lists = {name: tuple(value[name]) for name in ("accepted", "reports", "details")}
    return Row(**{**value, **lists})


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Rows of experiments that ran again take the place of their older ones."""
    fresh = {each.experiment: each for each in new}
    stay = [fresh.pop(each.experiment, each) for each in old]
    return [*stay, *fresh.values()]
