"""What a publisher may send: the model of one letter on the in-topic, and the limits of its values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from mailsender.intake import schema_patterns
from mailsender.model.json_values import MAX_TOKEN, MAX_TOKEN_DEPTH, depth_within, few_values
from mailsender.model.letter import JsonText
from mailsender.model.text import header_fault, octets, storable

NO_ID = "0" * 24
"""An `ID` that means none, as the original's clients send it."""

_ID = re.compile(r"[0-9a-fA-F]{24}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a letter may be: `body` in bytes of UTF-8, `addresses` in number; and a batch: its `letters`.

    Of a batch's faulty letters the first `faulty` are answered one by one.
    """

    body: int = 10 * 1024 * 1024
    addresses: int = 10_000
    letters: int = 20_000
    faulty: int = 1000

    @property
    def values(self) -> int:
        """JSON values that a batch may hold, all told, however they lie in each other."""
        return 16 * self.letters + 2 * self.addresses


def is_id(text: str) -> bool:
    """Whether `text` is 24 hexadecimal digits."""
    return _ID.fullmatch(text) is not None


_MOST = Limits()

# What the validators below accept, as far as a JSON Schema can say it: in keywords that mean the same in
# draft 7 and in 2020-12, and in regular expressions that all dialects share (see `patterns`).
_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": schema_patterns.ID, "maxLength": len(NO_ID)},
        {"const": ""},
        {"type": "null"},
    ]
}
_ADDRESSES_SCHEMA = {
    "type": "array",
    "items": schema_patterns.ADDRESS,
    "minItems": 1,
    "maxItems": _MOST.addresses,
}
_SUBJECT_SCHEMA = {
    "type": ["string", "null"],
    "not": {"type": "string", "pattern": schema_patterns.NOT_IN_A_HEADER},
}
_BODY_SCHEMA = {"type": ["string", "null"], "maxLength": _MOST.body}
# No value of more characters, items or members can be written in so many bytes, however short each is.
_TOKEN_SCHEMA = {
    "maxLength": MAX_TOKEN - 2,
    "maxItems": (MAX_TOKEN - 1) // 2,
    "maxProperties": MAX_TOKEN // 6,
}


def _not_yet(meaning: str) -> Any:
    return Field(
        None,
        description=f"{meaning} Not yet honoured: a letter that sets it is an error.",
        json_schema_extra={"type": "null"},
    )


class LetterIn(BaseModel):
    """One element of a batch. Keys match without regard to case; the last of several wins.

    Unknown keys are ignored, and so are `Status` and `KafkaKey` of the report. A field that is null counts as
    absent, but for `Token`, which comes back as null. Text is Unicode: half of a surrogate pair is an error.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ID: Annotated[str, WithJsonSchema(_ID_SCHEMA)] = Field(
        "", description="24 hexadecimal digits; empty or all zeros: one is computed."
    )
    Addresses: Annotated[tuple[str, ...], WithJsonSchema(_ADDRESSES_SCHEMA)] = Field(
        description="The recipients, one plain address each. They do not see one another."
    )
    Subject: Annotated[str, WithJsonSchema(_SUBJECT_SCHEMA)] = Field(
        "", description="The subject, without control characters."
    )
    Body: Annotated[str, WithJsonSchema(_BODY_SCHEMA)] = Field(
        "", description="The body, HTML. The limit is LETTER_MAX_BYTES, in bytes of UTF-8."
    )
    Token: Annotated[Any, WithJsonSchema(_TOKEN_SCHEMA)] = Field(
        "",
        description=(
            f"Any JSON value up to {MAX_TOKEN} bytes, written without spaces, and {MAX_TOKEN_DEPTH} levels;"
            " comes back in the report."
        ),
    )

    TextBody: Any = _not_yet("The body as plain text, beside the HTML.")
    FromName: Any = _not_yet("The sender's name that people see.")
    ReplyTo: Any = _not_yet("The address that answers go to.")
    Attachments: Any = _not_yet("Files that go with the letter.")
    Template: Any = _not_yet("The name of a template to make subject and body from.")
    Variables: Any = _not_yet("Values for the template.")
    Headers: Any = _not_yet("Further headers.")
    NotBefore: Any = _not_yet("The earliest time to send it.")
    ExpireAt: Any = _not_yet("The time after which it is no longer sent.")
    Priority: Any = _not_yet("How urgent it is.")

    @field_validator("ID", mode="before")
    @classmethod
    def _id(cls, value: object) -> object:
        if value is None or value == "":
            return ""
        if not isinstance(value, str) or not is_id(value):
            raise _fault("must be 24 hexadecimal digits")
        return value.lower() if value != NO_ID else ""

    @field_validator("Addresses", mode="before")
    @classmethod
    def _addresses(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, list):
            raise _fault("is missing" if value is None else f"must be an array of strings, not {kind(value)}")
        if not value:
            raise _fault("is empty; a letter needs at least one address")
        most = _limits(info).addresses
        if len(value) > most:
            raise _fault(f"holds {len(value)} addresses; {most} are allowed")
        return tuple(value)

    @field_validator("Subject", mode="before")
    @classmethod
    def _subject(cls, value: object) -> object:
        text = _text(value)
        if fault := header_fault(text):
            raise _fault(fault)
        return text

    @field_validator("Body", mode="before")
    @classmethod
    def _body(cls, value: object, info: ValidationInfo) -> object:
        text = _text(value)
        try:
            size = octets(text)
        except UnicodeEncodeError:
            raise _fault("holds half of a surrogate pair") from None
        most = _limits(info).body
        if size > most:
            raise _fault(f"has {size} bytes; {most} are allowed")
        return text

    @field_validator("Token", mode="before")
    @classmethod
    def _token(cls, value: object) -> object:
        if fault := token_fault(value):
            raise _fault(fault)
        return value

    @field_validator(
        "TextBody",
        "FromName",
        "ReplyTo",
        "Attachments",
        "Template",
        "Variables",
        "Headers",
        "NotBefore",
        "ExpireAt",
        "Priority",
        mode="before",
    )
    @classmethod
    def _unhonoured(cls, value: object) -> object:
        if value is not None:
            raise _fault("is not supported by this version; send the letter without it")
        return None


FIELDS = {name.casefold(): name for name in LetterIn.model_fields}
"""The documented names by their case-folded form."""


def _fault(text: str) -> PydanticCustomError:
    # The text may hold braces, and pydantic formats its template.
    return PydanticCustomError("letter", "{text}", {"text": text})


def _limits(info: ValidationInfo) -> Limits:
    return info.context if isinstance(info.context, Limits) else Limits()


def kind(value: object) -> str:
    """What JSON calls it, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    kinds: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return kinds.get(type(value), "null")


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _fault(f"must be a string, not {kind(value)}")
    return value


def token_fault(value: object) -> str | None:
    """Why `value` cannot be a token; it may hold integers of any size, kept exactly."""
    if isinstance(value, str) and len(value) <= MAX_TOKEN // 6 and storable(value):
        return None  # nearly every token there is: even all escaped it is short enough
    if not few_values(value):
        return f"has more than {MAX_TOKEN} bytes as JSON; {MAX_TOKEN} are allowed"
    if not depth_within(value, MAX_TOKEN_DEPTH):
        return f"nests deeper than {MAX_TOKEN_DEPTH} levels"
    try:
        if isinstance(value, JsonText):
            written = value.text
        else:
            written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(written.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    except ValueError:
        return "holds a number that JSON cannot carry back"
    return None if size <= MAX_TOKEN else f"has {size} bytes as JSON; {MAX_TOKEN} are allowed"
