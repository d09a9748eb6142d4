"""The suppression list over HTTP. Files come and go block by block: nobody holds the whole of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from mailsender.model.text import storable
from mailsender.suppression.csv_text import BadFile, head, row
from mailsender.suppression.port import Entry
from mailsender.suppression.rules import BadEntry
from mailsender.web.connections import went_on
from mailsender.web.endpoints.suppressions import CSV, LONGEST_STREAM, SUPPRESSIONS
from mailsender.web.handlers import _expected, _json, _let_come, _uncompressed
from mailsender.web.operations import Operations
from mailsender.web.problems import ProblemError, away, bad_query
from mailsender.web.suppression_models import (
    MOST,
    ImportedView,
    LiftedView,
    RowFaultView,
    SuppressedView,
    SuppressionIn,
    SuppressionsIn,
    SuppressionsView,
    SuppressionView,
)
from mailsender.web.suppression_operations import SuppressionOperations
from mailsender.web.template_handlers import _read

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of the largest file: a million addresses with a stream and a reason."""

MAX_FILES: Final = 2
"""Files that are read or written at once: each keeps MongoDB busy for as long as it takes."""

BLOCK: Final = 16 * 1024
"""Bytes of a file that are taken at once: some 500 rows, read in 15 ms, in which nothing else goes on."""

MAX_AFTER: Final = 400 + LONGEST_STREAM
"""Characters of an entry's key at most."""

NAMED: Final = 20
"""Entries that are looked through for what holds for an address which is not on the list itself."""

PAGE: Final = 100
"""Entries in an answer where nobody says how many."""


