"""The ID of a letter that brings an `IdempotencyKey` in its place.

It is made of the key alone: not of the topic, the record, the publisher, the route or the content. So a key
means the same letter whatever the door it came by, and a publisher can compute its ID beforehand. It is
scoped as an `ID` is: to the queue, which is the whole installation, all topics and replicas of it. Were it
scoped to a topic, a batch that is mirrored, or published again after its topic was given another name, would
be sent again; and `POST /letters` has no topic to name.

All publishers share one space of keys, therefore: one that begins with the name of its service, such as
``shop/order-1042/receipt``, meets no other's. Where two meet all the same, with other content, the second
letter is an `error` (`duplicate-id`), as with an `ID`: no letter is taken for another one.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from mailsender.model.text import storable

MAX_KEY: Final = 256
"""Characters of a key: room for the name of a service, what it is about, and some identifiers."""

_BYTES: Final = 12
"""Bytes of an ID. Among a billion keys any two have the same with a chance below 1 in 10**11."""


def key_fault(key: str) -> str:
    """Why `key` cannot be one, or empty. It may hold any characters, and is compared as it stands."""
    if len(key) > MAX_KEY:
        return f"has {len(key)} characters; {MAX_KEY} are allowed"
    return "" if storable(key) else "holds half of a surrogate pair"


def id_of_key(key: str) -> str:
    """The ID of the letter that `key` names, as 24 hex digits. `key_fault` finds nothing wrong with it."""
    return blake2b(key.encode(), digest_size=_BYTES, person=b"IdempotencyKey").hexdigest()
