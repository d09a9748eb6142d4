"""Keys within a letter's keys match without regard to case, as the letter's own do. Pure."""

from __future__ import annotations

from typing import Any, Final


def _by_case(*names: str) -> dict[str, str]:
    return {name.casefold(): name for name in names}


_UNSUBSCRIBE: Final = _by_case("URL", "Mail")

_WITHIN: Final = {
    "Addresses": _by_case("Address", "Name", "Variables", "ListUnsubscribe"),
    "Attachments": _by_case("Name", "ContentType", "Content", "Ref", "Inline", "ContentID"),
    "Calendar": _by_case("Text", "Method"),
    "DSN": _by_case("Notify", "Ret", "EnvID"),
    "ListUnsubscribe": _UNSUBSCRIBE,
}
"""The documented names within each key, by their case-folded form. Those within `Headers` and `Variables` are
the publisher's own."""


def as_documented(fields: dict[str, Any]) -> None:
    """Put the documented names into what `fields` hold; of two that differ only in case the last wins.

    A name that is not known stays as it is, for whoever reads it to refuse.
    """
    for key, names in _WITHIN.items():
        value = fields.get(key)
        if isinstance(value, dict):
            fields[key] = _renamed(value, names)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            fields[key] = [_renamed(each, names) if isinstance(each, dict) else each for each in value]


def _renamed(value: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    renamed = {names.get(name.casefold(), name): each for name, each in value.items()}
    own = renamed.get("ListUnsubscribe")
    return {**renamed, "ListUnsubscribe": _renamed(own, _UNSUBSCRIBE)} if isinstance(own, dict) else renamed
