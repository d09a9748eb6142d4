"""The endpoints of templates. Each asks `TemplateOperations` and puts the answer into HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from mailsender.model.errors import Rejected
from mailsender.observe.safejson import to_json
from mailsender.web.endpoints.endpoint import JSON
from mailsender.web.operations import Operations
from mailsender.web.problems import MAX_FAULTS, ProblemError, bad_query
from mailsender.web.template_models import PreviewIn, TemplateFaultView, TemplateIn
from mailsender.web.template_operations import BadTemplate, InFolder

Model = TypeVar("Model", bound=BaseModel)

PAGE_POLICY: Final = (
    "sandbox; default-src 'none'; img-src https: data:; font-src https: data:; style-src 'unsafe-inline'"
)
"""A letter's pictures and styles, and nothing that runs: what it says came from others."""


class TemplateHandlers:
    """One method an endpoint; `take` reads a body within the limits that all bodies have."""

    def __init__(self, operations: Operations, take: Callable[[web.Request], Awaitable[bytes]]) -> None:
        self._operations = operations
        self._take = take

    async def templates(self, _: web.Request) -> web.Response:
        """All templates, without what is in them."""
        found = [
            {
                "name": each.name,
                "version": each.version,
                "place": place,
                "files": list(each.files),
                "saved_at": each.saved_at,
            }
            for place, each in await self._operations.templates.listed()
        ]
        return _json({"templates": found})

    async def template(self, request: web.Request) -> web.Response:
        """The files of one version."""
        found = await self._operations.templates.show(_name(request), request.query.get("version"))
        if found is None:
            raise _none()
        place, stored = found
        return _json(
            {
                "name": stored.template.name,
                "version": stored.template.version,
                "place": place,
                "language": stored.template.language,
                "files": dict(stored.files),
                "saved_at": stored.saved_at,
            }
        )

    async def put_template(self, request: web.Request) -> web.Response:
        """Save a template, or only look whether it could be."""
        taken = _read(TemplateIn, await self._take(request))
        check = request.query.get("check", "false")
        if check not in {"true", "false"}:
            raise bad_query("`check` is true or false.")
        name = _name(request)
        with _faults():
            version, new = await self._operations.templates.put(
                name, taken.files, language=taken.language, check=check == "true"
            )
        return _json({"name": name, "version": version, "new": new})

    async def preview_template(self, request: web.Request) -> web.Response:
        """What a template makes of variables, as data."""
        body = await self._take(request)
        taken = _read(PreviewIn, body if body.strip() else b"{}")
        with _faults():
            found = await self._operations.templates.preview(
                _name(request),
                None if taken.version is None else str(taken.version),
                lang=taken.lang,
                variables=taken.variables,
            )
        if found is None:
            raise _none()
        made = found.rendered
        parts = {"subject": made.subject, "html": made.html, "text": made.text}
        return _json({"name": found.name, "version": found.version, **parts})

    async def preview_page(self, request: web.Request) -> web.Response:
        """What a template makes of its sample, as a page."""
        with _faults():
            found = await self._operations.templates.preview(
                _name(request),
                request.query.get("version"),
                lang=request.query.get("lang", ""),
                variables=None,
            )
        if found is None:
            raise _none()
        made = found.rendered
        if made.html is None:
            return web.Response(text=made.text if made.text is not None else made.subject or "")
        return web.Response(
            text=made.html, content_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY}
        )


@contextmanager
def _faults() -> Iterator[None]:
    """What is wrong with a template, as problem details."""
    try:
        yield
    except BadTemplate as error:
        faults = [
            TemplateFaultView(
                template=each.template, line=each.line, variable=each.variable, text=each.reason
            )
            for each in error.faults[:MAX_FAULTS]
        ]
        extra = {"faults": faults}
        raise ProblemError(HTTPStatus.BAD_REQUEST, str(error), reason="bad-template", extra=extra) from None
    except InFolder:
        detail = "TEMPLATES_DIR has a template of this name, which comes before all that are saved."
        raise ProblemError(HTTPStatus.CONFLICT, detail, reason="in-folder") from None
    except Rejected as error:
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error), reason="too-large") from None


def _name(request: web.Request) -> str:
    return request.match_info["name"]


def _none() -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "There is no such template, or not in this version.")


def _read(model: type[Model], body: bytes, *, of_one: str = "bad-body") -> Model:
    """What a body says. A fault names its place, and quotes nothing.

    `of_one` is the reason of a fault in one of the several things that the body lists.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(step)[:64] for step in first["loc"]) or "the body"
        detail = f"{where}: {first['msg'][:200]}"
        reason = of_one if len(first["loc"]) > 1 else "bad-body"
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail, reason=reason) from None


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(text=to_json(body, indent=True) + "\n", content_type=JSON)
