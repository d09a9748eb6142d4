"""The table of settings as the documentation shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from mailsender.model.durations import duration_of
from mailsender.settings.environment import Settings
from mailsender.settings.kinds import is_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting as its table shows it; `original` says that the Go service had it under this name."""

    name: str
    default: str
    values: str
    meaning: str
    original: bool


def table() -> list[Row]:
    """All settings, for the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = str(extra.get("shown") or "")
        if not default:
            default = "required" if field.is_required() else _shown(field.default)
        rows.append(
            Row(
                name=name.upper(),
                default=default,
                values=_values(field),
                meaning=field.description or "",
                original=bool(extra.get("original")),
            )
        )
    return rows


def _values(field: FieldInfo) -> str:
    """What a setting takes: its kind, and its bounds where it has some."""
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if kind is bool:
        return "true, false"
    if kind not in {int, float}:
        return "text"
    duration = is_duration(field)
    lows: list[Any] = [part.ge for part in field.metadata if isinstance(part, Ge)]
    highs: list[Any] = [part.le for part in field.metadata if isinstance(part, Le)]
    low, high = max(lows, default=None), min(highs, default=None)
    shown: Callable[[Any], str] = duration_of if duration else str
    words = ["duration" if duration else "number"]
    if low is not None and not (duration and low == 0):
        words.append(f"from {shown(low)}")
    if high is not None:
        words.append(f"to {shown(high)}")
    return " ".join(words)


def _shown(default: object) -> str:
    if isinstance(default, SecretStr):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)
