"""docs/templates.md: what it has typed before a service is needed."""

from __future__ import annotations

import json
from pathlib import Path

from mailsender.intake.batch import faults
from tests.tutorial import halves, typed


def test_what_it_has_typed_shows_what_it_says(tmp_path: Path) -> None:
    before, _ = halves()
    assert len(before) == 5
    for commands, shown in before:
        made = typed(commands, tmp_path)
        assert made == shown or not shown, commands
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Hello, Anna &lt;the first&gt;!" in page
    assert page.count('<p style="font-family: Arial, sans-serif;color: #1c1e21">') == 3


def test_its_batch_is_one(tmp_path: Path) -> None:
    _, after = halves()
    (batch,) = [commands for commands, _ in after if "batch.json" in commands]
    typed(batch.replace("mailsender post", "cat"), tmp_path)
    letters = json.loads((tmp_path / "batch.json").read_text(encoding="utf-8"))
    assert faults(letters) == []
