"""What is asked about templates."""

from __future__ import annotations

from typing import Any, Final

from mailsender.web.endpoints.endpoint import JSON, NOT_READ, RETRY_AFTER, Answer, Endpoint, problem
from mailsender.web.template_models import (
    VERSION_PATTERN,
    PreviewIn,
    PreviewView,
    SavedView,
    TemplateFilesView,
    TemplateIn,
    TemplatesView,
)

_TEMPLATE: Final[dict[str, Any]] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "The template's name.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "maxLength": 64},
}
_VERSION: Final[dict[str, Any]] = {
    "name": "version",
    "in": "query",
    "description": "Without it: the newest one.",
    "schema": {"type": "string", "pattern": VERSION_PATTERN, "maxLength": 64},
}
_LANG: Final[dict[str, Any]] = {
    "name": "lang",
    "in": "query",
    "description": "The reader's language, such as `ru` or `pt-BR`.",
    "schema": {"type": "string", "maxLength": 64},
}
_CHECK: Final[dict[str, Any]] = {
    "name": "check",
    "in": "query",
    "description": "`true` saves nothing, and answers all the same.",
    "schema": {"type": "string", "enum": ["true", "false"]},
}

_STORE_AWAY: Final = problem(503, "`reason` says why: `busy` or `unavailable`.", RETRY_AFTER)
_NO_TEMPLATE: Final = problem(404, "There is no such template, or not in this version.")
_BAD_TEMPLATE: Final = problem(
    400,
    "No template, or it cannot be filled in: `faults` has each fault with its file, line and variable. Or the"
    " body is not what is taken.",
)

TEMPLATES: Final = (
    Endpoint(
        method="GET",
        path="/templates",
        name="templates",
        tag="templates",
        summary="All templates",
        answers=(Answer(status=200, text="They, by name.", content={JSON: TemplatesView}), _STORE_AWAY),
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/templates/{name}",
        name="template",
        tag="templates",
        summary="The files of one template",
        parameters=(_TEMPLATE, _VERSION),
        answers=(
            Answer(status=200, text="As they were saved.", content={JSON: TemplateFilesView}),
            _NO_TEMPLATE,
            _STORE_AWAY,
        ),
        slow=True,
    ),
    Endpoint(
        method="PUT",
        path="/templates/{name}",
        name="put_template",
        tag="templates",
        summary="Save a template as its newest version",
        text="It is prepared (MJML becomes HTML, styles go into the elements), compiled, and filled in with"
        " its sample in each of its languages; with a fault nothing is saved. Letters find it within seconds."
        " A version never changes; the same files again are no new one.",
        parameters=(_TEMPLATE, _CHECK),
        takes=TemplateIn,
        answers=(
            Answer(status=200, text="Its version.", content={JSON: SavedView}),
            _BAD_TEMPLATE,
            problem(409, "TEMPLATES_DIR has a template of this name, which comes first."),
            *NOT_READ,
            _STORE_AWAY,
        ),
        slow=True,
        late="It may have been saved; the same files again are no new version.",
    ),
    Endpoint(
        method="POST",
        path="/templates/{name}/preview",
        name="preview_template",
        tag="templates",
        summary="What a template makes of variables",
        text="Nothing is sent. Without a body it is filled in with its sample.",
        parameters=(_TEMPLATE,),
        takes=PreviewIn,
        needs_body=False,
        answers=(
            Answer(status=200, text="The letter.", content={JSON: PreviewView}),
            _BAD_TEMPLATE,
            _NO_TEMPLATE,
            *NOT_READ,
            _STORE_AWAY,
        ),
        slow=True,
    ),
    Endpoint(
        method="GET",
        path="/templates/{name}/preview",
        name="preview_page",
        tag="templates",
        summary="What a template makes of its sample, as a page",
        text="The HTML, or the text where it has none. No script runs in it.",
        parameters=(_TEMPLATE, _VERSION, _LANG),
        answers=(
            Answer(
                status=200,
                text="The page.",
                content={"text/html": {"type": "string"}, "text/plain": {"type": "string"}},
            ),
            _BAD_TEMPLATE,
            _NO_TEMPLATE,
            _STORE_AWAY,
        ),
        slow=True,
    ),
)
