"""Conditions: set and cleared by the part that knows, told once, and all from one place."""

from __future__ import annotations

import ast
from pathlib import Path

from mailsender.observe.conditions import Condition, Conditions, first
from mailsender.observe.metrics import PARTS
from tests.clocks import ManualClock

CODE = Path(__file__).parents[2] / "mailsender"


def test_it_is_news_once_when_it_begins_and_once_when_it_ends() -> None:
    condition = Condition(part="slots")
    assert not condition.clear()
    assert condition.set("away", 10.0)
    assert not condition.set("away still", 20.0)
    assert (condition.text, condition.since) == ("away still", 10.0)
    assert condition.clear()
    assert not condition.clear()
    assert condition.set("away again", 30.0)
    assert condition.since == 30.0


def test_what_is_told_is_as_it_is_now_and_no_part_can_change_it_afterwards() -> None:
    clock, part = ManualClock(), Condition(part="slots")
    conditions = Conditions(clock, lambda: first(part))
    assert conditions.now() == []
    began = clock.epoch()
    part.set("away", began)
    clock.forward(5)
    (told,) = conditions.now()
    assert (told.text, told.since) == ("away", began)
    part.clear()
    assert told.text == "away"
    assert conditions.now() == []


def test_of_several_that_tell_of_one_part_the_first_counts() -> None:
    one, two = Condition(part="mongodb"), Condition(part="mongodb", text="second")
    assert list(first(one, two)) == [two]
    one.set("first", 0.0)
    assert list(first(one, two)) == [one]
    assert list(first(Condition(part="mongodb"))) == []


def test_the_metric_has_every_part_that_there_is() -> None:
    parts = {
        keyword.value.value
        for path in CODE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Condition"
        for keyword in call.keywords
        if keyword.arg == "part" and isinstance(keyword.value, ast.Constant)
    }
    assert parts == set(PARTS)
