"""What is compiled, and that `make test-compiled` really has it before it."""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mailsender.model.letter import (
    Answer,
    Envelope,
    Letter,
    Origin,
    Outcome,
    PastAttempt,
    Phase,
    Recipient,
    Result,
    Settlement,
    Verdict,
)
from mailsender.model.records import Landed, Outgoing
from mailsender.sending.attempt import Attempt

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]
UNDER_TEST = bool(os.environ.get("MAILSENDER_TEST_COMPILED"))

NEVER_SUSPENDS = {"asyncio.timeout", "asyncio.timeout_at", "calling", "self._fitting"}
"""Whose end comes in the same turn of the loop: an exception on its way through it meets no other task."""


def source(name: str) -> ast.Module:
    return ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8"))


@pytest.mark.parametrize("name", MODULES)
def test_every_listed_module_is_in_the_form_under_test(name: str) -> None:
    file = import_module(name).__file__
    assert file is not None
    assert file.endswith(".so" if UNDER_TEST else ".py")


def test_the_list_is_in_order_and_names_what_is_there() -> None:
    assert sorted(MODULES) == MODULES
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in MODULES)


def waits(body: Iterable[ast.stmt]) -> Iterator[int]:
    """The lines on which code lets others run, those of functions within it left out."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize("name", MODULES)
def test_no_compiled_code_waits_while_it_handles_an_exception(name: str) -> None:
    """Seen with mypyc 2.4: the exception stays the thread's, and other tasks raise it once more."""
    for node in ast.walk(source(name)):
        if isinstance(node, ast.Try):
            lines = [*waits(node.finalbody), *(line for each in node.handlers for line in waits(each.body))]
            assert not lines, f"{name}: {lines}"


@pytest.mark.parametrize("name", MODULES)
def test_compiled_code_enters_only_what_is_left_without_a_wait(name: str) -> None:
    """The end of `async with` handles the exception that comes through it."""
    for node in ast.walk(source(name)):
        if isinstance(node, ast.AsyncWith):
            entered = {ast.unparse(item.context_expr).partition("(")[0] for item in node.items}
            groups = {"asyncio.TaskGroup"} if all(map(_only_begins_tasks, node.body)) else set()
            assert entered <= NEVER_SUSPENDS | groups, f"{name}: {node.lineno}"


@pytest.mark.parametrize("name", MODULES)
def test_no_compiled_code_adds_to_an_attribute_what_it_waits_for(name: str) -> None:
    """Seen with mypyc 2.4: it cannot keep what the attribute held over the wait, and compiles nothing."""
    for node in ast.walk(source(name)):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
            assert not list(waits([ast.Expr(node.value)])), f"{name}: {node.lineno}"


@pytest.mark.parametrize("name", MODULES)
def test_no_compiled_value_has_a_field_that_may_be_any_object(name: str) -> None:
    """Seen with mypyc 2.4: it looks for `object` among the module's own names, and none can be imported."""
    for node in ast.walk(source(name)):
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            fields_ = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            lines = [each.lineno for each in fields_ if ast.unparse(each.annotation) == "object"]
            assert not lines, f"{name}: {lines}"


def _only_begins_tasks(statement: ast.stmt) -> bool:
    """A group whose body does nothing else has no exception on its way through its end."""
    return not list(waits([statement])) and "create_task" in ast.unparse(statement)


LETTER = Letter(id="", addresses=(), subject="", body="")
VALUES = [
    Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT),
    Recipient(address=""),
    PastAttempt(at=None, relay="", result=Result(verdict=Verdict.ACCEPTED, phase=Phase.DOT)),
    Envelope(reverse_path="", recipients=()),
    Outcome(results={}, session_usable=True),
    Origin(topic="t", partition=0, offset=0, index=0, timestamp=0),
    Answer(),
    LETTER,
    Settlement(token="", letter=LETTER),
    Attempt(results={}, relay="", message_id=""),
    Outgoing(topic="", key=None, value=None),
    Landed(topic="", partition=0, offset=0),
]


@pytest.mark.skipif(not UNDER_TEST, reason="as plain Python it is mypy that keeps them as they are")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_compiled_values_cannot_be_changed(value: Any) -> None:
    for each in fields(value):
        if not each.name.startswith("_"):
            with pytest.raises(AttributeError):
                setattr(value, each.name, getattr(value, each.name))
