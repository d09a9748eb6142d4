"""README is a door: short, and what it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mailsender.intake.schema import LetterIn
from mailsender.reports.schema import RecipientReport, Report
from mailsender.settings.table import table

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
LONGEST = 150

HERE = (ROOT / "Makefile").exists()
"""Where the compiled form is tested there is no checkout around it."""


def links(text: str) -> list[str]:
    """The targets of links that lead to other files of the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target.partition("#")[0] for target in found if "://" not in target]


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= LONGEST


def test_the_settings_it_names_have_the_defaults_it_names() -> None:
    known = {row.name: row for row in table()}
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| ([^|]+) \|", TEXT, re.MULTILINE)
    named = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    assert 10 <= len(named) <= 14
    assert sorted(named.keys() - known.keys()) == []
    assert {row.name for row in table() if row.default == "required"} <= named.keys()
    for name, default in named.items():
        real = known[name].default or "none"
        assert default.strip("`") in {real.strip("`"), real.replace("the names below", "other names")}, name


def test_its_batch_is_one_and_its_report_has_fields_that_reports_have() -> None:
    batch, report = (json.loads(each) for each in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL))
    for letter in batch:
        LetterIn.model_validate(letter)
    assert report.keys() <= Report.model_fields.keys()
    for recipient in report["Recipients"]:
        assert recipient.keys() <= RecipientReport.model_fields.keys()
    assert [each["Address"] for each in report["Recipients"]] == batch[0]["Addresses"]
    assert report["Token"] == batch[0]["Token"]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page.read_text(encoding="utf-8")):
        if HERE or (page.parent / target).resolve().is_relative_to((ROOT / "docs").resolve()):
            assert (page.parent / target).exists(), target


def test_every_page_is_found_from_it() -> None:
    """By links alone, over as many pages as it takes."""
    docs = (ROOT / "docs").resolve()
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop().resolve()
        if page in seen:
            continue
        seen.add(page)
        for target in links(page.read_text(encoding="utf-8")):
            found = (page.parent / target).resolve()
            if found.is_dir():
                ahead += found.glob("*.md")
            elif found.suffix == ".md" and found.exists():
                ahead.append(found)
    assert sorted({each.resolve() for each in docs.rglob("*.md")} - seen) == []


@pytest.mark.skipif(not HERE, reason="there is no checkout around the compiled form")
@pytest.mark.parametrize(("page", "files"), [("CONTRIBUTING.md", 30), ("README.md", 14)])
def test_the_files_that_pages_name_are_there(page: str, files: int) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    below = [ROOT, *(ROOT / name for name in ("mailsender", "proof", "proof/experiments", "simulation"))]
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.md|/))`|(?=(tests/[\w/.]+\.py))", text))
    named = {name for pair in named for name in pair if name} - {".dev/"}  # made by `make dev`
    assert len(named) > files
    assert [name for name in sorted(named) if not any((each / name).exists() for each in below)] == []
    for target in links(text):
        assert (ROOT / target).exists(), target
