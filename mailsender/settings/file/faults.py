"""What is wrong with the file, in words, each with its line. Pure."""

from __future__ import annotations

import difflib
import heapq
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailsender.settings.file.lines import Path

NEAR: Final = 0.6
"""How alike (`difflib`) a name has to be to one that is known to be told as the one that may be meant."""

MOST: Final = 20
"""Faults that are told; who has more begins with these."""

_NEEDED: Final[Mapping[str, str]] = {
    "string_type": "a text is needed, in quotes",
    "int_type": "a whole number is needed, without quotes",
    "float_type": "a number is needed, without quotes",
    "bool_type": "true or false is needed, without quotes",
    "list_type": "a list is needed",
    "model_type": "a table is needed",
    "dict_type": "a table is needed",
}
"""What should stand where pydantic finds a value of another type."""

_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string_type": str,
    "int_type": int,
    "float_type": (int, float),
    "bool_type": bool,
    "list_type": list,
    "model_type": dict,
    "dict_type": dict,
}

_TABLES: Final = frozenset({"model_type", "dict_type"})

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_AT: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where. The text never holds a value that may be secret."""

    path: Path
    text: str


def told(
    file: str,
    faults: Iterable[Fault],
    lines: Mapping[Path, int],
    document: Mapping[str, Any],
    untold: int = 0,
) -> str:
    """All of them in one line, in the order of the file; so many more are `untold`.

    A rule is named as reports name it, too.
    """
    placed = sorted(((_line(fault.path, lines), fault) for fault in faults), key=lambda each: each[0])
    words = []
    for line, fault in placed[:MOST]:
        place = f"{shown(fault.path)}: " if fault.path else ""
        words.append(f"{file}:{line}: {place}{fault.text}{_rule(fault.path, document)}")
    untold += max(0, len(placed) - MOST)
    return "; ".join([*words, f"and {untold} more"] if untold else words)


def told_of_model(
    file: str,
    model: type[BaseModel],
    details: Sequence[Mapping[str, Any]],
    lines: Mapping[Path, int],
    document: Mapping[str, Any],
) -> str:
    """The complaints of a model about a document, as `told` has them; only those that are told get words."""
    first = heapq.nsmallest(MOST, details, key=lambda each: _line(_place(each), lines))
    faults = [of_pydantic(model, each, lines) for each in first]
    return told(file, faults, lines, document, len(details) - len(faults))


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


def _rule(path: Path, document: Mapping[str, Any]) -> str:
    """Of a place in a rule the name by which reports and the log call that."""
    match path:
        case ("relays", str(relay), "rules", int(index), *_):
            rule = document["relays"][relay]["rules"][index]
            name = rule.get("name") if isinstance(rule, dict) else ""
            return f" (the rule {name if name and isinstance(name, str) else f'{relay}/{index + 1}'})"
    return ""


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
    if kind in _NEEDED:
        text = _needed(kind, path, _field(model, path), detail["input"])
    return Fault(path, f"{text[:1].lower()}{text[1:]}")


def _needed(kind: str, path: Path, field: FieldInfo | None, given: object) -> str:
    """What should stand at `path` in place of what is `given`, as TOML has it."""
    example = _example(kind, field)
    if kind == "list_type":
        if isinstance(given, str):  # lists are of names, of which none is a secret
            return f"a list is needed: {_toml([given])}"
        if isinstance(given, dict) and example is None:
            return f"these are several tables: each begins with [[{shown(path)}]]"
    elif kind in _TABLES and example is None:
        head = f"[{shown(path[:-1])}]" if isinstance(path[-1], int) else shown(path)
        return f"a table is needed: [{head}]"
    return _NEEDED[kind] + ("" if example is None else f", such as {_toml(example)}")


def _example(kind: str, field: FieldInfo | None) -> object:
    """The first one of a field, or of what its lists hold, that is of the kind which is needed."""
    wanted = _KINDS[kind]
    for each in (field.examples or ()) if field is not None else ():
        for one in (each, *each) if isinstance(each, list) else (each,):
            if isinstance(one, wanted) and not (isinstance(one, bool) and wanted is not bool):
                return one
    return None


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _field(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """The key of a table that `path`, or what of it leads to a list, ends with."""
    *outer, last = [
        part for number, part in enumerate(path) if isinstance(part, str) or number < len(path) - 1
    ]
    table = _table(_kind(model, tuple(outer)))
    return dict(_fields(table)).get(str(last)) if table is not None else None


def _place(detail: Mapping[str, Any]) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """What may stand in the table at `path`."""
    table = _table(_kind(model, path))
    return [name for name, _ in _fields(table)] if table is not None else []


def _kind(model: type[BaseModel], path: Path) -> Any:
    """The type of what stands at `path`; None where nothing may."""
    kind: Any = model
    for part in path:
        table = _table(kind)
        if table is not None and isinstance(part, str):
            kind = next((field.annotation for name, field in _fields(table) if name == part), None)
        else:
            kind = get_args(kind)[-1] if get_args(kind) else None
    return kind


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


def shown(path: Path) -> str:
    """A place as TOML writes it, with elements of lists by their numbers."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
        else:
            words += ("." if words else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return words
