"""Tokens come back as they were written, whatever numbers they hold.

A program that reads a number keeps its value at best: of 36 digits it keeps 17, and 1.50 becomes 1.5. A token
that reading would change is kept as its text instead (`JsonText`), without spaces; all others are values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from secrets import token_hex
from typing import Any

from mailsender.model.letter import JsonText

MAX_TOKEN = 4096
"""Bytes of the largest `Token`, written as JSON."""

MAX_TOKEN_DEPTH = 32
"""Arrays and objects inside each other in a `Token`; databases refuse documents that nest much deeper."""


class _Number:
    """A number that Python would write otherwise, as it was written."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def keep_numbers(value: bytes, elements: Sequence[dict[str, Any]]) -> None:
    """Put its text in the place of each token in `elements` that reading has changed. `value`: the batch."""
    minus = b"-0" in value
    places = [
        (index, name)
        for index, element in enumerate(elements)
        for name, token in element.items()
        if name.casefold() == "token" and _may_have_changed(token, minus=minus)
    ]
    if places:
        written = _read(value)
        for index, name in places:
            elements[index][name] = _as_written(written[index][name])


def token_of(text: str) -> Any:
    """The token that is stored as JSON in `text`.

    Raises:
        ValueError: it is no JSON, or nests too deep.
        RecursionError: the same.
    """
    return _as_written(_read(text))


def token_text(token: Any) -> str:
    """A token as JSON, without spaces; characters beyond ASCII stand for themselves."""
    if isinstance(token, JsonText):
        return token.text
    return json.dumps(token, ensure_ascii=False, separators=(",", ":"))


def batch_text(elements: Sequence[Mapping[str, Any]], *, ascii_only: bool) -> str:
    """A batch as JSON, its tokens as they were written. `ascii_only` escapes all else."""
    texts: dict[str, str] = {}
    mark = token_hex(16)

    def hold(token: JsonText) -> str:
        name = f"{mark}{len(texts)}"
        texts[f'"{name}"'] = token.text
        return name

    write = partial(json.dumps, ensure_ascii=ascii_only, separators=(",", ":"), default=hold, allow_nan=False)
    try:
        held = write(elements)
    except (ValueError, RecursionError):
        held = write(_writable(elements))
    for name, text in texts.items():
        held = held.replace(name, text, 1)
    return held


def _writable(value: Any, levels: int = 4 * MAX_TOKEN_DEPTH) -> Any:
    """`value` with null for numbers that are too large for a program, and for what nests deeper.

    Neither is a part of a good letter: it stands under keys that nobody reads.
    """
    if isinstance(value, float):
        return value if isfinite(value) else None
    if not isinstance(value, dict | list):
        return value
    if not levels:
        return None
    if isinstance(value, dict):
        return {key: _writable(item, levels - 1) for key, item in value.items()}
    return [_writable(item, levels - 1) for item in value]


def _may_have_changed(token: object, *, minus: bool) -> bool:
    """Whether a token holds a fraction, or with `minus` any number; what is refused anyway does not count."""
    if isinstance(token, str) or not few_values(token) or not depth_within(token, MAX_TOKEN_DEPTH):
        return False
    numbers = (float, int) if minus else float
    left = [token]
    while left:
        each = left.pop()
        if isinstance(each, numbers):
            return True
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
    return False


def _read(text: str | bytes) -> Any:
    return json.loads(text, parse_float=_fraction, parse_int=_integer)


def _fraction(text: str) -> float | _Number:
    number = float(text)
    return number if repr(number) == text else _Number(text)


def _integer(text: str) -> int | _Number:
    return _Number(text) if text == "-0" or len(text) > MAX_TOKEN else int(text)


def _as_written(value: Any) -> Any:
    if not _holds_text(value):
        return value
    if not depth_within(value, MAX_TOKEN_DEPTH):
        raise ValueError("the token nests too deep")
    return JsonText(_written(value))


def _holds_text(value: object) -> bool:
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, _Number):
            return True
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)
    return False


def _written(value: Any) -> str:
    if isinstance(value, _Number):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{token_text(key)}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return token_text(value)


def few_values(value: object) -> bool:
    """Whether a token holds so few values that it may be short enough; stops counting when it does not."""
    left, found = [value], 0
    while left:
        parent = left.pop()
        if isinstance(parent, list | dict):
            found += len(parent)
            if found > MAX_TOKEN // 2:
                return False
            left.extend(parent.values() if isinstance(parent, dict) else parent)
    return True


def depth_within(value: object, most: int) -> bool:
    """Whether at most `most` arrays and objects lie in each other; no recursion: input may be deep."""
    level: list[Any] = [value]
    for _ in range(most + 1):
        level = [each for each in level if isinstance(each, list | dict)]
        if not level:
            return True
        level = [
            child for parent in level for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return False