class SuppressionHandlers:
    """One method an endpoint; `take` reads a body of JSON. A file may pause for `stall` seconds."""

    def __init__(
        self, operations: Operations, take: Callable[[web.Request], Awaitable[bytes]], *, stall: float
    ) -> None:
        self._operations = operations
        self._take = take
        self._stall = stall
        self._files = 0

    def routes(self) -> list[web.RouteDef]:
        """Every path with its method; GET answers HEAD, too."""
        adders = {"GET": web.get, "POST": web.post, "DELETE": web.delete}
        return [
            adders[one.method](_pattern(one.path), getattr(self, one.name), expect_handler=_expected)
            for one in SUPPRESSIONS
        ]

    @property
    def _list(self) -> SuppressionOperations:
        return self._operations.suppressions

    async def suppressions(self, request: web.Request) -> web.Response:
        """A page of the list."""
        address, stream = _once(request, "address") or "", _stream(request)
        after, most = _once(request, "after") or "", _limit(request)
        if len(after) > MAX_AFTER:
            raise bad_query("`after` is the `next` of the page before.")
        try:
            found = await self._list.listed(address, stream, after=after, most=most)
        except BadEntry as error:
            raise bad_query(f"`address` is not one: {error}.") from None
        view = SuppressionsView.model_construct(
            suppressions=[_view(each) for each in found], next=found[-1].key if len(found) == most else None
        )
        return _json(view.model_dump())

    async def suppress(self, request: web.Request) -> web.Response:
        """Put entries on the list; all of them, or none where one is wrong."""
        asked = _read(SuppressionsIn, await self._take(request), of_one="bad-suppression").suppressions
        entries = [self._entry(number, each) for number, each in enumerate(asked)]
        new = await self._list.put(entries, by=_by(request))
        return _json(SuppressedView.model_construct(put=len(entries), new=new).model_dump())

    def _entry(self, number: int, asked: SuppressionIn) -> Entry:
        try:
            return self._list.entry(
                asked.address, stream=asked.stream, reason=asked.reason, until=asked.until or ""
            )
        except BadEntry as error:
            detail = f"suppressions.{number}.{error}; nothing was put on the list"
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-suppression") from None

    async def lift(self, request: web.Request) -> web.Response:
        """Take an address off the list."""
        address, stream = request.match_info["address"], _stream(request)
        try:
            removed = await self._list.remove(address, stream, by=_by(request))
        except BadEntry as error:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"Nothing like it is on the list: {error}.") from None
        if not removed:
            raise await self._not_there(address, stream)
        return _json(LiftedView.model_construct(removed=removed).model_dump())

    async def _not_there(self, address: str, stream: str | None) -> ProblemError:
        """404, which says what holds for the address all the same."""
        holding = [
            f"{each.address} ({each.stream})" if each.stream else each.address
            for each in await self._list.listed(address, None, after="", most=NAMED)
            if stream is None or each.stream in {"", stream}
        ]
        if not holding:
            return ProblemError(HTTPStatus.NOT_FOUND, "It is not on the list.")
        are = "is, which holds" if len(holding) == 1 else "are, which hold"
        detail = f"No such entry is on the list, but {', '.join(holding)} {are} for it."
        return ProblemError(HTTPStatus.NOT_FOUND, detail, reason="still-suppressed")

    async def import_suppressions(self, request: web.Request) -> web.Response:
        """Put the entries of a file on the list."""
        _uncompressed(request)
        if (request.content_length or 0) > MAX_FILE:
            raise _too_large()
        with self._a_file():
            try:
                return await self._imported(request)
            except BadFile as error:
                detail = f"{error}; nothing was put on the list"
                raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-suppression") from None

    async def _imported(self, request: web.Request) -> web.Response:
        reader, by = self._list.reader(), _by(request)
        waiting: list[Entry] = []
        put = new = size = 0
        last = False
        await _let_come(request)
        while not last:
            block = await self._block(request)
            size += len(block)
            last = not block and request.content.at_eof()
            if size > MAX_FILE:
                raise _too_large()
            for entry in reader.feed(block, last=last):
                waiting.append(entry)
                if len(waiting) == MOST:
                    new += await self._list.put(waiting, by=by)
                    put += len(waiting)
                    waiting = []
        if waiting:
            new += await self._list.put(waiting, by=by)
            put += len(waiting)
        faults = [RowFaultView.model_construct(row=each.row, text=each.text) for each in reader.faults]
        view = ImportedView.model_construct(
            rows=reader.rows, put=put, new=new, wrong=reader.wrong, faults=faults
        )
        return _json(view.model_dump())

    async def _block(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._stall):
                return await request.content.read(BLOCK)
        except TimeoutError:
            detail = f"The body did not go on within {self._stall:g} s."
            raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
        except web.RequestPayloadError as error:
            detail = "The body could not be read: its framing is broken."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-body") from error

    async def export_suppressions(self, request: web.Request) -> web.StreamResponse:
        """The list as a file, page by page."""
        stream = _stream(request)
        with self._a_file():
            found = await self._list.listed("", stream, after="", most=MOST)
            response = web.StreamResponse(headers={"Content-Type": f"{CSV}; charset=utf-8"})
            response.headers["Content-Disposition"] = 'attachment; filename="suppressions.csv"'
            await response.prepare(request)
            if request.method != "HEAD":
                await self._write(request, response, stream, found)
            await response.write_eof()
            return response

    async def _write(
        self, request: web.Request, response: web.StreamResponse, stream: str | None, found: list[Entry]
    ) -> None:
        try:
            await response.write(head().encode())
            while found:
                await response.write("".join(map(row, found)).encode("utf-8", "replace"))
                went_on(request)
                found = await self._list.listed("", stream, after=found[-1].key, most=MOST)
        except BaseException:
            # What was written cannot be taken back: the caller has to see that the file is not whole.
            if request.transport is not None:
                request.transport.abort()
            raise

    @contextmanager
    def _a_file(self) -> Iterator[None]:
        """Hold one of the places for files."""
        if self._files >= MAX_FILES:
            detail = f"{MAX_FILES} files are under way already; nothing of this one was done."
            raise away(detail, reason="busy", retry_after=1)
        self._files += 1
        try:
            yield
        finally:
            self._files -= 1


def _pattern(path: str) -> str:
    """An endpoint's path as aiohttp takes it; no address is called as another path's last part is."""
    words = "|".join(one.path.rpartition("/")[2] for one in SUPPRESSIONS if "{" not in one.path)
    return path.replace("{address}", f"{{address:(?!(?:{words})$)[^/]+}}")


def _by(request: web.Request) -> str:
    """Who asks for a change, for the log: without the path, in which an address may stand."""
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else ''} from {request.remote}"


def _view(entry: Entry) -> SuppressionView:
    fields: dict[str, Any] = {name: getattr(entry, name) for name in SuppressionView.model_fields}
    return SuppressionView.model_construct(**fields | {"source": entry.source.value})


def _too_large() -> ProblemError:
    detail = f"The file is over {MAX_FILE} bytes; send it in parts. Rows that came before may be on the list."
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="too-large")


def _once(request: web.Request, name: str) -> str | None:
    values = request.query.getall(name, [])
    if len(values) > 1 or not all(map(storable, values)):
        raise bad_query(f"`{name}` stands once, in UTF-8.")
    return values[0] if values else None


def _stream(request: web.Request) -> str | None:
    stream = _once(request, "stream")
    if stream is not None and len(stream) > LONGEST_STREAM:
        raise bad_query(f"`stream` has {LONGEST_STREAM} characters at most.")
    return stream


def _limit(request: web.Request) -> int:
    text = _once(request, "limit")
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MOST):
        raise bad_query(f"`limit` is a number from 1 to {MOST}.")
    return int(text)
