"""The in-topic: the bytes of a record -> its elements -> letters.

A value that is no JSON array of objects is not a batch, as a whole. An element that is no good letter
becomes a letter with status `error` and a reason, and its neighbours never notice.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, from_json

from mailsender.address import BadAddress, parse_address
from mailsender.letter import Answer, Letter, Origin, Recipient, Status, content_digest
from mailsender.text import cleaned, header_fault, storable

MAX_TOKEN = 4096
"""Bytes of the largest `Token`, written as JSON."""

MAX_TOKEN_DEPTH = 32
"""Arrays and objects inside each other in a `Token`; databases refuse documents that nest much deeper."""

MAX_FAULTS = 5
"""Faults that a letter's reason names; a letter of a thousand bad addresses needs no longer sentence."""

_ID = re.compile(r"[0-9a-fA-F]{24}")
_NO_ID = "0" * 24


class NotABatch(Exception):  # noqa: N818  an answer about the record, not a mistake of the program
    """The value of a record is no JSON array of objects; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a letter may be: `body` in bytes of UTF-8, `addresses` in number."""

    body: int = 10 * 1024 * 1024
    addresses: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one element of a batch, and in which field of it (empty: in no one field)."""

    index: int
    field: str
    text: str


# --- the schema ----------------------------------------------------------------------------------


def _not_yet(meaning: str) -> Any:
    return Field(None, description=f"{meaning} Not yet honoured: a letter that sets it is an error.")


class LetterIn(BaseModel):
    """One element of a batch on the in-topic. Keys match without regard to case; unknown ones are ignored.

    `Status` and `KafkaKey` of the report may be there and are ignored, too. A field that is null counts as
    absent.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    ID: str = Field("", description="24 hexadecimal digits; empty or all zeros: one is computed.")
    Addresses: tuple[str, ...] = Field(
        description="The recipients, one plain address each. They do not see one another."
    )
    Subject: str = Field("", description="The subject, without control characters.")
    Body: str = Field("", description="The body, HTML.")
    Token: Any = Field("", description="Any JSON value up to 4 KB; comes back in the report.")

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
        if not isinstance(value, str) or not _ID.fullmatch(value):
            raise _fault("must be 24 hexadecimal digits")
        return "" if value == _NO_ID else value.lower()

    @field_validator("Addresses", mode="before")
    @classmethod
    def _addresses(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, list):
            raise _fault(
                "is missing" if value is None else f"must be an array of strings, not {_kind(value)}"
            )
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
        if not storable(text):
            raise _fault("holds half of a surrogate pair")
        most = _limits(info).body
        # No character takes more than four bytes, so most bodies need not be encoded to be measured.
        if len(text) * 4 > most and (size := len(text.encode())) > most:
            raise _fault(f"has {size} bytes; {most} are allowed")
        return text

    @field_validator("Token", mode="before")
    @classmethod
    def _token(cls, value: object) -> object:
        if fault := _token_fault(value):
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


_FIELDS = {name.casefold(): name for name in LetterIn.model_fields}


def _fault(text: str) -> PydanticCustomError:
    # The text may hold braces, and pydantic formats its template.
    return PydanticCustomError("letter", "{text}", {"text": text})


def _limits(info: ValidationInfo) -> Limits:
    return info.context if isinstance(info.context, Limits) else Limits()


def _kind(value: object) -> str:
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
        raise _fault(f"must be a string, not {_kind(value)}")
    return value


def _token_fault(value: object) -> str | None:
    """Why `value` cannot be a token; it may hold integers of any size, kept exactly."""
    if isinstance(value, str) and len(value) <= MAX_TOKEN // 6 and storable(value):
        return None  # nearly every token there is: even all escaped it is short enough
    if not _depth_within(value, MAX_TOKEN_DEPTH):
        return f"nests deeper than {MAX_TOKEN_DEPTH} levels"
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(written.encode())
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    except ValueError:
        return "holds a number that JSON cannot carry back"
    return None if size <= MAX_TOKEN else f"has {size} bytes as JSON; {MAX_TOKEN} are allowed"


