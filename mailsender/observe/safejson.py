"""JSON for people and logs: it always comes out, whatever stands in the value.

Records on the topics do not go through here; `wire` is strict about them.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def to_json(value: Any, *, indent: bool = False) -> str:
    """`value` as JSON; what JSON has no form for becomes text.

    Args:
        value: anything; times become ISO 8601.
        indent: over several lines, for people.
    """
    options = _OPTIONS | orjson.OPT_INDENT_2 if indent else _OPTIONS
    try:
        return orjson.dumps(value, default=str, option=options).decode()
    except TypeError:
        # Lone surrogates, integers over 64 bits and very deep nesting: json takes the first two, escaped.
        return _slow(value, indent=indent)


def _slow(value: Any, *, indent: bool) -> str:
    try:
        return json.dumps(value, default=str, skipkeys=True, indent=2 if indent else None)
    except (RecursionError, ValueError):
        return json.dumps("a value that JSON cannot hold")
