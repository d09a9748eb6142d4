"""The tables of the file's keys as the documentation shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

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
            yield f"| `{field.alias or name}` | {_default(field)} | {examples} | {field.description} |"
        yield ""


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
