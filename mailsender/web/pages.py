"""The description of the HTTP side, as a document and as a page."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib import resources
from typing import Final

from aiohttp import web

from mailsender.web import openapi
from mailsender.web.connections import reset
from mailsender.web.endpoints.endpoint import JSON
from mailsender.web.endpoints.pages import FILES, PAGES

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: nothing from other hosts, no script that is not a file of ours."""

HOUR: Final = "public, max-age=3600"
"""How long browsers keep the page's parts, which change with releases only."""


PIECE: Final = 64 * 1024
"""Bytes of a file that are written at once."""


class Pages:
    """One method an endpoint. They need no key: what they show is the same for every deployment."""

    def routes(self) -> list[web.RouteDef]:
        """Every path with its method."""
        return [web.get(endpoint.path, getattr(self, endpoint.name)) for endpoint in PAGES]

    async def openapi(self, _: web.Request) -> web.Response:
        """The document."""
        return web.Response(text=openapi.text(), content_type=JSON)

    async def page(self, _: web.Request) -> web.Response:
        """The page, whose script fetches the document."""
        headers = {"Content-Security-Policy": POLICY}
        return web.Response(
            body=_content("index.html"), content_type="text/html", charset="utf-8", headers=headers
        )

    async def file(self, request: web.Request) -> web.StreamResponse:
        """A part of the page, written piece by piece: of one that nobody reads little is held."""
        name = request.match_info["file"]
        media = FILES.get(name)
        if media is None:
            raise web.HTTPNotFound
        charset = "utf-8" if media.startswith("text/") else None
        headers = {"Cache-Control": HOUR}
        content = _content(name)
        response = web.StreamResponse(headers=headers)
        response.content_type, response.charset, response.content_length = media, charset, len(content)
        await response.prepare(request)
        try:
            for start in range(0, 0 if request.method == "HEAD" else len(content), PIECE):
                await response.write(content[start : start + PIECE])
                # While a socket takes what comes no write waits: a hundred callers' would hold up all else.
                await asyncio.sleep(0)
        except asyncio.CancelledError:  # its time is over, and no other answer can follow on this connection
            if request.transport is not None:
                reset(request.transport)
            raise
        await response.write_eof()
        return response


@cache
def _content(name: str) -> bytes:
    return (resources.files("mailsender.web") / "swagger-ui" / name).read_bytes()
