"""What no schema can say, so that Schemathesis counts no right answer as a failure.

It runs in Schemathesis' own Python. An answer is let pass by the reason that it gives, and by nothing else:
with another one the request is refused wrongly, whatever its status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import EnsureResourceAvailability, RejectedPositiveData

from tests.said_elsewhere import BESIDE_ADDRESSES, KEYS

REASONS = {
    # Whether a key was used before, and what a relay says.
    "POST /letters": {"duplicate-id", "refused"},
    # Which content has a hash; and that a range ends where it should.
    "PUT /blobs/{ref}": {"wrong-content", "bad-range"},
    # Whether it compiles, and whether its files have the name that is in the path.
    "PUT /templates/{name}": {"bad-template"},
    # What is an address, and a time to come; that a file begins with an address, or with the columns' names.
    "POST /suppressions": {"bad-suppression"},
    "POST /suppressions/import": {"bad-suppression"},
}
"""The reasons for which a request as described may be refused, by operation."""

LETTERS = {"POST /letters", "POST /post"}

COMES_WITHIN = 10.0
"""Seconds in which a letter that was published has come to the queue."""


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure is one."""
    operation = case.operation.label
    if isinstance(failure, RejectedPositiveData):
        answer = response.json()
        if operation in LETTERS:
            # That one key stands in the header, and an ID or another one in the letter.
            own = {"IdempotencyKey"} if operation == "POST /letters" else set()
            if _by_keys(answer, KEYS | own):
                return False
            # A file's part may have any name, which a schema can say, but no part without a file's name.
            if case.media_type == "multipart/form-data" and answer.get("reason") == "bad-body":
                return False
        # What is an address no schema says.
        if operation == "GET /suppressions" and answer.get("detail", "").startswith("`address` is not one"):
            return False
        return answer.get("reason") not in REASONS.get(operation, ())
    if isinstance(failure, AcceptedNegativeData) and operation == "POST /suppressions/import":
        # Any octets are a file, of which rows that are wrong are told; nothing of such a one is put there.
        return bool(response.json()["put"])
    if isinstance(failure, AcceptedNegativeData) and operation in LETTERS:
        # A dry run answers 200 with what is wrong in the letters.
        return not (response.status_code == 200 and response.json().get("faults"))
    if isinstance(failure, EnsureResourceAvailability) and operation == "GET /letters/{id}":
        # What was published is in the queue a moment later, as the answer says.
        return not ("has it not yet" in response.json()["detail"] and _comes(response.request))
    return True


def _comes(request: Any) -> bool:
    """Whether what was not found is found in a while."""
    again = Request(request.url, headers=dict(request.headers))
    end = time.monotonic() + COMES_WITHIN
    while time.monotonic() < end:
        try:
            with urlopen(again, timeout=COMES_WITHIN):
                return True
        except HTTPError as error:
            if error.code != 404:
                return False
        time.sleep(0.05)
    return False


def _by_keys(answer: Mapping[str, Any], keys: Set[str]) -> bool:
    """Whether letters are refused for keys of which a schema says the kind of value only."""
    errors = answer.get("errors")
    return bool(errors) and all(_among(error, keys) for error in errors)


def _among(error: Mapping[str, Any], keys: Set[str]) -> bool:
    field, text = error["field"], error["text"]
    key = field.partition("[")[0].partition(".")[0]
    if key == "Body" and "comes from the template" in text:  # of two keys beside each other
        return True
    return key in keys or (
        key == "Addresses"
        # Of one address, or of all where they go with another key: Template, Personal.
        and any(field.endswith(f"].{name}") or f"{name}, which go" in text for name in BESIDE_ADDRESSES)
    )
