"""What a publisher may send: the model of one letter on the in-topic, and the limits of its values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from mailsender.intake import schema_patterns
from mailsender.intake.idempotency import MAX_KEY, id_of_key, key_fault
from mailsender.message.headers import AUTO_SUBMITTED, IMPORTANCES, MAX_IDS, MAX_NAME
from mailsender.message.mail import MAX_SHOWN
from mailsender.message.parts import MAX_ATTACHMENTS, METHODS
from mailsender.message.parts import MAX_NAME as MAX_FILE_NAME
from mailsender.message.values import kind
from mailsender.model.address import Address, parse_address
from mailsender.model.handling import MAX_ROUTE, MAX_STREAM, MAX_TAGS
from mailsender.model.handling import Priority as Urgency
from mailsender.model.json_values import MAX_TOKEN, MAX_TOKEN_DEPTH, depth_within, few_values
from mailsender.model.letter import JsonText
from mailsender.model.terms import MAX_ENVID, NOTIFY, RET
from mailsender.model.text import header_fault, octets, storable
from mailsender.templates.template import REFERENCE_MAX

NO_ID = "0" * 24
"""An `ID` that means none, as the original's clients send it."""

_ID = re.compile(r"[0-9a-fA-F]{24}")


@dataclass(frozen=True, slots=True)
class Senders:
    """In whose name a letter may be sent: of these addresses, and of anybody in these domains."""

    addresses: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Senders:
        """Those that are listed as addresses, or as domains alone.

        Raises:
            BadAddress: one is neither.
        """
        addresses, domains = set(), set()
        for text in texts:
            if "@" in text:
                addresses.add(parse_address(text).wire)
            else:
                domains.add(parse_address(f"a@{text}").domain)
        return cls(frozenset(addresses), frozenset(domains))

    def allow(self, address: Address) -> bool:
        """Whether a letter may be sent in the name of an address."""
        return address.wire in self.addresses or address.domain in self.domains


