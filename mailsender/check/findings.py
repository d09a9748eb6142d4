"""What `mailsender check` found out: plain words about one part each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "error"]

_ORDER: tuple[Level, ...] = ("ok", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about one part. `text` is a line: what is so and, unless all is well, what to do."""

    part: str
    level: Level
    text: str


def worst(findings: Sequence[Finding]) -> Level:
    """The worst level of them; ``ok`` when there are none."""
    return max((finding.level for finding in findings), key=_ORDER.index, default="ok")
