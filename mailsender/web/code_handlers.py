"""The endpoints of confirmation codes. No answer, and no error, repeats a code."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from mailsender.codes.desk import Guess, NoCodes, TooOften, Wanted
from mailsender.model.address import Address, BadAddress, parse_address
from mailsender.observe.safejson import to_json
from mailsender.web.code_models import CodeIn, CodeView, GuessIn, VerdictView
from mailsender.web.endpoints.endpoint import JSON
from mailsender.web.operations import Operations
from mailsender.web.problems import ProblemError

MAX_REQUEST: Final = 64 * 1024
"""Bytes of the largest request for a code: a letter of a password has few variables."""

_WORD: Final = re.compile("[A-Za-z]{1,40}")
"""A key that can be repeated: no code is one."""

_MUST_BE: Final = {"string_type": "a string", "bool_type": "true or false", "dict_type": "an object"}

Model = TypeVar("Model", bound=BaseModel)


class CodeHandlers:
    """One method an endpoint; `take` reads a body within the limits that all bodies have."""

    def __init__(self, operations: Operations, take: Callable[[web.Request], Awaitable[bytes]]) -> None:
        self._operations = operations
        self._take = take

    async def make_code(self, request: web.Request) -> web.Response:
        """Make a code and send it."""
        asked = _read(CodeIn, await self._take(request))
        wanted = Wanted(
            address=_address(asked.Address),
            purpose=asked.Purpose,
            template=asked.Template,
            variables=asked.Variables,
            lang=asked.Lang,
            caller=f"named {asked.Caller}" if asked.Caller else f"at {request.remote}",
            key=asked.IdempotencyKey,
            known=asked.Known,
            token=asked.Token,
        )
        try:
            made = await self._operations.make_code(wanted)
        except NoCodes:
            raise _none() from None
        except TooOften as error:
            raise _too_often(error) from None
        view = CodeView.model_construct(id=made.handle, until=made.until, letter=made.letter)
        return _json(view, status=HTTPStatus.ACCEPTED)

    async def check_code(self, request: web.Request) -> web.Response:
        """What a code is that somebody gives."""
        given = _read(GuessIn, await self._take(request))
        guess = Guess(
            handle=given.ID, address=_address(given.Address), purpose=given.Purpose, code=given.Code
        )
        try:
            verdict = await self._operations.check_code(guess)
        except NoCodes:
            raise _none() from None
        return _json(VerdictView.model_construct(result=verdict.value))


def _read(model: type[Model], body: bytes) -> Model:
    """The request in a body of JSON. What is wrong is told by its key, without its value."""
    if len(body) > MAX_REQUEST:
        detail = f"A request for a code has {MAX_REQUEST} bytes at most."
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="too-large")
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise _bad("The body is no JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise _bad("The body is no JSON object.")
    names = {name.casefold(): name for name in model.model_fields}
    try:
        return model.model_validate({names.get(key.casefold(), key): each for key, each in found.items()})
    except ValidationError as error:
        raise _bad("; ".join(_fault(detail) for detail in error.errors()[:5])) from None


def _fault(detail: Any) -> str:
    kind, name = detail["type"], str(detail["loc"][0])
    if kind == "extra_forbidden":
        return f"{name if _WORD.fullmatch(name) else 'a key'} is none of the keys that are known"
    if kind == "missing":
        return f"{name} is missing"
    if kind in _MUST_BE:
        return f"{name}: must be {_MUST_BE[kind]}"
    return f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except BadAddress as error:
        raise _bad(f"Address is not an address that mail can be sent to: {error}") from None


def _bad(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-code-request")


def _none() -> ProblemError:
    detail = "This service makes no codes: CODE_SECRET is not set."
    return ProblemError(HTTPStatus.NOT_FOUND, detail, reason="no-codes")


def _too_often(error: TooOften) -> ProblemError:
    whose = "for this address" if error.limit == "address" else "by this caller"
    detail = f"Too many codes were asked for {whose}; see `Retry-After`."
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, reason="too-often", headers=headers)


def _json(view: BaseModel, *, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(status=status, text=to_json(view.model_dump(), indent=True) + "\n", content_type=JSON)
