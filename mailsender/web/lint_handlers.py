"""The endpoint that looks through letters and messages before they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mailsender.lint.run import NothingToSee
from mailsender.observe.safejson import to_json
from mailsender.web.endpoints.endpoint import JSON
from mailsender.web.operations import Operations
from mailsender.web.problems import ProblemError

AT_ONCE: Final = 4
"""Bodies in memory at once; the others wait unread, within the request's time."""


class LintHandlers:
    """One method an endpoint; `take` reads a body within the limits that all bodies have."""

    def __init__(self, operations: Operations, take: Callable[[web.Request], Awaitable[bytes]]) -> None:
        self._operations = operations
        self._take = take
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def lint(self, request: web.Request) -> web.Response:
        """What a mailbox provider would mind. The Content-Type is ignored: the body's first sign tells."""
        bulk = _bulk(request)
        async with self._turns:
            body = await self._take(request)
            try:
                found = await self._operations.lint(body, bulk)
            except NothingToSee as error:
                detail = f"It cannot be looked at: {error}."
                raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="no-letters") from None
        return web.Response(text=to_json(found.document(), indent=True) + "\n", content_type=JSON)


def _bulk(request: web.Request) -> bool | None:
    given = request.query.getall("bulk", [])
    if not given:
        return None
    if len(given) > 1 or given[0] not in {"true", "false"}:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, "`bulk` is true or false, or is left out.", reason="bad-query"
        )
    return given[0] == "true"
