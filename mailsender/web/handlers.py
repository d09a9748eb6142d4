"""The endpoints. Each asks `Operations` and puts the answer into HTTP; `middleware` sees to errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import HttpVersion11, web

from mailsender import __version__
from mailsender.blobs.receive import TooLong
from mailsender.model.letter import Status
from mailsender.observe.safejson import to_json
from mailsender.web import query
from mailsender.web.code_handlers import CodeHandlers
from mailsender.web.endpoints.codes import CODES
from mailsender.web.endpoints.endpoint import JSON
from mailsender.web.endpoints.letters import LETTERS
from mailsender.web.endpoints.lint import LINT
from mailsender.web.endpoints.service import SERVICE, STOPPING
from mailsender.web.endpoints.templates import TEMPLATES
from mailsender.web.letter_form import BadForm, boundary_of, read_form
from mailsender.web.letter_view import letter_view
from mailsender.web.lint_handlers import LintHandlers
from mailsender.web.models import LiftedOrderView, PostedView, ReloadedView, SubmittedView
from mailsender.web.operations import BadConfig, NoConfig, NoOrder, Operations, Submission
from mailsender.web.problems import SAMPLE, ProblemError, not_sent
from mailsender.web.template_handlers import TemplateHandlers

T = TypeVar("T")

MAX_POSTS: Final = 16
"""Bodies in memory at once; further posts wait for their turn unread, within the request's time."""

MAX_DRY_RUNS: Final = 4
"""Dry runs at once, each with its body. They may wait for files and templates, and no post waits for them."""

READ_SHARE: Final = 1 / 3
"""The part of a request's time that its body may take to arrive; the rest belongs to Kafka."""

_ID = re.compile(r"[0-9a-f]{24}")
_UNKNOWN: Final = "The queue has no letter with this ID: it never had, has it not yet, or has forgotten it."


