"""What happens around every handler: errors become answers, callers show their key, work is bounded."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mailsender.model.errors import TooLarge, Unavailable
from mailsender.web.endpoints.endpoint import NOTHING
from mailsender.web.endpoints.service import SERVICE
from mailsender.web.endpoints.table import is_cheap, is_public, left_behind, moves_file
from mailsender.web.operations import BadBatch, Clash, Refused
from mailsender.web.origins import cross_site, foreign
from mailsender.web.problems import ProblemError, away, bad_batch, clash, refused

log = structlog.get_logger()

PROBES: Final = frozenset(endpoint.path for endpoint in SERVICE if endpoint.public)
"""Asked by an orchestrator at the pod's address, without a key; they tell nothing."""

MAX_IN_FLIGHT: Final = 256
"""Requests under way at once; the next is refused, which is cheaper for all than to queue it."""

MAX_FILES: Final = 32
"""Requests under way at once for what needs no key: some browsers, each of which asks for four files."""

UPLOAD_TIME: Final = 600.0
"""Seconds that a file may take: 25 MB at 350 kbit/s. What comes more slowly is resumed."""

RETRY_AWAY: Final = 5.0
"""Seconds after which to try again when a part of the outside world is away."""


def problems() -> Middleware:
    """Turn every error into problem details; what nobody expected goes to the log under an id."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception as error:  # the last resort: the caller gets an id, the log the rest
            if isinstance(error, ConnectionError) and _hung_up(request):
                raise  # aiohttp ends the connection: there is nobody to answer
            # In no variable: an error whose traceback leads to this frame would be held by it, and with it
            # the body, until the collector comes, which is seldom.
            answer = (_expected(request, error) or _unexpected(request, error)).response()
            if isinstance(error, web.HTTPException):
                error.__traceback__ = None  # aiohttp's route keeps it, and the request the route
            return answer

    return middleware


def _hung_up(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _expected(request: web.Request, error: Exception) -> ProblemError | None:
    """The answer to an error that has one."""
    match error:
        case ProblemError():
            problem = error
        case web.HTTPException():
            problem = _of_aiohttp(request, error)
        case BadBatch():
            problem = bad_batch(error)
        case Clash():
            problem = clash(error)
        case Refused():
            problem = refused(error)
        case TooLarge():
            detail = "The broker does not take a record of this size; post less at once."
            problem = ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="too-large")
        case Unavailable():
            problem = away(str(error), reason="unavailable", retry_after=RETRY_AWAY)
        case _:
            return None
    return problem


def _unexpected(request: web.Request, error: Exception) -> ProblemError:
    incident = uuid4()
    log.error(
        "http_request_failed",
        incident=str(incident),
        method=request.method,
        # Not the path: it may hold what a caller typed.
        route=_route(request),
        action="answered 500 with this incident's id; other requests go on",
        exc_info=error,
    )
    return ProblemError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        f"Something failed that should not. The service's log explains it under the id {incident}.",
        reason="unexpected",
        extra={"id": str(incident), "instance": f"urn:uuid:{incident}"},
    )


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "unknown"


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> ProblemError:
    """What aiohttp refuses by itself: unknown path, wrong method, a body over the limit."""
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    details = {
        404: "There is nothing at this path.",
        405: f"{request.method} is not possible here; what is: {headers.get('Allow', 'nothing')}.",
        413: f"The body is over {request.client_max_size} bytes; post less at once.",
    }
    detail = details.get(error.status, error.reason or "")
    reason = "too-large" if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else ""
    return ProblemError(error.status, detail, reason=reason, headers=headers)


def authenticate(api_key: str) -> Middleware:
    """Let through who sends `api_key` as `X-API-KEY`; everybody when it is empty, or to what is public."""
    expected = api_key.encode("utf-8", "surrogateescape")

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if expected and not is_public(request.path):
            given = request.headers.get("X-API-KEY", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, expected):
                raise ProblemError(
                    HTTPStatus.UNAUTHORIZED,
                    "The X-API-KEY header is missing or wrong.",
                    reason="unauthorized",
                    # RFC 9110 §11.6.1: a 401 names a challenge.
                    headers={"WWW-Authenticate": 'ApiKey realm="mailsender", header="X-API-KEY"'},
                )
        return await handler(request)

    return middleware


def guard(allowed_hosts: Sequence[str]) -> Middleware:
    """Refuse what a page in somebody's browser sends; for where no key is asked for, see `origins`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_public(request.path) and foreign(request.headers.get("Host", ""), allowed_hosts):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                "The name in the Host header may be anybody's. Name it in HTTP_ALLOWED_HOSTS if it is yours,"
                " or set HTTP_API_KEY.",
                reason="foreign-host",
            )
        if request.method in {"POST", "PUT", "DELETE"} and cross_site(request.headers):
            detail = "A page of another site sends this; without HTTP_API_KEY that is refused."
            raise ProblemError(HTTPStatus.FORBIDDEN, detail, reason="cross-site")
        return await handler(request)

    return middleware


def bound(timeout: float, most: int) -> Middleware:
    """At most `most` requests at once, and `MAX_IN_FLIGHT`, each for at most `timeout` seconds.

    A file may take longer. Those for what needs no key, a page's files, are counted apart: a
    stranger who does not read his answers takes nobody's place but other strangers'.
    """
    most = min(most, MAX_IN_FLIGHT)
    in_flight, mosts = {True: 0, False: 0}, {True: min(most, MAX_FILES), False: most}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        public = is_public(request.path)
        if in_flight[public] >= mosts[public] and not is_cheap(request.path):
            detail = f"{mosts[public]} requests are under way already; nothing of this one was done."
            raise away(detail, reason="busy", retry_after=1)
        in_flight[public] += 1
        time = UPLOAD_TIME if moves_file(request.method, request.rel_url.raw_path) else timeout
        try:
            async with asyncio.timeout(time) as scope:
                return await handler(request)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ProblemError(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"No answer within {time:g} s. {_left_behind(request)}",
                reason="timeout",
            ) from None
        finally:
            in_flight[public] -= 1

    return middleware


def _left_behind(request: web.Request) -> str:
    """What a request may have done that was not answered in time."""
    only_looks = "true" in {request.query.get("check"), request.query.get("dry_run")}
    # As the router looks at it: a `/` may stand, encoded, in an address.
    return NOTHING if only_looks else left_behind(request.method, request.rel_url.raw_path)
