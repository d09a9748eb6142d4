"""What settings are made of: a field with what its table says, durations, lists.

Durations read ``250ms``, ``5s``, ``1m``, ``24h``, ``30d`` or several in a row (``1m30s``) and are seconds in
the code.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

DAY = 86400.0
"""Seconds."""

LONGEST = 3650 * DAY
"""Seconds of the longest duration, ten years: far longer ones lead beyond what calendars can say."""

MOST = 10**9
"""The most of what has no bound of its own; what is computed with it still fits MongoDB's numbers."""


def field(default: Any, text: str, *, original: bool = False, shown: str = "", **limits: Any) -> Any:
    """A setting with what its table says: `original` for the Go service's own, `shown` for its default."""
    extra: dict[str, Any] = {"original": original, "shown": shown}
    return Field(default, description=text, json_schema_extra=extra, **limits)


def parse_duration(value: object) -> object:
    """Seconds of ``1m30s``; anything else is left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration such as 250ms, 5s, 1m, 24h or 30d is needed")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=LONGEST)]


def duration_text(seconds: float) -> str:
    """A duration as it is written in a setting: ``90s``, ``5m``, ``1d``."""
    unit = next((name for name in ("d", "h", "m") if seconds and not seconds % _UNITS[name]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def is_duration(field: FieldInfo) -> bool:
    """Whether a setting is one."""
    return any(isinstance(part, BeforeValidator) for part in field.metadata)


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
