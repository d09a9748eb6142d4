"""Errors as problem details (RFC 9457): what is wrong, where, and what a right request looks like."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from mailsender.model.letter import Letter, StoredLetter
from mailsender.observe.safejson import to_json
from mailsender.web.endpoints.endpoint import PROBLEM
from mailsender.web.letter_view import letter_view
from mailsender.web.models import FaultView, Problem
from mailsender.web.operations import BadBatch, BadLetter, Clash, Fault, Refused

MAX_FAULTS: Final = 100
"""Faults that one answer lists; a batch of ten thousand wrong letters needs no list of as many."""

SAMPLE: Final = (
    {
        "Subject": "Welcome",
        "Body": "<p>Hello, <b>Ivan</b></p>",
        "Addresses": ["ivan@example.com"],
        "Token": "anything that the report should bring back",
    },
)
"""A batch as it should be; answers to bad ones carry it, as those of the original service did."""

_INNER = re.compile(r"(\w+)(?:\[(\d+)\])?(?:\.(.+))?", re.DOTALL)


class ProblemError(Exception):
    """A request that cannot be answered as asked.

    `reason` is a stable word for programs that have to tell one 503 from another. `extra` holds further
    members of the answer (RFC 9457 §3.2).
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        reason: str = "",
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Note what goes into the answer."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.reason = reason
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def response(self) -> web.Response:
        """The answer."""
        named: dict[str, Any] = {"reason": self.reason} if self.reason else {}
        problem = Problem.model_construct(
            type="about:blank",
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            **named,
            **self.extra,
        )
        return web.Response(
            status=self.status,
            text=to_json(problem.model_dump(exclude_unset=True)) + "\n",
            content_type=PROBLEM,
            headers=self.headers,
        )


def refused(error: Refused) -> ProblemError:
    """503 with the time of the next attempt."""
    extra = {"ids": list(error.ids)} if error.ids else None
    return away(str(error), reason=error.reason, retry_after=error.retry_after, extra=extra)


def away(
    detail: str, *, reason: str, retry_after: float, extra: Mapping[str, Any] | None = None
) -> ProblemError:
    """503; `retry_after` in seconds, of which the header holds whole ones (RFC 9110 §10.2.3)."""
    headers = {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, reason=reason, headers=headers, extra=extra)


def bad_batch(error: BadBatch) -> ProblemError:
    """400 with the place of each fault and a sample of the right form."""
    alone = isinstance(error, BadLetter)
    errors = [located(fault, alone=alone) for fault in error.faults[:MAX_FAULTS]]
    detail = str(error)
    if len(error.faults) > MAX_FAULTS:
        detail = f"{detail} (the first {MAX_FAULTS} of {len(error.faults)} faults are listed)"
    extra: dict[str, Any] = {"errors": errors, "sample": list(SAMPLE)}
    if alone:
        return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-letter", extra=extra)
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-batch", extra=extra)


def bad_query(detail: str) -> ProblemError:
    """400 for a parameter that cannot be understood."""
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-query")


def clash(error: Clash) -> ProblemError:
    """422: what was published is not sent, for another letter has its ID."""
    detail = f"{error} This one is not sent; its report says so, too."
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, reason="duplicate-id")


def not_sent(found: StoredLetter) -> ProblemError:
    """422 with the relay's words, or ours where no relay decided."""
    doubt = any(recipient.uncertain for recipient in found.letter.recipients)
    head = "Nobody knows whether the letter was sent." if doubt else "The letter was not sent."
    detail = f"{head} {_words(found.letter)}".rstrip()
    extra = {"letter": letter_view(found)}
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, reason="refused", extra=extra)


def _words(letter: Letter) -> str:
    """Why a letter is an `error`: what was said of the first recipient where no reason stands for all."""
    if letter.reason:
        return letter.reason
    for recipient in letter.recipients:
        if (result := recipient.result) is not None:
            said = (str(result.code or ""), result.enhanced or "", result.text)
            return f"{recipient.address}: {' '.join(each for each in said if each)}"
    return ""


def located(fault: Fault, *, alone: bool) -> FaultView:
    """A fault with its place in the body, which is a letter that comes `alone`, or an array of them."""
    return FaultView.model_construct(
        index=fault.index,
        field=fault.field,
        pointer=pointer(None if alone else fault.index, fault.field),
        text=fault.text,
    )


def pointer(index: int | None, field: str) -> str:
    """Where a fault is, as a JSON Pointer in a URI fragment (RFC 6901 §6).

    `index` is None where the letter is no part of an array. A place inside of an array or an object, such as
    ``Attachments[3].Name``, is a step of its own.
    """
    steps = [] if index is None else [str(index)]
    if inner := _INNER.fullmatch(field):
        steps += [step for step in inner.groups() if step is not None]
    elif field:
        steps.append(field)
    return "#" + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
