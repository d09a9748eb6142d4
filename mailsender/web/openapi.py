"""The description of the HTTP side (OpenAPI 3.1), made from the endpoints and the models of their answers.

It is the same for every deployment: nothing of the settings is in it, so it may be shown to anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel

from mailsender.intake.schema import LetterIn
from mailsender.model.json_schema import components, readable, reference
from mailsender.web.endpoints.endpoint import JSON, RETRY_AFTER, Answer, Endpoint, Schema, problem
from mailsender.web.endpoints.table import ENDPOINTS
from mailsender.web.letter_form import FORM, LETTER
from mailsender.web.problems import SAMPLE

VERSION: Final = "1.0.0"
"""The version of the contract: a release of the program that leaves the contract alone does not raise it.

So a document that needs no key does not tell which release is running."""

_DESCRIPTION: Final = """\
Takes batches of letters for the queue, and says what became of them.

Errors are problem details (RFC 9457). A request whose head breaks HTTP or its limits (64 headers, 8190 bytes
a line, 32 KB, 10 s) is refused with 400, 431 or 408 before it reaches any operation. GET operations answer
HEAD, too.

With HTTP_API_KEY set, all but the probes and this description want it as `X-API-KEY`."""

_FILE: Final = {
    "type": "string",
    "format": "binary",
    "description": "Sent with a file name, under any name of a part.",
}

_TAGS: Final = {
    "sending": "Letters in.",
    "looking": "What became of them, and what the service does.",
    "templates": "What letters are made from.",
    "codes": "Confirmation codes.",
    "changing": "What is taken while the service runs.",
    "suppression": "Addresses to which nothing is sent.",
    "stopping": "The drain.",
    "probes": "For an orchestrator.",
    "documentation": "This description.",
}


@cache
def document() -> dict[str, Any]:
    """The description; not to be changed."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailsender",
            "version": VERSION,
            "summary": "A Kafka-native mail dispatcher",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The replica that shows this"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-KEY",
                    "description": "The value of HTTP_API_KEY. Where none is set, nothing has to be sent.",
                }
            },
            "schemas": components([(LetterIn, "validation"), *_taken(), *_answered()]),
        },
    }


@cache
def text() -> str:
    """The description as JSON for people and programs."""
    return readable(document())


def _taken() -> list[tuple[type[BaseModel], Any]]:
    return [(each.takes, "validation") for each in ENDPOINTS if isinstance(each.takes, type)]


def _answered() -> list[tuple[type[BaseModel], Any]]:
    models = {
        content: None
        for endpoint in ENDPOINTS
        for answer in endpoint.answers
        for content in (*answer.content.values(), answer.other)
        if isinstance(content, type)
    }
    return [(model, "serialization") for model in models]


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return paths


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers = sorted([*endpoint.answers, *_refusals(endpoint)], key=lambda answer: answer.status)
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": {str(answer.status): _response(answer) for answer in answers},
    }
    if endpoint.text:
        operation["description"] = endpoint.text
    if endpoint.parameters:
        operation["parameters"] = [dict(parameter) for parameter in endpoint.parameters]
    if endpoint.takes_batch:
        operation["requestBody"] = _batch()
    if endpoint.takes_letter:
        operation["requestBody"] = _letter()
    if endpoint.takes is not None:
        operation["requestBody"] = _body(endpoint.takes, needed=endpoint.needs_body)
    if endpoint.takes_content:
        operation["requestBody"] = _content()
    if endpoint.public:
        operation["security"] = []
    return operation


def _refusals(endpoint: Endpoint) -> Iterator[Answer]:
    """What the endpoint may answer that is none of its own: see `middleware`."""
    own = {answer.status for answer in endpoint.answers}
    if not endpoint.public:
        challenge = {"WWW-Authenticate": "How to show the key (RFC 9110 §11.6.1)."}
        yield problem(401, "The key is missing or wrong.", challenge)
    yield problem(405, "Another method at this path.", {"Allow": "The methods that are possible."})
    yield problem(500, "Something failed that should not. `id` is what the log explains it under.")
    if not endpoint.cheap and 503 not in own:
        yield problem(503, "Too many requests are under way: `busy`.", RETRY_AFTER)
    if endpoint.slow:
        yield problem(504, "No answer within HTTP_TIMEOUT. What was asked for may have been done.")


def _response(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": f"{HTTPStatus(answer.status).phrase}. {answer.text}",
        "content": {
            media: {"schema": _schema(content, answer.other)} for media, content in answer.content.items()
        },
    }
    if answer.headers:
        response["headers"] = {name: _header(name, meaning) for name, meaning in answer.headers.items()}
    if answer.links:
        response["links"] = dict(answer.links)
    return response


def _header(name: str, meaning: str) -> dict[str, Any]:
    kind = "integer" if name in RETRY_AFTER else "string"
    return {"description": meaning, "required": True, "schema": {"type": kind}}


def _schema(content: type[BaseModel] | Schema, other: type[BaseModel] | None) -> Mapping[str, Any]:
    schema = reference(content) if isinstance(content, type) else dict(content)
    return schema if other is None else {"anyOf": [schema, reference(other)]}


def _body(takes: type[BaseModel] | Mapping[str, Schema], *, needed: bool) -> dict[str, Any]:
    forms: Mapping[str, Schema] = {JSON: reference(takes)} if isinstance(takes, type) else takes
    content = {media: {"schema": dict(schema)} for media, schema in forms.items()}
    return {"description": "UTF-8.", "required": needed, "content": content}


def _content() -> dict[str, Any]:
    return {
        "description": "The content, as it is. Without a body it is the empty one.",
        "required": False,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }


def _batch() -> dict[str, Any]:
    return {
        "description": "A JSON array of letters, UTF-8.",
        "required": True,
        "content": {
            JSON: {
                "schema": {"type": "array", "minItems": 1, "items": reference(LetterIn)},
                "example": list(SAMPLE),
            }
        },
    }


def _letter() -> dict[str, Any]:
    letter = reference(LetterIn)
    return {
        "description": "One letter, UTF-8, alone or with files.",
        "required": True,
        "content": {
            JSON: {"schema": letter, "example": SAMPLE[0]},
            FORM: {
                "schema": {
                    "type": "object",
                    "properties": {LETTER: letter, "file": {"type": "array", "items": _FILE}},
                    "required": [LETTER],
                },
                "encoding": {LETTER: {"contentType": JSON}},
            },
        },
    }
