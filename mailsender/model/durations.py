"""Durations as people write them: ``250ms``, ``5s``, ``1m``, ``24h``, ``30d``, or several in a row. Pure.

Settings, the file of relays and routes, letters and queries all have them read here.
"""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|s|m|h|d))+", re.ASCII)
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


def seconds_of(text: str) -> float:
    """Seconds of ``1m30s``; a ``0`` needs no unit.

    Raises:
        ValueError: it is no duration.
    """
    text = text.strip()
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise ValueError("a duration such as 250ms, 5s, 1m, 24h or 30d is needed")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration_of(seconds: float) -> str:
    """Seconds as they are written: ``90s``, ``5m``, ``1d``."""
    unit = next((name for name in ("d", "h", "m") if seconds and not seconds % _UNITS[name]), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"
