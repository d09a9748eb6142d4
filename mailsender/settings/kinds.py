"""What settings are made of: a field with what its table says, durations, lists.

Durations are written as `mailsender.model.durations` reads them, and are seconds in the code.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.fields import FieldInfo

from mailsender.model.durations import seconds_of

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
    return seconds_of(value) if isinstance(value, str) else value


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, le=LONGEST)]


def is_duration(field: FieldInfo) -> bool:
    """Whether a setting is one."""
    return any(isinstance(part, BeforeValidator) for part in field.metadata)


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
