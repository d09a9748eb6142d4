"""docs/limits.md names settings that there are, with the defaults that they have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mailsender.settings.table import table

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "limits.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| what", "| ---"))
]
SETTINGS = {row.name: row.default for row in table()}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_row_says_what_moves_the_bound_and_what_lies_beyond(row: list[str]) -> None:
    what, default, setting, beyond, why = row
    assert what
    assert default
    assert beyond
    assert why
    named = re.findall(r"`([A-Z_]+)`", setting)
    assert [name for name in named if name not in SETTINGS] == []
    assert named or setting == "fixed"
