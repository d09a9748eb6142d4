"""docs/reference/configuration.md and the published schema say what the code does with the file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from typer.testing import CliRunner

from mailsender.cli.app import app
from mailsender.cli.schemas import config_schema
from mailsender.settings.file.kinds import Table
from mailsender.settings.file.read import read_config
from mailsender.settings.file.relays import RelayTable, RuleTable
from mailsender.settings.file.routes import RouteTable
from mailsender.settings.file.schema import FileTables
from mailsender.settings.file.table import TABLES
from mailsender.settings.relays import plan_of
from mailsender.settings.sources import SettingsError
from tests.unit.test_config_file import ISSUE, OTHERS, SMALL, loaded

__all__ = ["loaded"]

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
SCHEMA = Draft202012Validator(config_schema())
FIELDS = [
    (f"{table.__name__}.{name}", table, name, example)
    for table in TABLES.values()
    for name, field in table.model_fields.items()
    for example in field.examples or ()
]


def test_the_tables_of_keys_are_up_to_date() -> None:
    shown = PAGE.partition("<!-- keys:begin -->")[2].partition("<!-- keys:end -->")[0].strip()
    made = CliRunner().invoke(app, ["config-tables"]).stdout.strip()
    assert shown == made, "run `mailsender config-tables` and put what it prints between the two markers"


@pytest.mark.parametrize(("header", "table"), TABLES.items())
def test_all_words_that_a_key_takes_are_told(header: str, table: type[Table]) -> None:
    below = PAGE.partition(f"### `{header}`\n")[2].partition("\n### ")[0]
    rows = {name: row for row in below.splitlines() for name in re.findall(r"^\| `(\w+)` \|", row)}
    for name, schema in table.model_json_schema()["properties"].items():
        for word in words_of(schema):
            assert f"`{word}`" in rows[name].rpartition(" | ")[2], (name, word)


def words_of(schema: Any) -> set[str]:
    """The words that alone are taken somewhere in a schema, without those of other tables."""
    if isinstance(schema, list):
        return {word for each in schema for word in words_of(each)}
    if not isinstance(schema, dict):
        return set()
    here = {*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])}
    return here | {word for key in ("anyOf", "items", "allOf") for word in words_of(schema.get(key))}


def test_every_table_of_the_file_is_there() -> None:
    def below(kind: type[Table]) -> set[type[Table]]:
        return {kind, *(each for sub in kind.__subclasses__() for each in below(sub))}

    assert below(Table) - {Table, FileTables} == set(TABLES.values())


def test_its_example_is_that_of_a_whole_file_and_can_be_loaded(loaded: Any) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    plan = plan_of(loaded(example.replace("/run/secrets", "SECRETS")))
    assert [relay.name for relay in plan.relays] == ["ses", "sendgrid", "postfix"]
    assert [route.name for route in plan.routes] == ["default", "newsletter"]


@pytest.mark.parametrize(
    ("table", "name", "example"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS]
)
def test_the_example_of_a_key_is_taken(table: type[Table], name: str, example: object) -> None:
    field = table.model_fields[name]
    key = field.alias or name
    kinds = []
    try:
        table.model_validate({key: example})
    except ValidationError as error:
        kinds = [detail["type"] for detail in error.errors()]
    assert set(kinds) <= {"missing"}


@pytest.mark.parametrize(
    "written", re.findall(r"`\"([^\"`]+)\"`", PAGE.partition("## How values")[2].partition("##")[0])
)
def test_what_the_page_writes_as_a_value_is_one(written: str) -> None:
    tables = [
        {"relays": {"a": {"host": "h", key: value}}}
        for key, value in (
            ("session_idle", written),
            ("rate", written),
            ("quota", written),
            ("from", written),
        )
    ] + [
        {"routes": {"r": {"relays": ["a"], "reserve": written}}},
        {"routes": {"r": {"relays": ["a"], "match": {"larger": written}}}},
        {"routes": {"r": {"relays": [written]}}},
    ]
    assert any(SCHEMA.is_valid(table) and _taken(table) for table in tables)


def _taken(table: dict[str, Any]) -> bool:
    try:
        FileTables.model_validate(table)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("text", [ISSUE + OTHERS, SMALL])
def test_the_schema_takes_what_the_service_takes(text: str) -> None:
    Draft202012Validator.check_schema(config_schema())
    SCHEMA.validate(tomllib.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        '[relays.a]\nhost = "h"\nprot = 1\n',
        "[relays.a]\nport = 1\n",
        '[relays.a]\nhost = "h"\nport = "1"\n',
        '[relays.a]\nhost = "h"\nrate = "14"\n',
        '[relays.a]\nhost = "h"\nrate = ["14/s", "x"]\n',
        '[relays.a]\nhost = "h"\nsession_idle = 5\n',
        '[relays."a b"]\nhost = "h"\n',
        '[routes.a]\nrelays = [{ nam = "h" }]\n',
        '[routes.a]\nrelays = ["h"]\nmatch = { priority = "urgent" }\n',
    ],
)
def test_the_schema_refuses_what_the_service_refuses(text: str) -> None:
    document = tomllib.loads(text)
    assert not SCHEMA.is_valid(document)
    assert not _taken(document)


NAMES = st.sampled_from(["a", "b", "default", "x y"])
TEXTS = st.sampled_from(
    ["", "a", "h", "14/s", "5m", "50%", "500/day Nowhere", "ses", "wait", "*", "${NO}", "é@é"]
)
ANY = st.recursive(
    TEXTS | st.integers(-1, 600) | st.booleans() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def tables_of(table: type[Table]) -> st.SearchStrategy[dict[str, Any]]:
    """Right keys, each with its example or with anything."""
    return st.fixed_dictionaries(
        {},
        optional={
            (field.alias or name): st.sampled_from(field.examples) | ANY if field.examples else ANY
            for name, field in table.model_fields.items()
        },
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    relays=st.dictionaries(NAMES, tables_of(RelayTable), max_size=2),
    routes=st.dictionaries(NAMES, tables_of(RouteTable), max_size=2),
    rules=st.lists(tables_of(RuleTable), max_size=2),
    smtp=st.booleans(),
)
def test_any_file_is_taken_or_refused_with_lines(
    tmp_path: Path, relays: Any, routes: Any, rules: Any, smtp: bool
) -> None:
    for relay in relays.values():
        relay["rules"] = rules
    path = tmp_path / "any.toml"
    path.write_text(tomli_w.dumps({"relays": relays, "routes": routes}), encoding="utf-8")
    said = ""
    try:
        read_config(str(path), smtp=smtp)
    except SettingsError as error:
        said = str(error)
    if said:
        assert re.match(r"MAILSENDER_CONFIG: /\S+any\.toml:\d+: ", said)
    else:
        assert SCHEMA.is_valid({"relays": relays, "routes": routes})
