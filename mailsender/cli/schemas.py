"""The published contracts: what travels on the topics and over HTTP, and what may stand in the file.

All of them are made from the models and the endpoints, so they cannot say anything else than the program
does. `mailsender schema` prints them, and `mailsender schema --write docs` renews those of the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from mailsender.intake.dead_letter_schema import DeadLetterHeaders
from mailsender.intake.schema import LetterIn
from mailsender.model.json_schema import components, readable, reference, schema_of
from mailsender.reports.schema import Report
from mailsender.settings.file.schema import json_schema
from mailsender.web import openapi

VERSION: Final = "1.0.0"
"""The version of the topics' contract; a release that leaves it alone does not raise it."""

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_DESCRIPTION: Final = """\
Batches of letters in, a report on each letter out, and a third topic for what is no batch.

The addresses here are the defaults of the settings KAFKA_TOPIC_MAILSENDER, KAFKA_TOPIC_PROFILE and
KAFKA_TOPIC_DEAD_LETTER."""

_KEY_BYTES: Final = {"type": "string", "description": "Any bytes, or none; repeated byte for byte."}


def letters_schema() -> dict[str, Any]:
    """The JSON Schema of a batch: the value of a record of the in-topic, and the body of `POST /post`."""
    letter = schema_of(LetterIn, "validation")
    return {
        "$schema": DIALECT,
        "title": "Batch",
        "description": "A JSON array of letters, UTF-8. A wrong letter gets a report of its own. Where an"
        " element is no object the record is no batch, and goes to the dead letters whole.",
        "type": "array",
        "items": letter,
    }


def report_schema() -> dict[str, Any]:
    """The JSON Schema of a report: the value of a record of the profile topic."""
    return _single(Report, "serialization")


def dead_letter_schema() -> dict[str, Any]:
    """The JSON Schema of a dead letter's headers; its value is whatever the record's value was."""
    return _single(DeadLetterHeaders, "validation")


def config_schema() -> dict[str, Any]:
    """The JSON Schema of the file that `MAILSENDER_CONFIG` names, read as TOML."""
    return {"$schema": DIALECT, **json_schema()}


def asyncapi() -> dict[str, Any]:
    """The description of the topics (AsyncAPI 3.0)."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "mailsender",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "letters": _channel("mts-to-mailsender", "batch", "Letters to be sent."),
            "reports": _channel("mts-to-profile", "report", "What became of each letter."),
            "deadLetters": _channel(
                "mts-to-mailsender-dead-letter", "deadLetter", "Records that could not be taken in."
            ),
        },
        "operations": {
            "takeLetters": _operation("receive", "letters", "Letters are stored, sent and answered."),
            "report": _operation("send", "reports", "Once for each letter, perhaps repeated word for word."),
            "setAside": _operation("send", "deadLetters", "A record that is no batch, whole."),
        },
        "components": {"messages": _messages(), "schemas": _components()},
    }


DOCUMENTS: Final[dict[str, tuple[str, Callable[[], Any]]]] = {
    "asyncapi": ("asyncapi.json", asyncapi),
    "openapi": ("openapi.json", openapi.document),
    "letters": ("schemas/letters.schema.json", letters_schema),
    "report": ("schemas/report.schema.json", report_schema),
    "dead-letter": ("schemas/dead-letter.schema.json", dead_letter_schema),
    "config": ("schemas/config.schema.json", config_schema),
}
"""The name of each document, the file that it is kept in, and how it is made."""


def text_of(name: str) -> str:
    """A document as JSON text. `name` is one of `DOCUMENTS`."""
    return readable(DOCUMENTS[name][1]())


def _single(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    return {"$schema": DIALECT, **schema_of(model, mode)}


def _channel(address: str, message: str, text: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": text,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


def _operation(action: str, channel: str, text: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": text}


def _messages() -> dict[str, Any]:
    return {
        "batch": {
            "title": "A batch of letters",
            "contentType": "application/json",
            "payload": {"$ref": "#/components/schemas/Batch"},
            "bindings": {"kafka": {"key": _KEY_BYTES}},
        },
        "report": {
            "title": "What became of a letter",
            "contentType": "application/json",
            "payload": reference(Report),
            "bindings": {"kafka": {"key": _KEY_BYTES | {"description": "The key of the letter's record."}}},
        },
        "deadLetter": {
            "title": "A record that could not be taken in",
            "contentType": "application/octet-stream",
            "headers": reference(DeadLetterHeaders),
            "payload": {"type": "string", "format": "binary", "description": "The original value."},
            "bindings": {"kafka": {"key": _KEY_BYTES | {"description": "The original key."}}},
        },
    }


def _components() -> dict[str, Any]:
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (LetterIn, "validation"),
        (Report, "serialization"),
        (DeadLetterHeaders, "validation"),
    ]
    batch = {"type": "array", "description": "A JSON array of letters, UTF-8.", "items": reference(LetterIn)}
    return {"Batch": batch, **components(models)}
