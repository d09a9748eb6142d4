"""The short way for letters in the plainest form, which nearly all have.

A batch goes it when each element has only the original's keys and those of `mailsender.intake.handling`,
spelled as documented, with values of the usual types. What it takes comes out just as `read_letter` would
have made it, and whatever it does not take goes the long way, which knows how to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import orjson

from mailsender.intake.handling import KEYS, handling_of
from mailsender.intake.schema import NO_ID, Limits, is_id
from mailsender.message.values import BadKey
from mailsender.model.address import BadAddress, all_as_written, parse_address
from mailsender.model.handling import PLAIN, Handling
from mailsender.model.json_values import MAX_TOKEN
from mailsender.model.letter import Answer, Letter, Origin, Recipient, content_digest
from mailsender.model.text import header_fault, octets

_TYPES = {"Addresses": list, "Subject": str, "Body": str, "Token": str, "ID": str} | {
    key: list if key == "Tags" else str for key in KEYS
}
_HANDLING = frozenset(KEYS)
_LONGEST_TOKEN = MAX_TOKEN // 6
"""Characters of a token that is not too long even if each of them has to be escaped."""


def plain_elements(value: bytes) -> list[dict[str, Any]] | None:
    """The elements of a batch that is plain throughout, else None. Their texts hold no lone surrogates."""
    try:
        elements = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if type(elements) is not list:
        return None
    for element in elements:
        if type(element) is not dict or not _plain(element):
            return None
    return elements


def _plain(element: dict[str, Any]) -> bool:
    """Whether its keys and the types of its values are the usual ones."""
    for name, value in element.items():
        if type(value) is not _TYPES.get(name):
            return False
    addresses = element.get("Addresses", ())
    for text in addresses:
        if type(text) is not str:
            return False
    for text in element.get("Tags", ()):
        if type(text) is not str:
            return False
    return bool(addresses) and len(element.get("Token", "")) <= _LONGEST_TOKEN


def plain_letter(element: dict[str, Any], origin: Origin, key: bytes | None, limits: Limits) -> Letter | None:
    """The letter that an element of `plain_elements` is, None where it takes a closer look."""
    addresses = tuple(element["Addresses"])
    subject, body = element.get("Subject", ""), element.get("Body", "")
    own_id = element.get("ID", "")
    if own_id == NO_ID:
        own_id = ""
    elif own_id and not is_id(own_id):
        return None
    if len(addresses) > limits.addresses or octets(body) > limits.body or header_fault(subject):
        return None
    try:
        handling = PLAIN if _HANDLING.isdisjoint(element) else _handling_of(element)
        mailboxes = _mailboxes(addresses)
    except (BadKey, BadAddress):
        return None
    return Letter(
        id=own_id.lower() or origin.letter_id(),
        addresses=addresses,
        subject=subject,
        body=body,
        answers=(Answer(token=element.get("Token", ""), key=key, origin=origin),),
        recipients=tuple([Recipient(address=text) for text in mailboxes]),
        digest=content_digest(addresses, subject, body, handling=handling.text) if own_id else b"",
        handling=handling,
    )


def _handling_of(element: dict[str, Any]) -> Handling:
    return _known(
        tuple([tuple(element.get(key, ())) if key == "Tags" else element.get(key, "") for key in KEYS])
    )


@lru_cache(maxsize=1000)  # letters of a batch mostly ask for the same; what is long is refused, and not kept
def _known(values: tuple[Any, ...]) -> Handling:
    """What a letter asks for by the values of `KEYS`; what is empty says nothing.

    Raises:
        BadKey: one of them is not as it may be.
    """
    return handling_of(
        {key: list(value) if key == "Tags" else value for key, value in zip(KEYS, values, strict=True)}
    )


def _mailboxes(addresses: Sequence[str]) -> Collection[str]:
    """Each mailbox once, in the order and spelling of its first address."""
    if all_as_written(addresses):
        return dict.fromkeys(addresses)
    spellings: dict[str, str] = {}
    for text in addresses:
        spellings.setdefault(parse_address(text).wire, text)
    return spellings.values()
