"""What is wrong with the file, in words, each with its line. Pure."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel

from mailsender.settings.file.lines import Path

NEAR: Final = 0.6
"""How alike (`difflib`) a name has to be to one that is known to be told as the one that may be meant."""

MOST: Final = 20
"""Faults that are told; who has more begins with these."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_AT: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where. The text never holds a value that may be secret."""

    path: Path
    text: str


def told(file: str, faults: Iterable[Fault], lines: Mapping[Path, int], untold: int = 0) -> str:
    """All of them in one line, in the order of the file; so many more are `untold`."""
    placed = sorted(((_line(fault.path, lines), fault) for fault in faults), key=lambda each: each[0])
    words = [
        f"{file}:{line}: {f'{_shown(fault.path)}: ' if fault.path else ''}{fault.text}"
        for line, fault in placed[:MOST]
    ]
    untold += max(0, len(placed) - MOST)
    return "; ".join([*words, f"and {untold} more"] if untold else words)


def told_of_model(
    file: str, model: type[BaseModel], details: Sequence[Mapping[str, Any]], lines: Mapping[Path, int]
) -> str:
    """The complaints of a model about a document, as `told` has them; only those that are told get words."""
    first = heapq.nsmallest(MOST, details, key=lambda each: _line(_place(each), lines))
    faults = [of_pydantic(model, each, lines) for each in first]
    return told(file, faults, lines, len(details) - len(faults))


def unreadable(file: str, error: ValueError, text: str) -> str:
    """What `tomllib` says, with the line in front."""
    found = _AT.fullmatch(str(error))
    if found is None:
        return f"{file}: it is no TOML: {error}"
    line = found[2] or text.count("\n") + 1
    return f"{file}:{line}: it is no TOML: {found[1][:1].lower()}{found[1][1:]}"


def nearest(name: str, known: Collection[str]) -> str:
    """``; x may be meant``, where one of those that are known is like it; else those, if they are few."""
    if near := difflib.get_close_matches(name, known, n=1, cutoff=NEAR):
        return f"; {near[0]} may be meant"
    return f"; known are {', '.join(known)}" if 0 < len(known) <= 12 else ""


def of_pydantic(model: type[BaseModel], detail: Mapping[str, Any], lines: Mapping[Path, int]) -> Fault:
    """A complaint of a model about a document whose lines are known."""
    path = _place(detail)
    kind, text = detail["type"], str(detail["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return Fault(path, "is missing")
    if kind == "extra_forbidden":
        return Fault(path, f"is no key here{nearest(str(path[-1]), _keys(model, path[:-1]))}")
    if kind == "string_pattern_mismatch" and detail["loc"][-1] == "[key]":
        text = (
            "a name has up to 40 letters, digits, hyphens and underscores, and begins with none of the latter"
        )
    while path not in lines and len(path) > 1:
        path = path[:-1]  # an element of a list that the file has as a single value
    return Fault(path, f"{text[:1].lower()}{text[1:]}")


def _place(detail: Mapping[str, Any]) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """What may stand in the table at `path`."""
    kind: Any = model
    for part in path:
        table = _table(kind)
        if table is not None and isinstance(part, str):
            kind = next((field.annotation for name, field in _fields(table) if name == part), None)
        else:
            kind = get_args(kind)[-1] if get_args(kind) else None
    table = _table(kind)
    return [name for name, _ in _fields(table)] if table is not None else []


def _fields(table: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field) for name, field in table.model_fields.items()]


def _table(kind: Any) -> type[BaseModel] | None:
    """The table that a type is, or may be."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    if get_origin(kind) in {list, dict}:
        return None
    return next((found for each in get_args(kind) if (found := _table(each)) is not None), None)


def _line(path: Path, lines: Mapping[Path, int]) -> int:
    """That of the key, or of the nearest table around it."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _shown(path: Path) -> str:
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return shown
