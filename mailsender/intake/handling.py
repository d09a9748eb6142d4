"""The keys by which a letter asks something of the service: how soon, over which route, until when. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mailsender.message.values import BadKey, of_type, says, string
from mailsender.model.handling import MAX_ROUTE, MAX_STREAM, MAX_TAGS, NAME, PLAIN, Handling, Priority
from mailsender.model.text import header_fault
from mailsender.routing.retry import read_schedule, schedule_text

_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)

# What Python's calendar and MongoDB's both can say, whatever the zone.
_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def handling_of(fields: Mapping[str, Any]) -> Handling:
    """What a letter asks for, where `fields` are its keys under their documented names.

    Raises:
        BadKey: one of them holds something else than it may; so do those that are `further`.
    """
    if _TABLE.keys().isdisjoint(fields):
        return PLAIN
    found: dict[str, Any] = {}
    wrong: list[BadKey] = []
    for key, (name, read) in _TABLE.items():
        value = fields.get(key)
        if says(key, value):
            try:
                found[name] = read(key, value)
            except BadKey as error:
                wrong.append(error)
    if wrong:
        raise BadKey.of(wrong)
    return Handling(**found) if found else PLAIN


def _priority(key: str, value: object) -> Priority:
    try:
        return Priority(string(key, value).lower())
    except ValueError as error:
        if isinstance(error, BadKey):
            raise
        raise BadKey(key, f"is none of {', '.join(Priority)}") from None


def _name(most: int) -> Callable[[str, object], str]:
    def read(key: str, value: object) -> str:
        text = string(key, value)
        if len(text) > most:
            raise BadKey(key, f"has {len(text)} characters; {most} are allowed")
        if not NAME.fullmatch(text):
            raise BadKey(key, "may have letters, digits, '.', '-' and '_' alone, of ASCII")
        return text

    return read


def _tags(key: str, value: object) -> tuple[str, ...]:
    several = of_type(key, value, list, "an array of strings")
    if len(several) > MAX_TAGS:
        raise BadKey(key, f"holds {len(several)} tags; {MAX_TAGS} are allowed")
    return tuple(sorted({_tag(f"{key}[{place}]", each) for place, each in enumerate(several)}))


def _tag(key: str, value: object) -> str:
    text = string(key, value)
    if not 0 < len(text) <= MAX_STREAM:
        raise BadKey(key, f"has {len(text)} characters; from 1 to {MAX_STREAM} are allowed")
    if fault := header_fault(text):
        raise BadKey(key, fault)
    return text


def _schedule(key: str, value: object) -> str:
    text = string(key, value)
    try:
        return schedule_text(read_schedule(text))
    except ValueError as error:
        raise BadKey(key, str(error)) from None


def _moment(key: str, value: object) -> datetime:
    """A time as RFC 3339 §5.6 writes it, with its zone: without one it would mean another in each place."""
    text = string(key, value)
    wrong = BadKey(key, "is no time such as 2026-11-30T08:00:00Z or 2026-11-30T11:00:00+03:00 (RFC 3339)")
    if not _MOMENT.fullmatch(text):
        raise wrong
    try:
        found = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError:
        raise wrong from None
    except OverflowError:
        found = _FIRST if text.startswith("0") else _LAST
    found = min(max(found, _FIRST), _LAST)
    return found.replace(microsecond=found.microsecond // 1000 * 1000)


_TABLE: Final[dict[str, tuple[str, Callable[[str, object], Any]]]] = {
    "Stream": ("stream", _name(MAX_STREAM)),
    "Tags": ("tags", _tags),
    "Priority": ("priority", _priority),
    "Route": ("route", _name(MAX_ROUTE)),
    "Retry": ("retry", _schedule),
    "NotBefore": ("not_before", _moment),
    "ExpireAt": ("expire_at", _moment),
}

KEYS: Final = tuple(_TABLE)
"""The keys that are read here."""
