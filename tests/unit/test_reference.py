"""docs/reference/ says what the code does, and all of it: settings, events, HTTP, topics, commands."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import create_autospec

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.cli.help import STATUSES
from mailsender.intake.batch import faults
from mailsender.intake.dead_letter_schema import DeadLetterHeaders
from mailsender.intake.schema import LetterIn, Limits, Senders
from mailsender.model.letter import Phase
from mailsender.reports.schema import AttemptReport, Reason, RecipientReport, Report
from mailsender.web.app import make_app
from mailsender.web.explain_models import Kinds
from mailsender.web.models import StatusView
from mailsender.web.operations import Operations

ROOT = Path(__file__).parents[2]
PACKAGE, PAGES = ROOT / "mailsender", ROOT / "docs" / "reference"
BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"
LEVELS = {name: name for name in ("info", "warning", "error", "critical")} | {"exception": "error"}
"""What a logger's methods log at; those below `info` are left out."""


def page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """What stands below a heading, up to the next of its rank or a higher one."""
    head = re.search(rf"^(#+) {re.escape(title)}\n", page(name), re.MULTILINE)
    assert head, title
    below = page(name)[head.end() :]
    end = re.search(rf"^#{{1,{len(head[1])}}} ", below, re.MULTILINE)
    return below[: end.start()] if end else below


def cells(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables of a text, without their heads."""
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("| ") and not line.startswith("| ---") and not following.startswith("| ---"):
            yield [cell.strip() for cell in line.strip().strip("|").split(" |")]


def first_cells(text: str) -> list[str]:
    """What is named by the first cells of tables, in order."""
    return [name for row in cells(text) for name in re.findall(r"`([^`]+)`", row[0])]


# --- settings ------------------------------------------------------------------------------------


def test_the_table_of_settings_is_up_to_date() -> None:
    text = page("settings.md")
    assert text.count(BEGIN) == text.count(END) == 1
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    made = CliRunner().invoke(app, ["settings-table"]).stdout.strip()
    assert shown == made, "run `mailsender settings-table` and put what it prints between the two markers"


# --- log events ----------------------------------------------------------------------------------


class Module:
    """A module of the service, for what it logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = [
            node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]

    def events(self) -> Iterator[tuple[str, str]]:
        """Each event that is logged at info or above, with its level."""
        for call in self._calls():
            if isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS and call.args:
                for event in self._texts(call.args[0], call):
                    yield event, LEVELS[call.func.attr]

    def _calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def _texts(self, value: ast.expr, where: ast.AST) -> set[str]:
        """What an expression may be: a text, one of two, or what a name was given."""
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return {value.value}
        if isinstance(value, ast.IfExp):
            return self._texts(value.body, where) | self._texts(value.orelse, where)
        found: set[str] = set()
        if isinstance(value, ast.Name):
            (function,) = [each for each in self.functions if where in ast.walk(each)]
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == value.id:
                    found |= self._texts(node.value, node)
            names = [each.arg for each in function.args.args if each.arg != "self"]
            if value.id in names:
                for call in self._calls():
                    if ast.unparse(call.func).rpartition(".")[2] == function.name:
                        found |= self._texts(call.args[names.index(value.id)], call)
        assert found, f"{self.path.name}: which event is {ast.unparse(value)}?"
        return found


def written() -> dict[str, str]:
    """The events that the code logs at info or above, with their levels."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "dev" not in path.relative_to(PACKAGE).parts:
            for event, level in Module(path).events():
                found.setdefault(event, set()).add(level)
    return {event: ", ".join(sorted(levels)) for event, levels in found.items()}


OF_LIBRARIES = {"library_message": "any"}
"""What `observe/log.py` makes of what libraries log."""


def test_the_events_it_explains_are_those_of_the_code_at_their_levels() -> None:
    explained = {row[0].strip("`"): row[1] for row in cells(page("logs.md"))}
    code = written() | OF_LIBRARIES
    assert len(code) > 80
    assert sorted(code.keys() - explained.keys()) == [], "logged, and not in the table"
    assert sorted(explained.keys() - code.keys()) == [], "in the table, and logged by nobody"
    assert {event for event, level in explained.items() if level != code[event]} == set()


def test_each_event_stands_once_and_is_explained() -> None:
    rows = list(cells(page("logs.md")))
    assert len({row[0] for row in rows}) == len(rows)
    for name, level, happened, does, can_be_done in rows:
        assert happened, name
        assert does or level == "info", name
        assert can_be_done or level != "error", name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("log.info('one')", {("one", "info")}),
        ("log.error('a' if x else 'b', y=1)", {("a", "error"), ("b", "error")}),
        (
            "def f():\n event = 'a' if x else 'b'\n self._log.warning(event)",
            {("a", "warning"), ("b", "warning")},
        ),
        (
            "def tell(self, event):\n log.exception(event)\ndef g():\n self.tell('told', 1)",
            {("told", "error")},
        ),
        ("log.debug('x')\ntask.exception()", set()),
    ],
)
def test_events_are_found_in_code(source: str, found: set[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert set(Module(path).events()) == found


def test_an_event_that_cannot_be_told_from_the_code_is_no_event_that_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f(event):\n log.info(event)")
    with pytest.raises(AssertionError, match=r"module\.py: which event is event\?"):
        list(Module(path).events())


# --- HTTP ----------------------------------------------------------------------------------------


def test_its_endpoints_are_those_of_the_service() -> None:
    application = make_app(create_autospec(Operations), api_key="", max_bytes=1000, timeout=1)
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in application.router.routes()
        if route.resource and route.method != "HEAD"
    }
    assert len(routes) > 7
    shown = first_cells(section("http.md", "Requests"))
    assert len(shown) == len(set(shown))
    assert set(shown) == routes


def test_all_that_may_stand_in_a_letters_way_is_explained() -> None:
    obstacles = section("http.md", "Why one letter waits").partition("An obstacle has a `kind`")[2]
    assert sorted(first_cells(obstacles)) == sorted(get_args(Kinds))


def reasons(path: Path) -> Iterator[str]:
    """The words for programs of the errors that a module makes."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call):
            name = ast.unparse(call.func)
            given = [each.value for each in call.keywords if each.arg == "reason"]
            if name == "Refused":
                given = call.args[:1]
            if name in {"ProblemError", "away", "Refused"}:
                yield from (each.value for each in given if isinstance(each, ast.Constant))  # type: ignore[misc]


def test_the_reasons_of_errors_are_those_that_are_given() -> None:
    modules = [*sorted((PACKAGE / "web").glob("*.py")), *sorted((PACKAGE / "admin").glob("*.py"))]
    given = {reason for path in modules for reason in reasons(path)}
    assert len(given) > 12
    states = set(get_args(StatusView.model_fields["state"].annotation)) - {"running"}
    shown = first_cells(section("http.md", "Errors"))
    assert len(shown) == len(set(shown))
    assert set(shown) == given | states


# --- topics --------------------------------------------------------------------------------------

ALL_OF_EXAMPLE_COM = Limits(senders=Senders.of(["example.com"]))


def test_the_keys_of_a_letter_are_those_that_are_read() -> None:
    text = section("topics.md", "In: `mts-to-mailsender`")
    shown = first_cells(text)
    fields: dict[str, Any] = dict(LetterIn.model_fields)
    assert sorted(shown) == sorted(fields)
    shapes = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    letters = [each for shape in shapes for each in (shape if isinstance(shape, list) else [shape])]
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| `([^|]*)` \|$", text, re.MULTILINE)
    letters += [{name: json.loads(example)} for name, example in rows]
    for letter in letters:
        assert faults([{"Addresses": ["anna@example.com"], **letter}], ALL_OF_EXAMPLE_COM) == []
    assert {name for letter in letters for name in letter} == set(shown)


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("Out: `mts-to-profile`", Report),
        ("`Reason`", Reason),
        ("Each of `Recipients`", RecipientReport),
        ("Each of `History`", AttemptReport),
    ],
)
def test_the_fields_of_a_report_are_those_that_are_written(title: str, model: type[BaseModel]) -> None:
    text = section("topics.md", title).partition("\n### ")[0]
    assert sorted(first_cells(text)) == sorted(model.model_fields)