_USUAL_LETTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a letter may be: `body` in bytes of UTF-8, `addresses` in number; and a batch: its `letters`.

    Of a batch's faulty letters the first `faulty` are answered one by one. `senders` are those in whose
    name a letter may be sent, beside the service's own. `attachment` and `attachments` are bytes of one and
    of all of a letter's.
    """

    senders: Senders = Senders()
    body: int = 10 * 1024 * 1024
    attachment: int = 25 * 1024 * 1024
    attachments: int = 25 * 1024 * 1024
    addresses: int = 10_000
    letters: int = _USUAL_LETTERS
    faulty: int = 1000

    @property
    def values(self) -> int:
        """JSON values that a batch may hold, all told, however they lie in each other."""
        return 16 * self.letters + 2 * self.addresses

    @property
    def keys(self) -> int:
        """Bytes that a record's key may take in all its letters together.

        Each letter has it, in its document and its report: one of half a megabyte in 20,000 letters would be
        20 GB. A key of 1 KB, as long as one may be over HTTP, may have as many letters as there may be.
        """
        return 1024 * max(self.letters, _USUAL_LETTERS)


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
_NOTHING: dict[str, Any] = {"enum": [None, "", [], {}]}
# Of what can stand in a header.
_HEADER_SCHEMA: dict[str, Any] = {
    "type": "string",
    "not": {"type": "string", "pattern": schema_patterns.NOT_IN_A_HEADER},
}
_NAME_SCHEMA = {"maxLength": MAX_NAME, **_HEADER_SCHEMA}
_UNSUBSCRIBE = {
    "additionalProperties": False,
    "properties": {key: {"anyOf": [{"type": "string"}, _NOTHING]} for key in ("URL", "Mail")},
}
_ADDRESSES_SCHEMA = {
    "type": "array",
    "items": {
        "anyOf": [
            schema_patterns.ADDRESS,
            {
                "type": "object",
                "additionalProperties": False,
                "required": ["Address"],
                "properties": {
                    "Address": schema_patterns.ADDRESS,
                    "Name": {"anyOf": [_NAME_SCHEMA, _NOTHING]},
                    "Variables": {"anyOf": [{"type": "object"}, _NOTHING]},
                    "ListUnsubscribe": {"anyOf": [{"type": "object", **_UNSUBSCRIBE}, _NOTHING]},
                },
            },
        ]
    },
    "minItems": 1,
    "maxItems": _MOST.addresses,
}
_SUBJECT_SCHEMA = {**_HEADER_SCHEMA, "type": ["string", "null"]}
_BODY_SCHEMA = {"type": ["string", "null"], "maxLength": _MOST.body}
# No value of more characters, items or members can be written in so many bytes, however short each is.
_TOKEN_SCHEMA = {
    "maxLength": MAX_TOKEN - 2,
    "maxItems": (MAX_TOKEN - 1) // 2,
    "maxProperties": MAX_TOKEN // 6,
}


_KEY_SCHEMA = {"type": ["string", "null"], "maxLength": MAX_KEY}
# Which ID is that of a key no schema can compute: what it takes has one of the two at most.
_ID_OR_KEY: dict[str, Any] = {
    "not": {
        "properties": {
            "ID": {"type": "string", "pattern": "[1-9A-Fa-f]"},
            "IdempotencyKey": {"type": "string", "minLength": 1},
        },
        "required": ["ID", "IdempotencyKey"],
    }
}


def _pattern(pattern: str) -> dict[str, object]:
    """A text of this form; in some dialects a ``$`` matches before a line break at the end, too."""
    return {"type": "string", "pattern": pattern, "not": {"type": "string", "pattern": r"[\n]"}}


def _or_nothing(schema: Mapping[str, object]) -> dict[str, Any]:
    """`schema`, or what says nothing; see `mailsender.message.values.says`."""
    return {"anyOf": [dict(schema), _NOTHING]}


_TEXT_SCHEMA = {"type": "string"}
_TEMPLATE_SCHEMA = {
    **_pattern("^[A-Za-z0-9_-]{1,64}(@[A-Za-z0-9_.-]{1,64})?$"),
    "maxLength": REFERENCE_MAX,
}
_MAILBOXES_SCHEMA = {"type": "array", "items": {"type": "string"}, "maxItems": MAX_SHOWN}
_IDS_SCHEMA = {"type": ["string", "array"], "items": {"type": "string"}, "maxItems": MAX_IDS}
_ATTACHMENTS_SCHEMA = {
    "type": "array",
    "maxItems": MAX_ATTACHMENTS,
    "items": {
        "type": "object",
        "additionalProperties": False,
        "oneOf": [
            {"required": ["Content"], "properties": {"Ref": _NOTHING, "Content": _TEXT_SCHEMA}},
            {
                "required": ["Ref"],
                "properties": {"Ref": {"type": "string", "minLength": 1}, "Content": _NOTHING},
            },
        ],
        "properties": {
            "Name": _or_nothing({"maxLength": MAX_FILE_NAME, **_HEADER_SCHEMA}),
            "ContentType": _or_nothing(_pattern(schema_patterns.MEDIA_TYPE)),
            "Content": _or_nothing(
                {"type": "string", "pattern": schema_patterns.BASE64, "contentEncoding": "base64"}
            ),
            "Ref": _or_nothing(_pattern(schema_patterns.REF)),
            "Inline": _or_nothing({"type": "boolean"}),
            "ContentID": _or_nothing(_pattern(schema_patterns.CONTENT_ID)),
        },
    },
}


def _object_schema(**properties: Mapping[str, object]) -> dict[str, object]:
    each = {name: _or_nothing(schema) for name, schema in properties.items()}
    return {"type": "object", "additionalProperties": False, "properties": each}


_DSN_SCHEMA = _object_schema(
    Notify={
        "anyOf": [
            {"const": ["NEVER"]},
            {
                "type": "array",
                "items": {"enum": [each for each in NOTIFY if each != "NEVER"]},
                "uniqueItems": True,
            },
        ]
    },
    Ret={"enum": list(RET)},
    EnvID={"type": "string", "maxLength": MAX_ENVID},
)


def _key(description: str, schema: Mapping[str, object]) -> Any:
    """A key that `mailsender.message.mail` reads."""
    return Field(None, description=description, json_schema_extra=_or_nothing(schema))


class LetterIn(BaseModel):
    """One element of a batch. Keys match without regard to case, in objects too; the last of several wins.

    Unknown keys are ignored, and so are `Status` and `KafkaKey` of the report; an unknown one in an object is
    an error. A field that is null counts as absent, but for `Token`, which comes back as null; so does an
    empty one, but for the original's. Text is Unicode: half of a surrogate pair is an error.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, json_schema_extra=_ID_OR_KEY)

    ID: Annotated[str, WithJsonSchema(_ID_SCHEMA)] = Field(
        "", description="24 hexadecimal digits; empty or all zeros: one is computed."
    )
    Addresses: Annotated[tuple[str, ...], WithJsonSchema(_ADDRESSES_SCHEMA)] = Field(
        description="The recipients, one plain address each, or an object with its `Address`, the `Name`"
        " that a personal letter shows, the `Variables` of its template that are its own, and its own"
        " `ListUnsubscribe`. They do not see one another."
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

    IdempotencyKey: Annotated[str, WithJsonSchema(_KEY_SCHEMA)] = Field(
        "",
        description="A text of the publisher's own from which the ID is made, so that the letter is accepted"
        " once: in the whole installation, whichever topic or door it comes by. Not together with another"
        " `ID`.",
    )

    From: Any = _key(
        "The sender, an address or `Name <address>`: one that SMTP_FROM_ALLOWED allows.", _TEXT_SCHEMA
    )
    FromName: Any = _key("The sender's name that people see, whatever the address.", _NAME_SCHEMA)
    Sender: Any = _key("Who sends it in the name of `From`, as an address of the same kind.", _TEXT_SCHEMA)
    ReplyTo: Any = _key(
        "Where answers go, one mailbox or several.",
        {"type": ["string", "array"], "items": {"type": "string"}, "maxItems": MAX_SHOWN},
    )
    ReversePath: Any = _key("Where relays report that it cannot be delivered: a plain address.", _TEXT_SCHEMA)
    To: Any = _key("Recipients whom all may see: addresses, or `Name <address>`.", _MAILBOXES_SCHEMA)
    Cc: Any = _key("Further recipients whom all may see.", _MAILBOXES_SCHEMA)
    Personal: Any = _key(
        "true: each of `Addresses` gets a message of its own, which shows its name and address.",
        {"type": "boolean"},
    )
    TextBody: Any = _key("The body as plain text, beside the HTML or instead of it.", _TEXT_SCHEMA)
    Attachments: Any = _key(
        "Files that go with it, each with its content in base64, or the `Ref` of a blob that was put before.",
        _ATTACHMENTS_SCHEMA,
    )
    Calendar: Any = _key(
        "An invitation that calendars act upon: iCalendar text, and its method.",
        _object_schema(Text={"type": "string"}, Method={"enum": sorted(METHODS)}),
    )
    Headers: Any = _key(
        "Further headers by their names, each a string or several.",
        {
            "type": "object",
            "additionalProperties": {"type": ["string", "array"], "items": {"type": "string"}},
        },
    )
    ListUnsubscribe: Any = _key(
        "How to leave the list: by an https URL with one click, by a mail, or both (RFC 2369, RFC 8058).",
        _object_schema(URL={"type": "string"}, Mail={"type": "string"}),
    )
    InReplyTo: Any = _key("The Message-ID that it answers, in angle brackets.", _IDS_SCHEMA)
    References: Any = _key("The Message-IDs of the thread, the oldest first.", _IDS_SCHEMA)
    AutoSubmitted: Any = _key(
        "That a program wrote it, and why (RFC 3834).", {"enum": sorted(AUTO_SUBMITTED)}
    )
    Importance: Any = _key("How important it is to its reader.", {"enum": sorted(IMPORTANCES)})
    DSN: Any = _key(
        "Notifications of its delivery by mail, asked of a relay that offers DSN (RFC 3461): on what, with"
        " how much of the message, and under which ID of the publisher's.",
        _DSN_SCHEMA,
    )
    RequireTLS: Any = _key(
        "true: every server on its way has to hand it on over TLS (RFC 8689). Where the relay does not offer"
        " that its recipients are refused.",
        {"type": "boolean"},
    )
    Suppression: Any = _key(
        "`ignore`: it goes to recipients on the suppression list, too. That holds where its stream is one of"
        " SUPPRESSION_TRANSACTIONAL; else the list does.",
        {"enum": ["ignore"]},
    )
    Template: Any = _key(
        "The template that subject and bodies are made from: `name`, its newest version, or `name@version`. A"
        " `Subject` beside it stands in place of the template's.",
        _TEMPLATE_SCHEMA,
    )
    Variables: Any = _key(
        "What the template is filled in with, by name; any JSON values.", {"type": "object"}
    )
    Lang: Any = _key(
        "The reader's language, which chooses the template's words: `ru`, `pt-BR`.", _TEXT_SCHEMA
    )
    Stream: Any = _key(
        "The kind of mail that it is, such as `transactional` or `newsletter`. Letters of a stream are sent"
        " in their order, and streams share their route.",
        {**_pattern("^[A-Za-z0-9_.-]+$"), "maxLength": MAX_STREAM},
    )
    Tags: Any = _key(
        "Labels of the publisher's, for reports and for whoever looks for it.",
        {
            "type": "array",
            "items": {"minLength": 1, "maxLength": MAX_STREAM, **_HEADER_SCHEMA},
            "maxItems": MAX_TAGS,
        },
    )
    Priority: Any = _key(
        "How urgent it is: `high` goes before whatever came within the last hour, `low` lets pass what comes"
        " within the next.",
        {"enum": list(Urgency)},
    )
    Route: Any = _key(
        "The route that it is to take, one that letters may choose.",
        {**_pattern("^[A-Za-z0-9_.-]+$"), "maxLength": MAX_ROUTE},
    )
    Retry: Any = _key(
        "How long to wait before each further try, such as `1m, 5m*2, 30m, 1h*3, 4h`; the last one repeats."
        " In place of its route's.",
        _pattern(schema_patterns.SCHEDULE),
    )
    NotBefore: Any = _key(
        "The earliest time to send it, with its zone (RFC 3339).", _pattern(schema_patterns.MOMENT)
    )
    ExpireAt: Any = _key(
        "The time from which on it is no longer sent, with its zone (RFC 3339): what was not accepted by then"
        " is an error, with the reason `expired`.",
        _pattern(schema_patterns.MOMENT),
    )

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

    @field_validator("IdempotencyKey", mode="before")
    @classmethod
    def _idempotency_key(cls, value: object, info: ValidationInfo) -> object:
        key = _text(value)
        if fault := key_fault(key):
            raise _fault(fault)
        own = info.data.get("ID")
        if key and own and own != id_of_key(key):
            raise _fault("stands beside an `ID` that is not made from it; leave one of them out")
        return key


FIELDS = {name.casefold(): name for name in LetterIn.model_fields}
"""The documented names by their case-folded form."""


def _fault(text: str) -> PydanticCustomError:
    # The text may hold braces, and pydantic formats its template.
    return PydanticCustomError("letter", "{text}", {"text": text})


def _limits(info: ValidationInfo) -> Limits:
    return info.context if isinstance(info.context, Limits) else Limits()


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
