"""README says what the code does: its settings, its endpoints, its log events."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import create_autospec

import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.cli.help import STATUSES
from mailsender.web.app import make_app
from mailsender.web.operations import Operations

ROOT = Path(__file__).parents[2]
README, PACKAGE = ROOT / "README.md", ROOT / "mailsender"
BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"


def test_the_table_of_settings_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    made = CliRunner().invoke(app, ["settings-table"]).stdout.strip()
    assert shown == made, "run `mailsender settings-table` and put what it prints between the two markers"


def test_the_events_it_explains_are_those_of_the_code() -> None:
    table = README.read_text(encoding="utf-8").partition("## Logs")[2]
    explained = {
        name
        for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    source = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    everything = "".join(source.values())
    assert explained
    assert [name for name in sorted(explained) if f'"{name}"' not in everything] == []
    written = {
        name
        for path, text in source.items()
        if "dev" not in path.parts
        for call in re.findall(r"log\w*\.(?:info|warning|error|critical)\(\s*([^,)]+)", text)
        for name in re.findall(r'"([a-z_]+)"', call)
    }
    assert len(written) > 60
    assert sorted(written - explained) == [], "events at info or above that the table does not explain"


def test_it_names_every_endpoint() -> None:
    text = README.read_text(encoding="utf-8")
    application = make_app(create_autospec(Operations), api_key="", max_bytes=1000, timeout=1)
    routes = {
        (route.method, route.resource.canonical) for route in application.router.routes() if route.resource
    }
    paths = {f"`{method} {path}`" for method, path in routes if method != "HEAD"}
    assert [path for path in sorted(paths) if f"| {path} |" not in text] == []


def test_it_names_every_command_and_every_exit_status() -> None:
    text = README.read_text(encoding="utf-8").partition("## Command line")[2].partition("\n## ")[0]
    shown = CliRunner().invoke(app, ["--help"]).stdout
    commands = re.findall(r"^  ([a-z]+)  +[A-Z]", shown, re.MULTILINE)
    assert len(commands) == len(set(commands)) > 7
    assert [name for name in commands if f"| `mailsender {name}" not in text] == []
    statuses = {code for rows in STATUSES.values() for code, _ in rows}
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == statuses


def test_every_command_with_a_document_for_programs_is_explained() -> None:
    text = README.read_text(encoding="utf-8").partition("## Command line")[2].partition("\n## ")[0]
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    able = {
        name
        for name, command in group.commands.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert set(re.findall(r"`(\w+) --json`", text)) == able
