"""The short way for letters in the plainest form, which nearly all have.

A batch goes it when each element has only documented keys, spelled as documented, with values of the usual
types: one pass of compiled code sees to that. What it takes comes out just as `read_letter` would have made
it, and whatever it does not take goes the long way, which knows how to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from pydantic_core import SchemaValidator, ValidationError, core_schema

from mailsender.address import BadAddress, all_as_written, parse_address
from mailsender.letter import Answer, Letter, Origin, Recipient, content_digest
from mailsender.text import header_fault
from mailsender.wire.schema import MAX_TOKEN, NO_ID, Limits, is_id

_STRING = core_schema.str_schema(strict=True)
_FIELD = core_schema.typed_dict_field

_BATCH = SchemaValidator(
    core_schema.list_schema(
        core_schema.typed_dict_schema(
            {
                "Addresses": _FIELD(core_schema.list_schema(_STRING, min_length=1, strict=True)),
                "Subject": _FIELD(_STRING, required=False),
                "Body": _FIELD(_STRING, required=False),
                "Token": _FIELD(
                    # Even if all of it had to be escaped it would not be too long.
                    core_schema.str_schema(max_length=MAX_TOKEN // 6, strict=True),
                    required=False,
                ),
                "ID": _FIELD(_STRING, required=False),
            },
            extra_behavior="forbid",
            strict=True,
        ),
        strict=True,
    )
)


_BLANK = Letter(id="", addresses=(), subject="", body="")
"""To be changed into others, which takes less than half the time of making one."""


def plain_elements(value: bytes) -> list[dict[str, Any]] | None:
    """The elements of a batch that is plain throughout, else None. Their texts hold no lone surrogates."""
    try:
        elements: list[dict[str, Any]] = _BATCH.validate_json(value)
    except ValidationError:
        return None
    return elements


def plain_letter(element: dict[str, Any], origin: Origin, key: bytes | None, limits: Limits) -> Letter | None:
    """The letter that an element of `plain_elements` is, None where it takes a closer look."""
    addresses = tuple(element["Addresses"])
    subject, body = element.get("Subject", ""), element.get("Body", "")
    own_id = element.get("ID", "")
    if own_id and (own_id == NO_ID or not is_id(own_id)):
        return None
    # No character takes more than four bytes; what may be longer is measured the long way.
    if len(addresses) > limits.addresses or len(body) * 4 > limits.body or header_fault(subject):
        return None
    try:
        mailboxes = _mailboxes(addresses)
    except BadAddress:
        return None
    return _BLANK.evolve(
        id=own_id.lower() or origin.letter_id(),
        addresses=addresses,
        subject=subject,
        body=body,
        answers=(Answer(token=element.get("Token", ""), key=key, origin=origin),),
        recipients=tuple([Recipient(address=text) for text in mailboxes]),
        digest=content_digest(addresses, subject, body) if own_id else b"",
    )


def _mailboxes(addresses: Sequence[str]) -> Collection[str]:
    """Each mailbox once, in the order and spelling of its first address."""
    if all_as_written(addresses):
        return dict.fromkeys(addresses)
    spellings: dict[str, str] = {}
    for text in addresses:
        spellings.setdefault(parse_address(text).wire, text)
    return spellings.values()
