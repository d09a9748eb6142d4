"""What callers ask for beside the body: parameters of the query, and the key of a letter in a header."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mailsender.intake.idempotency import key_fault
from mailsender.model.durations import seconds_of
from mailsender.model.text import storable
from mailsender.web.problems import ProblemError, bad_query

MAX_KEY: Final = 1024
"""Bytes of the key that a caller may choose: a name of something, such as a user's."""

MAX_REASON: Final = 200
"""Characters of the reason for what somebody does."""

_STRING: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED: Final = re.compile(r'\\(["\\])')


def record_key(request: web.Request) -> str:
    """The record's key that the caller chose, or empty."""
    keys = request.query.getall("key", [])
    key = keys[0] if keys else ""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = MAX_KEY + 1
    if len(keys) > 1 or size > MAX_KEY:
        detail = f"One `key` is possible, of at most {MAX_KEY} bytes of UTF-8."
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-key")
    return key


def dry_run(request: web.Request) -> bool:
    """Whether nothing is to be published; one who nearly says so is told, for his letters would go out."""
    for name in request.query:
        if name != "dry_run" and re.sub(r"[\W_]", "", name).casefold() == "dryrun":
            raise bad_query("The parameter is called `dry_run`.")
    values = request.query.getall("dry_run", ["false"])
    if len(values) > 1 or values[0] not in {"true", "false"}:
        raise bad_query("`dry_run` is true or false, once.")
    return values[0] == "true"


def reason(request: web.Request) -> str:
    """Why the caller wants it, for the log; empty where nothing is said."""
    values = request.query.getall("reason", [""])
    if len(values) > 1 or not storable(values[0]) or len(values[0]) > MAX_REASON:
        raise bad_query(f"`reason` is said once, in at most {MAX_REASON} characters.")
    return values[0]


def wait(request: web.Request) -> float:
    """Seconds that the caller would wait for what becomes of his letter; 0 where he would not."""
    values = request.query.getall("wait", ["0"])
    try:
        (text,) = values
        return seconds_of(text)
    except ValueError:
        raise bad_query("`wait` is a duration such as 500ms or 10s, once.") from None


def idempotency_key(request: web.Request) -> str:
    """The value of `Idempotency-Key`, or empty where there is none.

    It may be quoted as the header's draft has it (draft-ietf-httpapi-idempotency-key-header: a string of RFC
    9651 §3.3.3), or stand as it is, as many services take it. Beyond ASCII it is UTF-8.
    """
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return ""
    text = values[0].strip()
    quoted = _STRING.fullmatch(text)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else text
    if len(values) > 1 or not key or (not quoted and key.startswith('"')):
        detail = (
            "One `Idempotency-Key` is possible, not an empty one; what begins with a quote ends with one."
        )
        raise _bad_key(detail)
    if fault := key_fault(key):
        # Where a header's bytes are no UTF-8, aiohttp has halves of surrogate pairs in their place.
        told = fault if storable(key) else "is not UTF-8"
        raise _bad_key(f"The `Idempotency-Key` {told}.")
    return key


def _bad_key(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-idempotency-key")