class Handlers:
    """One method an endpoint. Times are in seconds.

    A body has `read_timeout` to arrive; `longest_wait` after a request came it is answered, although nobody
    knows yet what became of its letter. At most `most_waiting` callers wait for that at once.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        max_bytes: int,
        read_timeout: float,
        longest_wait: float = 0.0,
        most_waiting: int = 0,
    ) -> None:
        self._operations = operations
        self._max_bytes = max_bytes
        self._read_timeout = read_timeout
        self._longest_wait = longest_wait
        self._waits = asyncio.Semaphore(most_waiting)
        self._posts = asyncio.Semaphore(MAX_POSTS)
        self._dry_runs = asyncio.Semaphore(MAX_DRY_RUNS)

    def routes(self) -> list[web.RouteDef]:
        """Every path with its method; GET answers HEAD, too."""
        adders = {"GET": web.get, "POST": web.post, "PUT": web.put, "DELETE": web.delete}
        linting = LintHandlers(self._operations, self.body)
        of_codes = CodeHandlers(self._operations, self.body)
        of_templates = TemplateHandlers(self._operations, self.body)
        own = SERVICE + LETTERS + STOPPING
        parts = ((own, self), (LINT, linting), (CODES, of_codes), (TEMPLATES, of_templates))
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
        letter = await self._operations.letter(_letter_id(request))
        if letter is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, _UNKNOWN)
        # Of a recipient that nothing happened to yet there is nothing but the address.
        return _json(letter_view(letter).model_dump(exclude_unset=True))

    async def explain(self, request: web.Request) -> web.Response:
        """Which way a letter takes, and what stands in it now."""
        found = await self._operations.explain(_letter_id(request))
        if found is None:
            raise ProblemError(HTTPStatus.NOT_FOUND, _UNKNOWN)
        return _json(found.model_dump())

    async def post(self, request: web.Request) -> web.Response:
        """Publish a batch. The Content-Type is ignored, as the original did."""
        dry = query.dry_run(request)
        if not dry:
            self._operations.accepting()
        _uncompressed(request)
        key = query.record_key(request)
        self._check_announced(request)
        if dry:
            async with self._dry_runs:
                body = await self.body(request)
                return _json((await self._operations.dry_run(body)).model_dump())
        async with self._posts:
            body = await self._arriving(request, request.read)
            posted = await self._operations.post(body, key)
        view = PostedView.model_construct(
            topic=posted.topic, partition=posted.partition, offset=posted.offset, ids=list(posted.ids)
        )
        return _json(view.model_dump())

    async def submit(self, request: web.Request) -> web.Response:
        """Publish one letter, and say what became of it where the caller waits for that."""
        ends = asyncio.get_running_loop().time() + self._longest_wait
        dry, wait = query.dry_run(request), query.wait(request)
        if not dry:
            self._operations.accepting()
        _uncompressed(request)
        key, own_key = query.record_key(request), query.idempotency_key(request)
        self._check_announced(request)
        if dry:
            async with self._dry_runs:
                async with self._posts:
                    given = await self._submission(request, own_key)
                return _json((await self._operations.dry_run(given)).model_dump())
        async with self._posts:
            given = await self._submission(request, own_key)
            submitted = await self._operations.submit(given, key)
            del given  # while it waits it holds nothing of the body
        found = None
        if wait and not self._waits.locked():
            async with self._waits:
                seconds = min(wait, ends - asyncio.get_running_loop().time())
                found = await self._operations.outcome(submitted, seconds, lambda: _gone(request))
        if found is not None and found.letter.status is Status.ERROR:
            raise not_sent(found)
        if found is not None:
            return _json(letter_view(found).model_dump(exclude_unset=True))
        view = SubmittedView.model_construct(
            id=submitted.id, topic=submitted.topic, partition=submitted.partition, offset=submitted.offset
        )
        # Relative to `/letters`, so that it is right behind a proxy that puts a path before ours, too.
        headers = {"Location": f"letters/{submitted.id}"}
        return _json(view.model_dump(), status=HTTPStatus.ACCEPTED, headers=headers)

    async def reload(self, request: web.Request) -> web.Response:
        """Read the file of relays and routes again."""
        try:
            found = await self._operations.reload(f"POST /reload from {request.remote}")
        except NoConfig as error:
            raise ProblemError(HTTPStatus.CONFLICT, f"{error}.", reason="no-config") from None
        except BadConfig as error:
            raise ProblemError(HTTPStatus.CONFLICT, f"{error}.", reason="bad-config") from None
        view = ReloadedView.model_construct(path=found.path, taken=list(found.taken), left=list(found.left))
        return _json(view.model_dump())

    async def lift_order(self, request: web.Request) -> web.Response:
        """End what a relay's reply ordered."""
        relay, scope = request.match_info["relay"], request.match_info["scope"]
        reason = query.reason(request)
        by = f"DELETE {request.path} from {request.remote}"
        try:
            found = await self._operations.lift_order(relay, scope, by=by, reason=reason)
        except NoOrder as error:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"{error}.", reason="no-order") from None
        view = LiftedOrderView.model_construct(
            relay=found.relay, scope=found.scope, rule=found.rule, said=found.said, until=found.until
        )
        return _json(view.model_dump())

    async def halt(self, _: web.Request) -> web.Response:
        """Start the drain, or say how far it is."""
        return _json(self._operations.begin_drain())

    async def _submission(self, request: web.Request, key: str) -> Submission:
        """A letter from a body of JSON, or from a form with files; of any other Content-Type it is JSON."""
        try:
            boundary = boundary_of(request.headers.get("Content-Type", ""))
            pieces = self._pieces(request)
            if boundary is None:
                return Submission(body=await self._arriving(request, lambda: _joined(pieces)), key=key)
            body, files = await self._arriving(
                request, lambda: read_form(boundary, pieces, self._operations.attach)
            )
        except BadForm as error:
            raise _bad_body(f"The body is no form with a letter: {error}.") from error
        except TooLong as error:
            detail = f"A file cannot go with a letter: {error} (BLOB_MAX_BYTES)."
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="too-large") from None
        return Submission(body=body, files=files, key=key)

    async def _pieces(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it arrives, under the limit; unlike `request.read` the request does not keep it."""
        size = 0
        while piece := await request.content.readany():
            size += len(piece)
            if size > self._max_bytes:
                raise web.HTTPRequestEntityTooLarge(self._max_bytes, size)
            yield piece

    async def body(self, request: web.Request) -> bytes:
        """The body of a request that needs it but for a moment."""
        _uncompressed(request)
        self._check_announced(request)
        async with self._posts:
            return await self._arriving(request, request.read)

    def _check_announced(self, request: web.Request) -> None:
        """Say that a body is too large before it waits for its turn."""
        announced = request.content_length or 0
        if announced > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes, announced)

    async def _arriving(self, request: web.Request, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` makes of the body; limits hold while it arrives, whether its length was announced."""
        try:
            async with asyncio.timeout(self._read_timeout) as scope:
                await _let_come(request)
                return await read()
        except TimeoutError:
            if not scope.expired():
                raise
            detail = f"The body did not arrive within {self._read_timeout:g} s."
            raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
        except web.RequestPayloadError as error:
            raise _bad_body("The body could not be read: its framing is broken.") from error


def _letter_id(request: web.Request) -> str:
    letter_id = request.match_info["id"].lower()
    if not _ID.fullmatch(letter_id):
        raise ProblemError(HTTPStatus.NOT_FOUND, "An ID has 24 hex digits; this one has not.")
    return letter_id


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


async def _joined(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


def _bad_body(detail: str) -> ProblemError:
    extra: dict[str, Any] = {"sample": list(SAMPLE)}
    return ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-body", extra=extra)


def _gone(request: web.Request) -> bool:
    """Whether nobody is there any more to be answered."""
    return request.transport is None or request.transport.is_closing()


def _uncompressed(request: web.Request) -> None:
    """Raises a 415 that says what is taken (RFC 9110 §15.5.16), where the body came packed."""
    codings = request.headers.getall("Content-Encoding", [])
    if any(each.strip().lower() not in {"", "identity"} for line in codings for each in line.split(",")):
        detail = "A body is taken as it is, not compressed; send it without Content-Encoding."
        headers = {"Accept-Encoding": "identity"}
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, reason="compressed", headers=headers)


def _json(
    body: Mapping[str, Any], *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> web.Response:
    text = to_json(body, indent=True) + "\n"
    return web.Response(status=status, text=text, content_type=JSON, headers=headers)
