"""The endpoints. Each asks `Operations` and puts the answer into HTTP; `middleware` sees to errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import HttpVersion11, web

from mailsender import __version__
from mailsender.observe.safejson import to_json
from mailsender.web.code_handlers import CodeHandlers
from mailsender.web.endpoints import CODES, JSON, LINT, SERVICE
from mailsender.web.letter_view import letter_view
from mailsender.web.lint_handlers import LintHandlers
from mailsender.web.models import PostedView
from mailsender.web.operations import Operations
from mailsender.web.problems import SAMPLE, ProblemError

MAX_POSTS: Final = 16
"""Bodies in memory at once; further posts wait for their turn unread, within the request's time."""

MAX_KEY: Final = 1024
"""Bytes of the key that a caller may choose: a name of something, such as a user's."""

READ_SHARE: Final = 1 / 3
"""The part of a request's time that its body may take to arrive; the rest belongs to Kafka."""

_ID = re.compile(r"[0-9a-f]{24}")


class Handlers:
    """One method an endpoint."""

    def __init__(self, operations: Operations, *, max_bytes: int, read_timeout: float) -> None:
        self._operations = operations
        self._max_bytes = max_bytes
        self._read_timeout = read_timeout
        self._posts = asyncio.Semaphore(MAX_POSTS)

    def routes(self) -> list[web.RouteDef]:
        """Every path with its method; GET answers HEAD, too."""
        adders = {"GET": web.get, "POST": web.post}
        linting = LintHandlers(self._operations, self._body)
        of_codes = CodeHandlers(self._operations, self._body)
        parts = ((SERVICE, self), (LINT, linting), (CODES, of_codes))
        return [
            adders[one.method](one.path, getattr(part, one.name), expect_handler=_expected)
            for endpoints, part in parts
            for one in endpoints
        ]

    async def greet(self, _: web.Request) -> web.Response:
        """Name, version and state in one line."""
        return web.Response(text=f"mailsender {__version__}: {self._operations.state}\n")

    async def healthz(self, _: web.Request) -> web.Response:
        """Alive: this answer is the proof, since everything runs on the same loop."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether the service does its work. Why not is for /status, which wants the key."""
        ready, _reasons = self._operations.ready()
        if ready:
            return web.Response(text="ok\n")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="not ready\n")

    async def status(self, _: web.Request) -> web.Response:
        """What the service is doing, in numbers."""
        ready, reasons = self._operations.ready()
        head = {
            "version": __version__,
            "state": self._operations.state,
            "ready": ready,
            "not_ready_because": reasons,
        }
        return _json(head | dict(await self._operations.status()))

    async def metrics(self, request: web.Request) -> web.Response:
        """All metrics, for a scraper."""
        accept = ",".join(request.headers.getall("Accept", []))
        text, content_type = self._operations.metrics(accept)
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def letter(self, request: web.Request) -> web.Response:
        """What became of one letter."""
        letter_id = request.match_info["id"].lower()
        if not _ID.fullmatch(letter_id):
            raise ProblemError(HTTPStatus.NOT_FOUND, "An ID has 24 hex digits; this one has not.")
        letter = await self._operations.letter(letter_id)
        if letter is None:
            detail = "The queue has no letter with this ID: it never had, or it has forgotten it."
            raise ProblemError(HTTPStatus.NOT_FOUND, detail)
        # Of a recipient that nothing happened to yet there is nothing but the address.
        return _json(letter_view(letter).model_dump(exclude_unset=True))

    async def post(self, request: web.Request) -> web.Response:
        """Publish a batch. The Content-Type is ignored, as the original did."""
        self._operations.accepting()
        _uncompressed(request)
        key = _key(request)
        self._check_announced(request)
        async with self._posts:
            posted = await self._operations.post(await self._read(request), key)
        view = PostedView.model_construct(
            topic=posted.topic, partition=posted.partition, offset=posted.offset, ids=list(posted.ids)
        )
        return _json(view.model_dump())

    async def halt(self, _: web.Request) -> web.Response:
        """Start the drain, or say how far it is."""
        return _json(self._operations.begin_drain())

    async def _body(self, request: web.Request) -> bytes:
        """The body of a request that needs it but for a moment."""
        _uncompressed(request)
        self._check_announced(request)
        async with self._posts:
            return await self._read(request)

    def _check_announced(self, request: web.Request) -> None:
        """Say that a body is too large before it waits for its turn."""
        announced = request.content_length or 0
        if announced > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes, announced)

    async def _read(self, request: web.Request) -> bytes:
        """The body; the limit holds while it arrives, whether or not its length was announced."""
        try:
            async with asyncio.timeout(self._read_timeout) as scope:
                await _let_come(request)
                return await request.read()
        except TimeoutError:
            if not scope.expired():
                raise
            detail = f"The body did not arrive within {self._read_timeout:g} s."
            raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
        except web.RequestPayloadError as error:
            detail = "The body could not be read: its framing is broken."
            extra: dict[str, Any] = {"sample": list(SAMPLE)}
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-body", extra=extra) from error


async def _expected(request: web.Request) -> web.Response | None:
    """A 417 for an expectation that nobody knows; whose body shall come is decided after who asks, and what.

    Without this aiohttp tells everybody to go on: those without a key, and with a body over the limit, too.
    """
    if _waits(request) or request.version < HttpVersion11:
        return None
    detail = "The only Expect that is known here is 100-continue."
    return ProblemError(HTTPStatus.EXPECTATION_FAILED, detail, reason="expectation").response()


def _waits(request: web.Request) -> bool:
    """Whether the body comes only when it is asked for (RFC 9110 §10.1.1)."""
    expect = request.headers.get("Expect", "").strip().lower()
    return expect == "100-continue" and request.version >= HttpVersion11


async def _let_come(request: web.Request) -> None:
    """Ask for the body, where its sender waits for that."""
    writer = request.writer
    if _waits(request):
        await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.output_size = 0  # the answer has not begun: aiohttp looks at this when it fails


def _uncompressed(request: web.Request) -> None:
    """Raises a 415 that says what is taken (RFC 9110 §15.5.16), where the body came packed."""
    codings = request.headers.getall("Content-Encoding", [])
    if any(each.strip().lower() not in {"", "identity"} for line in codings for each in line.split(",")):
        detail = "A body is taken as it is, not compressed; send it without Content-Encoding."
        headers = {"Accept-Encoding": "identity"}
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, reason="compressed", headers=headers)


def _key(request: web.Request) -> str:
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


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(text=to_json(body, indent=True) + "\n", content_type=JSON)
