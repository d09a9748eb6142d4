from __future__ import annotations

from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mailsender.templates.template import Limits, TemplateError
from mailsender.templates.variables import Schema, merged

LIMITS = Limits(values=100, nesting=5, characters=1_000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"a": [1] * 100}, "100 values"),
        ({str(i): 1 for i in range(101)}, "100 values"),
        ({"a": {str(i): 1 for i in range(101)}}, "100 values"),
        ({"a": "x" * 1_000}, "1000 characters"),
        ({"x" * 1_001: 1}, "1000 characters"),
        ({"a": ["x" * 500, "y" * 501]}, "1000 characters"),
        ({"a": nested(6)}, "5 deep"),
        ({"a": object()}, "JSON"),
        ({"a": (1,)}, "JSON"),
        ({"a": {1: 2}}, "JSON"),
        ({"a": b"x"}, "JSON"),
        ({"a": [{"b": lambda: 1}]}, "JSON"),
    ],
)
def test_variables_are_bounded_json(variables: dict[str, Any], reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        merged(variables, limits=LIMITS)


def test_variables_at_their_bounds() -> None:
    for variables in ({"a": [1] * 98}, {"a": "x" * 999}, {"a": nested(5)}):
        assert merged(variables, limits=LIMITS) == variables


def test_what_is_nested_without_end_is_refused_soon() -> None:
    begun = process_time()
    with pytest.raises(TemplateError, match="deep"):
        merged({"a": nested(100_000)}, limits=Limits())
    assert process_time() - begun < 1


@given(
    st.dictionaries(st.text(max_size=5), JSON, max_size=5),
    st.dictionaries(st.text(max_size=5), JSON, max_size=5),
)
def test_the_last_layer_wins(first: dict[str, Any], second: dict[str, Any]) -> None:
    kept = dict(first)
    assert merged(first, second, limits=Limits()) == first | second
    assert first == kept


SCHEMA = {
    "type": "object",
    "required": ["code"],
    "properties": {
        "code": {"type": "string", "pattern": "^[0-9]{6}$"},
        "mail": {"format": "email"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "additionalProperties": False,
    "$defs": {"item": {"type": "object", "required": ["price"], "properties": {"price": {"type": "number"}}}},
}


@pytest.mark.parametrize(
    ("variables", "variable"),
    [
        ({}, "code"),
        ({"code": "SECRET"}, "code"),
        ({"code": 123456}, "code"),
        ({"code": "123456", "mail": "SECRET"}, "mail"),
        ({"code": "123456", "items": [{"price": 1}, {}]}, "items[1].price"),
        ({"code": "123456", "items": [{"price": "SECRET"}]}, "items[0].price"),
        ({"code": "123456", "other": "SECRET"}, None),
    ],
)
def test_a_schema_tells_which_variable_is_wrong_and_not_what_it_is(
    variables: dict[str, Any], variable: str | None
) -> None:
    with pytest.raises(TemplateError) as caught:
        Schema(SCHEMA, "letter").check(variables)
    assert caught.value.variable == variable
    assert caught.value.template == "letter"
    assert "SECRET" not in str(caught.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "code": st.sampled_from(["123456", "12345", 1]),
            "items": st.lists(st.dictionaries(st.sampled_from(["price", "x"]), JSON, max_size=2), max_size=2),
        },
    )
)
def test_another_validator_says_the_same(variables: dict[str, Any]) -> None:
    try:
        Schema(SCHEMA, "letter").check(variables)
        valid = True
    except TemplateError:
        valid = False
    assert valid == Draft202012Validator(SCHEMA).is_valid(variables)


def laughs(count: int) -> dict[str, Any]:
    """A schema in which each definition refers twice to the next."""
    defs: dict[str, Any] = {
        f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(count)
    }
    defs[f"d{count}"] = {"type": "object"}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def deep(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(count):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "file:///etc/passwd"}, "not in it"),
        ({"$ref": "http://127.0.0.1:1/x"}, "not in it"),
        ({"$ref": "other.json"}, "not in it"),
        ({"$ref": "#/$defs/nosuch"}, "not in it"),
        ({"$ref": "#"}, "circle"),
        (
            {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
            "circle",
        ),
        ({"$dynamicRef": "#x"}, "not supported"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({"$id": "http://127.0.0.1:1/"}, "not supported"),
        ({"$schema": "http://127.0.0.1:1/"}, "schema"),
        (laughs(40), "parts"),
        (deep(6_000), "JSON"),
        ({"enum": list(range(6_000))}, "parts"),
        ({"description": "x" * 70_000}, "65536 bytes"),
        ({"type": "nosuch"}, "schema"),
        ({"pattern": "("}, "schema"),
        ({"pattern": r"(a)\1"}, "schema"),
        ({"pattern": "(?=a)"}, "schema"),
        ({"pattern": "((a{1000}){1000}){1000}"}, "schema"),
        ({"x": object()}, "JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_schema_is_bounded_and_whole(schema: dict[str, Any], reason: str) -> None:
    begun = process_time()
    with pytest.raises(TemplateError, match=reason):
        Schema(schema, "letter")
    assert process_time() - begun < 2


@pytest.mark.parametrize("pattern", ["^(.|é){500}x$", r"[^a]{1,400}b.{1,400}y", "(?=a)", r"(a)\1"])
def test_a_pattern_that_would_take_long_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(
        TemplateError, match="no look-around and no back-reference, and repeats no large part"
    ):
        Schema({"properties": {"a": {"pattern": pattern}}}, "letter")


def test_the_largest_pattern_takes_no_second_over_all_that_variables_may_have() -> None:
    schema = Schema({"properties": {"a": {"pattern": r"(a|.)*b(a|.){30}y"}}}, "letter")
    begun = process_time()
    with pytest.raises(TemplateError):
        schema.check({"a": "abxé" * 125_000})
    assert process_time() - begun < 2


def test_a_pattern_takes_no_time_that_explodes() -> None:
    schema = Schema({"properties": {"a": {"pattern": "^(a+)+$"}}}, "letter")
    begun = process_time()
    with pytest.raises(TemplateError):
        schema.check({"a": "a" * 100_000 + "b"})
    assert process_time() - begun < 2
