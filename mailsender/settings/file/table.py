"""The tables of the file's keys as the documentation shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mailsender.model.durations import duration_of
from mailsender.settings.file.kinds import Table
from mailsender.settings.file.notations import DURATION, PERCENT
from mailsender.settings.file.relays import (
    DestinationTable,
    OAuthTable,
    RelayTable,
    RuleTable,
    ThenTable,
    TimeoutsTable,
)
from mailsender.settings.file.routes import MatchTable, RouteTable, ShareTable
from mailsender.settings.file.schema import SuppressionTable

TABLES: Final[Mapping[str, type[Table]]] = {
    "[relays.NAME]": RelayTable,
    "[relays.NAME.oauth]": OAuthTable,
    "[relays.NAME.timeouts]": TimeoutsTable,
    '[relays.NAME.destinations."DOMAIN"]': DestinationTable,
    "[[relays.NAME.rules]]": RuleTable,
    "[relays.NAME.rules.then]": ThenTable,
    "[routes.NAME]": RouteTable,
    "[routes.NAME.match]": MatchTable,
    "[[routes.NAME.relays]]": ShareTable,
    "[suppression]": SuppressionTable,
}
"""Every table of the file, by its header."""


def pages() -> Iterator[str]:
    """The lines of all tables."""
    for header, table in TABLES.items():
        yield from (f"### `{header}`", "", (table.__doc__ or "").strip(), "")
        yield from ("| key | default | example | meaning |", "| --- | --- | --- | --- |")
        for name, field in table.model_fields.items():
            examples = " or ".join(f"`{_toml(each)}`" for each in field.examples or ())
            meaning = f"{field.description}{_choice(field)}"
            yield f"| `{field.alias or name}` | {_default(field)} | {examples} | {meaning} |"
        yield ""


def _choice(field: FieldInfo) -> str:
    """Which words a key takes, where it takes only some and its description has not all of them."""
    words = [f"`{word}`" for word in _words(field.annotation)]
    if all(word in (field.description or "") for word in words):
        return ""
    return f" One of {', '.join(words)}."


def _words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for each in get_args(kind) for word in _words(each)]


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if value is None or value in ("", [], {}) or isinstance(value, Table):
        return "none"
    first = next(iter(field.examples or ()), None)
    if isinstance(value, float) and isinstance(first, str):
        if re.fullmatch(DURATION, first):
            value = duration_of(value)
        elif re.fullmatch(PERCENT, first):
            value = f"{value:.0%}"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    """A value as the file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(each)}' for key, each in value.items())} }}"
    return f"{value:g}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'"{key}"'
