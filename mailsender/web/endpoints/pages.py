"""What describes the HTTP side."""

from __future__ import annotations

from typing import Final

from mailsender.web.endpoints.endpoint import JSON, LINE, Answer, Endpoint, problem

FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
"""What the page of the description is made of, with the media type of each."""

PAGES: Final = (
    Endpoint(
        method="GET",
        path="/openapi.json",
        name="openapi",
        tag="documentation",
        summary="This description",
        answers=(Answer(status=200, text="OpenAPI 3.1.", content={JSON: {"type": "object"}}),),
        public=True,
    ),
    Endpoint(
        method="GET",
        path="/docs",
        name="page",
        tag="documentation",
        summary="This description as a page",
        answers=(Answer(status=200, text="The page.", content={"text/html": LINE}),),
        public=True,
    ),
    Endpoint(
        method="GET",
        path="/docs/{file}",
        name="file",
        tag="documentation",
        summary="What the page is made of",
        parameters=(
            {
                "name": "file",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(FILES)},
            },
        ),
        answers=(
            Answer(
                status=200,
                text="The file.",
                content={media: {} if media == "image/png" else LINE for media in FILES.values()},
            ),
            problem(404, "There is no such file."),
        ),
        public=True,
    ),
)
