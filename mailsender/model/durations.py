"""Durations as people write them: ``250ms``, ``5s``, ``1m``, ``24h``, ``30d``, or several in a row. Pure."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|s|m|h|d))+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


def seconds_of(text: str) -> float:
    """Seconds of ``1m30s``.

    Raises:
        ValueError: it is no duration.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration such as 5s, 1m, 1h30m or 2d is needed")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration_of(seconds: float) -> str:
    """Seconds as they are written: ``90s``, ``5m``, ``1d``."""
    unit = next((name for name in ("d", "h", "m") if seconds and not seconds % _UNITS[name]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"
