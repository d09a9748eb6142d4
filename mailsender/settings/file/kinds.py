"""What the file's tables are made of: the kinds of values, each with what JSON Schema says of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mailsender.model.durations import duration_of, seconds_of
from mailsender.routing.reply_rule import LONGEST as LONGEST_HOLD
from mailsender.settings.file.notations import (
    DURATION,
    NAME,
    PERCENT,
    QUOTA,
    RATE,
    Quota,
    Rate,
    domain_pattern,
    mailbox_pattern,
    parse_percent,
    parse_quota,
    parse_rate,
    stream_name,
)
from mailsender.settings.kinds import DAY, LONGEST

T = TypeVar("T")

LONGEST_TEXT: Final = 1000
"""Characters of one value: the longest line that a relay may say has half as many (RFC 5321 §4.5.3.1.5)."""

SECRET: Final = 10_000
"""Characters of a password or a token: those of some providers are signed documents."""

MOST_ENTRIES: Final = 1000
"""Entries of one list or table: what a person can still look through, and few enough to be gone through for
each letter."""


class Table(BaseModel):
    """A table of the file. TOML knows its types, so none is made of another."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def key(default: Any, meaning: str, *examples: Any, **limits: Any) -> Any:
    """A key with what its documentation says."""
    return Field(default, description=meaning, examples=list(examples) or None, **limits)


def _printable(text: str) -> str:
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in text):
        raise ValueError("a control character, such as a newline or a tab, stands in it")
    if text != text.strip():
        raise ValueError("white space stands around it")
    return text


def _of(kind: str, parse: Callable[[str], T]) -> Callable[[object], T]:
    """A parser that takes text alone."""

    def parsed(value: object) -> T:
        if not isinstance(value, str):
            raise ValueError(f"{kind} is written in quotes")  # noqa: TRY004  pydantic's own kind of error
        return parse(_printable(value))

    return parsed


def listed(value: object) -> object:
    """A list of one where a single value stands for it."""
    return value if isinstance(value, list) else [value]


Text: TypeAlias = Annotated[str, AfterValidator(_printable), Field(max_length=LONGEST_TEXT)]

Secret: TypeAlias = Annotated[str, AfterValidator(_printable), Field(max_length=SECRET)]

Name: TypeAlias = Annotated[str, Field(pattern=NAME)]

_RateText: TypeAlias = Annotated[str, Field(pattern=RATE)]
_QuotaText: TypeAlias = Annotated[str, Field(pattern=QUOTA)]
_PercentText: TypeAlias = Annotated[str, Field(pattern=PERCENT)]
_DurationText: TypeAlias = Annotated[str, Field(pattern=DURATION)]

_OneRate: TypeAlias = Annotated[
    Rate, BeforeValidator(_of("a rate", parse_rate), json_schema_input_type=_RateText)
]

Rates: TypeAlias = Annotated[
    list[_OneRate],
    BeforeValidator(listed, json_schema_input_type=_RateText | list[_RateText]),
    Field(min_length=1, max_length=8),  # each costs a counter in the relay's document
]

QuotaKind: TypeAlias = Annotated[
    Quota, BeforeValidator(_of("a quota", parse_quota), json_schema_input_type=_QuotaText)
]

Part: TypeAlias = Annotated[
    float, BeforeValidator(_of("a part", parse_percent), json_schema_input_type=_PercentText)
]

Domain: TypeAlias = Annotated[
    str, BeforeValidator(_of("a domain", domain_pattern), json_schema_input_type=str)
]

_Mailbox: TypeAlias = Annotated[
    str, BeforeValidator(_of("an address or a domain", mailbox_pattern), json_schema_input_type=str)
]

Mailboxes: TypeAlias = Annotated[
    list[_Mailbox],
    BeforeValidator(listed, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=MOST_ENTRIES),
]

Texts: TypeAlias = Annotated[
    list[Text],
    BeforeValidator(listed, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=MOST_ENTRIES),
]


Stream: TypeAlias = Annotated[str, AfterValidator(stream_name)]

Streams: TypeAlias = Annotated[
    list[Stream],
    BeforeValidator(listed, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=MOST_ENTRIES),
]


def _seconds(least: float, most: float) -> BeforeValidator:
    """Takes a duration from `least` to `most` seconds."""

    def parsed(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError('a duration is written in quotes, with its unit: "5s"')  # noqa: TRY004  as above
        found = seconds_of(value)
        if not least <= found <= most:
            raise ValueError(f"from {duration_of(least)} to {duration_of(most)}")
        return found

    return BeforeValidator(parsed, json_schema_input_type=_DurationText)


Wait: TypeAlias = Annotated[float, _seconds(1.0, LONGEST)]
"""How long something waits or holds."""

RuleTime: TypeAlias = Annotated[float, _seconds(1.0, LONGEST_HOLD)]
"""How long a reply rule holds something."""

LongWait: TypeAlias = Annotated[float, _seconds(3600.0, LONGEST)]
"""How long something holds of which an hour is little."""

StepTime: TypeAlias = Annotated[float, _seconds(0.001, DAY)]
"""How long one step of a session may take."""


_SIZE: Final = "^[0-9]{1,12}(KB|MB)?$"
_UNITS: Final = {"": 1, "KB": 1000, "MB": 1_000_000}


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,12})(KB|MB|)", text)
    if found is None:
        raise ValueError("a size such as 500KB or 5MB is needed")
    return int(found[1]) * _UNITS[found[2]]


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_of("a size", _bytes), json_schema_input_type=Annotated[str, Field(pattern=_SIZE)]),
]