def test_the_example_of_a_report_has_all_fields_in_their_order() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", section("topics.md", "Out: `mts-to-profile`"), re.DOTALL)
    shown = json.loads(example)
    assert list(shown) == list(Report.model_fields)
    assert list(shown["Reason"]) == list(Reason.model_fields)
    for recipient in shown["Recipients"]:
        assert list(recipient) == list(RecipientReport.model_fields)
    Report.model_validate(shown)


def test_the_phases_of_a_report_are_all_there() -> None:
    (row,) = [row for row in cells(section("topics.md", "`Reason`")) if row[0] == "`Phase`"]
    assert set(re.findall(r"`(\w+)`", row[1])) == {str(phase) for phase in Phase}


def test_the_headers_and_reasons_of_a_dead_letter_are_those_that_are_written() -> None:
    rows = list(cells(section("topics.md", "Out: `mts-to-mailsender-dead-letter`")))
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]
    full = {name if name.startswith("mailsender") else f"mailsender{name}" for name in names}
    assert full == {str(field.alias) for field in DeadLetterHeaders.model_fields.values()}
    assert len(names) == len(full)
    (reasons,) = [row[1] for row in rows if row[0] == "`mailsender-reason`"]
    known = set(get_args(DeadLetterHeaders.model_fields["reason"].annotation))
    assert set(re.findall(r"`([a-z-]+)`", reasons)) == known


# --- the command line ----------------------------------------------------------------------------


def test_its_commands_and_exit_statuses_are_those_that_there_are() -> None:
    text = page("cli.md")
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    there = [name for name, command in group.commands.items() if not command.hidden]
    shown = re.findall(r"^\| `mailsender ([a-z]+)[^`]*` \|", text, re.MULTILINE)
    assert len(shown) > 7
    assert sorted(shown) == sorted(there)
    statuses = {code for rows in STATUSES.values() for code, _ in rows}
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == statuses


def test_every_command_with_a_document_for_programs_is_explained() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    able = {
        name
        for name, command in group.commands.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert set(re.findall(r"`(\w+) --json`", page("cli.md"))) == able


CHECK = "".join(
    path.read_text(encoding="utf-8")
    for path in (*sorted((PACKAGE / "check").glob("*.py")), PACKAGE / "queue" / "mongo" / "client.py")
)


def test_what_check_is_said_to_say_it_says() -> None:
    shown = re.findall(r"`((?:warning|error) [^`]+)`", section("cli.md", "What `check` finds"))
    assert len(shown) > 25
    for line in shown:
        parts = "settings|kafka|mongodb|DNS|(?:topic|group|relay|DKIM|SPF|DMARC) …"
        found = re.fullmatch(rf"\w+ (?:{parts}):? (.+)", line)
        assert found, line
        for words in re.split(r"…|=", found[1]):
            assert words.strip(" :,;") in CHECK, line