def _depth_within(value: object, most: int) -> bool:
    """Whether `value` nests at most `most` levels; without recursion, which deep input would exhaust."""
    level: list[object] = [value]
    for _ in range(most + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, list | dict)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return True
    return False


# --- reading -------------------------------------------------------------------------------------


def decode(value: bytes | None) -> list[dict[str, Any]]:
    """The elements of a batch.

    Raises:
        NotABatch: `value` is no array of objects in strict JSON (RFC 8259: UTF-8, no byte order mark, no NaN
            or Infinity), or nests too deep, or holds a number of thousands of digits.
    """
    if value is None:
        raise NotABatch("the record has no value")
    elements = _parse(value)
    if not isinstance(elements, list):
        raise NotABatch(f"the value is {_kind(elements)}, not an array of letters")
    for index, element in enumerate(elements):
        if not isinstance(element, dict):
            raise NotABatch(f"element {index} is {_kind(element)}, not an object")
    return elements


def _parse(value: bytes) -> Any:
    try:
        return from_json(value, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        pass  # the stdlib decides: it reads lone surrogates, which are legal JSON, and it names the place
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotABatch(f"the value is not UTF-8 at byte {error.start}") from error
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise NotABatch(f"the value is not JSON: {error}") from error
    except RecursionError as error:
        raise NotABatch("the value nests too deep") from error
    except ValueError as error:  # a constant that is none of JSON's, or an integer beyond Python's limit
        raise NotABatch(f"the value is not JSON that can be read: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_letter(
    element: Mapping[str, Any],
    origin: Origin,
    key: bytes | None,
    limits: Limits,
    *,
    now: datetime,
) -> Letter:
    """The letter that an element is: `awaiting`, or final as `error` with a reason a person understands.

    An `error` holds what can be stored of the element: strings without lone surrogates, empty values in
    place of those of a wrong type or size. Its ID is its own where that is valid, else computed from
    `origin`. It is finished at `now`.
    """
    fields = _canonical(element)
    try:
        good = LetterIn.model_validate(fields, context=limits)
        recipients = _recipients(good.Addresses)
    except ValidationError as error:
        complaints = _complaints(error)
    except _BadAddresses as error:
        complaints = error.complaints
    else:
        return _good_letter(good, recipients, origin, key)
    bad = _bad_letter(fields, origin, key, limits)
    return bad.evolve(reason=cleaned(_reason(complaints)), finished_at=now)


def _good_letter(
    good: LetterIn, recipients: tuple[Recipient, ...], origin: Origin, key: bytes | None
) -> Letter:
    return Letter(
        id=good.ID or origin.letter_id(),
        addresses=good.Addresses,
        subject=good.Subject,
        body=good.Body,
        answers=(Answer(token=good.Token, key=key, origin=origin),),
        recipients=recipients,
        digest=content_digest(good.Addresses, good.Subject, good.Body),
    )


def faults(elements: Sequence[Mapping[str, Any]], limits: Limits | None = None) -> list[Fault]:
    """All that `read_letter` would refuse in a batch, in order; empty when every letter is good."""
    found = []
    for index, element in enumerate(elements):
        for field, text in _complaints_of(element, limits or Limits()):
            found.append(Fault(index=index, field=field, text=text))
    return found


def letter_id(element: Mapping[str, Any]) -> str:
    """The ID that an element brings, in lower case; empty when it brings none or a bad one."""
    return _own_id(_canonical(element))


def with_id(element: Mapping[str, Any], new: str) -> dict[str, Any]:
    """The element with `new` as its only `ID`, whatever the case of the key it was under."""
    others = {key: value for key, value in element.items() if key.casefold() != "id"}
    return {"ID": new, **others}


class _BadAddresses(Exception):  # noqa: N818  carries complaints from one function to its caller
    def __init__(self, complaints: list[tuple[str, str]]) -> None:
        super().__init__("bad addresses")
        self.complaints = complaints


def _canonical(element: Mapping[str, Any]) -> dict[str, Any]:
    """The known fields under their documented names; of two that differ only in case the last wins."""
    fields: dict[str, Any] = {"Addresses": None}
    for key, value in element.items():
        name = _FIELDS.get(key) or _FIELDS.get(key.casefold())
        if name is not None:
            fields[name] = value
    return fields


def _recipients(addresses: Sequence[str]) -> tuple[Recipient, ...]:
    """Each mailbox once, in the order and spelling of its first address."""
    seen: dict[str, Recipient] = {}
    complaints = []
    for index, text in enumerate(addresses):
        try:
            wire = parse_address(text).wire
        except BadAddress as error:
            complaints.append((f"Addresses[{index}]", f"is not an address that mail can be sent to: {error}"))
        else:
            if wire not in seen:
                seen[wire] = Recipient(address=text)
    if complaints:
        raise _BadAddresses(complaints)
    return tuple(seen.values())


def _complaints_of(element: Mapping[str, Any], limits: Limits) -> list[tuple[str, str]]:
    try:
        _recipients(LetterIn.model_validate(_canonical(element), context=limits).Addresses)
    except ValidationError as error:
        return _complaints(error)
    except _BadAddresses as error:
        return error.complaints
    return []


def _complaints(error: ValidationError) -> list[tuple[str, str]]:
    """Field and fault, by our own words; those about addresses name their place in the array."""
    found = []
    for detail in error.errors(include_url=False, include_context=False):
        name, *inner = detail["loc"]
        field = f"{name}[{inner[0]}]" if inner else str(name)
        text = f"must be a string, not {_kind(detail['input'])}" if inner else detail["msg"]
        found.append((field, text))
    return found


def _reason(complaints: Sequence[tuple[str, str]]) -> str:
    named = "; ".join(f"{field} {text}" for field, text in complaints[:MAX_FAULTS])
    more = len(complaints) - MAX_FAULTS
    return f"{named}; and {more} more" if more > 0 else named


def _bad_letter(fields: Mapping[str, Any], origin: Origin, key: bytes | None, limits: Limits) -> Letter:
    """What can be stored of an element that is no good letter."""
    addresses = _kept_addresses(fields.get("Addresses"), limits)
    subject = _kept_text(fields.get("Subject"))
    body = _kept_text(fields.get("Body"))
    if len(body.encode()) > limits.body:
        body = ""
    return Letter(
        id=_own_id(fields) or origin.letter_id(),
        addresses=addresses,
        subject=subject,
        body=body,
        answers=(Answer(token=_kept_token(fields.get("Token", "")), key=key, origin=origin),),
        status=Status.ERROR,
        digest=content_digest(addresses, subject, body),
    )


def _own_id(fields: Mapping[str, Any]) -> str:
    value = fields.get("ID")
    if isinstance(value, str) and _ID.fullmatch(value) and value != _NO_ID:
        return value.lower()
    return ""


def _kept_addresses(value: object, limits: Limits) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(cleaned(item) for item in value[: limits.addresses] if isinstance(item, str))


def _kept_text(value: object) -> str:
    return cleaned(value) if isinstance(value, str) else ""


def _kept_token(value: Any) -> Any:
    """The token when it can be one once its lone surrogates are replaced, else an empty one."""
    if not _depth_within(value, MAX_TOKEN_DEPTH):
        return ""
    kept = _cleaned_token(value)
    return kept if _token_fault(kept) is None else ""


def _cleaned_token(value: Any) -> Any:
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, list):
        return [_cleaned_token(item) for item in value]
    if isinstance(value, dict):
        return {cleaned(key): _cleaned_token(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = [
    "Fault",
    "LetterIn",
    "Limits",
    "NotABatch",
    "decode",
    "faults",
    "letter_id",
    "read_letter",
    "with_id",
]
