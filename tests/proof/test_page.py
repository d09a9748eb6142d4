"""The published page: short, and nothing on it that was not run."""

from __future__ import annotations

from pathlib import Path

from proof.__main__ import in_order
from proof.page import CHAPTERS, as_page, as_rows, part_of
from proof.parts import steps_of
from proof.steps import Options
from proof.table import Row, kept

DOCS = Path(__file__).parents[2] / "docs"


def of(step: str, **more: object) -> Row:
    return Row(**{"experiment": f"title of {step}", "seed": 7, "runs": 3, "step": step, **more})  # type: ignore[arg-type]


def test_every_step_of_the_proof_has_its_line() -> None:
    told = {name for chapter in CHAPTERS for name in chapter.tried}
    assert {part_of(of(step.name)) for step in steps_of([], Options(seed=1))} == told


def test_rows_stand_as_in_the_plan_whichever_ended_first() -> None:
    steps = ["lagging", "an older one", "tls", "kills notes full"]
    found = in_order([of(step) for step in steps])
    assert [each.step for each in found] == ["kills notes full", "tls", "lagging", "an older one"]


def test_what_was_not_run_is_not_spoken_of() -> None:
    page = as_page([of("kills notes full", letters=10, duplicates=2)], "a machine")
    assert "`kill -9`" in page
    assert "MongoDB's primary" not in page
    assert "| 3     | 10      | 2     | kept, all 1 |" in page


def test_what_broke_stands_on_it_in_full() -> None:
    rows = [of("tls"), of("secrets", verdict="BROKEN: seen ×1", details=("- seen: a canary",))]
    page = as_page(rows, "a machine")
    assert "**1 BROKEN**; kept, 1 of 2" in page
    assert "- - seen: a canary" in page


def test_a_row_tells_what_was_seen_and_how_to_repeat_it() -> None:
    page = as_rows([of("tls", notes="ten refused", repeat='make proof ARGS="tls --seed 7"')])
    assert '**title of tls**: ten refused\n`make proof ARGS="tls --seed 7"`' in page


def test_the_published_page_is_read_in_five_minutes() -> None:
    words = (DOCS / "proof.md").read_text("utf-8").split()
    assert len(words) < 1000
    assert max(len(line) for line in (DOCS / "proof.md").read_text("utf-8").splitlines()) < 320


def test_the_published_pages_are_those_of_the_rows_beside_them() -> None:
    rows = kept(DOCS / "proof" / "rows.jsonl")
    machine = (DOCS / "proof.md").read_text("utf-8").split("Measured on ")[1].split(".\n")[0]
    assert as_page(rows, machine) == (DOCS / "proof.md").read_text("utf-8")
    assert as_rows(rows) == (DOCS / "proof" / "rows.md").read_text("utf-8")
