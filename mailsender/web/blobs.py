"""Blobs over HTTP: a content comes in as it is, block by block, and is looked for by its hash."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from aiohttp import web

from mailsender.blobs.port import Damaged, Overtaken
from mailsender.blobs.receive import TooLong, WrongContent, WrongOffset
from mailsender.model.blobs import Blob, is_ref
from mailsender.web.endpoints.blobs import BLOBS, UPLOAD_OFFSET
from mailsender.web.handlers import _expected, _json, _let_come, _uncompressed
from mailsender.web.models import BlobView
from mailsender.web.operations import Blobs, Operations
from mailsender.web.problems import ProblemError, away

MAX_UPLOADS: Final = 16
"""Uploads at once: each holds a chunk and what was read ahead, half a megabyte."""

_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.ASCII)


class BlobHandlers:
    """One method an endpoint; `stall` is for how many seconds a body may not go on."""

    def __init__(self, operations: Operations, *, max_bytes: int, stall: float) -> None:
        self._operations = operations
        self._max_bytes = max_bytes
        self._stall = stall
        self._uploads = 0

    def routes(self) -> list[web.RouteDef]:
        """Every path with its method; GET answers HEAD, too."""
        adders = {"GET": web.get, "PUT": web.put}
        return [
            adders[one.method](one.path, getattr(self, one.name), expect_handler=_expected) for one in BLOBS
        ]

    async def put_blob(self, request: web.Request) -> web.Response:
        """Store a content."""
        if "Content-Range" in request.headers:  # RFC 9110 §14.5: never take a part for the whole
            detail = "A part of a content goes to the path with its hash."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-range")
        return await self._put(request, "", 0)

    async def resume_blob(self, request: web.Request) -> web.Response:
        """Store a content whose hash is known, or go on with it."""
        ref, offset = _ref(request), _offset(request)
        found = await self._blobs.keep(ref)
        return await self._put(request, ref, offset) if found is None else _view(found)

    async def blob(self, request: web.Request) -> web.Response:
        """Whether a content is there, and until when."""
        ref = _ref(request)
        found = await self._blobs.find(ref)
        if found is not None:
            return _view(found)
        there = await self._blobs.resumable(ref)
        detail = "There is no such content: it was never put, not all of it, or it is kept no longer."
        raise ProblemError(HTTPStatus.NOT_FOUND, detail, headers={UPLOAD_OFFSET: str(there)})

    @property
    def _blobs(self) -> Blobs:
        return self._operations.blobs

    async def _put(self, request: web.Request, ref: str, offset: int) -> web.Response:
        _uncompressed(request)
        if offset + (request.content_length or 0) > self._max_bytes:  # said before any of it is taken
            raise self._too_large()
        if self._uploads >= MAX_UPLOADS:
            raise away(f"{MAX_UPLOADS} uploads are under way already.", reason="busy", retry_after=1)
        self._uploads += 1
        try:
            return _view(await self._blobs.put(self._body(request), ref, offset))
        except TooLong:
            raise self._too_large() from None
        except WrongContent as error:
            detail = f"The content is not the one that was announced: {error}."
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, reason="wrong-content") from None
        except WrongOffset as error:
            headers = {UPLOAD_OFFSET: str(error.size)}
            detail = f"The content cannot go on there: {error}."
            raise ProblemError(HTTPStatus.CONFLICT, detail, reason="wrong-offset", headers=headers) from None
        except (Overtaken, Damaged):
            headers = {UPLOAD_OFFSET: str(await self._blobs.resumable(ref))}
            detail = "Somebody else goes on with this upload, or it took too long; ask what is there."
            raise ProblemError(HTTPStatus.CONFLICT, detail, reason="overtaken", headers=headers) from None
        finally:
            self._uploads -= 1

    def _too_large(self) -> ProblemError:
        detail = f"The content is over {self._max_bytes} bytes (BLOB_MAX_BYTES)."
        return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, reason="too-large")

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body as it comes; each block has its own time."""
        await _let_come(request)
        try:
            while not request.content.at_eof():
                async with asyncio.timeout(self._stall):
                    block = await request.content.readany()
                if block:
                    yield block
        except TimeoutError:
            detail = f"The body did not go on within {self._stall:g} s."
            raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers={"Connection": "close"}) from None
        except web.RequestPayloadError as error:
            detail = "The body could not be read: its framing is broken."
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-body") from error


def _ref(request: web.Request) -> str:
    ref = request.match_info["ref"]
    if not is_ref(ref):
        detail = "A content's name is sha256: and 64 hex digits in lower case; this one is not."
        if request.method == "PUT":
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-ref")
        raise ProblemError(HTTPStatus.NOT_FOUND, detail, headers={UPLOAD_OFFSET: "0"})
    return ref


def _offset(request: web.Request) -> int:
    """Where the body goes on; it has to bring all that is left."""
    header = request.headers.get("Content-Range")
    if header is None:
        return 0
    found = _RANGE.fullmatch(header)
    first, last, size = map(int, found.groups()) if found else (0, 0, 0)
    length = request.content_length
    if first + (last - first + 1) != size or last < first or length not in {None, last - first + 1}:
        detail = "Content-Range reads `bytes FIRST-LAST/SIZE`, with all that is left of the content."
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason="bad-range")
    return first


def _view(blob: Blob) -> web.Response:
    view = BlobView.model_construct(ref=blob.ref, bytes=blob.size, kept_until=blob.kept_until)
    return _json(view.model_dump())
