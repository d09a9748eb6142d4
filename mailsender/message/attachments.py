"""Attachments whose content a letter brings itself become those that name it. Pure."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from mailsender.message.parts import MAX_ATTACHMENTS
from mailsender.message.values import BadKey, kind

_NOTHING: tuple[Any, ...] = (None, "", [], {})
"""What says nothing (see `mailsender.message.values.says`): false and 0 are none of it."""

Keep = Callable[[bytes], str]
"""Keeps a content for now and returns its `Ref`; `mailsender.model.blobs.ref_of` keeps nothing."""


def by_ref(value: Any, keep: Keep, *, one: int, all_: int) -> Any:
    """The value of a letter's `Attachments` with `Ref` for each `Content`.

    What is otherwise than it may be comes back as it is: `mailsender.message.mail` says what is wrong with
    it.

    Args:
        value: as published.
        keep: takes each content.
        one: bytes that a content may have.
        all_: bytes that all contents of the letter may have together.

    Raises:
        BadKey: a content is none, or there is too much of it.
    """
    if not isinstance(value, list) or len(value) > MAX_ATTACHMENTS:
        return value
    total, named = 0, []
    for place, each in enumerate(value):
        if not isinstance(each, dict) or each.get("Content") is None:
            named.append(each)
            continue
        key = f"Attachments[{place}]"
        if each.get("Ref") not in _NOTHING:
            if each["Content"] not in _NOTHING:
                raise BadKey(key, "has both a Content and a Ref")
            named.append({name: found for name, found in each.items() if name != "Content"})
            continue
        content = _content(f"{key}.Content", each["Content"], one)
        total += len(content)
        if total > all_:
            raise BadKey("Attachments", f"have {total} bytes or more; {all_} are allowed")
        others = {name: found for name, found in each.items() if name != "Content"}
        named.append({**others, "Ref": keep(content)})
    return named


def _content(key: str, value: Any, most: int) -> bytes:
    if not isinstance(value, str):
        raise BadKey(key, f"must be a string, not {kind(value)}")
    if "\n" in value:  # encoders made for mail write lines (RFC 2045 §6.8): those of PHP, Ruby and Java do
        value = value.replace("\n", "").replace("\r", "")
    try:
        content = b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadKey(key, "is no base64 (RFC 4648 §4)") from None
    if len(content) > most:
        raise BadKey(key, f"has {len(content)} bytes; {most} are allowed")
    return content
